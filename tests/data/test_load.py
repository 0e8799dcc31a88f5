"""Recognising a file's format, and what holds for all of them."""

import io
import os
import pickle
import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from envs.d4rl.data import find_dataset
from envs.rlbench.demonstrations import load_rlbench
from rlzoo.actions import ActionRange
from rlzoo.data.load import load_episodes
from rlzoo.errors import UserError
from tests.helpers.demo_files import adroit_record, counting_rows, expect_one_line, minari_rows, write_rows


def test_actions_are_mapped_from_the_bounds_and_clipped(tmp_path):
    rows = counting_rows(3)
    rows["actions"] = np.array([[0.0, -2.0], [1.0, 0.0], [5.0, 3.0]])
    path = write_rows(tmp_path / "a.hdf5", rows)
    low, high = np.float32([0, -2]), np.float32([2, 2])
    (only,) = load_episodes(path, action_range=ActionRange(low, high))
    np.testing.assert_allclose(only.action, [[-1, -1], [0, 0], [1, 1]])
    (clipped,) = load_episodes(path)
    np.testing.assert_allclose(clipped.action, [[0, -1], [1, 0], [1, 1]])
    wider = ActionRange(np.zeros(3), np.ones(3))
    expect_one_line(path, "'actions'", "[3, 2]", "[3, 3]", action_range=wider)


def test_wrong_widths_for_the_task(tmp_path):
    path = write_rows(tmp_path / "a.hdf5", counting_rows(3))
    expect_one_line(path, "'observations'", "[3, 2]", "17", state_dim=17)
    expect_one_line(path, "'actions'", "[3, 2]", "6", state_dim=2, action_dim=6)
    assert load_episodes(path, state_dim=2, action_dim=2)


@pytest.mark.parametrize("name", ["observations", "actions"])
def test_episodes_of_one_file_are_alike(tmp_path, name):
    rows = minari_rows(5) | {key.replace("_0", "_1"): value for key, value in minari_rows(5).items()}
    rows[f"episode_1/{name}"] = np.zeros((len(rows[f"episode_1/{name}"]), 3))
    expect_one_line(write_rows(tmp_path / "main_data.hdf5", rows), f"'episode_1/{name}'", "3]", "2]")
    records = [adroit_record(3), adroit_record(3) | {name: np.zeros((3, 3))}]
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(records))
    expect_one_line(tmp_path / "a.pickle", f"'[1]{name}'", "[3, 3]", ", 2]")


def test_folders_and_names_without_a_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    expect_one_line(tmp_path, "folder without main_data.hdf5")
    expect_one_line("x" * 300, "no such file")  # longer than a file system takes
    expect_one_line(tmp_path / "nothing.hdf5", "no such file")
    expect_one_line("D4RL/door/human-v2", str(tmp_path / "minari"))
    assert not (tmp_path / "minari").exists()


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" * 50]
)
def test_files_that_are_nothing_of_ours(tmp_path, data):
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    expect_one_line(path, "expected")


def test_every_truncation_is_an_error(tmp_path):
    whole = write_rows(tmp_path / "whole.hdf5", counting_rows(20)).read_bytes()
    path = tmp_path / "cut.hdf5"
    for size in range(0, len(whole) - 1, 331):
        path.write_bytes(whole[:size])
        expect_one_line(path)
    whole = pickle.dumps([adroit_record(20)])
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        expect_one_line(path)


def test_hdf5_in_memory_is_not_confused_with_a_pickle(tmp_path):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["x"] = 1
    path = tmp_path / "a.pickle"
    path.write_bytes(buffer.getvalue())
    expect_one_line(path, "'observations'", "missing")


@pytest.mark.parametrize("with_next", [True, False])
def test_reading_takes_at_most_twice_the_datas_size_in_memory(tmp_path, with_next):
    steps, path = 200_000, tmp_path / "large.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.random.default_rng(0).normal(size=(steps, 17)).astype(np.float32)
        if with_next:
            file["next_observations"] = np.roll(file["observations"], -1, axis=0)
        file["actions"] = np.zeros((steps, 6), np.float32)
        file["rewards"] = np.zeros(steps, np.float32)
        file["terminals"] = np.zeros(steps, np.bool_)
        file["timeouts"] = np.arange(steps) % 1000 == 999
    tracemalloc.start()
    episodes = load_episodes(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = 4 * sum(e.obs["state"].size + e.action.size + e.reward.size for e in episodes)
    assert held > 0.9 * 4 * steps * 24
    assert peak < 2 * held


def test_a_hundred_thousand_steps_take_a_fraction_of_a_second(tmp_path):
    rows = counting_rows(100_000, state_dim=11, action_dim=3)
    rows["timeouts"][999::1000] = True
    path = write_rows(tmp_path / "a.hdf5", rows)
    start = time.process_time()
    episodes = load_episodes(path)
    assert len(episodes) == 100
    assert time.process_time() - start < 1  # a loop over steps takes several times that


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither HOME nor a known user, as in a container."""
    for name in ("HOME", "XDG_CACHE_HOME", "RLZOO_DATA_CACHE", "D4RL_DATASET_DIR", "MINARI_DATASETS_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", os.fspath)  # what it does there


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_data_are_found_where_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "a.hdf5", counting_rows(3))
    assert len(load_episodes(path)) == 1
    monkeypatch.setenv("RLZOO_DATA_CACHE", str(tmp_path))
    cached = write_rows(tmp_path / "hopper_medium-v2.hdf5", counting_rows(3))
    assert find_dataset("hopper-medium-v2") == cached


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize(
    ("look_up", "message"),
    [
        (lambda: find_dataset("hopper-medium-v2"), "~/.cache: no home folder is known for ~; set HOME"),
        (lambda: load_episodes("no/such-v0"), "~/.minari/datasets: no home folder is known for ~"),
        (lambda: load_episodes("~/a.hdf5"), "~/a.hdf5: no home folder is known for ~"),
        (lambda: load_rlbench("~someone/demos"), "no home folder is known for ~someone"),
    ],
)
def test_without_a_home_folder_what_lies_there_is_one_line(look_up: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        look_up()
