"""Reading Adroit's pickles."""

import pickle

import numpy as np
import pytest

from rlzoo.data.load import load_episodes
from tests.helpers.demo_files import adroit_record, column, expect_one_line, real_file


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_adroit_pickles(tmp_path, protocol):
    path = tmp_path / "demos.pickle"
    records = [adroit_record(4), adroit_record(3) | {"terminated": True}, adroit_record(1)]
    path.write_bytes(pickle.dumps(records, protocol))
    first, second = load_episodes(path, state_dim=2, action_dim=2)
    assert (column(first), column(second)) == ([0, 1, 2, 3], [0, 1, 2, 2])
    assert (first.terminated, second.terminated) == (False, True)
    assert first.reward.tolist() == [0, 1, 2]


def test_an_episode_listed_a_thousand_times_is_refused(tmp_path):
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps([adroit_record(3000)] * 1000))
    expect_one_line(path, "more values than the file has bytes")


@pytest.mark.parametrize("flag", [True, 1, np.True_, np.array(True), np.array([False, False, True])])
def test_the_last_flag_says_whether_an_episode_terminated(tmp_path, flag):
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps([adroit_record(3) | {"terminated": flag}]))
    (episode,) = load_episodes(path)
    assert episode.terminated
    assert len(episode) == 3
    path.write_bytes(pickle.dumps([adroit_record(3) | {"terminated": "x"}]))
    expect_one_line(path, "[0]terminated", "expected True or False")
    path.write_bytes(pickle.dumps([adroit_record(3) | {"terminated": np.array([False, True, False])}]))
    expect_one_line(path, "[0]terminated", "before the last step")
    path.write_bytes(pickle.dumps([adroit_record(3) | {"terminated": np.array([False, True])}]))
    expect_one_line(path, "[0]terminated", "one for each of 3")


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ({"a": 1}, ["expected a list"]),
        ([1, 2], ["expected a list"]),
        ([{"observations": np.zeros((2, 2))}], ["[0]actions", "missing"]),
        ([adroit_record(3) | {"rewards": np.zeros(2)}], ["[0]rewards", "[2]", "[3]"]),
        ([adroit_record(3) | {"observations": np.full((3, 2), np.nan)}], ["[0]observations", "row 0"]),
        ([adroit_record(3) | {"actions": np.full((3, 2), 1e200)}], ["[0]actions", "finite"]),
        ([], ["no complete step"]),
    ],
)
def test_pickles_with_bad_contents(tmp_path, value, parts):
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps(value))
    expect_one_line(path, *parts)


def test_real_adroit_pickle():
    episodes = load_episodes(real_file("adroit/door-v0_demos.pickle"), state_dim=39, action_dim=28)
    assert len(episodes) == 25
    assert not any(e.terminated for e in episodes)
    assert len(episodes[0]) == 299
    with real_file("adroit/door-v0_demos.pickle").open("rb") as file:
        trusted = pickle.load(file, encoding="latin1")
    np.testing.assert_array_equal(episodes[0].obs["state"], np.float32(trusted[0]["observations"]))
    np.testing.assert_array_equal(episodes[3].reward, np.float32(trusted[3]["rewards"][:-1]))
