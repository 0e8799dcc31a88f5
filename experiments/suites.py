"""The benchmarks by name; a new one is its own files and a line here."""

from experiments.runner.suite import Suite
from experiments.train_d4rl import D4RLSuite
from experiments.train_mujoco import MujocoSuite
from experiments.train_rlbench import RLBenchSuite
from experiments.train_sb3 import SB3Suite
from rlzoo.agent import Agent

SUITES: dict[str, type[Suite]] = {
    "mujoco": MujocoSuite,
    "d4rl": D4RLSuite,
    "rlbench": RLBenchSuite,
    "sb3": SB3Suite,
}
# Every agent that can be played, whoever trained it.
PLAYABLE: dict[str, type[Agent]] = {
    name: agent for suite in SUITES.values() for name, agent in suite.agents.items()
}
