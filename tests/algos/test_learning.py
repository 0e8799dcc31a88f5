"""Short trainings that fail when learning breaks: Pendulum swings up from -1,500 to about -200."""

import csv
from pathlib import Path

import pytest

from experiments.runner.launch import main
from experiments.train_mujoco import MujocoSuite

FLAGS = ["--num-envs", "4", "--utd", "0.5", "--batch-size", "128", "--warmup-steps", "800", "--threads", "1"]
FLAGS += ["--eval-every", "3000", "--agent.hidden", "64", "64", "--steps", "15000", "--device", "cpu"]
FAST = ["--agent.critic-lr", "1e-3", "--agent.actor-lr", "1e-3"]
AGENTS = {
    "dsac-t": [*FAST, "--agent.temperature-lr", "1e-3", "--agent.initial-temperature", "1",
               "--agent.actor-delay", "1"],
    "dsac": [*FAST, "--agent.temperature-lr", "1e-3", "--agent.initial-temperature", "1",
             "--agent.actor-delay", "1"],
    "sac": [*FAST, "--agent.temperature-lr", "1e-3"],
    "td3": [*FAST, "--agent.actor-delay", "1"],
    # No demonstrations: their Q-learning alone.
    "arsq": ["--agent.lr", "1e-3", "--agent.bins", "11"],
    "cqn": ["--agent.lr", "1e-3", "--agent.td-weight", "1", "--agent.atoms", "21", "--agent.v-min", "-900",
            "--agent.v-max", "0"],
}  # fmt: skip


@pytest.mark.learning
@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_pendulum_is_swung_up(agent: str, tmp_path: Path) -> None:
    assert (
        main(
            MujocoSuite, [agent, "--task", "Pendulum-v1", *FLAGS, *AGENTS[agent], "--runs-dir", str(tmp_path)]
        )
        == 0
    )
    (metrics,) = tmp_path.rglob("metrics.csv")
    with metrics.open() as file:
        returns = [float(row["value"]) for row in csv.DictReader(file) if row["tag"] == "eval/return"]
    # Doing nothing is worth about -1,200, a random policy less.
    assert returns[-1] > -400
