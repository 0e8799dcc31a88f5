import importlib


class InvalidTaskName(Exception):  # noqa: N818
    pass


def name_to_task_class(task_file: str):
    name = task_file.replace(".py", "")
    class_name = "".join([w[0].upper() + w[1:] for w in name.split("_")])
    return getattr(importlib.import_module(f"rlbench.tasks.{name}"), class_name)
