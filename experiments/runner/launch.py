"""What the experiment scripts share: flags, presets, run folder, resume, and the table at the end."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, Union

import pydantic
import torch
import tyro
import yaml
from rich.console import Console

from algos.arsq import ARSQConfig
from algos.bc import BCConfig
from algos.cqn import CQNConfig
from experiments.presets import AGENTS
from experiments.runner.data import Data, DataConfig, make_buffers, prepare
from rlzoo.data.load import discounted_returns
from rlzoo.data.scaling import Scaling
from rlzoo.errors import UserError
from rlzoo.evaluate import EVALUATION_TAGS
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.run.cli import StopSignal, keep_freed_memory, parse_flags, resolve_device
from rlzoo.run.folder import CONFIG_FILE, create_run_dir, flatten_config, lock_run, plain, write_run_info
from rlzoo.run.logger import Logger
from rlzoo.run.progress import Progress, evaluation_table, tensorboard_hint
from rlzoo.train import CHECKPOINT, Counters, TrainConfig, Trainer
from rlzoo.types import Episode, FloatArray, VectorTask

Config = TypeVar("Config")
Options = TypeVar("Options")
MatmulPrecision = Literal["highest", "high", "medium"]


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """For benchmarks whose tasks have no settings of their own."""


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[Config, Options]):
    """One run: an agent on a task."""

    task: str
    """Name of the task."""
    agent: Config
    """Hyperparameters of the agent."""
    train: Annotated[TrainConfig, tyro.conf.arg(name="")]
    """Settings of the training loop."""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=DataConfig)
    """Recorded data to learn from."""
    options: Annotated[Options, tyro.conf.arg(name="")] = dataclasses.field(default_factory=NoOptions)  # type: ignore[assignment]
    """Settings of the benchmark's tasks."""
    seed: int = 1
    """Decides everything random in the run."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, …"""
    threads: int | None = None
    """CPU threads of PyTorch; None: one per core. With several runs side by side, 1 each is fastest."""
    matmul_precision: MatmulPrecision = "highest"
    """How products of float32 matrices are rounded (`torch.set_float32_matmul_precision`): highest, not at
    all; high, to TF32 on GPUs that have it; medium, also to bfloat16 on CPUs that have it (AMX). Weights,
    sums and everything else stay float32."""
    video: bool = False
    """Film the first episode of each evaluation into videos/ (needs EGL or OSMesa)."""
    runs_dir: Path = Path("results/runs")
    """Where run folders are made: <runs-dir>/<benchmark>/<task>/<agent>/s<seed>-<time>/."""


MAX_SEED = 2**63  # what PyTorch's generators take

Configure = Callable[
    ["Benchmark", Experiment[Any, Any], dict[str, Any] | None], tuple["Benchmark", Experiment[Any, Any]]
]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What a script brings to an experiment.

    Attributes:
        name: of the folder its runs go to.
        default_task: trained on when no task is named.
        make: (task, num_envs, processes, render) -> the task's copies; imports the simulator.
        preset: (agent, task) -> settings by flag name, over the agent's own.
        load_data: (task, --dataset, the task's copies) -> episodes, None where there are none.
        normalized_score: (task) -> function of a mean return, or None for a task without such a score.
        remark: (task) -> a line under the final table, such as the paper's result.
        script: the file to go on with an interrupted run by.
        options: the benchmark's own flags with their defaults, a frozen dataclass.
        configure: (benchmark, experiment, checkpoint or None) -> both as the experiment's options want them:
            the benchmark with `make` and `load_data`, the experiment with every automatic choice made.
        eval_lanes: how many episodes of an evaluation are played side by side at most; None: all.
        metadata: what else a checkpoint has to hold for `configure`.
        least_std: what standardised observations [S] are divided by at least.
        video: whether evaluations are filmed unless --no-video is given.
    """

    name: str
    default_task: str
    make: Callable[[str, int, bool, bool], VectorTask]
    preset: Callable[[str, str], dict[str, Any]]
    load_data: Callable[[str, str | None, VectorTask], list[Episode] | None] = lambda task, given, copies: (
        None
    )
    normalized_score: Callable[[str], Callable[[float], float] | None] = lambda task: None
    remark: Callable[[str], str] = lambda task: ""
    script: str = "experiments/train_mujoco.py"
    options: Any = NoOptions()
    configure: Configure = lambda benchmark, experiment, checkpoint: (benchmark, experiment)
    eval_lanes: int | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    least_std: FloatArray | float = 0.0
    video: bool = False


def main(benchmark: Benchmark, arguments: Sequence[str] | None = None) -> int:
    """Run the script on `arguments` (`sys.argv` if None). Returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--resume", type=Path)
    known, rest = early.parse_known_args(arguments)
    if known.resume is not None:
        agent, rest = (rest[0], rest[1:]) if rest and not rest[0].startswith("-") else (None, rest)
        name, experiment = load_experiment(benchmark, known.resume, rest)
        if agent not in (None, name):
            raise UserError(f"{known.resume} is a run of {name}, not of {agent}")
        return run(benchmark, name, experiment, resume=known.resume)[0]
    early.add_argument("--task", default=benchmark.default_task)
    known, _ = early.parse_known_args(arguments)
    name, experiment = parse(benchmark, known.task, arguments)
    return run(benchmark, name, experiment)[0]


# ---------------------------------------------------------------------------------------------- flags


def parse(benchmark: Benchmark, task: str, arguments: list[str]) -> tuple[str, Experiment[Any, Any]]:
    """Flags -> (agent name, experiment). The defaults are those of the task that the flags name.

    Raises:
        UserError: an unknown agent or flag, or a value that is none.
    """
    if arguments and not arguments[0].startswith("-") and arguments[0] not in AGENTS:
        near = difflib.get_close_matches(arguments[0], AGENTS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(AGENTS)}"
        raise UserError(f"no agent called {arguments[0]!r}; {hint}")
    commands = []
    for name, entry in AGENTS.items():
        default = default_experiment(benchmark, name, task)
        command = tyro.conf.subcommand(name, default=default, description=f"{entry.about}, on {task}.")
        commands.append(Annotated[Experiment[entry.config, type(benchmark.options)], command])  # type: ignore[name-defined]
    description = (
        f"Train an agent on a task of {benchmark.name}. `AGENT --task TASK --help` shows the defaults for "
        "that task; `--resume RUN_DIR [--steps N]` goes on with an earlier run."
    )
    experiment: Experiment[Any, Any] = parse_flags(
        Union[tuple(commands)],  # noqa: UP007
        args=arguments,
        description=description,
        prog=Path(sys.argv[0]).name,
    )
    name = next(name for name, entry in AGENTS.items() if isinstance(experiment.agent, entry.config))
    return name, experiment


def default_experiment(benchmark: Benchmark, agent: str, task: str) -> Experiment[Any, Any]:
    """The preset of `agent` on `task`."""
    entry = AGENTS[agent]
    settings = {**entry.preset, **benchmark.preset(agent, task)}
    groups: dict[str, dict[str, Any]] = {"agent": {}, "data": {}, "train": {}}
    for key, value in settings.items():
        group, _, name = key.rpartition(".")
        groups[group or "train"][name] = value
    return Experiment(
        task=task,
        agent=entry.config(**groups["agent"]),
        train=TrainConfig(**groups["train"]),
        data=DataConfig(**groups["data"]),
        options=benchmark.options,
        video=benchmark.video,
    )


def load_experiment(
    benchmark: Benchmark, run_dir: Path, arguments: list[str]
) -> tuple[str, Experiment[Any, Any]]:
    """The experiment of an earlier run, with `arguments` on top of its settings.

    Raises:
        UserError: its configuration cannot be read or is another script's, or the arguments change what a
            resumed run keeps.
    """
    path = run_dir / CONFIG_FILE
    try:
        config = yaml.safe_load(path.read_text())
        script = config.pop("script", benchmark.script)
        name = config.pop("agent_name")
        fields = {
            **config,
            "agent": pydantic.TypeAdapter(AGENTS[name].config).validate_python(config["agent"]),
            "train": pydantic.TypeAdapter(TrainConfig).validate_python(config["train"]),
            "data": pydantic.TypeAdapter(DataConfig).validate_python(config["data"]),
            "options": pydantic.TypeAdapter(type(benchmark.options)).validate_python(
                config.get("options") or {}
            ),
            "runs_dir": Path(config["runs_dir"]),
        }
        default: Experiment[Any, Any] = Experiment(**fields)
    except OSError as error:
        raise UserError(f"{run_dir} is not a run folder: {CONFIG_FILE} cannot be read") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a run's configuration: {reason}") from error
    if script != benchmark.script:
        raise UserError(f"{run_dir} is a run of {script}: go on with it there")
    experiment: Experiment[Any, Any] = parse_flags(
        Experiment[AGENTS[name].config, type(benchmark.options)],  # type: ignore[misc]
        args=arguments,
        default=default,
        prog=f"{Path(sys.argv[0]).name} --resume {run_dir}",
    )
    _refuse_changes(default, experiment)
    return name, experiment


# What a resumed run may change; anything else would make it neither the old run nor a new one.
CHANGEABLE = {"device", "threads", "video", "train.steps", "train.processes", "train.capture"}
CHANGEABLE |= {"train.offline_steps", "train.checkpoint_every", "train.stop_at_return"}


def _refuse_changes(old: Experiment[Any, Any], new: Experiment[Any, Any]) -> None:
    before, after = flatten_config(plain(old)), flatten_config(plain(new))
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    if changed - CHANGEABLE:
        names = ", ".join(sorted(_flag(key) for key in changed - CHANGEABLE))
        allowed = ", ".join(sorted(_flag(key) for key in CHANGEABLE))
        raise UserError(f"a resumed run keeps its settings: {names} cannot change (only {allowed})")


def _flag(key: str) -> str:
    return "--" + key.removeprefix("train.").removeprefix("data.").replace("_", "-")


# ------------------------------------------------------------------------------------------------ run


def run(
    benchmark: Benchmark, name: str, experiment: Experiment[Any, Any], resume: Path | None = None
) -> tuple[int, Path]:
    """Train and print the evaluations.

    Returns:
        The exit code (128 + signal if a signal stopped it) and the run folder.
    """
    keep_freed_memory()
    device = resolve_device(experiment.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams and graphs are made on the current device
    if experiment.data.offline and experiment.train.offline_steps:
        raise UserError("with --offline it is --steps that counts the updates, --offline-steps has to be 0")
    if not 0 <= experiment.seed < MAX_SEED:
        raise UserError(f"--seed is {experiment.seed}, expected 0 to {MAX_SEED - 1}")
    if experiment.threads is not None:
        if experiment.threads < 1:
            raise UserError(f"--threads is {experiment.threads}, expected at least 1")
        torch.set_num_threads(experiment.threads)
    torch.set_float32_matmul_precision(experiment.matmul_precision)
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal(at_once=True))
        checkpoint = None
        if resume is not None:
            stack.enter_context(lock_run(resume))
            checkpoint = _load_checkpoint(resume, name, experiment)
        benchmark, experiment = benchmark.configure(benchmark, experiment, checkpoint)
        trainer = _build(benchmark, name, experiment, device, checkpoint, stack)
        run_dir = resume or create_run_dir(
            experiment.runs_dir, benchmark.name, experiment.task, name, experiment.seed
        )
        if resume is None:
            stack.enter_context(lock_run(run_dir))
            _warn_of_idle_settings(experiment, default_experiment(benchmark, name, experiment.task), trainer)
        _train(benchmark, name, experiment, trainer, run_dir, stop, resumed=resume is not None)
    return stop.exit_code, run_dir


def _build(
    benchmark: Benchmark,
    name: str,
    experiment: Experiment[Any, Any],
    device: torch.device,
    checkpoint: dict[str, Any] | None,
    stack: ExitStack,
) -> Trainer:
    config = loop_settings(experiment)
    task = benchmark.make(experiment.task, config.num_envs, config.processes, False)
    stack.callback(task.close)
    lanes = eval_lanes(config.eval_episodes, benchmark.eval_lanes)
    eval_task = benchmark.make(experiment.task, lanes, False, experiment.video)
    stack.callback(eval_task.close)
    score = benchmark.normalized_score(experiment.task)
    data = _data(benchmark, experiment, task, score, checkpoint)
    task, eval_task = data.scaling.wrap(task), data.scaling.wrap(eval_task)
    _check_imitation(experiment, data, resumed=checkpoint is not None)
    torch.manual_seed(experiment.seed)
    agent = AGENTS[name].make(task.spaces, experiment.agent, device)
    saved = None if checkpoint is None else checkpoint["trainer"]
    buffers = make_buffers(
        task.spaces,
        data,
        config,
        device=device,
        seed=experiment.seed,
        grows=not experiment.data.offline,
        saved=saved,
    )
    trainer = Trainer(
        agent,
        task,
        eval_task,
        buffers.replay,
        config,
        device=device,
        seed=experiment.seed,
        demos=buffers.demos,
        joined=buffers.joined,
        normalized_score=score,
        metadata={
            "agent_name": name,
            "task": experiment.task,
            "agent_config": plain(experiment.agent),
            **data.scaling.metadata(),
            **benchmark.metadata,
        },
        film=experiment.video,
    )
    if saved is not None:
        trainer.load_state_dict(saved)
        _refuse_fewer_steps(config, trainer.counters)
    return trainer


def _refuse_fewer_steps(config: TrainConfig, done: Counters) -> None:
    """A resumed run that is to have fewer steps than it has done is a mistake."""
    # The last iteration steps every environment, and may so do a few more than were asked for.
    if config.steps <= done.env_steps - config.num_envs:
        raise UserError(f"--steps is {config.steps:,}, but the run has done {done.env_steps:,} already")
    if config.offline_steps < done.offline_updates:
        raise UserError(
            f"{config.offline_steps:,} offline updates are asked for, but the run has done "
            f"{done.offline_updates:,} already"
        )


def eval_lanes(episodes: int, most: int | None) -> int:
    """The largest number of lanes, `most` or fewer, over which the episodes can be spread evenly."""
    return max(lanes for lanes in range(1, min(episodes, most or episodes) + 1) if episodes % lanes == 0)


def _load_checkpoint(run_dir: Path, name: str, experiment: Experiment[Any, Any]) -> dict[str, Any]:
    path = run_dir / "checkpoints" / CHECKPOINT
    checkpoint = load_checkpoint(path)
    if "trainer" not in checkpoint:
        raise UserError(f"{path} holds a policy alone, not what a run needs to go on")
    check_origin(checkpoint, run_dir, name, experiment.task)
    return checkpoint


def check_origin(checkpoint: Mapping[str, Any], run_dir: Path, agent: str, task: str) -> None:
    """Raise a UserError if a checkpoint of the run is of another agent or task than its configuration."""
    found = (checkpoint.get("agent_name"), checkpoint.get("task"))
    if found != (agent, task):
        raise UserError(f"{run_dir}: the checkpoint is of {found[0]} on {found[1]}, not {agent} on {task}")


def loop_settings(experiment: Experiment[Any, Any]) -> TrainConfig:
    """The loop's settings, with --offline carried out."""
    config = experiment.train
    if experiment.data.offline:
        return dataclasses.replace(config, offline_steps=config.steps, steps=0)
    return config


def _data(
    benchmark: Benchmark,
    experiment: Experiment[Any, Any],
    task: VectorTask,
    score: Callable[[float], float] | None,
    checkpoint: dict[str, Any] | None,
) -> Data:
    """The run's data; a resumed run has it in its checkpoint already, but for the scaling."""
    if checkpoint is not None:
        return Data(scaling=Scaling.of_checkpoint(checkpoint))
    episodes = benchmark.load_data(experiment.task, experiment.data.dataset, task)
    if episodes is None and experiment.data.dataset is not None:
        raise UserError(f"{benchmark.name} has no use for --dataset")
    if episodes is None:
        if loop_settings(experiment).offline_steps:
            raise UserError("offline training needs data: give --dataset FILE")
        if experiment.data.rescale_actions:
            raise UserError("--rescale-actions takes the range from data: give --dataset FILE")
        return Data()
    data = prepare(
        episodes,
        experiment.data,
        seed=experiment.seed,
        normalized_score=score,
        note=print,
        least_std=benchmark.least_std,
    )
    _warn_of_returns(experiment, episodes)
    return data


def _check_imitation(experiment: Experiment[Any, Any], data: Data, *, resumed: bool) -> None:
    """See that an agent which only imitates has something to imitate.

    Raises:
        UserError: there are demonstrations, but none in a batch.
    """
    agent, config = experiment.agent, experiment.train
    if not isinstance(agent, BCConfig) or agent.demo_rows != "demos" or resumed:
        return
    if not data.demos:
        print("warning: bc imitates demonstrations, and there are none: it will learn nothing")
    elif round(config.batch_size * config.demo_fraction) == 0:
        raise UserError(
            f"bc imitates the demonstrations in a batch, and --demo-fraction {config.demo_fraction:g} of "
            f"--batch-size {config.batch_size} is none"
        )


# What is about recorded data alone.
DATA_SETTINGS = {f"data.{field.name}" for field in dataclasses.fields(DataConfig)}
DATA_SETTINGS |= {"train.demo_fraction", "train.join_capacity"}


def _warn_of_idle_settings(
    experiment: Experiment[Any, Any], default: Experiment[Any, Any], trainer: Trainer
) -> None:
    """Say so if a setting was given, other than the default, that has no effect beside the others."""
    if trainer.demos is None:
        given, preset = flatten_config(plain(experiment)), flatten_config(plain(default))
        for key in sorted(DATA_SETTINGS & given.keys()):
            if given[key] != preset.get(key):
                flag = _flag(key)[2:] if given[key] is not False else f"no-{_flag(key)[2:]}"
                print(f"warning: --{flag} has no effect without recorded data")
    config = trainer.config
    if trainer.demo_rows == config.batch_size and trainer.joined is None and config.steps:
        print(
            f"warning: at --demo-fraction {config.demo_fraction:g} every batch is of demonstrations alone: "
            "the environment steps teach nothing (--offline goes without them)"
        )
    agent = experiment.agent
    if isinstance(agent, ARSQConfig) and agent.advantage_tau is not None and agent.act_with == "online":
        print("warning: --agent.advantage-tau has no effect without --agent.act-with target")
    if isinstance(agent, BCConfig) and agent.greedy == "median" and agent.policy == "gaussian":
        print("warning: --agent.greedy has no effect without --agent.policy arsq")


def _warn_of_returns(experiment: Experiment[Any, Any], episodes: Sequence[Episode]) -> None:
    """Say so if an agent that learns returns within fixed bounds meets data well beyond them.

    By a tenth of their range: how a cut episode would have gone on is an estimate.
    """
    agent = experiment.agent
    if not isinstance(agent, CQNConfig) or agent.atoms == 1:
        return
    low, high = discounted_returns(episodes, experiment.train.discount)
    slack = (agent.v_max - agent.v_min) / 10
    if low < agent.v_min - slack or high > agent.v_max + slack:
        print(
            f"warning: the data's discounted returns span {low:,.1f} to {high:,.1f}, CQN's atoms "
            f"{agent.v_min:g} to {agent.v_max:g}: what lies beyond is cut (--agent.v-min, --agent.v-max)"
        )


def _train(
    benchmark: Benchmark,
    name: str,
    experiment: Experiment[Any, Any],
    trainer: Trainer,
    run_dir: Path,
    stop: StopSignal,
    *,
    resumed: bool,
) -> None:
    counters = trainer.counters
    config = {"script": benchmark.script, "agent_name": name, **plain(experiment)}
    write_run_info(run_dir, arguments=sys.argv, config=config, step=counters.step)
    total = trainer.config.offline_steps + trainer.config.steps
    with (
        Logger(
            run_dir,
            resume_step=counters.step if resumed else None,
            drop_tags=("eval/best_return", *(() if trainer.evaluated else EVALUATION_TAGS)),
        ) as logger,
        Progress(
            total,
            f"{name} on {experiment.task}",
            start_step=counters.step,
            start_updates=counters.updates,
        ) as progress,
    ):
        logger.hparams(flatten_config(config))
        progress.note(f"run folder {run_dir}")
        progress.note(f"replay buffer {trainer.replay.describe()}; training on {trainer.device}")
        stop.defer()
        trainer.run(logger, progress, stop, run_dir)
        if trainer.evaluations and not stop.requested:
            last = trainer.evaluations[-1]
            metrics = {"eval/return": last["eval/return"], "eval/best_return": counters.best_return}
            logger.hparams(flatten_config(config), metrics)
    _conclude(benchmark, experiment, trainer, run_dir, stop)


def _conclude(
    benchmark: Benchmark, experiment: Experiment[Any, Any], trainer: Trainer, run_dir: Path, stop: StopSignal
) -> None:
    console = Console()
    if trainer.evaluations:
        console.print(evaluation_table(trainer.evaluations))
        remark = benchmark.remark(experiment.task)
        if remark:
            print(remark)
    if stop.requested:
        print(
            f"stopped at step {trainer.counters.step:,}; go on with: {resume_hint(benchmark.script, run_dir)}"
        )
    print(f"learning curves: {tensorboard_hint(run_dir)}")


def resume_hint(script: str, run_dir: Path) -> str:
    """The command that goes on with a run."""
    path = Path(__file__).resolve().parents[2] / script
    return shlex.join([os.path.relpath(sys.executable), os.path.relpath(path), "--resume", str(run_dir)])
