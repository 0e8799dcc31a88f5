from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from rlzoo.errors import UserError
from rlzoo.run import machine
from rlzoo.run.folder import (
    PROJECT,
    create_run_dir,
    finish_run_info,
    flatten_config,
    is_finished,
    plain,
    write_run_info,
)


@dataclass(frozen=True)
class AgentConfig:
    levels: int = 2
    sizes: tuple[int, ...] = (256, 256)
    optional: float | None = None


def info_of(run_dir: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
    return info


def test_run_dir_is_named_by_what_runs(tmp_path: Path) -> None:
    folder = create_run_dir(tmp_path, "mujoco", "Hopper-v4", "dsac_t", 3)
    assert folder.is_dir()
    assert folder.parent == tmp_path / "mujoco" / "Hopper-v4" / "dsac_t"
    assert folder.name.startswith("s3-")
    assert list(folder.iterdir()) == []


def test_run_dirs_started_together_are_all_new(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: create_run_dir(tmp_path, "b", "t", "a", 1), range(16)))
    assert len(set(folders)) == 16


@pytest.mark.parametrize("task", ["D4RL/door/human-v2", "../../outside", "/etc", "..", "a b:c", ""])
def test_task_name_is_one_folder_inside_the_root(tmp_path: Path, task: str) -> None:
    folder = create_run_dir(tmp_path / "runs", "d4rl", task, "arsq", 1)
    assert folder.resolve().relative_to(tmp_path / "runs" / "d4rl").parts[1] == "arsq"


def test_file_in_place_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file"):
        create_run_dir(tmp_path / "file", "d4rl", "t", "arsq", 1)


def test_info_of_a_new_run(tmp_path: Path) -> None:
    script = str(PROJECT / "experiments" / "train_d4rl.py")
    config = {"seed": 1, "agent": AgentConfig()}
    write_run_info(tmp_path, arguments=[script, "arsq", "--task", "two words"], config=config)
    info = info_of(tmp_path)
    assert info["command"] == "python experiments/train_d4rl.py arsq --task 'two words'"
    assert info["versions"]["torch"] == torch.__version__
    assert info["versions"]["numpy"] == np.__version__
    assert info["hardware"]["cores"] >= 1
    assert info["hardware"]["torch_threads"] == torch.get_num_threads()
    assert [session["step"] for session in info["sessions"]] == [0]
    assert str(PROJECT) not in (tmp_path / "run.json").read_text()
    text = (tmp_path / "config.yaml").read_text()
    assert text.startswith("seed: 1\nagent:\n  levels: 2\n")
    agent = {"levels": 2, "sizes": [256, 256], "optional": None}
    assert yaml.safe_load(text) == {"seed": 1, "agent": agent}


def test_resuming_adds_a_session_and_what_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run_info(tmp_path, arguments=["a.py"], config={})
    first = info_of(tmp_path)
    monkeypatch.setattr(machine, "_hardware", lambda: {"cpu": "another"})
    write_run_info(tmp_path, arguments=["a.py", "--resume"], config={"seed": 2}, step=500)
    info = info_of(tmp_path)
    assert {key: info[key] for key in first if key != "sessions"} == {
        key: first[key] for key in first if key != "sessions"
    }
    assert [session["step"] for session in info["sessions"]] == [0, 500]
    assert info["sessions"][1]["command"] == "python a.py --resume"
    assert info["sessions"][1]["hardware"] == {"cpu": "another"}
    assert "versions" not in info["sessions"][1]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"seed": 2}


def test_a_run_is_finished_until_it_is_gone_on_with(tmp_path: Path) -> None:
    assert not is_finished(tmp_path)
    write_run_info(tmp_path, arguments=["a.py"], config={})
    assert not is_finished(tmp_path)
    finish_run_info(tmp_path)
    assert is_finished(tmp_path)
    assert info_of(tmp_path)["command"] == "python a.py"
    write_run_info(tmp_path, arguments=["a.py", "--resume"], config={}, step=5)
    assert not is_finished(tmp_path)
    (tmp_path / "run.json").write_text("{")
    assert not is_finished(tmp_path)


@pytest.mark.parametrize("damaged", ["", "{", "[]", "{}", '{"sessions": 1}'])
def test_damaged_info_does_not_stop_a_resumed_run(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "run.json").write_text(damaged)
    write_run_info(tmp_path, arguments=["a.py"], config={}, step=7)
    assert [session["step"] for session in info_of(tmp_path)["sessions"]] == [7]


def test_nothing_known_about_the_machine_does_not_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr("subprocess.run", fail)
    monkeypatch.setattr(machine, "_hardware", fail)
    write_run_info(tmp_path, arguments=["a.py"], config={})
    assert info_of(tmp_path)["git"] is None
    assert info_of(tmp_path)["hardware"] is None


def test_unwritable_run_dir(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*config\.yaml"):
        write_run_info(tmp_path / "file", arguments=["a.py"], config={})


def test_script_outside_the_project_is_recorded_by_name_alone(tmp_path: Path) -> None:
    write_run_info(tmp_path, arguments=["/somewhere/else/a.py"], config={})
    assert info_of(tmp_path)["command"] == "python a.py"


def test_plain_values_survive_yaml_and_json() -> None:
    value = {
        "path": Path("a/b"),
        "array": np.arange(3),
        "scalar": np.float64(0.5),
        "tensor": torch.ones(2),
        "device": torch.device("cpu"),
        "set": {2, 1},
        "nested": [AgentConfig()],
        3: 1e-5,
    }
    expected = {
        "path": "a/b",
        "array": [0, 1, 2],
        "scalar": 0.5,
        "tensor": [1.0, 1.0],
        "device": "cpu",
        "set": [1, 2],
        "nested": [{"levels": 2, "sizes": [256, 256], "optional": None}],
        "3": 1e-5,
    }
    assert plain(value) == expected
    assert yaml.safe_load(yaml.safe_dump(plain(value))) == expected
    assert json.loads(json.dumps(plain(value))) == expected


def test_flat_config_is_named_as_on_the_command_line() -> None:
    flat = flatten_config({"seed": 1, "agent": AgentConfig(), "task": "t", "fast": True})
    assert flat == {"seed": 1, "agent.levels": 2, "agent.sizes": "[256, 256]", "task": "t", "fast": True}


def test_module_is_light_to_import() -> None:
    """`--help` should not wait for TensorBoard."""
    code = "import sys, rlzoo.run.folder, rlzoo.run.cli; assert 'tensorboard' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)
