"""Reading Minari's datasets."""

import h5py
import minari
import numpy as np
import pytest

from rlzoo.actions import ActionRange
from rlzoo.data.load import load_episodes
from rlzoo.errors import UserError
from tests.helpers.demo_files import column, expect_one_line, minari_rows, write_rows


@pytest.mark.filterwarnings("ignore::UserWarning")  # Minari would like an author and more
def test_minari_datasets_written_by_minari_are_read(tmp_path, monkeypatch):
    gymnasium = pytest.importorskip("gymnasium")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    buffer = minari.data_collector.EpisodeBuffer(
        observations=rng.standard_normal((4, 3)),
        actions=rng.uniform(-2, 2, (3, 2)),
        rewards=[1.0, 2.0, 3.0],
        terminations=[False, False, False],
        truncations=[False, False, True],
    )
    minari.create_dataset_from_buffers(
        "theirs-v0",
        [buffer],
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (3,)),
        action_space=gymnasium.spaces.Box(-2, 2, (2,)),
    )
    (only,) = load_episodes("theirs-v0", action_range=ActionRange(-2.0, 2.0))
    np.testing.assert_allclose(only.action, buffer.actions / 2, rtol=1e-6)
    assert not only.terminated
    assert only.episode_return == 6


def test_minari_episode_that_goes_on_after_a_termination_is_cut(tmp_path):
    rows = minari_rows(5)
    rows["episode_0/terminations"][1] = True
    first, second = load_episodes(write_rows(tmp_path / "main_data.hdf5", rows))
    assert (column(first), column(second)) == ([0, 2, 4], [4, 6, 8, 10])
    assert (first.terminated, second.terminated) == (True, False)
    assert second.reward.tolist() == [2, 3, 4]


def test_minari_dictionaries_of_observations_need_flatten_obs(tmp_path):
    rows = minari_rows(3)
    states = rows.pop("episode_0/observations")
    rows |= {"episode_0/observations/goal": states[:, :1], "episode_0/observations/place": states[:, 1:]}
    path = write_rows(tmp_path / "main_data.hdf5", rows)
    expect_one_line(path, "'episode_0/observations'", "group")

    def flatten(parts):
        return np.concatenate([parts["place"], parts["goal"]], axis=1)

    (only,) = load_episodes(path, flatten_obs=flatten, state_dim=2)
    np.testing.assert_array_equal(only.obs["state"], states[:, ::-1])
    expect_one_line(path, "'episode_0/observations'", "[4, 2]", "[4, 5]", flatten_obs=flatten, state_dim=5)

    def refuse(parts):
        raise UserError(f"{sorted(parts)} will not do")

    expect_one_line(path, "episode_0/observations", "['goal', 'place'] will not do", flatten_obs=refuse)


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("observations", np.zeros((4, 2)), ["[4, 2]", "[6, any]"]),
        ("rewards", np.full(5, np.nan), ["row 0"]),
        ("truncations", np.zeros(4, bool), ["[4]", "[5]"]),
        ("actions", np.zeros(5), ["[5]"]),
    ],
)
def test_minari_bad_contents(tmp_path, key, value, parts):
    rows = minari_rows(5) | {f"episode_0/{key}": value}
    expect_one_line(write_rows(tmp_path / "main_data.hdf5", rows), f"episode_0/{key}'", *parts)


def test_minari_episodes_that_are_missing_are_named(tmp_path):
    rows = {
        key.replace("_0", f"_{index}"): value for index in (0, 1, 3) for key, value in minari_rows(5).items()
    }
    path = write_rows(tmp_path / "main_data.hdf5", rows)
    expect_one_line(path, "'episode_2/actions' is missing")
    with h5py.File(path, "a") as file:
        file.move("episode_3", "episode_2")
        file.create_group("episode_notes")
        file.attrs["total_episodes"] = 10**12
    expect_one_line(path, "'episode_3/actions' is missing")
    with h5py.File(path, "a") as file:
        file.attrs["total_episodes"] = 3
    assert len(load_episodes(path)) == 3
    with h5py.File(path, "a") as file:
        del file["episode_0"]
    expect_one_line(path, "'episode_0/actions' is missing")


@pytest.mark.parametrize("shape", [(2, 1), (1, 2), (1, 2, 1)])
def test_columns_are_flattened_as_the_task_flattens_them(tmp_path, shape):
    rows = minari_rows(3)
    states, actions = rows["episode_0/observations"], rows["episode_0/actions"]
    rows["episode_0/observations"] = states.reshape(4, *shape)
    rows["episode_0/actions"] = actions.reshape(3, *shape)
    (only,) = load_episodes(write_rows(tmp_path / "main_data.hdf5", rows), state_dim=2, action_dim=2)
    np.testing.assert_array_equal(only.obs["state"], states)
    np.testing.assert_array_equal(only.action, actions)
    expect_one_line(tmp_path / "main_data.hdf5", "episode_0/actions'", "[3, 2]", "[any, 3]", action_dim=3)


def test_single_numbers_are_columns_of_one(tmp_path):
    rows = minari_rows(3)
    for key in ("episode_0/observations", "episode_0/actions"):
        rows[key] = rows[key][:, 0]
    (only,) = load_episodes(write_rows(tmp_path / "main_data.hdf5", rows), state_dim=1, action_dim=1)
    assert (only.obs["state"].shape, only.action.shape) == ((4, 1), (3, 1))


def test_dictionaries_within_dictionaries_are_read(tmp_path):
    rows = minari_rows(3)
    states = rows.pop("episode_0/observations")
    rows |= {
        "episode_0/observations/hand/left": states[:, :1],
        "episode_0/observations/hand/up": states[:, 1:],
    }
    path = write_rows(tmp_path / "main_data.hdf5", rows)

    def flatten(parts):
        return np.concatenate([parts["hand"]["left"], parts["hand"]["up"]], axis=1)

    (only,) = load_episodes(path, flatten_obs=flatten)
    np.testing.assert_array_equal(only.obs["state"], states)
    with h5py.File(path, "a") as file:
        del file["episode_0/observations/hand/up"]
        file["episode_0/observations/hand/up"] = states[1:, 1:]
    expect_one_line(path, "'episode_0/observations/hand/up'", "[3]", "[4]", flatten_obs=flatten)
