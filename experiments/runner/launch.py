"""A training script from its command line to the table at the end."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.runner.data import Data, DataConfig, make_buffers, prepare
from experiments.runner.experiment import (
    Request,
    check_kept,
    complete,
    default_experiment,
    differing,
    flag,
    parse,
    read_config,
)
from experiments.runner.flags import Experiment
from experiments.runner.suite import Suite
from rlzoo.agent import Learning
from rlzoo.data.episodes import discounted_returns
from rlzoo.data.scaling import Scaling
from rlzoo.errors import UserError
from rlzoo.evaluate import EVALUATION_TAGS
from rlzoo.interface import Interface
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.run.files import WriteError, errors_named, is_full
from rlzoo.run.folder import (
    ABOUT,
    CONFIG_FILE,
    METRICS_FILE,
    PROJECT,
    create_run_dir,
    finish_run_info,
    flatten_config,
    last_step,
    lock_run,
    place_of,
    plain,
    write_run_info,
)
from rlzoo.run.machine import trim_memory, tune_cpu
from rlzoo.run.progress import Progress, evaluation_table, tensorboard_hint
from rlzoo.run.signals import StopSignal
from rlzoo.run.track import wandb_mirror
from rlzoo.seeding import seed_global_generators
from rlzoo.train import CHECKPOINT, Counters, TrainConfig, Trainer
from rlzoo.types import VectorTask


def main(suite_type: type[Suite], arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a training script on `arguments` (`sys.argv` if None). Returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    prog = prog or f"python experiments/train_{suite_type.name}.py"
    without_agent = not arguments or arguments[0].startswith("-")
    begun = any(argument.startswith(("--resume", "--config")) for argument in arguments)
    if not arguments or (without_agent and not begun and {"-h", "--help"} & set(arguments)):
        print(usage(suite_type, prog))
        return 0
    if "--task=list" in arguments or ("--task", "list") in itertools.pairwise(arguments):
        print("\n".join(suite_type().tasks()))
        return 0
    return run(parse(suite_type, arguments, prog))[0]


def usage(suite_type: type[Suite], prog: str) -> str:
    """What a training script can do, before an agent is named."""
    resumes = "goes on with an earlier run" if suite_type.build is None else "starts an interrupted run anew"
    lines = [
        sys.modules[suite_type.__module__].__doc__ or "",
        f"{prog} AGENT [flags]              trains; AGENT --task TASK --help lists flags and defaults",
        f"{prog} --resume RUN_DIR [flags]   {resumes}",
        f"{prog} AGENT --run-dir RUN_DIR    trains in that folder, or goes on with the run in it",
        f"{prog} AGENT --task list          lists the tasks\n",
        *(f"{name:<8} {agent.about}" for name, agent in suite_type.agents.items()),
        f"\npresets: {', '.join(suite_type.presets)}",
    ]
    return "\n".join(lines)


def run(request: Request) -> tuple[int, Path]:
    """Train and print the evaluations.

    Returns:
        The exit code (128 + signal if a signal stopped it) and the run folder.
    """
    suite, agent_name, asked, resume, run_dir = request
    tune_cpu()
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal(at_once=True))
        checkpoint = None
        if resume is not None:
            lock = stack.enter_context(lock_run(resume))
            if suite.build is None:
                checkpoint = load_latest(resume, agent_name, asked)
        experiment = complete(suite, asked)
        if checkpoint is not None and resume is not None:
            check_kept(resume, checkpoint.get("settings", {}), experiment)
        device = torch.device(experiment.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # streams and graphs are made on the current device
        torch.set_num_threads(experiment.threads)
        torch.set_float32_matmul_precision(experiment.matmul_precision)

        if suite.build is None:
            trainer, warnings = build(suite, agent_name, experiment, checkpoint, stack)
        else:
            trainer, warnings = suite.build(agent_name, experiment, resume, stack)
        del checkpoint  # with its replay buffer, which the trainer has a copy of
        trim_memory()
        for line in warnings:
            print(f"warning: {line}")
        if resume is None:
            if run_dir is None:
                run_dir = create_run_dir(
                    experiment.runs_dir,
                    suite.folder,
                    experiment.task,
                    agent_name,
                    experiment.seed,
                    experiment.name,
                )
            with errors_named(run_dir):
                run_dir.mkdir(parents=True, exist_ok=True)
            if (run_dir / METRICS_FILE).exists():
                raise UserError(f"{run_dir} has a {METRICS_FILE}, but it is not a run folder; name another")
            lock = stack.enter_context(lock_run(run_dir))
        else:
            run_dir = resume
        train(request, experiment, trainer, run_dir, stop, lock)
    return stop.exit_code, run_dir


def load_latest(run_dir: Path, agent_name: str, asked: Experiment[Any, Any]) -> dict[str, Any] | None:
    """The checkpoint that a run goes on from; None where it was killed before the first, and begins anew.

    Raises:
        UserError: it is damaged or another run's, or the run must have had one.
    """
    path = run_dir / "checkpoints" / CHECKPOINT
    if not path.exists():
        reached = last_step(run_dir)
        every = read_config(run_dir)["train"]["checkpoint_every"]  # before the flags of today
        if reached > every + asked.train.num_envs:
            raise UserError(
                f"no checkpoint at {path}, though the run got to step {reached:,}: it was removed"
            )
        print(f"{run_dir} has no checkpoint yet: the run starts from the beginning")
        return None
    checkpoint = load_checkpoint(path)
    if "trainer" not in checkpoint:
        raise UserError(f"{path} holds a policy alone, not what a run needs to go on")
    check_origin(checkpoint, run_dir, agent_name, asked.task)
    return checkpoint


def check_origin(checkpoint: dict[str, Any], run_dir: Path, agent: str, task: str) -> None:
    """Raise a UserError if a checkpoint of the run is of another agent or task than its configuration."""
    found = (checkpoint.get("agent_name"), checkpoint.get("task"))
    if found != (agent, task):
        raise UserError(f"{run_dir}: the checkpoint is of {found[0]} on {found[1]}, not {agent} on {task}")


def build(
    suite: Suite,
    agent_name: str,
    experiment: Experiment[Any, Any],
    checkpoint: dict[str, Any] | None,
    stack: ExitStack,
) -> tuple[Trainer, list[str]]:
    """Data and task, then the agent, then what trains it; and what there is to warn of.

    The data are let go of on return: from then on the buffers hold them.
    """
    suite.prepare(experiment, checkpoint)
    seed_global_generators(experiment.seed)  # what environments draw while they are made
    config = experiment.train
    task = suite.make(experiment.task, config.num_envs, processes=config.processes)
    stack.callback(task.close)
    lanes = min(config.eval_episodes, suite.lanes or config.eval_episodes)
    eval_task = suite.make(experiment.task, lanes, processes=config.processes, render=experiment.video)
    stack.callback(eval_task.close)
    if checkpoint is None:
        data = load_data(suite, experiment, task)
    else:  # a resumed run has its data in its checkpoint already
        data = Data(scaling=Scaling.of_checkpoint(checkpoint), identity=_identity(checkpoint))
    trainer = make_trainer(suite, agent_name, experiment, task, eval_task, data, checkpoint)
    warnings = [] if checkpoint else remarks(suite, agent_name, experiment, trainer, data)
    return trainer, warnings


def _identity(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Which data a run began with; nothing goes wrong where that is not known."""
    found = checkpoint.get("data")
    return found if isinstance(found, dict) else {}


def load_data(suite: Suite, experiment: Experiment[Any, Any], task: VectorTask) -> Data:
    """The recorded data of a new run, chosen and scaled."""
    episodes = suite.load_data(experiment.task, experiment.data.dataset, task.spaces)
    if episodes is None:
        if experiment.train.offline_steps:
            raise UserError("offline training needs data: give --dataset FILE")
        if experiment.data.rescale_actions:
            raise UserError("--rescale-actions takes the range from data: give --dataset FILE")
        return Data()
    return prepare(
        episodes,
        experiment.data,
        seed=experiment.seed,
        normalized_score=suite.score(experiment.task),
        least_std=suite.least_std,
    )


def make_trainer(
    suite: Suite,
    agent_name: str,
    experiment: Experiment[Any, Any],
    task: VectorTask,
    eval_task: VectorTask,
    data: Data,
    checkpoint: dict[str, Any] | None,
) -> Trainer:
    """The agent, its buffers and the loop, as new or as a checkpoint has them."""
    device = torch.device(experiment.device)
    task, eval_task = data.scaling.wrap(task), data.scaling.wrap(eval_task)
    agent_type = suite.agents[agent_name]
    if task.spaces.pixels is not None and not agent_type.sees_images:
        raise UserError(f"{agent_name} learns from states alone, and {experiment.task} has images")
    interface = suite.interface(experiment.task, task)
    if checkpoint is not None:
        interface.check_same_actions(Interface.of_checkpoint(checkpoint), experiment.task)
    torch.manual_seed(experiment.seed)
    agent = agent_type(task.spaces, experiment.agent, device)
    saved = None if checkpoint is None else checkpoint["trainer"]
    config, seed, grows = experiment.train, experiment.seed, not experiment.data.offline
    buffers = make_buffers(task.spaces, data, config, device=device, seed=seed, grows=grows, saved=saved)
    trainer = Trainer(
        agent,
        task,
        eval_task,
        config,
        **buffers,
        device=device,
        seed=seed,
        normalized_score=suite.score(experiment.task),
        metadata={
            "agent_name": agent_name,
            "task": experiment.task,
            "agent_config": plain(experiment.agent),
            "spaces": vars(task.spaces).copy(),
            "settings": plain(experiment),
            "data": dict(data.identity),
            **data.scaling.metadata(),
            **interface.metadata(),
            **suite.metadata,
        },
        film=experiment.video,
    )
    if saved is not None:
        trainer.load_state_dict(saved)
        refuse_fewer_steps(experiment.train, trainer.counters)
    return trainer


def refuse_fewer_steps(config: TrainConfig, done: Counters) -> None:
    """A resumed run that is to have fewer steps than it has done is a mistake."""
    # The last iteration steps every environment, and may so do a few more than were asked for.
    if config.steps <= done.env_steps - config.num_envs:
        raise UserError(f"--steps is {config.steps:,}, but the run has done {done.env_steps:,} already")
    if config.offline_steps < done.offline_updates:
        asked, made = config.offline_steps, done.offline_updates
        raise UserError(f"{asked:,} offline updates are asked for, but the run has done {made:,} already")
    if config.offline_steps > done.offline_updates and done.env_steps:
        raise UserError("--offline-steps come before the online ones, of which the run has done some already")


# Settings that are about recorded data alone, and about steps in the environment alone.
DATA_SETTINGS = {f"data.{field.name}" for field in dataclasses.fields(DataConfig)}
DATA_SETTINGS |= {"train.demo_fraction", "train.join_capacity"}
ONLINE_SETTINGS = {"train.num_envs", "train.utd", "train.warmup_steps", "train.join_capacity"}


def remarks(
    suite: Suite, agent_name: str, experiment: Experiment[Any, Any], trainer: Trainer, data: Data
) -> list[str]:
    """Warnings about a new run: settings that have no effect or do not fit the data, a line each."""
    config, idle, lines = trainer.config, experiment.agent.idle(), []
    if not experiment.data.seed_replay:
        idle["data.replay_ratio"] = "with --no-seed-replay"
    default = default_experiment(suite, agent_name, experiment.task, experiment.preset)
    for key, value in differing(default, experiment).items():
        shown = flag(key, value)
        if trainer.demos is None and key in DATA_SETTINGS:
            lines.append(f"{shown} has no effect without recorded data")
        elif experiment.data.offline and key in ONLINE_SETTINGS:
            lines.append(f"{shown} has no effect with --offline")
        elif key in idle:
            lines.append(f"{shown} has no effect {idle[key]}")
    before_the_last = config.steps - config.num_envs - config.warmup_steps
    if config.steps and not config.offline_steps and int(max(0, before_the_last) * config.utd) < 1:
        lines.append(
            f"no update will be made: --steps is {config.steps:,}, --warmup-steps {config.warmup_steps:,}, "
            f"--utd {config.utd:g}"
        )
    if trainer.demo_rows == config.batch_size and trainer.joined is None and config.steps:
        lines.append(
            f"at --demo-fraction {config.demo_fraction:g} every batch is of demonstrations alone: "
            "the environment steps teach nothing (--offline goes without them)"
        )

    def returns() -> tuple[float, float]:
        low, high = discounted_returns(data.recorded, config.discount)
        return config.reward_scale * low, config.reward_scale * high

    shares = (trainer.demos is not None, trainer.demo_rows, config.demo_fraction)
    learning = Learning(config.batch_size, *shares, returns if data.recorded else None)
    return lines + experiment.agent.remarks(learning)


def train(
    request: Request,
    experiment: Experiment[Any, Any],
    trainer: Trainer,
    run_dir: Path,
    stop: StopSignal,
    lock: int,
) -> None:
    """Train to the end or to the first signal, and say what came of it.

    `lock` is what `lock_run` returned for the run's folder.
    """
    from rlzoo.run.logger import Logger  # with TensorBoard, of which `--help` has no need

    suite, agent_name, asked, resume, _ = request
    counters = trainer.counters
    config = {"suite": suite.name, "agent_name": agent_name, **plain(asked)}
    content = {**config, "resolved": differing(asked, experiment)}
    origin = trainer.metadata.get("data", {})
    write_run_info(run_dir, arguments=sys.argv, config=content, data=origin, step=counters.step)
    total = trainer.config.offline_steps + trainer.config.steps
    with (
        ExitStack() as stack,
        Logger(
            run_dir,
            resume_step=None if resume is None else counters.step,
            drop_tags=("eval/best_return", *(() if trainer.evaluated else EVALUATION_TAGS)),
        ) as logger,
        Progress(
            total,
            f"{agent_name} on {experiment.task}",
            start_step=counters.step,
            start_updates=counters.updates,
            offline=trainer.config.offline_steps,
        ) as progress,
    ):
        # "agent" comes before "agent.lr": TensorBoard sorts its columns by name.
        settings = {"agent": agent_name, **flatten_config({**config, "agent_name": None})}
        if experiment.track == "wandb":
            about = {"project": "rlzoo", "tags": experiment.tags, "notes": experiment.notes}
            logger.mirror = stack.enter_context(wandb_mirror(run_dir, config=config, **about))
        logger.hparams(settings)
        if said := {key: value for key in ABOUT if (value := config[key])}:
            text = [
                f"**{key}**: {', '.join(value) if key == 'tags' else value}" for key, value in said.items()
            ]
            logger.text("run", "\n\n".join(text))
        progress.note(f"run folder {run_dir}")
        on_cpu = resume is None and trainer.device.type == "cpu"
        hint = size_hint(suite, agent_name, asked) if on_cpu else ""
        progress.note(f"{trainer.describe()}; training on {trainer.device}{hint}")
        stop.defer()
        try:
            trainer.run(logger, progress, stop, run_dir)
        except WriteError as error:
            place = place_of(lock) or run_dir
            kept = trainer.rescue(error, place)
            if not (place / CONFIG_FILE).exists():  # the folder was removed; what is kept is to be of use
                write_run_info(place, arguments=sys.argv, config=content, data=origin, step=counters.step)
            raise UserError(f"{error}; {kept}") from error
        if trainer.evaluations and not stop.requested:
            last = trainer.evaluations[-1]
            metrics = {"eval/return": last["eval/return"], "eval/best_return": counters.best_return}
            logger.hparams(settings, metrics)
    if not stop.requested:
        finish_run_info(run_dir)
    try:
        if trainer.evaluations:
            Console().print(evaluation_table(trainer.evaluations, offline=trainer.config.offline_steps))
            if suite.remark:
                print(suite.remark)
        if stop.requested:
            again = "go on" if suite.build is None else "start anew"
            print(f"stopped at step {counters.step:,}; {again} with: {resume_hint(suite.script, run_dir)}")
        print(f"learning curves: {tensorboard_hint(run_dir)}", flush=True)
    except OSError as error:
        if not is_full(error):  # the run is done, whether its output finds room or not
            raise


def size_hint(suite: Suite, agent_name: str, asked: Experiment[Any, Any]) -> str:
    """That a preset has sizes for a CPU, where all that it would change is as published; else ""."""
    if asked.preset != "paper" or asked.config is not None or "small" not in suite.presets:
        return ""
    paper, small = (default_experiment(suite, agent_name, asked.task, name) for name in ("paper", "small"))
    sizes = differing(paper, small).keys() - {"preset"}
    if not sizes or sizes & differing(paper, asked).keys():
        return ""
    return " (--preset small has sizes for one)"


def resume_hint(script: str, run_dir: Path) -> str:
    """The command that goes on with a run."""
    path = os.path.relpath(PROJECT / script)
    return shlex.join([os.path.relpath(sys.executable), path, "--resume", str(run_dir)])
