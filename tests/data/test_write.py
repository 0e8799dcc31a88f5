"""What is written is read, by us and by Minari."""

import subprocess
import sys

import gymnasium
import h5py
import minari
import numpy as np
import pytest

from rlzoo.actions import ActionRange
from rlzoo.data.load import load_episodes
from rlzoo.data.write import write_d4rl, write_minari
from rlzoo.errors import UserError
from rlzoo.run.folder import PROJECT
from rlzoo.types import Episode


def make_episode(steps: int, *, terminated: bool, success: bool | None = None, seed: int = 0) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        obs={"state": rng.standard_normal((steps + 1, 3), dtype=np.float32)},
        action=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        reward=rng.standard_normal(steps, dtype=np.float32),
        terminated=terminated,
        success=success,
    )


def assert_same(first: list[Episode], second: list[Episode], *, exact_actions: bool = True) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.obs["state"], other.obs["state"])
        np.testing.assert_allclose(one.action, other.action, atol=0 if exact_actions else 1e-6)
        np.testing.assert_array_equal(one.reward, other.reward)
        assert (one.terminated, one.success) == (other.terminated, other.success)


def test_d4rl_round_trip(tmp_path):
    episodes = [
        make_episode(4, terminated=True, success=True, seed=1),
        make_episode(1, terminated=False, success=False, seed=2),
        make_episode(7, terminated=False, success=True, seed=3),
    ]
    path = tmp_path / "folder" / "a.hdf5"
    write_d4rl(path, episodes, {"env_id": "Hopper-v4", "seed": 3})
    assert_same(episodes, load_episodes(path, state_dim=3, action_dim=2))
    with h5py.File(path) as file:
        assert file["metadata/env_id"][()] == b"Hopper-v4"
        assert file["timeouts"][()].nonzero()[0].tolist() == [4, 11]
        assert file["terminals"][()].nonzero()[0].tolist() == [3]
    bounds = ActionRange(np.float32([-0.4, 0]), np.float32([0.4, 3]))
    write_d4rl(path, episodes, {}, action_range=bounds)
    with h5py.File(path) as file:
        assert file["actions"][:, 0].max() <= 0.4
        assert file["actions"][:, 1].min() >= 0
    assert_same(episodes, load_episodes(path, action_range=bounds), exact_actions=False)
    assert [p.name for p in path.parent.iterdir()] == ["a.hdf5"]


def test_minari_round_trip_and_reading_by_minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episodes = [
        make_episode(4, terminated=True, success=True, seed=1),
        make_episode(2, terminated=False, success=False, seed=2),
    ]
    folder = write_minari("ours/toy/small-v0", episodes, author={"us"}, algorithm_name="hand")
    for source in ("ours/toy/small-v0", folder, folder / "data", folder / "data" / "main_data.hdf5"):
        assert_same(episodes, load_episodes(source, state_dim=3, action_dim=2))

    dataset = minari.load_dataset("ours/toy/small-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (2, 6)
    first = dataset[0]
    np.testing.assert_array_equal(first.observations, episodes[0].obs["state"])
    np.testing.assert_array_equal(first.actions, episodes[0].action)
    assert first.terminations.tolist() == [False, False, False, True]
    assert dataset[1].truncations.tolist() == [False, True]
    assert dataset.spec.action_space.shape == (2,)

    with pytest.raises(UserError, match="exists already"):
        write_minari("ours/toy/small-v0", episodes)
    with pytest.raises(UserError, match="not a Minari name"):
        write_minari("ours toy!", episodes)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["small-v0"]


@pytest.mark.parametrize(
    ("task", "options", "can_be_made"),
    [
        ("collections:Text-v0", {"entry_point": "gymnasium.envs.classic_control:PendulumEnv"}, True),
        ("collections:Function-v0", {"entry_point": lambda: None}, False),
        ("Object-v0", {"entry_point": "collections:Counter", "kwargs": {"of": object()}}, False),
    ],
)
def test_minari_sets_of_tasks_of_ones_own(tmp_path, monkeypatch, capsys, task, options, can_be_made):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    own = gymnasium.envs.registration.EnvSpec(task.rpartition(":")[2], **options)
    monkeypatch.setitem(gymnasium.registry, own.id, own)
    episode = make_episode(4, terminated=True)
    write_minari("own/task-v0", [episode], env_id=task, author={"us"}, algorithm_name="hand")
    assert_same([episode], load_episodes("own/task-v0"))
    spec = minari.load_dataset("own/task-v0").env_spec
    assert (spec is not None) == can_be_made
    assert ("warning: Minari will not be able to make" in capsys.readouterr().err) != can_be_made


FULL = """
import resource, sys
import numpy as np
from rlzoo.data.write import write_d4rl
from rlzoo.errors import UserError
from rlzoo.types import Episode

states = np.random.default_rng(0).random((20001, 30), np.float32)
episode = Episode({"state": states}, np.zeros((20000, 2), np.float32), np.zeros(20000, np.float32), True)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_d4rl(sys.argv[1], [episode], {})
except UserError as error:
    print(error)
"""


def test_a_disk_that_fills_up_is_one_error_and_leaves_nothing(tmp_path):
    path = tmp_path / "data.hdf5"
    run = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, cwd=PROJECT)
    assert (run.stdout, run.stderr) == (f"cannot write {path}: File too large\n", "")
    assert list(tmp_path.iterdir()) == []
