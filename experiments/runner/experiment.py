"""From flags to a complete experiment: presets, earlier runs' settings, and every automatic choice made."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import torch
import yaml

from experiments.runner.data import DataConfig
from experiments.runner.flags import Experiment
from experiments.runner.suite import Suite
from rlzoo.errors import UserError, one_line
from rlzoo.run.cli import EarlyParser, parse_flags
from rlzoo.run.extras import load_extra
from rlzoo.run.files import expand_user
from rlzoo.run.folder import CONFIG_FILE, EXPORT_FILE, flatten_config, plain
from rlzoo.run.machine import resolve_device
from rlzoo.train import TrainConfig


class Request(NamedTuple):
    """What a command line asks for.

    Attributes:
        suite: the benchmark.
        agent: its name in `suite.agents`.
        asked: the settings as the flags, the preset and an earlier run give them.
        resume: the folder of the run to go on with; None for a new run.
        run_dir: the folder for a new run; None: one of its own below ``--runs-dir``.
    """

    suite: Suite
    agent: str
    asked: Experiment[Any, Any]
    resume: Path | None = None
    run_dir: Path | None = None


def parse(suite_type: type[Suite], arguments: Sequence[str], prog: str) -> Request:
    """A command line of a training script: `AGENT [flags]` or `--resume RUN_DIR [flags]`.

    `AGENT --run-dir RUN_DIR [flags]` is the former where the folder holds no run yet, and else the latter.

    Raises:
        UserError: an unknown agent, task, preset or flag, or a value that is none.
    """
    suite = suite_type(arguments)
    early = EarlyParser()
    early.add_argument("--resume", type=expand_user)
    early.add_argument("--run-dir", type=expand_user)
    named, rest = early.parse_known_args(arguments)
    run_dir = named.run_dir
    if run_dir is not None and (run_dir / CONFIG_FILE).exists():
        named.resume = run_dir
    agent, flags = (rest[0], rest[1:]) if rest and not rest[0].startswith("-") else (None, rest)
    if agent is not None and agent not in suite.agents:
        near = difflib.get_close_matches(agent, suite.agents, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(suite.agents)}"
        raise UserError(f"no agent called {agent!r}; {hint}")
    if named.resume is not None:
        return _resumed(suite, named.resume, agent, flags, prog)
    early.add_argument("--config", type=expand_user)
    early.add_argument("--task")
    early.add_argument("--preset")
    early.add_argument("--offline", action="store_true")
    named, _ = early.parse_known_args(arguments)
    if named.config is not None:
        agent, default = _copied(suite, named.config, agent, named.task, named.preset)
    elif agent is None:
        raise UserError(f"which agent? {prog} AGENT [flags], where AGENT is one of {', '.join(suite.agents)}")
    else:
        task, preset = named.task or suite.default_task, named.preset or suite.presets[0]
        default = default_experiment(suite, agent, task, preset)
        if named.offline:  # no environment steps for a preset's offline updates to go before
            default = dataclasses.replace(default, train=dataclasses.replace(default.train, offline_steps=0))
    asked = parse_flags(
        Experiment[suite.agents[agent].Config, type(suite.options)],  # type: ignore[misc]
        args=flags,
        default=default,
        prog=f"{prog} {agent}",
        description=f"{suite.agents[agent].about}.\n\nOn {default.task}.",
    )
    return Request(suite, agent, asked, run_dir=run_dir)


def default_experiment(suite: Suite, agent: str, task: str, preset: str = "paper") -> Experiment[Any, Any]:
    """The preset of an agent on a task, as an experiment."""
    if preset not in suite.presets:
        raise UserError(f"--preset is {preset}; there are {', '.join(suite.presets)}")
    groups: dict[str, dict[str, Any]] = {"": {}, "agent": {}, "data": {}, "options": {}}
    for key, value in suite.preset(preset, agent, task).items():
        group, _, name = key.rpartition(".")
        groups[group][name] = value
    return Experiment(
        agent=suite.agents[agent].Config(**groups["agent"]),
        task=task,
        train=TrainConfig(**groups[""]),
        data=DataConfig(**groups["data"]),
        options=dataclasses.replace(suite.options, **groups["options"]),
        preset=preset,
        video=suite.film,
    )


def load_experiment(
    suite: Suite, run_dir: Path, *, exported: bool = False
) -> tuple[str, Experiment[Any, Any]]:
    """The agent's name and the settings of an earlier run: as asked for, but on what the benchmark chose.

    `exported`: see `read_config`.

    Raises:
        UserError: its configuration cannot be read, or is another benchmark's.
    """
    config = read_config(run_dir, exported=exported)
    path = run_dir / (EXPORT_FILE if exported else CONFIG_FILE)
    if config["suite"] != suite.name:
        raise UserError(f"{run_dir} is a run of {config['suite']}, not of {suite.name}")
    try:
        name = config["agent_name"]
        if name not in suite.agents:
            raise ValueError(f"no agent called {name!r} here")
        # What the benchmark chose stays chosen: the simulator, whatever has been installed since.
        chosen = config.get("resolved", {}).items()
        options = {key.partition(".")[2]: value for key, value in chosen if key.startswith("options.")}
        config["options"] = {**config["options"], **options}
        settings = {key: value for key, value in config.items() if key not in _NO_SETTINGS}
        form = pydantic.TypeAdapter(Experiment[suite.agents[name].Config, type(suite.options)])  # type: ignore[misc]
        return name, form.validate_python(settings)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        is_unknown = first["type"] == "unexpected_keyword_argument"
        what = "there is no such setting" if is_unknown else first["msg"].removeprefix("Input should be ")
        raise UserError(f"{path}: {key}: {what if is_unknown else f'expected {what}'}") from error
    except UserError as error:  # a value out of its range, named by its flag
        raise UserError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = one_line(error)
        raise UserError(f"{path} is not a run's configuration: {reason}") from error


def read_config(run_dir: Path, *, exported: bool = False) -> dict[str, Any]:
    """A run's ``config.yaml``: the flags as asked, "suite", "agent_name" and what was "resolved".

    With `exported`, from the ``config.json`` of an export of the run.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = run_dir / (EXPORT_FILE if exported else CONFIG_FILE)
    try:
        text = path.read_text()
        config = json.loads(text)["settings"] if exported else yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"{run_dir} is not a run folder: {path.name} cannot be read") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, RecursionError) as error:
        # RecursionError: nested too deeply
        raise UserError(f"{path} is not a run's configuration: {one_line(error)}") from error
    if not isinstance(config, dict) or not isinstance(config.get("suite"), str):
        hint = "; rlzoo export of today names it" if exported else ""
        raise UserError(f"{path} is not a run's configuration: it names no suite{hint}")
    return config


def _copied(
    suite: Suite, run_dir: Path, agent: str | None, task: str | None, preset: str | None
) -> tuple[str, Experiment[Any, Any]]:
    """The settings of an earlier run, to begin a new one with."""
    name, experiment = load_experiment(suite, run_dir)
    if agent not in (None, name):
        raise UserError(f"--config {run_dir} is a run of {name}, not of {agent}")
    if task not in (None, experiment.task):
        raise UserError(f"--config {run_dir} is a run on {experiment.task}: its settings are not for {task}")
    if preset not in (None, experiment.preset):
        raise UserError(f"--config {run_dir} has settings of its own: --preset {preset} would change none")
    return name, dataclasses.replace(experiment, config=run_dir)


_NO_SETTINGS = {"suite", "agent_name", "resolved"}  # what else a run's configuration holds

# What a resumed run may change; anything else would make it neither the old run nor a new one.
CHANGEABLE = {"device", "threads", "video", "train.steps", "train.processes", "train.capture"}
CHANGEABLE |= {"tags", "notes", "track"}
CHANGEABLE |= {"train.offline_steps", "train.checkpoint_every", "train.stop_at_return"}
CHANGEABLE |= {"train.max_restarts", "train.env_timeout"}


def _resumed(suite: Suite, run_dir: Path, agent: str | None, flags: list[str], prog: str) -> Request:
    """An earlier run to go on with, with `flags` on top of its settings."""
    name, earlier = load_experiment(suite, run_dir)
    if agent not in (None, name):
        raise UserError(f"{run_dir} is a run of {name}, not of {agent}")
    asked = parse_flags(
        Experiment[suite.agents[name].Config, type(suite.options)],  # type: ignore[misc]
        args=flags,
        default=earlier,
        prog=f"{prog} --resume {run_dir}",
    )
    if changed := differing(earlier, asked).keys() - CHANGEABLE:
        names = ", ".join(sorted(map(flag, changed)))
        allowed = ", ".join(sorted(map(flag, CHANGEABLE)))
        raise UserError(f"a resumed run keeps its settings: {names} cannot change (only {allowed})")
    return Request(suite, name, asked, run_dir)


def check_kept(run_dir: Path, saved: Any, experiment: Experiment[Any, Any]) -> None:
    """Hold the settings of a resumed run against those in its checkpoint: config.yaml may have been edited.

    Raises:
        UserError: one that cannot change is another than the run was begun with.
    """
    for key, old, new in _changes(saved, plain(experiment)):
        if key not in {*CHANGEABLE, "config", "runs_dir"}:
            raise UserError(
                f"{run_dir / CONFIG_FILE}: {key} is {new!r}, but the run was begun with {old!r}; a resumed "
                "run keeps its settings: put it back, or begin a new run with --config"
            )


def _changes(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The flat names of settings in which two runs differ, with both values; those of `old` alone count."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            yield from _changes(value, new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        yield name, old, new


def flag(key: str, value: Any = None) -> str:
    """The flag that sets a setting, by its flat name ("train.batch_size"), to `value`."""
    group, _, name = key.rpartition(".")
    prefix = f"{group}." if group == "agent" else ""
    return f"--{prefix}{'no-' * (value is False)}{name.replace('_', '-')}"


def complete(suite: Suite, asked: Experiment[Any, Any]) -> Experiment[Any, Any]:
    """The experiment with every automatic choice made; what comes after it asks no flag again.

    Raises:
        UserError: settings that exclude each other, or that this machine cannot meet.
    """
    train = asked.train
    if asked.data.offline:
        if train.offline_steps:
            raise UserError(
                "with --offline it is --steps that counts the updates, --offline-steps has to be 0"
            )
        train = dataclasses.replace(train, offline_steps=train.steps, steps=0)
    if asked.track == "wandb":
        load_extra("wandb", "wandb")  # missing, it is missing before anything is simulated
    experiment = dataclasses.replace(
        asked,
        train=train,
        device=str(resolve_device(asked.device)),
        threads=asked.threads or torch.get_num_threads(),
    )
    return suite.complete(experiment)


def differing(old: Experiment[Any, Any], new: Experiment[Any, Any]) -> dict[str, Any]:
    """The settings in which two experiments differ, by flat name, with the values of the new one."""
    before, after = flatten_config(plain(old)), flatten_config(plain(new))
    return {
        key: after.get(key)
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }
