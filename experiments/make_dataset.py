"""Roll out trained agents and write D4RL-format and Minari datasets, of D4RL's kinds.

python experiments/make_dataset.py random --task Hopper-v4 --output hopper-random.hdf5
python experiments/make_dataset.py expert --expert RUN --output hopper-expert.hdf5
python experiments/make_dataset.py medium --medium RUN2 --expert RUN --output hopper-medium.hdf5
python experiments/make_dataset.py medium-replay --medium RUN2 --output hopper-medium-replay.hdf5
python experiments/make_dataset.py medium-expert --medium RUN2 --expert RUN --minari hopper/mixed-v0
python experiments/make_dataset.py planner --task maze2d-umaze-v1 --noise 0.5 --output maze2d-umaze.hdf5
python experiments/make_dataset.py merged --task Hopper-v4 --datasets a.hdf5 b.hdf5 --output both.hdf5

RUN is the folder of a run that learned for long, RUN2 one that was stopped at a third of its return, and
either may be an export where its policy alone is needed:

python experiments/train_mujoco.py dsac-t --task Hopper-v4 --stop-at-return 1100
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from envs.d4rl.planner import MazePlanner
from experiments.runner.suite import Suite
from experiments.suites import PLAYABLE
from experiments.train_d4rl import D4RLSuite
from experiments.train_mujoco import GymOptions, MujocoSuite
from rlzoo.data.episodes import summary
from rlzoo.data.scaling import Scaling
from rlzoo.data.write import check_minari_name, write_d4rl, write_minari
from rlzoo.errors import UserError
from rlzoo.policy import Policy, load_policy
from rlzoo.replay import ReplayBuffer
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.run.cli import parse_flags, run_main
from rlzoo.run.files import check_writable
from rlzoo.run.folder import EXPORT_FILE
from rlzoo.run.machine import resolve_device, tune_cpu
from rlzoo.seeding import seed_global_generators
from rlzoo.settings import Count, NotNegative, Seed, Settings
from rlzoo.tracker import EpisodeTracker
from rlzoo.train import CHECKPOINT, TrainConfig
from rlzoo.types import Array, Episode, FloatArray, Spaces, VectorTask

Kind = Literal["random", "medium", "medium-replay", "expert", "medium-expert", "planner", "merged"]
Act = Callable[[dict[str, Array]], FloatArray]  # observations [N, ...] -> actions [N, A] in [-1, 1]
WITHOUT_POLICY = ("random", "planner", "merged", "medium-replay")  # kinds for which none is rolled out
MEDIUM_SHARE = 1 / 3  # of the expert's return, D4RL's definition of "medium" (arXiv 2004.07219, section 5)


@dataclasses.dataclass(frozen=True)
class Request(Settings):
    """What to record, and where to."""

    kind: tyro.conf.Positional[Kind]
    """random: uniform actions. medium, expert: the policy of that run. medium-expert: half of each.
    medium-replay: all that the medium run had in its replay buffer when it ended. planner: for Maze2D, paths
    to places drawn at random, as D4RL has it. merged: the episodes of --datasets, one file after another."""
    task: str | None = None
    """Needed for random, planner and merged alone; the runs know theirs, and another is refused."""
    env: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Environment argument NAME=VALUE of a Gymnasium task; the runs know theirs."""
    datasets: tuple[str, ...] = ()
    """The files to merge, in any format that train_d4rl.py reads; actions in the task's own bounds."""
    expert: Path | None = None
    """Folder of the expert's run, whose best policy is rolled out, or of an export."""
    medium: Path | None = None
    """Folder of the medium run, whose last policy is rolled out, or of an export (not for medium-replay)."""
    steps: Count = 1_000_000
    """Steps to record, then each running episode is played to its end; medium-replay takes all there are."""
    num_envs: Count = 10
    """Environments stepped side by side."""
    noise: NotNegative | None = None
    """Standard deviation of noise on the best action, in units of [-1, 1]; None: sample, as D4RL does
    (planner: none)."""
    seed: Seed = 1
    """Decides how episodes start, and what is sampled."""
    device: str = "cpu"
    """Where the policy's networks run: cpu, cuda, …"""
    output: Path | None = None
    """D4RL-format HDF5 file to write."""
    minari: str | None = None
    """Name of the Minari dataset to write, "namespace/name-v0", in $MINARI_DATASETS_PATH."""

    def __post_init__(self) -> None:
        super().__post_init__()
        special = {
            "random": ["task"],
            "planner": ["task"],
            "merged": ["task", "datasets"],
            "medium-replay": ["medium"],
        }
        needs = special.get(self.kind, self.kind.split("-"))
        missing = [f"--{name}" for name in needs if not getattr(self, name)]
        if missing:
            raise UserError(f"{self.kind} needs {' and '.join(missing)}")
        uses = {*needs, "expert"} if self.kind == "medium" else set(needs)
        idle = [name for name in ("datasets", "expert", "medium") if getattr(self, name) and name not in uses]
        if idle:
            raise UserError(f"{self.kind} has no use for {' and '.join(f'--{name}' for name in idle)}")
        if self.env and (self.kind not in ("random", "merged") or self.task in D4RLSuite().tasks()):
            raise UserError("--env is for random or merged data of a Gymnasium task")
        if self.noise is not None and self.kind in special and self.kind != "planner":
            raise UserError(f"{self.kind} has no use for --noise: no policy acts")
        if self.output is None and self.minari is None:
            raise UserError("nothing to write: give --output FILE, --minari NAME or both")


def suite_of(task: str, env: Sequence[str]) -> Suite:
    """D4RL for a task by its D4RL name, Gymnasium for any other, there with the arguments `env`."""
    if task in D4RLSuite().tasks():
        return D4RLSuite()
    suite = MujocoSuite()
    suite.options = GymOptions(tuple(env))
    return suite


def noisy(policy: Policy, noise: float | None) -> Act:
    """The policy with Gaussian noise of this deviation on its best action; None: sampled instead."""

    def act(obs: dict[str, Array]) -> FloatArray:
        action = policy.unit_action(obs, deterministic=noise is not None)
        if noise:
            action = action + noise * torch.randn(action.shape).numpy()
        return np.clip(action, -1, 1).astype(np.float32)

    return act


def roll_out(task: VectorTask, policy: Act, *, steps: int, seed: int) -> list[Episode]:
    """At least `steps` steps of whole episodes: each lane plays on until the episode it is in has ended.

    Args:
        task: N lanes, one episode after another in each.
        policy: observations [N, ...] -> actions [N, A].
    """
    if task.spaces.pixels is not None:
        raise UserError("the task observes images, for which D4RL's format has no place")
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
    if tracker.tells_success:  # those before it first did have failed
        episodes = [dataclasses.replace(episode, success=bool(episode.success)) for episode in episodes]
    return episodes


def replayed(checkpoint: Mapping[str, Any], spaces: Spaces) -> list[Episode]:
    """The episodes in a run's replay buffer, observations as the task gave them."""
    if spaces.pixels is not None:
        raise UserError("the task observes images, for which D4RL's format has no place")
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
        raise UserError("the run scaled its observations or actions: its buffer does not hold the task's own")
    if len(saved["starts"]) > checkpoint["trainer"]["counters"]["env_steps"]:
        raise UserError("the run began with recorded data in its buffer: that is not its own replay alone")
    episodes = replay.episodes()
    steps, taken = sum(map(len, episodes)), checkpoint["trainer"]["counters"]["env_steps"]
    if steps < taken - lanes:  # the newest step of a lane has no successor yet
        print(f"warning: of the run's {taken:,} steps its buffer had room for the last {steps:,} alone")
    return episodes


def policies(settings: Request) -> list[Policy]:
    """The policies that act, if any: loaded first, so that nothing is recorded in vain.

    Raises:
        UserError: one is missing or damaged, or they are of different tasks.
    """
    found: list[Policy] = []
    device = resolve_device(settings.device)
    for level in [] if settings.kind in WITHOUT_POLICY else settings.kind.split("-"):
        folder = settings.medium if level == "medium" else settings.expert
        assert folder is not None
        which: Literal["latest", "best"] = "latest" if level == "medium" else "best"
        found.append(load_policy(folder, checkpoint=which, device=device, agents=PLAYABLE))
    tasks = sorted({policy.about["task"] for policy in found})
    if len(tasks) > 1:
        raise UserError(f"the runs are of different tasks: {', '.join(tasks)}")
    if len({tuple(policy.about.get("env", ())) for policy in found}) > 1:
        raise UserError("the runs made their environments with different arguments (--env)")
    return found


def best_of(expert: Path, task: str) -> float:
    """What an expert's best evaluation returned on the task."""
    about = load_policy(expert, checkpoint="best", agents=PLAYABLE).about
    if about["task"] != task:
        raise UserError(f"the runs are of different tasks: {task}, {about['task']}")
    if not isinstance(about.get("return"), float):
        raise UserError(
            f"{expert} does not say what it returned: give the folder of a run, or its best policy"
        )
    return float(about["return"])


def record(
    settings: Request, actors: list[Policy], replay: Mapping[str, Any] | None, suite: Suite, task: str
) -> list[Episode]:
    """The episodes of this kind of data: of the policies, of a checkpoint's replay buffer, or of neither."""
    tune_cpu()
    seed_global_generators(settings.seed)
    if settings.kind == "merged":
        with closing(suite.make(task, 1)) as copies:
            files = [suite.load_data(task, source, copies.spaces) or [] for source in settings.datasets]
        return [episode for episodes in files for episode in episodes]
    if settings.kind in ("random", "planner"):
        with closing(suite.make(task, settings.num_envs)) as copies:
            act: Act
            if settings.kind == "planner":
                act = MazePlanner(task, settings.num_envs, noise=settings.noise or 0.0, seed=settings.seed)
            else:
                generator = np.random.default_rng(settings.seed)
                size = (copies.num_envs, copies.spaces.action_dim)
                act = lambda obs: generator.uniform(-1, 1, size).astype(np.float32)  # noqa: E731
            return roll_out(copies, act, steps=settings.steps, seed=settings.seed)
    if replay is not None:
        with closing(suite.make(task, 1)) as copies:
            return replayed(replay, copies.spaces)
    episodes = []
    for index, policy in enumerate(actors):
        torch.manual_seed(settings.seed + index)
        with closing(suite.make(task, settings.num_envs)) as copies:
            policy.check_fits(copies.spaces, suite.interface(task, copies))
            steps, act = settings.steps // len(actors), noisy(policy, settings.noise)
            episodes += roll_out(copies, act, steps=steps, seed=settings.seed + 1000 * index)
    return episodes


def main() -> int:
    """Record, say what was recorded, and write it."""
    settings = parse_flags(Request, description=__doc__)
    if settings.minari is not None:
        check_minari_name(settings.minari)
    if settings.output is not None:
        check_writable(settings.output)
        if settings.output.exists():
            raise UserError(f"{settings.output} exists already: name another --output, or remove it first")
    actors, replay, best = policies(settings), None, None
    if settings.kind == "medium-replay" and settings.medium is not None:
        if (settings.medium / EXPORT_FILE).is_file():
            raise UserError(
                f"{settings.medium} is an export, a policy alone: medium-replay is of a whole run"
            )
        replay = load_checkpoint(settings.medium / "checkpoints" / CHECKPOINT)
        if "replay" not in replay.get("trainer", {}):
            raise UserError(f"{settings.medium} has no replay buffer of ours")
    if settings.kind == "medium" and settings.expert is not None:
        best = best_of(settings.expert, actors[0].about["task"])
    origins = [replay] if replay else [policy.about for policy in actors]
    task = origins[0]["task"] if origins else str(settings.task)
    if settings.task not in (None, task):
        raise UserError(f"--task is {settings.task}, but the run is of {task}")
    agents = "+".join(sorted({origin["agent_name"] for origin in origins})) or settings.kind
    suite = suite_of(task, origins[0].get("env", ()) if origins else settings.env)
    episodes = record(settings, actors, replay, suite, task)
    print(summary(episodes, normalized_score=None))
    about = {"algorithm_name": agents, "description": f"{settings.kind} data of {task}"}
    bounds = suite.action_range(task)
    if settings.output is not None:
        metadata = {"task": task, "kind": settings.kind, "seed": settings.seed, **about}
        metadata |= {} if settings.noise is None else {"noise": settings.noise}
        write_d4rl(settings.output, episodes, metadata, action_range=bounds)
        print(f"written to {settings.output}")
    if settings.minari is not None:
        where = write_minari(
            settings.minari, episodes, env_id=suite.gymnasium_id(task), action_range=bounds, **about
        )
        print(f"written to {where}")
    if best is not None and 0 < best < np.inf:  # else a share of it means nothing
        share = np.mean([episode.episode_return for episode in episodes]) / best
        print(f"mean return: {share:.2f} of the expert's best evaluation (D4RL's medium: {MEDIUM_SHARE:.2f})")
    return 0


if __name__ == "__main__":
    run_main(main)
