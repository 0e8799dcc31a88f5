"""Train an agent of Stable-Baselines3 or sb3-contrib on a Gymnasium MuJoCo task, as the papers' baselines.

python experiments/train_sb3.py sb3-ppo --task Hopper-v5
python experiments/train_sb3.py sb3-ddpg --task Ant-v5 --preset dsac-t-paper --seed 2

Its run folders lie beside those of the agents here and look the same, evaluations are the same, and so are
compare.py, sweep.py and evaluate.py. It cannot go on where it was: an interrupted run starts anew.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from envs.gym import make as gym_tasks
from envs.gym.vector import Lane
from experiments.presets import sb3 as presets
from experiments.runner.experiment import default_experiment, differing, flag
from experiments.runner.flags import Experiment
from experiments.runner.launch import DATA_SETTINGS, main
from experiments.runner.sb3 import SB3_AGENTS, OnPolicyConfig, SB3Trainer, make_model
from experiments.train_mujoco import MujocoSuite
from rlzoo.errors import SimulatorFailure, UserError
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.run.cli import run_main
from rlzoo.run.extras import load_extra
from rlzoo.run.folder import is_finished, plain
from rlzoo.seeding import WARMUP, derived_seed
from rlzoo.train import CHECKPOINT
from rlzoo.types import Array

# Settings of the loop here that Stable-Baselines3's has not, and those of a replay buffer.
IDLE = DATA_SETTINGS | {"train.bootstrap_through_success", "train.capture", "train.processes"}
IDLE |= {"train.reward_scale"}
IDLE_ON_POLICY = {"train.warmup_steps", "train.utd", "train.n_step", "train.buffer_capacity"}


class StateOnly(gym.ObservationWrapper[Array, Any, Any]):
    """A `Lane` whose observation is the vector of its state."""

    def __init__(self, lane: Lane) -> None:
        super().__init__(lane)
        self.task = lane.task
        self.observation_space = lane.observation_space["state"]  # type: ignore[index]

    def observation(self, observation: Any) -> Array:
        state = np.array(observation["state"], np.float32)  # not the environment's own memory
        if not np.isfinite(state).all():
            raise SimulatorFailure(f"{self.task}: an observation is not finite")
        return state


class SB3Suite(MujocoSuite):
    """Gymnasium's tasks, for other agents."""

    name = "sb3"
    agents = SB3_AGENTS

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        super().__init__(arguments)
        self.folder = MujocoSuite.name  # the same tasks: their runs are compared

    def preset(self, name: str, agent: str, task: str) -> dict[str, Any]:
        return presets.preset(name, agent, task)

    def complete(self, experiment: Experiment[Any, Any]) -> Experiment[Any, Any]:
        for package in ("stable_baselines3", "sb3_contrib"):  # missing, they are missing at once
            load_extra(package, "sb3")
        if experiment.train.offline_steps or experiment.data.dataset is not None:
            raise UserError("the agents of Stable-Baselines3 learn online alone, without recorded data")
        return super().complete(experiment)

    def build(
        self, agent_name: str, experiment: Experiment[Any, Any], resume: Path | None, stack: ExitStack
    ) -> tuple[SB3Trainer, list[str]]:
        """What trains an agent, and warnings."""
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

        config, task = experiment.train, experiment.task
        if resume is not None:
            refuse_done(resume, config.steps)
            print(f"Stable-Baselines3 cannot go on where it was: the run in {resume} starts anew")
        self.prepare(experiment, None)
        eval_task = self.make(task, config.eval_episodes, render=experiment.video)
        stack.callback(eval_task.close)
        if eval_task.spaces.pixels is not None:
            raise UserError(f"{agent_name} learns from states alone, and {task} has images")

        def make_env() -> Any:
            return Monitor(StateOnly(Lane(gym_tasks.make_env(task, self.options.arguments()), task)))

        env: Any = DummyVecEnv([make_env] * config.num_envs)
        stack.callback(env.close)
        if experiment.agent.normalize:
            env = VecNormalize(env, gamma=config.discount)
        device = torch.device(experiment.device)
        agent = SB3_AGENTS[agent_name](eval_task.spaces, experiment.agent, device)
        # Stable-Baselines3 seeds everything by one number, environments by those that follow it.
        seed = derived_seed(experiment.seed, WARMUP)
        model = make_model(agent, env, config, seed=seed, device=device)
        metadata = {
            "agent_name": agent_name,
            "task": task,
            "agent_config": plain(experiment.agent),
            "spaces": vars(eval_task.spaces).copy(),
            **self.interface(task, eval_task).metadata(),
            **self.metadata,
        }
        trainer = SB3Trainer(
            model,
            agent,
            eval_task,
            config,
            device=device,
            seed=experiment.seed,
            metadata=metadata,
            film=experiment.video,
        )
        return trainer, self.remarks(agent_name, experiment)

    def remarks(self, agent_name: str, experiment: Experiment[Any, Any]) -> list[str]:
        """Settings that have no effect, a line each."""
        on_policy = isinstance(experiment.agent, OnPolicyConfig)
        default = default_experiment(self, agent_name, experiment.task, experiment.preset)
        idle = IDLE | IDLE_ON_POLICY if on_policy else IDLE
        changed = differing(default, experiment)
        lines = [f"{flag(key, changed[key])} has no effect on {agent_name}" for key in changed if key in idle]
        if on_policy and (rollout := experiment.agent.n_steps * experiment.train.num_envs) > (
            steps := experiment.train.steps
        ):
            lines.append(f"no update will be made: one takes {rollout:,} steps, and --steps is {steps:,}")
        return lines


def refuse_done(run_dir: Path, steps: int) -> None:
    """A run that came to its end is not thrown away by ``--resume``, with more steps either."""
    try:
        done = load_checkpoint(run_dir / "checkpoints" / CHECKPOINT)["trainer"]["counters"]["env_steps"]
    except (UserError, KeyError):  # interrupted before there was one, or in the midst of it
        return
    if done >= steps or is_finished(run_dir):
        raise UserError(
            f"{run_dir} has done its {done:,} steps, and Stable-Baselines3 cannot go on from there: "
            f"--config {shlex.quote(str(run_dir))} --steps N begins a longer run"
        )


if __name__ == "__main__":
    run_main(lambda: main(SB3Suite))
