"""The command `rlzoo`: the scripts of this folder by name, and what there is to train."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import FrameType

import rlzoo
from rlzoo.errors import UserError
from rlzoo.run.cli import run_main
from rlzoo.run.signals import write_stderr

# Command -> what it does; each is the script of that name in this folder.
COMMANDS = {
    "train": "train an agent: rlzoo train SUITE AGENT [flags]",
    "evaluate": "play the agent of a run, as a table, a CSV file or a film",
    "compare": "gather runs into curves, a table and plots",
    "sweep": "many runs: every combination of agents and values, or a search for settings",
    "export": "a run's policy as files to take away: safetensors, JSON and ONNX, all checked",
    "make-dataset": "record datasets of D4RL's kinds from runs and exports",
    "benchmark": "time the agents and their parts",
    "quickstart": "ARSQ and behavioural cloning from poor demonstrations, in a few minutes",
    "tasks": "list the tasks, of all suites or some: rlzoo tasks [SUITE ...]",
}
COMPUTING = {"train", "evaluate", "make-dataset", "benchmark", "quickstart"}


def main() -> None:
    """Run a command; without one, list what there is."""
    run_main(dispatch)


def dispatch() -> int | None:
    """The command in `sys.argv`, which its script then finds as if it had been called itself."""
    program, *arguments = sys.argv
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("", "-h", "--help"):
        print(overview())
        return 0
    if command == "--version":
        print(f"rlzoo {rlzoo.__version__}")
        return 0
    if command in ("train", "tasks") and rest[:1] in (["-h"], ["--help"]):
        print(f"{COMMANDS[command]}\n\n{overview()}")
        return 0
    if command == "tasks":
        print(tasks(rest))
        return 0
    if command not in COMMANDS:
        raise UserError(f"no command called {command!r}; there are {', '.join(COMMANDS)}")
    if command == "train":
        return train(program, rest)
    sys.argv = [f"rlzoo {command}", *rest]
    with loading(announced=command in COMPUTING and not asks_for_help(rest)):
        script: Callable[[], int] = import_module(f"experiments.{command.replace('-', '_')}").main
    return script()


@contextlib.contextmanager
def loading(*, announced: bool) -> Iterator[None]:
    """Around the imports of a command, which take seconds: Ctrl-C ends it in one line, with exit code 130.

    Python's garbage collector rests meanwhile, and passes over what has been imported from then on, of which
    nothing is ever garbage: a third of the time that importing PyTorch takes.
    """

    def interrupted(number: int, frame: FrameType | None) -> None:
        write_stderr("interrupted")
        os._exit(128 + number)  # an exception would get lost in a half-imported extension module

    if announced:
        write_stderr("loading PyTorch")
    previous = signal.signal(signal.SIGINT, interrupted)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        signal.signal(signal.SIGINT, previous)


def asks_for_help(arguments: list[str]) -> bool:
    """Whether a command line only asks what there is."""
    return not arguments or not {"-h", "--help"}.isdisjoint(arguments)


def train(program: str, arguments: list[str]) -> int:
    """`rlzoo train SUITE AGENT [flags]`."""
    with loading(announced=not asks_for_help(arguments)):
        from experiments.runner import launch
        from experiments.suites import SUITES

    if not arguments or arguments[0] not in SUITES:
        raise UserError(f"rlzoo train SUITE AGENT [flags], where SUITE is one of {', '.join(SUITES)}")
    suite, *flags = arguments
    return launch.main(SUITES[suite], flags, prog=f"rlzoo train {suite}")


def overview() -> str:
    """Commands, agents and benchmarks with their presets."""
    with loading(announced=False):
        from experiments.suites import SUITES

    suites = {
        name: f"{len(one().tasks())} tasks, such as {one.default_task}; presets: {', '.join(one.presets)}"
        for name, one in SUITES.items()
    }
    agents = {name: agent.about for one in SUITES.values() for name, agent in one.agents.items()}
    text = "usage: rlzoo COMMAND ..."
    shown = {"commands": COMMANDS, "agents": agents, "suites (rlzoo tasks lists their tasks)": suites}
    for title, rows in shown.items():
        text += "\n".join([f"\n\n{title}:", *(f"  {name:<13} {about}" for name, about in rows.items())])
    return text


def tasks(names: list[str]) -> str:
    """The tasks of the named suites, or of all."""
    with loading(announced=False):
        from experiments.suites import SUITES

    if unknown := sorted(set(names) - SUITES.keys()):
        raise UserError(f"no suite called {', '.join(unknown)}; there are {', '.join(SUITES)}")
    return "\n".join(f"{name}  {task}" for name in names or SUITES for task in SUITES[name]().tasks())
