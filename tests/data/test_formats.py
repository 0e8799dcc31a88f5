"""Readers and writers of D4RL's, Minari's and Adroit's formats, on files whose contents are known."""

import io
import os
import pickle
import subprocess
import sys
import time

import h5py
import minari
import numpy as np
import pytest

from rlzoo.data.load import load_episodes
from rlzoo.data.unpickle import Record, load_pickle
from rlzoo.data.write import write_d4rl, write_minari
from rlzoo.errors import UserError
from rlzoo.types import Episode
from tests.helpers.demo_files import counting_rows, expect_one_line, real_file, write_rows


def column(episode: Episode) -> list[float]:
    return episode.obs["state"][:, 0].tolist()


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


# --- D4RL --------------------------------------------------------------------------------------------------


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
    write_d4rl(path, [make_episode(5, terminated=True)] * 2, {})
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
    monkeypatch.setattr("rlzoo.data.hdf5._BLOCK_ROWS", 4)
    rows = counting_rows(11)
    rows["timeouts"][3] = rows["terminals"][7] = True
    rows["next_observations"][[3, 7]] = 99
    path = write_rows(tmp_path / "a.hdf5", rows, chunks=True)
    assert [column(e) for e in load_episodes(path)] == [
        [0, 1, 2, 3, 99],
        [4, 5, 6, 7, 99],
        [8, 9, 10, 11],
    ]


def test_d4rl_episodes_are_views_into_shared_arrays(tmp_path):
    rows = counting_rows(6)
    rows["timeouts"][2] = True
    first, second = load_episodes(write_rows(tmp_path / "a.hdf5", rows))
    assert first.obs["state"].base is second.obs["state"].base
    assert first.action.base is second.action.base


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


def test_actions_are_mapped_from_the_bounds_and_clipped(tmp_path):
    rows = counting_rows(3)
    rows["actions"] = np.array([[0.0, -2.0], [1.0, 0.0], [5.0, 3.0]])
    path = write_rows(tmp_path / "a.hdf5", rows)
    low, high = np.float32([0, -2]), np.float32([2, 2])
    (only,) = load_episodes(path, action_low=low, action_high=high)
    np.testing.assert_allclose(only.action, [[-1, -1], [0, 0], [1, 1]])
    (clipped,) = load_episodes(path)
    np.testing.assert_allclose(clipped.action, [[0, -1], [1, 0], [1, 1]])
    with pytest.raises(ValueError, match="not in order"):
        load_episodes(path, action_low=1.0, action_high=-1.0)
    expect_one_line(path, "width 2", "expected 3", action_low=np.zeros(3), action_high=np.ones(3))


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


def test_wrong_widths_for_the_task(tmp_path):
    path = write_rows(tmp_path / "a.hdf5", counting_rows(3))
    expect_one_line(path, "'observations'", "[3, 2]", "17", state_dim=17)
    expect_one_line(path, "'actions'", "[3, 2]", "6", state_dim=2, action_dim=6)
    assert load_episodes(path, state_dim=2, action_dim=2)


def test_claims_of_giant_arrays_are_refused_before_they_are_allocated(tmp_path):
    path = tmp_path / "giant.hdf5"
    with h5py.File(path, "w") as file:
        for key, shape in (("observations", (10**12, 11)), ("actions", (10**12, 3))):
            file.create_dataset(key, shape, np.float32, chunks=(1000, shape[1]))
        for key in ("rewards", "terminals"):
            file.create_dataset(key, (10**12,), np.float32, chunks=(1000,))
    expect_one_line(path, "'observations'", "44,000,000,000,000")


def test_what_holds_nothing_is_named(tmp_path):
    rows = counting_rows(3)
    del rows["rewards"]
    for name, put in (
        ("link to nothing", lambda file: file.__setitem__("rewards", h5py.SoftLink("/nowhere"))),
        ("is empty", lambda file: file.__setitem__("rewards", h5py.Empty("f4"))),
    ):
        path = write_rows(tmp_path / f"{name}.hdf5", rows)
        with h5py.File(path, "a") as file:
            put(file)
        expect_one_line(path, "'rewards'", name)


def test_data_outside_the_file_are_refused(tmp_path):
    rows = counting_rows(3)
    write_rows(tmp_path / "other.hdf5", rows)
    del rows["rewards"]
    path = write_rows(tmp_path / "a.hdf5", rows)
    with h5py.File(path, "a") as file:
        file["rewards"] = h5py.ExternalLink("other.hdf5", "rewards")
    expect_one_line(path, "'rewards'", "is a link")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(12))
    path = write_rows(tmp_path / "b.hdf5", rows)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (3,), np.float32, external=str(secret))
    expect_one_line(path, "'rewards'", "another file")


@pytest.mark.parametrize(
    "name", ["observations", "rewards", "timeouts", "next_observations", "infos/success"]
)
def test_a_link_to_a_device_that_never_answers_is_not_followed(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    rows = counting_rows(3)
    rows.pop(name, None)
    path = write_rows(tmp_path / "a.hdf5", rows)
    with h5py.File(path, "a") as file:
        group, _, link = name.rpartition("/")
        (file.require_group(group) if group else file)[link] = h5py.ExternalLink("pipe", "x")
    # In a process of its own: HDF5 waits where no signal reaches it.
    code = "import sys; from rlzoo.data.load import load_episodes; load_episodes(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", code, path], timeout=60, capture_output=True, text=True)
    assert result.stderr.endswith(f"UserError: {path}: key {name!r} is a link, expected the data itself\n")


def test_values_that_were_never_written_are_not_read_as_zeros(tmp_path):
    rows = counting_rows(40)
    for name in ("observations", "rewards"):
        path = write_rows(tmp_path / f"{name}.hdf5", {k: v for k, v in rows.items() if k != name})
        with h5py.File(path, "a") as file:
            values = rows[name]
            chunks = (15, *values.shape[1:])
            file.create_dataset(name, values.shape, values.dtype, chunks=chunks)[:10] = values[:10]
        expect_one_line(path, f"'{name}'", "1 of its 3 chunks")
        with h5py.File(path, "a") as file:
            del file["timeouts"]
            file.create_dataset("timeouts", (40,), bool, chunks=(15,))[39] = True  # flags may be left unset
        with h5py.File(path, "a") as file:
            file[name][:] = values
        assert len(load_episodes(path)) == 1


def test_chunks_far_larger_than_the_data_are_refused(tmp_path):
    rows = counting_rows(40)
    rewards = rows.pop("rewards")
    path = write_rows(tmp_path / "a.hdf5", rows)
    with h5py.File(path, "a") as file:
        # A chunk is read whole: this one is 128 MiB, though zeros compress to almost nothing.
        file.create_dataset("rewards", data=rewards, maxshape=(None,), chunks=(1 << 25,), compression="gzip")
    expect_one_line(path, "'rewards'", "40 values in chunks of 33,554,432")


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
    bounds = {"action_low": np.float32([-0.4, 0]), "action_high": np.float32([0.4, 3])}
    write_d4rl(path, episodes, {}, **bounds)
    with h5py.File(path) as file:
        assert file["actions"][:, 0].max() <= 0.4
        assert file["actions"][:, 1].min() >= 0
    assert_same(episodes, load_episodes(path, **bounds), exact_actions=False)
    assert [p.name for p in path.parent.iterdir()] == ["a.hdf5"]


# --- Minari ------------------------------------------------------------------------------------------------


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
    (only,) = load_episodes("theirs-v0", action_low=-2.0, action_high=2.0)
    np.testing.assert_allclose(only.action, buffer.actions / 2, rtol=1e-6)
    assert not only.terminated
    assert only.episode_return == 6


def minari_rows(steps: int) -> dict:
    rows = counting_rows(steps)
    return {
        "episode_0/observations": np.arange(2.0 * (steps + 1)).reshape(steps + 1, 2),
        "episode_0/actions": rows["actions"],
        "episode_0/rewards": rows["rewards"],
        "episode_0/terminations": rows["terminals"],
        "episode_0/truncations": rows["timeouts"],
    }


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
    expect_one_line(path, "'episode_2' is missing", "there is 3")
    with h5py.File(path, "a") as file:
        file.move("episode_3", "episode_2")
        file.create_group("episode_notes")
        file.attrs["total_episodes"] = 10**12
    expect_one_line(path, "'episode_3' is missing", "said to hold 1,000,000,000,000")
    with h5py.File(path, "a") as file:
        file.attrs["total_episodes"] = 3
    assert len(load_episodes(path)) == 3
    with h5py.File(path, "a") as file:
        del file["episode_0"]
    expect_one_line(path, "'episode_0' is missing")


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


# --- pickles -----------------------------------------------------------------------------------------------


def adroit_record(steps: int) -> dict:
    rows = counting_rows(steps)
    return {
        "observations": rows["observations"].astype(np.float64),
        "actions": rows["actions"],
        "rewards": rows["rewards"],
        "init_state_dict": {"qpos": np.zeros(3)},
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_adroit_pickles(tmp_path, protocol):
    path = tmp_path / "demos.pickle"
    records = [adroit_record(4), adroit_record(3) | {"terminated": True}, adroit_record(1)]
    path.write_bytes(pickle.dumps(records, protocol))
    first, second = load_episodes(path, state_dim=2, action_dim=2)
    assert (column(first), column(second)) == ([0, 1, 2, 3], [0, 1, 2, 2])
    assert (first.terminated, second.terminated) == (False, True)
    assert first.reward.tolist() == [0, 1, 2]


def test_pickles_of_python_2(tmp_path):
    # As Python 2 writes a [2, 1] array of doubles in protocol 0: bytes as escaped text, latin1.
    values = np.array([[0.1], [-7.5e33]])
    text = repr(values.tobytes())[1:]
    path = tmp_path / "a.pickle"
    path.write_bytes(
        b"(lp0\n(dp1\nS'observations'\np2\ncnumpy.core.multiarray\n_reconstruct\np3\n(cnumpy\nndarray\np4\n"
        b"(I0\ntp5\nS'b'\np6\ntp7\nRp8\n(I1\n(I2\nI1\ntp9\ncnumpy\ndtype\np10\n(S'f8'\np11\nI0\nI1\ntp12\n"
        b"Rp13\n(I3\nS'<'\np14\nNNNI-1\nI-1\nI0\ntp15\nbI00\nS" + text.encode() + b"\np16\ntp17\nbsa."
    )
    (record,) = load_pickle(path)
    np.testing.assert_array_equal(record["observations"], values)


def test_unpickler_reads_what_numpy_writes(tmp_path):
    value = {
        "fortran": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "empty": np.zeros((0, 4)),
        "scalar": np.float32(2.5),
        "flags": np.array([True, False]),
        "plain": [1, 2.5, "x", None, True, b"ab\xff", b"", (1, 2), {"y": -(10**30)}],
    }
    path = tmp_path / "a.pickle"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(value, protocol))
        read = load_pickle(path)
        assert read["plain"] == value["plain"]
        for key in ("fortran", "empty", "scalar", "flags"):
            np.testing.assert_array_equal(read[key], value[key])
            assert read[key].dtype == value[key].dtype


class Payload:
    """Pickles to a call of `os.mkdir` with the path it was given."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


class Thing:
    def __init__(self):
        self.colour = np.arange(3.0)


def test_pickles_execute_nothing(tmp_path):
    path, target = tmp_path / "evil.pickle", tmp_path / "made"
    for value in (
        [Payload(target)],
        [{"observations": Payload(target)}],
        [np.array([Payload(target)], dtype=object)],
        {Payload(target): 1},
    ):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(UserError, match="expected a pickle of arrays in plain containers"):
            load_pickle(path)
        assert not target.exists()
    path.write_bytes(pickle.dumps([Payload(target)]))
    expect_one_line(path, "mkdir", "allow-list")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02cbuiltins\neval\n(S'1'\ntR.",
        b"\x80\x02cnumpy\nndarray\n(K\x05tR.",  # numpy.ndarray called directly
        b"\x80\x02cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR.",  # an array of objects
        b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00xK\x01sb.",  # a dtype's attributes set
        b"\x80\x02cnumpy\nndarray\n.",  # a type in place of a value
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",  # STACK_GLOBAL
        b"\x80\x02(cos\nsystem\no.",  # OBJ
        b"(S'true'\nios\nsystem\n.",  # INST
        b"\x80\x02Pwho\n.",  # a persistent id
        b"\x80\x02\x82\x01.",  # the extension registry
        b"\x80\x02Nr\xff\xff\xff\xff.",  # a memo of 4 billion entries
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a byte array of 8 EiB
        b"\x80\x02]q\x00h\x00a.",  # a list that contains itself
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",  # nested too deeply
        b"\x80\x02N",
        b"\x80",
    ],
)
def test_pickles_that_are_refused(tmp_path, data):
    path = tmp_path / "a.pickle"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        load_pickle(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# A pair of pairs of pairs …, each the same object twice: bytes that would take 2^40 steps to walk through. It
# alone is left on the stack: the pair before is popped (0) before the next is made of it.
PAIRS = b")q\x00" + b"".join(b"0h%ch%c\x86q%c" % (index, index, index + 1) for index in range(40))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x02}" + PAIRS + b"Ns.", "dictionary's key"),  # by SETITEM
        (b"\x80\x02}(" + PAIRS + b"Nu.", "dictionary's key"),  # by SETITEMS
        (b"\x80\x02(" + PAIRS + b"Nd.", "dictionary's key"),  # by DICT
        (b"\x80\x02" + PAIRS + b"0}h\x28Ns.", "dictionary's key"),  # from the memo
        (b"\x80\x02}" + PAIRS + b"NbNs.", "a tuple is changed"),  # after a BUILD that changes nothing
        (b"\x80\x02}" + PAIRS + b"(eNs.", "a tuple is changed"),  # after an APPENDS of nothing
        (b"\x80\x02}" + PAIRS + b"(uNs.", "a tuple is changed"),  # after a SETITEMS of nothing
        (b"\x80\x02](" + PAIRS + b"e.", "shares its contents"),  # as a value, to be handed out
        (b"\x80\x02cnumpy\ndtype\n(" + PAIRS + b"tR.", "an array of type a tuple"),
        (
            b"\x80\x02cnumpy._core.numeric\n_frombuffer\n(U\x01acnumpy\ndtype\n(X\x02\x00\x00\x00i1K\x00K\x01tR"
            + PAIRS
            + b"X\x01\x00\x00\x00CtR.",
            "no array's shape",
        ),
        (b"\x80\x02N" + b"2\x86" * 40 + b".", "opcode 0x32"),  # by DUP, which no pickler writes
        (
            b"\x80\x02](c_codecs\nencode\nq\x00X\x40\x42\x0f\x00"
            + b"a" * 1_000_000
            + b"q\x01X\x06\x00\x00\x00latin1q\x02\x86R"
            + b"h\x00h\x01h\x02\x86R" * 20_000
            + b"e.",
            "more bytes than the file has",  # 20 GB from one text
        ),
    ],
)
def test_small_pickles_of_something_enormous_are_refused_at_once(tmp_path, data, reason):
    path = tmp_path / "a.pickle"
    path.write_bytes(data)
    started = time.process_time()
    with pytest.raises(UserError, match=reason) as caught:
        load_pickle(path)
    assert time.process_time() - started < 5
    assert len(str(caught.value)) < 1000


def test_records_without_a_state_have_no_fields(tmp_path):
    path, bare = tmp_path / "a.pickle", Thing.__new__(Thing)
    path.write_bytes(pickle.dumps([Thing(), bare, Thing(), Thing.__new__(Thing)], 2))
    read = load_pickle(path, records=[f"{Thing.__module__}.Thing"])
    assert [set(record.fields) for record in read] == [{"colour"}, set(), {"colour"}, set()]


def test_an_episode_listed_a_thousand_times_is_refused(tmp_path):
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps([adroit_record(3000)] * 1000))
    expect_one_line(path, "more values than the file has bytes")


def test_what_shares_its_contents_within_reason_is_read(tmp_path):
    path, shared = tmp_path / "a.pickle", {"x": (1, 2), "y": np.arange(3.0)}
    path.write_bytes(pickle.dumps([shared] * 1000))
    read = load_pickle(path)
    assert len(read) == 1000
    assert read[0] is read[999]
    assert read[0]["x"] == (1, 2)


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
    expect_one_line(path, "[0]terminated", "each of the 3 steps")


def test_what_follows_a_pickle_is_not_left_unread(tmp_path):
    path = tmp_path / "a.pickle"
    path.write_bytes(2 * pickle.dumps([adroit_record(3)]))
    expect_one_line(path, "is not that of the file")
    path.write_bytes(pickle.dumps([adroit_record(3)]) + b"\n")
    assert len(load_episodes(path)) == 1


def test_deep_nesting_is_refused_in_those_words(tmp_path):
    path = tmp_path / "a.pickle"
    for depth, reason in ((50_000, "nested too deeply"), (1_000_000, "more than 200,000 values are open")):
        path.write_bytes(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
        expect_one_line(path, reason)


def test_array_states_that_do_not_fit_are_refused(tmp_path):
    good = pickle.dumps(np.arange(6.0), 2)
    path = tmp_path / "a.pickle"
    for change in (
        (b"K\x06\x85", b"K\x07\x85"),
        (b"K\x06\x85", b"K\x05\x85"),
        (b"f8", b"f4"),
        (b"f8", b"U2"),
    ):
        assert change[0] in good
        path.write_bytes(good.replace(*change))
        with pytest.raises(UserError):
            load_pickle(path)


def test_records_stand_in_for_classes(tmp_path):
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps([Thing()], 2))
    name = f"{Thing.__module__}.Thing"
    with pytest.raises(UserError, match="allow-list"):
        load_pickle(path)
    (thing,) = load_pickle(path, records=[name])
    assert isinstance(thing, Record)
    np.testing.assert_array_equal(thing.fields["colour"], [0, 1, 2])


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


# --- recognition and damage --------------------------------------------------------------------------------


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


# --- real data ---------------------------------------------------------------------------------------------


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


def test_real_adroit_pickle():
    episodes = load_episodes(real_file("adroit/door-v0_demos.pickle"), state_dim=39, action_dim=28)
    assert len(episodes) == 25
    assert not any(e.terminated for e in episodes)
    assert len(episodes[0]) == 299
    with real_file("adroit/door-v0_demos.pickle").open("rb") as file:
        trusted = pickle.load(file, encoding="latin1")
    np.testing.assert_array_equal(episodes[0].obs["state"], np.float32(trusted[0]["observations"]))
    np.testing.assert_array_equal(episodes[3].reward, np.float32(trusted[3]["rewards"][:-1]))


@pytest.mark.parametrize("episode", [0, 1, 2])
def test_real_rlbench_pickles_are_read_as_records(episode):
    path = real_file(f"rlbench/reach_target/variation0/episodes/episode{episode}/low_dim_obs.pkl")
    with pytest.raises(UserError, match=r"rlbench\.demo\.Demo"):
        load_pickle(path)
    demo = load_pickle(path, records=["rlbench.demo.Demo", "rlbench.backend.observation.Observation"])
    observations = demo.fields["_observations"]
    assert len(observations) == (70, 64, 57)[episode]
    assert observations[0].fields["joint_positions"].shape == (7,)
