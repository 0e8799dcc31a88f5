"""Reading D4RL's HDF5 layout."""

import h5py
import numpy as np
import pytest

from rlzoo.data.load import load_episodes
from rlzoo.data.write import write_d4rl
from rlzoo.types import Episode
from tests.helpers.demo_files import column, counting_rows, expect_one_line, real_file, write_rows


def test_d4rl_with_next_observations_keeps_every_step(tmp_path):
    rows = counting_rows(6)
    rows["terminals"][1] = True
    rows["timeouts"][4] = True
    rows["next_observations"][[1, 4, 5]] = [[10], [40], [50]]
    first, second, third = load_episodes(write_rows(tmp_path / "a.hdf5", rows))
    assert (column(first), column(second), column(third)) == ([0, 1, 10], [2, 3, 4, 40], [5, 50])
    assert [first.terminated, second.terminated, third.terminated] == [True, False, False]
    assert second.reward.tolist() == [2, 3, 4]
    assert second.action.shape == (3, 2)
    assert second.obs["state"].dtype == second.action.dtype == second.reward.dtype == np.float32


def test_d4rl_without_next_observations_drops_the_last_step_of_a_cut_episode(tmp_path):
    rows = counting_rows(7)
    del rows["next_observations"]
    rows["terminals"][1] = True
    rows["timeouts"][4] = True
    first, second, third = load_episodes(write_rows(tmp_path / "a.hdf5", rows))
    assert column(first) == [0, 1, 1]  # terminated: kept, its observation repeated
    assert column(second) == [2, 3, 4]  # timed out: 4 is the last known observation
    assert column(third) == [5, 6]  # the file ends: likewise
    assert [len(e) for e in (first, second, third)] == [2, 2, 1]
    assert [e.terminated for e in (first, second, third)] == [True, False, False]
    assert second.reward.tolist() == [2, 3]


def test_d4rl_episodes_of_which_nothing_is_left_are_left_out(tmp_path):
    rows = counting_rows(4)
    del rows["next_observations"]
    rows["timeouts"][0] = True
    (only,) = load_episodes(write_rows(tmp_path / "a.hdf5", rows))
    assert column(only) == [1, 2, 3]
    rows["timeouts"][:] = True
    expect_one_line(write_rows(tmp_path / "b.hdf5", rows), "no complete step")


def test_d4rl_terminal_and_timeout_at_once_is_terminal(tmp_path):
    rows = counting_rows(3)
    rows["terminals"][2] = rows["timeouts"][2] = True
    (only,) = load_episodes(write_rows(tmp_path / "a.hdf5", rows))
    assert only.terminated
    assert len(only) == 3


def test_d4rl_timeouts_of_which_none_is_marked_are_no_time_outs(tmp_path):
    rows = counting_rows(6)
    del rows["next_observations"]
    for marked, lengths in ([], [2, 2]), ([0, 4], [3]):
        rows["timeouts"][marked] = True
        path = write_rows(tmp_path / "a.hdf5", rows)
        assert [len(e) for e in load_episodes(path, max_episode_steps=3)] == lengths
    # Where every episode terminated there was none to mark.
    states = {"state": np.zeros((6, 2), np.float32)}
    episode = Episode(states, np.zeros((5, 2), np.float32), np.zeros(5, np.float32), terminated=True)
    write_d4rl(path, [episode] * 2, {})
    assert [len(e) for e in load_episodes(path, max_episode_steps=3)] == [5, 5]


def test_d4rl_without_timeouts_uses_the_time_limit(tmp_path):
    rows = counting_rows(10)
    del rows["timeouts"]
    rows["terminals"][4] = True  # the limit counts from here on again
    rows["next_observations"][4] = 50
    path = write_rows(tmp_path / "a.hdf5", rows)
    assert [len(e) for e in load_episodes(path, max_episode_steps=3)] == [3, 2, 3, 2]
    assert [e.terminated for e in load_episodes(path, max_episode_steps=3)] == [False, True, False, False]
    assert [len(e) for e in load_episodes(path)] == [5, 5]
    del rows["next_observations"]
    path = write_rows(tmp_path / "b.hdf5", rows)
    assert [column(e) for e in load_episodes(path, max_episode_steps=3)] == [
        [0, 1, 2],
        [3, 4, 4],
        [5, 6, 7],
        [8, 9],
    ]


def test_d4rl_cuts_where_the_next_row_does_not_continue(tmp_path):
    rows = counting_rows(5)
    rows["next_observations"][2] = 7
    first, second = load_episodes(write_rows(tmp_path / "a.hdf5", rows))
    assert (column(first), column(second)) == ([0, 1, 2, 7], [3, 4, 5])
    assert not first.terminated


def test_d4rl_blocks_meet_without_a_seam(tmp_path, monkeypatch):
    monkeypatch.setattr("rlzoo.data.d4rl._BLOCK_ROWS", 4)
    rows = counting_rows(11)
    rows["timeouts"][3] = rows["terminals"][7] = True
    rows["next_observations"][[3, 7]] = 99
    path = write_rows(tmp_path / "a.hdf5", rows, chunks=True)
    assert [column(e) for e in load_episodes(path)] == [
        [0, 1, 2, 3, 99],
        [4, 5, 6, 7, 99],
        [8, 9, 10, 11],
    ]


def test_d4rl_accepts_columns_doubles_and_numeric_flags(tmp_path):
    rows = counting_rows(3)
    rows["rewards"] = rows["rewards"][:, None].astype(np.float64)
    rows["terminals"] = np.array([[0.0], [0.0], [1.0]])
    rows["timeouts"] = rows["timeouts"].astype(np.uint8)
    rows["observations"] = rows["observations"].astype(np.float64)
    (only,) = load_episodes(write_rows(tmp_path / "a.hdf5", rows))
    assert only.terminated
    assert only.reward.tolist() == [0, 1, 2]
    assert only.obs["state"].dtype == np.float32


@pytest.mark.parametrize("name", ["success", "goal_achieved"])
def test_d4rl_success_is_that_of_any_step(tmp_path, name):
    rows = counting_rows(4)
    rows["timeouts"][1] = True
    rows[f"infos/{name}"] = np.array([False, False, True, False])
    first, second = load_episodes(write_rows(tmp_path / "a.hdf5", rows))
    assert (first.success, second.success) == (False, True)


def test_d4rl_success_that_is_no_row_of_flags_is_named(tmp_path):
    rows = counting_rows(3) | {"infos/success": np.bool_(True)}
    expect_one_line(write_rows(tmp_path / "a.hdf5", rows), "'infos/success'", "[3]")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda rows: rows.pop("rewards"), ["'rewards'", "missing"]),
        (lambda rows: rows.pop("terminals"), ["'terminals'", "missing"]),
        (lambda rows: rows.pop("observations"), ["'observations'", "missing"]),
        (lambda rows: rows.update(actions=rows["actions"][:-1]), ["'actions'", "[4, 2]", "[5, any]"]),
        (lambda rows: rows.update(rewards=rows["rewards"][:-1]), ["'rewards'", "[4]", "[5]"]),
        (lambda rows: rows.update(timeouts=np.zeros(6, bool)), ["'timeouts'", "[6]", "[5]"]),
        (lambda rows: rows.update(next_observations=np.zeros((5, 3))), ["'next_observations'", "[5, 3]"]),
        (lambda rows: rows["observations"].__setitem__(3, np.nan), ["observations'", "row 3", "finite"]),
        (lambda rows: rows["actions"].__setitem__(2, np.inf), ["actions'", "row 2", "finite"]),
        (lambda rows: rows["rewards"].__setitem__(4, -np.inf), ["'rewards'", "row 4", "finite"]),
        (lambda rows: rows["next_observations"].__setitem__(1, np.nan), ["next_observations'", "row 1"]),
        (lambda rows: rows.update(rewards=np.full(5, 1e300)), ["'rewards'", "row 0", "finite"]),
        (lambda rows: rows.update(terminals=np.arange(5)), ["'terminals'", "other than 0 and 1"]),
        (lambda rows: rows.update(observations=np.zeros(5)), ["'observations'", "[5]", "[any, "]),
        (lambda rows: rows.update(observations=np.zeros((0, 2))), ["'observations'", "[0, 2]"]),
        (
            lambda rows: rows.update(actions=np.array([b"x"] * 5)),
            ["'actions'", "expected an array of numbers"],
        ),
    ],
)
def test_d4rl_bad_contents(tmp_path, change, parts):
    rows = counting_rows(5)
    change(rows)
    expect_one_line(write_rows(tmp_path / "a.hdf5", rows), *parts)


@pytest.mark.parametrize("kind", ["<f2", ">f2", "<f4", "<f8", "<i4"])
@pytest.mark.parametrize("next_kind", ["<f2", "<f4", "<f8", "<i4"])
def test_d4rl_rows_continue_each_other_in_any_precision(tmp_path, kind, next_kind):
    states = np.random.default_rng(0).normal(scale=100, size=(31, 2))
    if "<i4" in (kind, next_kind):
        states = states.round()
    rows = counting_rows(30)
    rows |= {"observations": states[:-1].astype(kind), "next_observations": states[1:].astype(next_kind)}
    rows["timeouts"][9] = True
    rows["next_observations"][19] += 1  # a seam of about one per cent
    assert [len(e) for e in load_episodes(write_rows(tmp_path / "a.hdf5", rows))] == [10, 10, 10]


@pytest.mark.parametrize(
    ("name", "state_dim", "action_dim", "steps", "mean_return"),
    [
        ("hopper_medium", 11, 3, 150_000, 1545),
        ("hopper_expert", 11, 3, 150_000, 3145),
        ("hopper_demos", 11, 3, 30_000, 2782),
        ("halfcheetah_medium", 17, 6, 50_000, 8931),
        ("halfcheetah_expert", 17, 6, 30_000, 11473),
        ("halfcheetah_demos", 17, 6, 30_000, 11612),
    ],
)
def test_real_d4rl_files(name, state_dim, action_dim, steps, mean_return):
    path = real_file(f"d4rl_format/{name}-v4.hdf5")
    episodes = load_episodes(path, state_dim=state_dim, action_dim=action_dim)
    assert sum(map(len, episodes)) == steps
    assert np.mean([e.episode_return for e in episodes]) == pytest.approx(mean_return, abs=1)
    with h5py.File(path) as file:
        ends = file["terminals"][()] | file["timeouts"][()]
        assert len(episodes) == ends.sum()
        assert sum(e.terminated for e in episodes) == file["terminals"][()].sum()
        np.testing.assert_array_equal(
            np.concatenate([e.obs["state"][1:] for e in episodes]), file["next_observations"][()]
        )
