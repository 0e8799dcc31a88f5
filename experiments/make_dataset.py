"""Roll out trained agents and write D4RL-format and Minari datasets, of D4RL's kinds.

python experiments/make_dataset.py random --task Hopper-v4 --output hopper-random.hdf5
python experiments/make_dataset.py expert --expert RUN --output hopper-expert.hdf5
python experiments/make_dataset.py medium --medium RUN2 --expert RUN --output hopper-medium.hdf5
python experiments/make_dataset.py medium-replay --medium RUN2 --output hopper-medium-replay.hdf5
python experiments/make_dataset.py medium-expert --medium RUN2 --expert RUN --minari hopper/mixed-v0
python experiments/make_dataset.py merged --task Hopper-v4 --datasets a.hdf5 b.hdf5 --output both.hdf5

RUN is the folder of a run that learned for long; RUN2 one that was stopped at a third of its return:

python experiments/train_mujoco.py dsac-t --task Hopper-v4 --stop-at-return 1100
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from envs.d4rl import env as d4rl_env
from envs.d4rl.tasks import LOCOMOTION, TASKS
from envs.gym import make as mujoco_env
from envs.gym.vector import GymVectorTask
from experiments import train_d4rl as d4rl
from experiments import train_mujoco as mujoco
from experiments.runner.launch import MAX_SEED
from experiments.runner.policy import Policy, load_policy, read_run
from rlzoo.data.load import summary
from rlzoo.data.scaling import Scaling
from rlzoo.data.write import check_minari_name, write_d4rl, write_minari
from rlzoo.errors import UserError
from rlzoo.replay import ReplayBuffer
from rlzoo.run.cli import parse_flags, resolve_device, run_main
from rlzoo.run.files import check_writable
from rlzoo.tracker import EpisodeTracker
from rlzoo.train import BEST_POLICY, CHECKPOINT, TrainConfig
from rlzoo.types import Array, Episode, FloatArray, Spaces

Kind = Literal["random", "medium", "medium-replay", "expert", "medium-expert", "merged"]
MEDIUM_SHARE = 1 / 3  # of the expert's return, D4RL's definition of "medium" (arXiv 2004.07219, section 5)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to record, and where to."""

    kind: tyro.conf.Positional[Kind]
    """random: uniform actions. medium, expert: the policy of that run. medium-expert: half of each.
    medium-replay: all that the medium run had in its replay buffer when it ended. merged: the episodes of
    --datasets, one file after another."""
    task: str | None = None
    """Needed for random and merged alone; the runs know theirs, and another is refused."""
    datasets: tuple[str, ...] = ()
    """The files to merge, in any format that train_d4rl.py reads; actions in the task's own bounds."""
    expert: Path | None = None
    """Folder of the expert's run; its best policy is rolled out."""
    medium: Path | None = None
    """Folder of the medium run; its last policy is rolled out."""
    steps: int = 1_000_000
    """Steps to record, then each running episode is played to its end; medium-replay takes all there are."""
    num_envs: int = 10
    """Environments stepped side by side."""
    noise: float | None = None
    """Act with the policy's mean plus Gaussian noise of this standard deviation, in units of the task's
    actions in [-1, 1]; None: sample the policy, as D4RL does."""
    seed: int = 1
    """Of the environments and the sampling."""
    device: str = "cpu"
    """Of the policy."""
    output: Path | None = None
    """D4RL-format HDF5 file to write."""
    minari: str | None = None
    """Name of the Minari dataset to write, "namespace/name-v0", in $MINARI_DATASETS_PATH."""

    def __post_init__(self) -> None:
        special = {"random": ["task"], "merged": ["task", "datasets"], "medium-replay": ["medium"]}
        needs = special.get(self.kind, self.kind.split("-"))
        missing = [f"--{name}" for name in needs if not getattr(self, name)]
        if missing:
            raise UserError(f"{self.kind} needs {' and '.join(missing)}")
        uses = {*needs, "expert"} if self.kind == "medium" else set(needs)
        idle = [name for name in ("datasets", "expert", "medium") if getattr(self, name) and name not in uses]
        if idle:
            raise UserError(f"{self.kind} has no use for {' and '.join(f'--{name}' for name in idle)}")
        if self.noise is not None and self.kind in special:
            raise UserError(f"{self.kind} has no use for --noise: no policy acts")
        if self.output is None and self.minari is None:
            raise UserError("nothing to write: give --output FILE, --minari NAME or both")
        if self.steps < 1 or self.num_envs < 1:
            raise UserError("--steps and --num-envs must be at least 1")
        if not 0 <= self.seed < MAX_SEED:
            raise UserError(f"--seed is {self.seed}, expected 0 to {MAX_SEED - 1}")
        if self.noise is not None and not 0 <= self.noise < np.inf:
            raise UserError(f"--noise is {self.noise}, expected finite and at least 0")


def make_task(task: str, num_envs: int) -> GymVectorTask:
    """A task of D4RL by its D4RL name, any other by its Gymnasium id."""
    return (d4rl_env if task in TASKS else mujoco_env).make(task, num_envs)


def roll_out(task: GymVectorTask, policy: Policy, *, steps: int, seed: int) -> list[Episode]:
    """At least `steps` steps of whole episodes: each lane plays on until the episode it is in has ended.

    Args:
        task: N lanes, one episode after another in each.
        policy: observations [N, ...] -> actions [N, A].
    """
    lanes = task.num_envs
    obs = task.reset(seed)
    tracker = EpisodeTracker(lanes)
    open_episodes: list[list[tuple[Array, FloatArray, np.float32]]] = [[] for _ in range(lanes)]
    episodes: list[Episode] = []
    recorded, stopped = 0, np.zeros(lanes, np.bool_)
    while not stopped.all():
        action = policy(obs)
        task.send(action)
        step = task.receive()
        finished = {episode.lane: episode for episode in tracker.update(step)}
        for lane in np.flatnonzero(~tracker.begins & ~stopped):
            rows = open_episodes[lane]
            rows.append((obs["state"][lane].copy(), action[lane].copy(), step.reward[lane]))
            recorded += 1
            if lane in finished:
                states, actions, rewards = zip(*rows, strict=True)
                states = np.stack([*states, step.obs["state"][lane]])
                success = finished[lane].success
                solved = None if np.isnan(success) else bool(success)
                episodes.append(
                    Episode({"state": states}, np.stack(actions), np.array(rewards, np.float32),
                            bool(step.terminated[lane]), solved)
                )  # fmt: skip
                rows.clear()
                stopped[lane] = recorded >= steps
        obs = step.obs
    return episodes


def replayed(checkpoint: Mapping[str, Any], spaces: Spaces) -> list[Episode]:
    """The episodes in a run's replay buffer, observations as the task gave them."""
    saved = checkpoint["trainer"]["replay"]
    lanes = len(saved["pending"])
    replay = ReplayBuffer(
        spaces,
        capacity=len(saved["starts_in_row"]) * lanes,
        lanes=lanes,
        device=torch.device("cpu"),
        discount=TrainConfig().discount,  # of no matter to what was recorded
    )
    replay.load_state_dict(saved)
    if not Scaling.of_checkpoint(checkpoint).changes_nothing:
        raise UserError(
            "the run standardised its observations or rescaled its actions: its buffer does not hold the "
            "task's own"
        )
    if len(saved["starts"]) > checkpoint["trainer"]["counters"]["env_steps"]:
        raise UserError("the run began with recorded data in its buffer: that is not its own replay alone")
    episodes = replay.episodes()
    steps, taken = sum(map(len, episodes)), checkpoint["trainer"]["counters"]["env_steps"]
    if steps < taken - lanes:  # the newest step of a lane has no successor yet
        print(f"warning: of the run's {taken:,} steps its buffer had room for the last {steps:,} alone")
    return episodes


def sources(settings: Settings) -> list[dict[str, Any]]:
    """The checkpoints that the data come from: read first, so that nothing is recorded in vain.

    Raises:
        UserError: one is missing or damaged, or they are of different tasks.
    """
    found = []
    runless = settings.kind in ("random", "merged")
    for level in [] if runless else settings.kind.removesuffix("-replay").split("-"):
        run = settings.medium if level == "medium" else settings.expert
        assert run is not None
        found.append(read_run(run, CHECKPOINT if level == "medium" else BEST_POLICY))
    tasks = sorted({checkpoint["task"] for checkpoint in found})
    if len(tasks) > 1:
        raise UserError(f"the runs are of different tasks: {', '.join(tasks)}")
    if tasks and settings.task not in (None, tasks[0]):
        raise UserError(f"--task is {settings.task}, but the run is of {tasks[0]}")
    return found


def merged(settings: Settings, task: str) -> list[Episode]:
    """The episodes of `settings.datasets`, which have to be of one task.

    Raises:
        UserError: a file cannot be read or does not fit the task.
    """
    load = (d4rl if task in TASKS else mujoco).BENCHMARK.load_data
    with closing(make_task(task, 1)) as copies:
        return [episode for source in settings.datasets for episode in load(task, source, copies) or []]


def bounds(task: str) -> tuple[FloatArray | float, FloatArray | float]:
    """What -1 and 1 stand for in the files of a task; D4RL's are in [-1, 1] already."""
    return (-1.0, 1.0) if task in TASKS else mujoco_env.action_bounds(task)


def gymnasium_id(task: str) -> str | None:
    """The id by which Minari can make the task again; None where D4RL's task is more than Gymnasium's."""
    if task not in TASKS:
        return task
    row = TASKS[task]
    return row.env_id if row.family is LOCOMOTION and not row.env_id.startswith("Ant") else None


def record(settings: Settings, checkpoints: list[dict[str, Any]], task: str) -> list[Episode]:
    """The episodes of this kind of data."""
    if settings.kind == "merged":
        return merged(settings, task)
    if settings.kind == "random":
        with closing(make_task(task, settings.num_envs)) as copies:
            generator = np.random.default_rng(settings.seed)
            size = (copies.num_envs, copies.spaces.action_dim)
            return roll_out(
                copies,
                lambda obs: generator.uniform(-1, 1, size).astype(np.float32),
                steps=settings.steps,
                seed=settings.seed,
            )
    if settings.kind == "medium-replay":
        with closing(make_task(task, 1)) as copies:
            return replayed(checkpoints[0], copies.spaces)
    device, episodes = resolve_device(settings.device), []
    for index, checkpoint in enumerate(checkpoints):
        torch.manual_seed(settings.seed + index)
        with closing(make_task(task, settings.num_envs)) as copies:
            policy = load_policy(checkpoint, copies.spaces, device, noise=settings.noise)
            steps = settings.steps // len(checkpoints)
            episodes += roll_out(copies, policy, steps=steps, seed=settings.seed + 1000 * index)
    return episodes


def expert_return(settings: Settings) -> float | None:
    """The expert's best evaluation, to compare medium data with; None where a share of it means nothing.

    Raises:
        UserError: the expert's run has no best policy, or a damaged one.
    """
    if settings.kind != "medium" or settings.expert is None:
        return None
    best = read_run(settings.expert, BEST_POLICY)
    if "return" in best:
        found = float(best["return"])
    else:  # older runs noted it in their last checkpoint alone
        found = float(read_run(settings.expert, CHECKPOINT)["trainer"]["counters"]["best_return"])
    return found if 0 < found < np.inf else None


def main() -> int:
    """Record, say what was recorded, and write it."""
    settings = parse_flags(Settings, description=__doc__)
    if settings.minari is not None:
        check_minari_name(settings.minari)
    if settings.output is not None:
        check_writable(settings.output)
    checkpoints, expert = sources(settings), expert_return(settings)
    task = checkpoints[0]["task"] if checkpoints else str(settings.task)
    agents = "+".join(sorted({checkpoint["agent_name"] for checkpoint in checkpoints})) or settings.kind
    episodes = record(settings, checkpoints, task)
    print(summary(episodes, normalized_score=None))
    low, high = bounds(task)
    about = {"algorithm_name": agents, "description": f"{settings.kind} data of {task}"}
    if settings.output is not None:
        metadata = {"task": task, "kind": settings.kind, "seed": settings.seed, **about}
        write_d4rl(settings.output, episodes, metadata, action_low=low, action_high=high)
        print(f"written to {settings.output}")
    if settings.minari is not None:
        where = write_minari(
            settings.minari, episodes, env_id=gymnasium_id(task), action_low=low, action_high=high, **about
        )
        print(f"written to {where}")
    if expert is not None:
        share = np.mean([episode.episode_return for episode in episodes]) / expert
        print(f"mean return: {share:.2f} of the expert's best evaluation (D4RL's medium: {MEDIUM_SHARE:.2f})")
    return 0


if __name__ == "__main__":
    run_main(main)
