"""The trained agents in results/policies play as the tables of results/ say."""

import statistics
from contextlib import closing
from pathlib import Path

import pytest
import torch

import rlzoo
from envs.d4rl.tasks import TASKS
from experiments.compare import RETURN, read_published
from experiments.suites import PLAYABLE
from experiments.train_d4rl import D4RLSuite
from experiments.train_mujoco import MujocoSuite
from rlzoo.evaluate import evaluate
from rlzoo.seeding import EVALUATION, derived_seed

RESULTS = Path(__file__).parents[1] / "results"
CPU = torch.device("cpu")
FOLDERS = sorted(path.parent for path in (RESULTS / "policies").rglob("config.json"))


def test_there_are_some_and_each_is_at_most_a_megabyte() -> None:
    assert FOLDERS
    assert all(sum(file.stat().st_size for file in folder.iterdir()) <= 1e6 for folder in FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: "-".join(folder.parts[-2:]))
def test_twenty_episodes_are_within_a_standard_deviation_of_the_tables_row(folder: Path) -> None:
    """Those of the last evaluation of the run that the policy is of."""
    policy = rlzoo.load_policy(folder, agents=PLAYABLE)
    name, task = policy.about["agent_name"], policy.about["task"]
    published = read_published(RESULTS / "data" / folder.parent.name)
    finals = [run.final(RETURN) for run in published if (run.agent, run.task) == (name, task)]
    suite = D4RLSuite() if task in TASKS else MujocoSuite()
    with closing(suite.make(task, 20)) as copies:
        policy.check_fits(copies.spaces)
        seed = derived_seed(policy.about["settings"]["seed"], EVALUATION, policy.about["step"])
        played = evaluate(policy.agent, policy.scaling.wrap(copies), episodes=20, seed=seed, device=CPU)
    # On another processor single episodes end otherwise, by what 20 of them are uncertain anyway.
    allowed = max(statistics.stdev(finals), played.returns.std(ddof=1) / 20**0.5)
    assert abs(played.returns.mean() - statistics.mean(finals)) <= allowed
