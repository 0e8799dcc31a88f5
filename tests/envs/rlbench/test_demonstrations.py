"""RLBench's folders: read, refused, cached, written; on small ones made here and on the real episodes."""

import faulthandler
import importlib
import os
import pickle
import shutil
import sys
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from envs.rlbench.demonstrations import demonstration_of, find_episodes, load_rlbench
from envs.rlbench.protocol import (
    CAMERAS,
    Demonstration,
    Images,
    action_range,
    is_within_limits,
    robot_action,
    to_episodes,
)
from envs.rlbench.write import write_rlbench
from rlzoo.errors import UserError
from tests.data.test_fuzz_loaders import DAMAGES, attempt, damage
from tests.helpers.demo_files import real_file
from tests.helpers.rlbench_fakes import FAKES, forget

FEW = ("front", "wrist")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """A cache of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("RLZOO_DATA_CACHE", str(folder))
    return folder / "rlbench"


def make_demonstration(
    steps: int,
    *,
    seed: int = 0,
    views: int = 2,
    task_width: int = 3,
    targets: bool = True,
    fast: bool = False,
) -> Demonstration:
    rng = np.random.default_rng(seed)
    positions = np.cumsum(rng.uniform(-0.05, 0.05, (steps + 1, 7)), axis=0)
    if fast:
        positions[1:, 2] += 0.5
    positions = positions.astype(np.float32)
    sent = positions + rng.uniform(0, 0.01, positions.shape).astype(np.float32)
    sent[0] = positions[0]
    return Demonstration(
        joint_positions=positions,
        gripper_open=(np.arange(steps + 1) < steps / 2).astype(np.float32),
        joint_targets=sent if targets else None,
        task_state=rng.standard_normal((steps + 1, task_width)).astype(np.float32),
        frames=rng.integers(0, 256, (steps + 1, views, 3, 9, 9), np.uint8) if views else None,
    )


def assert_same(first: Demonstration, second: Demonstration) -> None:
    for name in ("joint_positions", "gripper_open", "task_state", "joint_targets", "frames"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None), name
        if one is not None:
            np.testing.assert_array_equal(one, other, err_msg=name)
            assert one.dtype == other.dtype, name


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A dataset of reach_target with twelve demonstrations, of 3, 4, … 14 steps."""
    demonstrations = [make_demonstration(3 + index, seed=index) for index in range(12)]
    write_rlbench(tmp_path / "data", "reach_target", demonstrations, cameras=FEW)
    return tmp_path / "data"


def episode_of(dataset: Path, number: int = 0) -> Path:
    return dataset / "reach_target" / "variation0" / "episodes" / f"episode{number}"


def read(path, cameras=FEW, size=9, **options) -> list[Demonstration]:
    images = Images(cameras, size) if cameras else None
    return load_rlbench(path, images=images, **options).demonstrations


def expect_one_line(path, *parts: str, **options) -> None:
    with pytest.raises(UserError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message


# --- writing and reading -----------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    demonstrations = [
        make_demonstration(4, seed=1),
        make_demonstration(6, seed=2, targets=False),
        make_demonstration(5, seed=3, task_width=0),
    ]
    folder = write_rlbench(tmp_path, "open_drawer", demonstrations, variation=2, cameras=FEW)
    assert folder == tmp_path / "open_drawer" / "variation2"
    for first, second in zip(demonstrations, read(tmp_path), strict=True):
        assert_same(first, second)


def test_episodes_come_in_the_order_of_their_numbers(dataset):
    assert [len(demo.actions) for demo in read(dataset)] == list(range(3, 15))
    assert [path.name for path in find_episodes(dataset)][9:] == ["episode9", "episode10", "episode11"]


def test_any_folder_of_the_layout_will_do(dataset):
    task = dataset / "reach_target"
    for path in (dataset, task, task / "variation0", task / "variation0" / "episodes"):
        assert len(find_episodes(path)) == 12
        assert len(find_episodes(path, "reach_target")) == 12
    assert find_episodes(episode_of(dataset, 3)) == [episode_of(dataset, 3)]


def test_several_variations_or_all_in_one_folder(dataset):
    task = dataset / "reach_target"
    write_rlbench(dataset, "reach_target", [make_demonstration(20)], variation=10, cameras=FEW)
    write_rlbench(dataset, "reach_target", [make_demonstration(21)], variation=2, cameras=FEW)
    assert [len(demo.actions) for demo in read(dataset)][11:] == [14, 21, 20]
    shutil.copytree(task / "variation2", task / "all_variations")
    assert len(find_episodes(task)) == 14  # `all_variations` would repeat the others
    for number in (0, 2, 10):
        shutil.rmtree(task / f"variation{number}")
    assert [len(demo.actions) for demo in read(task)] == [21]


def test_actions_come_from_where_the_joints_were_sent():
    demonstration = make_demonstration(5)
    expected = demonstration.joint_targets[1:] - demonstration.joint_positions[:-1]
    np.testing.assert_array_equal(demonstration.actions[:, :7], expected)
    np.testing.assert_array_equal(demonstration.actions[:, 7], demonstration.gripper_open[1:])


def test_rows_without_a_recorded_action_take_the_joint_positions():
    rows = [{"joint_positions": np.full(7, 0.1 * i), "gripper_open": 1.0, "misc": {}} for i in range(4)]
    assert demonstration_of(rows, "test").joint_targets is None
    rows[2]["misc"]["joint_position_action"] = np.full(8, 0.25)
    rows[0]["misc"]["joint_position_action"] = np.full(8, 9.0)  # no step led there
    targets = demonstration_of(rows, "test").joint_targets
    np.testing.assert_allclose(targets[:, 0], [0, 0.1, 0.25, 0.3])


def test_fast_demonstrations_are_left_out_and_counted(tmp_path):
    speeds = [False, True, False, True, False]
    demonstrations = [make_demonstration(3 + i, seed=i, fast=fast) for i, fast in enumerate(speeds)]
    write_rlbench(tmp_path, "reach_target", demonstrations, cameras=FEW)
    for _ in range(2):  # the second time from the cache
        loaded = load_rlbench(tmp_path, images=Images(FEW, 9))
        assert [len(demo.actions) for demo in loaded.demonstrations] == [3, 5, 7]
        assert loaded.too_fast == 2
    summary = loaded.summary()
    for part in ("3 from", "2 views", "2 with a joint moving more than 0.2 rad", "15", "3 to 7, mean 5"):
        assert part in summary
    assert load_rlbench(tmp_path, images=Images(FEW, 9), count=2).too_fast == 1  # no further than needed
    shutil.rmtree(tmp_path / "reach_target")
    write_rlbench(tmp_path, "reach_target", demonstrations[1:2], cameras=FEW)
    expect_one_line(tmp_path, "all 1 demonstrations")


def test_a_number_of_demonstrations(dataset):
    assert [len(demo.actions) for demo in read(dataset, count=2)] == [3, 4]
    expect_one_line(dataset, "13 demonstrations asked for", "found 12", count=13)


def test_without_cameras_no_image_is_looked_at(dataset):
    shutil.rmtree(episode_of(dataset) / "front_rgb")
    (demonstration, *_) = read(dataset, cameras=())
    assert demonstration.frames is None
    with pytest.raises(UserError, match="no camera images"):
        to_episodes([demonstration], action_range([demonstration]), pixels=True)


def test_frames_are_resized_and_views_come_in_the_order_asked_for(tmp_path):
    demonstration = make_demonstration(3)
    frames = np.zeros((4, 2, 3, 20, 20), np.uint8)
    frames[:, 0, 0], frames[:, 1, 1] = 200, 100  # front is red, wrist green
    frames[:, :, 2] = np.arange(0, 80, 20)[:, None, None, None]
    vars(demonstration)["frames"] = frames
    write_rlbench(tmp_path, "reach_target", [demonstration], cameras=FEW)
    (read_back,) = read(tmp_path, cameras=("wrist", "front"), size=8)
    assert read_back.frames.shape == (4, 2, 3, 8, 8)
    assert read_back.frames[2, :, :, 4, 4].tolist() == [[0, 100, 40], [200, 0, 40]]


def test_task_states_that_are_missing_or_change_their_length(tmp_path, dataset):
    rows = [{"joint_positions": np.zeros(7), "gripper_open": 1.0, "task_low_dim_state": None}] * 3
    assert demonstration_of(rows, "test").task_state.shape == (3, 0)
    rows = [row | {"task_low_dim_state": np.zeros(3 + i)} for i, row in enumerate(rows)]
    assert demonstration_of(rows, "test").task_state.shape == (3, 0)
    rows = [row | {"task_low_dim_state": np.ones((2, 2))} for row in rows]
    assert demonstration_of(rows, "test").task_state.shape == (3, 4)
    assert read(dataset, need_task_state=True)[0].task_state.shape == (4, 3)
    other = make_demonstration(4, task_width=5)
    write_rlbench(dataset, "reach_target", [other], variation=1, cameras=FEW)
    expect_one_line(dataset, "from 3 to 5 numbers", "one variation", need_task_state=True)
    write_rlbench(tmp_path, "open_door", [make_demonstration(4, task_width=0)], cameras=FEW)
    expect_one_line(tmp_path / "open_door", "no task_low_dim_state", need_task_state=True)


# --- what the stand-ins for RLBench's classes unpickle -----------------------------------------------------


@pytest.fixture
def rlbench_classes(monkeypatch):
    """Stand-ins for RLBench's own classes, importable by its names."""
    monkeypatch.syspath_prepend(FAKES)
    yield importlib.import_module("rlbench.demo"), importlib.import_module("rlbench.backend.observation")
    forget()


def rewrite_record(episode: Path, change) -> None:
    """Let `change` alter the attributes of an episode's observations."""
    path = episode / "low_dim_obs.pkl"
    sys.path.insert(0, str(FAKES))
    try:
        demo = pickle.loads(path.read_bytes())
        change([vars(observation) for observation in demo._observations])
        path.write_bytes(pickle.dumps(demo))
    finally:
        sys.path.remove(str(FAKES))
        forget()


def test_rlbenchs_users_unpickle_their_own_classes(dataset, rlbench_classes):
    demos, observations = rlbench_classes
    data = (episode_of(dataset) / "low_dim_obs.pkl").read_bytes()
    assert b"rlzoo" not in data
    assert b"numpy._core" not in data  # which NumPy 1 does not have
    demo = pickle.loads(data)
    assert type(demo) is demos.Demo
    assert (len(demo), demo.random_seed) == (4, None)
    for row in range(4):
        assert type(demo[row]) is observations.Observation
        assert set(vars(demo[row])) == set(observations.NAMES)
        assert demo[row].joint_positions.dtype == np.float64
        assert type(demo[row].gripper_open) is float
    assert demo[1].misc["joint_position_action"].shape == (8,)
    words = pickle.loads(
        (dataset / "reach_target" / "variation0" / "variation_descriptions.pkl").read_bytes()
    )
    assert words == ["reach target"]


def test_rlbenchs_reader_finds_the_frames_that_it_counts(dataset):
    episode = episode_of(dataset)
    cameras = ("left_shoulder", "right_shoulder", "overhead", "wrist", "front")
    assert {len(list((episode / f"{c}_{kind}").iterdir())) for c in cameras for kind in ("rgb", "depth")} == {
        4
    }
    expect_one_line(dataset, "left_shoulder_rgb", "placeholder", cameras=("left_shoulder",))


def test_nothing_is_replaced_or_left_half_written(dataset, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        write_rlbench(dataset, "reach_target", [make_demonstration(3)], cameras=FEW)
    with pytest.raises(ValueError, match="2 views"):
        write_rlbench(tmp_path / "other", "lamp_on", [make_demonstration(3)], cameras=CAMERAS)
    assert list((tmp_path / "other" / "lamp_on").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_rlbench(tmp_path / "file", "lamp_on", [make_demonstration(3)], cameras=FEW)


@pytest.mark.parametrize("protocol", range(2, 6))  # 3 is the least that Python 3 wrote by itself
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_pickles_of_every_protocol_and_numpy(dataset, rlbench_classes, protocol, core):
    path = episode_of(dataset) / "low_dim_obs.pkl"
    (expected, *_) = read(dataset, cameras=())
    data = pickle.dumps(pickle.loads(path.read_bytes()), protocol)
    if protocol < 4:  # later ones write a length before the name
        data = data.replace(b"numpy._core", core.encode())
    path.write_bytes(data)
    (again, *_) = read(dataset, cameras=())
    assert_same(expected, again)


def test_a_plain_list_of_observations(dataset, rlbench_classes):
    path = episode_of(dataset) / "low_dim_obs.pkl"
    (expected, *_) = read(dataset, cameras=())
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes())._observations))
    assert_same(expected, read(dataset, cameras=())[0])


# --- bad input ---------------------------------------------------------------------------------------------


def test_folders_without_demonstrations(tmp_path, dataset):
    expect_one_line(tmp_path / "none", "no such folder", "low_dim_obs.pkl")
    (tmp_path / "empty").mkdir()
    expect_one_line(tmp_path / "empty", "no demonstrations", "low_dim_obs.pkl")
    expect_one_line(dataset, "has demonstrations of reach_target", "not open_drawer", task="open_drawer")
    expect_one_line(dataset / "reach_target", "reach_target", "expected open_drawer", task="open_drawer")
    write_rlbench(dataset, "open_drawer", [make_demonstration(4)], cameras=FEW)
    expect_one_line(dataset, "open_drawer, reach_target", "name one")
    assert len(read(dataset, task="open_drawer")) == 1


def test_a_camera_that_was_not_recorded(dataset):
    for episode in find_episodes(dataset):
        for folder in episode.glob("*shoulder*"):
            shutil.rmtree(folder)
    expect_one_line(
        dataset, "camera left_shoulder", "left_shoulder_rgb", "front, overhead, wrist", cameras=CAMERAS
    )


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda folder: (folder / "2.png").unlink(), ["3 frames for 4", "frame 2 is missing"]),
        (lambda folder: shutil.copy(folder / "3.png", folder / "4.png"), ["5 frames for 4", "frame 4"]),
        (lambda folder: shutil.copy(folder / "1.png", folder / "rgb_01.png"), ["1.png and rgb_01.png are"]),
        (lambda folder: [path.unlink() for path in folder.iterdir()], ["0 frames for 4"]),
        (lambda folder: (folder / "1.png").write_bytes(b""), ["1.png", "unreadable"]),
        (lambda folder: (folder / "1.png").write_bytes(b"GIF89a nonsense"), ["1.png", "unreadable"]),
        (lambda folder: cut(folder / "1.png"), ["1.png", "unreadable"]),
        (lambda folder: Image.new("L", (9, 9)).save(folder / "1.png"), ["1.png", "mode L"]),
        (lambda folder: Image.new("RGB", (5000, 9)).save(folder / "1.png"), ["1.png", "4096"]),
        (lambda folder: ((folder / "1.png").unlink(), (folder / "1.png").mkdir()), ["1.png", "unreadable"]),
    ],
)
def test_missing_and_unreadable_frames(dataset, change, parts, cache):
    change(episode_of(dataset) / "wrist_rgb")
    expect_one_line(dataset, "episode0/wrist_rgb", *parts)
    assert not list(cache.glob("*"))  # nothing of it was kept


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda row: row.pop("joint_positions"), "joint_positions is missing"),
        (lambda row: row.update(joint_positions=np.zeros(6)), "joint_positions has 6 numbers, expected 7"),
        (lambda row: row.update(joint_positions=np.zeros((7, 1))), "not a vector"),
        (lambda row: row.update(joint_positions=np.full(7, np.nan)), "NaN or infinite"),
        (lambda row: row.update(joint_positions=np.full(7, 1e300)), "NaN or infinite"),
        (lambda row: row.update(gripper_open=None), "gripper_open"),
        (lambda row: row.update(gripper_open=2.0), "gripper_open"),
        (lambda row: row.update(gripper_open=10**6000), "gripper_open"),
        (lambda row: row.update(task_low_dim_state=np.full(3, np.inf)), "task_low_dim_state"),
        (lambda row: row["misc"].update(joint_position_action=np.zeros(5)), "has 5 numbers, expected 7 or 8"),
        (lambda row: row["misc"].update(joint_position_action="left"), "joint_position_action"),
    ],
)
def test_malformed_records(dataset, change, part):
    rewrite_record(episode_of(dataset, 1), lambda rows: change(rows[2]))
    expect_one_line(dataset, "episode1/low_dim_obs.pkl", part)


def test_an_interrupted_recording(dataset):
    (episode_of(dataset, 5) / "low_dim_obs.pkl").unlink()
    expect_one_line(dataset, "episode5/low_dim_obs.pkl", "cannot be read")
    rewrite_record(episode_of(dataset, 0), lambda rows: None)
    path = episode_of(dataset, 0) / "low_dim_obs.pkl"
    path.write_bytes(pickle.dumps([1, 2]))
    expect_one_line(dataset, "episode0/low_dim_obs.pkl", "expected RLBench's Demo")
    path.write_bytes(path.read_bytes()[:5])
    expect_one_line(dataset, "episode0/low_dim_obs.pkl", "truncated")


class Exploit:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_executes_nothing(dataset, tmp_path, protocol):
    proof = tmp_path / "executed"
    for exploit in (Exploit(os.mkdir, str(proof)), Exploit(eval, f"__import__('os').mkdir({str(proof)!r})")):
        path = episode_of(dataset) / "low_dim_obs.pkl"
        path.write_bytes(pickle.dumps([exploit], protocol))
        expect_one_line(dataset, "episode0/low_dim_obs.pkl", "not on the allow-list")
    assert not proof.exists()


FUZZ = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def short_record(tmp_path_factory) -> bytes:
    """A record of six observations, small enough to hit every part of it."""
    root = tmp_path_factory.mktemp("short")
    write_rlbench(root, "reach_target", [make_demonstration(5, views=0)])
    return (episode_of(root) / "low_dim_obs.pkl").read_bytes()


@FUZZ
@given(edits=DAMAGES)
def test_damaged_records(tmp_path, short_record, edits):
    check_damaged(tmp_path / "episode0", damage(short_record, edits), 6)


@settings(FUZZ, max_examples=50)
@given(edits=DAMAGES, number=st.integers(0, 2))
def test_damaged_real_records(tmp_path, edits, number):
    path = real_file(f"rlbench/reach_target/variation0/episodes/episode{number}/low_dim_obs.pkl")
    check_damaged(tmp_path / "episode0", damage(path.read_bytes(), edits), 70)


def check_damaged(episode: Path, data: bytes, rows: int) -> None:
    """An error of one line or a demonstration of the right shapes; never a crash or a hang."""
    faulthandler.dump_traceback_later(600, exit=True)
    episode.mkdir(exist_ok=True)
    (episode / "low_dim_obs.pkl").write_bytes(data)
    demonstrations, message = attempt(partial(read, episode, cameras=()))
    faulthandler.cancel_dump_traceback_later()
    if message is not None:
        assert "\n" not in message
        assert str(episode) in message
        return
    (demonstration,) = demonstrations
    count = len(demonstration.gripper_open)
    assert 2 <= count <= 2 * rows
    assert demonstration.joint_positions.shape == (count, 7)
    assert demonstration.task_state.shape[0] == count
    for array in (demonstration.joint_positions, demonstration.task_state, demonstration.actions):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    assert is_within_limits(demonstration)


# --- cache -------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """How many times frames have been decoded."""
    count = []
    import envs.rlbench.demonstrations as module

    original = module.load_frames
    monkeypatch.setattr(module, "load_frames", lambda *a, **k: (count.append(1), original(*a, **k))[1])
    return count


def test_the_cache_returns_the_same(dataset, decoded, cache):
    mixed = [make_demonstration(4, targets=False), make_demonstration(5, task_width=0)]
    write_rlbench(dataset, "reach_target", mixed, variation=1, cameras=FEW)
    first, second = read(dataset), read(dataset)
    assert len(decoded) == 1
    for one, other in zip(first, second, strict=True):
        assert_same(one, other)
    assert [path.name.partition("-")[0] for path in cache.iterdir()] == ["reach_target"]


def test_other_settings_have_a_cache_of_their_own(dataset, decoded, cache):
    for options in ({}, {"size": 5}, {"cameras": ("wrist", "front")}, {"count": 3}):
        read(dataset, **options)
    assert len(decoded) == 4
    assert len(list(cache.iterdir())) == 4
    assert read(dataset, size=5)[0].frames.shape == (4, 2, 3, 5, 5)
    assert len(decoded) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda data: Image.new("RGB", (9, 9), (1, 2, 3)).save(episode_of(data, 3) / "front_rgb" / "1.png"),
        lambda data: os.utime(episode_of(data, 3) / "front_rgb" / "0.png", ns=(0, 0)),
    ],
)
def test_a_changed_dataset_is_decoded_again_in_the_same_place(dataset, decoded, cache, change):
    read(dataset)
    change(dataset)
    read(dataset)
    read(dataset)
    assert len(decoded) == 2
    assert len(list(cache.iterdir())) == 1


def damage_values(path: Path) -> None:
    with h5py.File(path) as file:
        offset = file["frames"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 40] ^= 1
    path.write_bytes(data)


def lie_about_the_shape(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        frames = file["frames"][1:]
        del file["frames"]
        file["frames"] = frames


@pytest.mark.parametrize(
    "break_it", [cut, damage_values, lie_about_the_shape, lambda path: path.write_bytes(b"no")]
)
def test_a_corrupt_cache_is_made_again(dataset, decoded, cache, capsys, break_it):
    first = read(dataset)
    (file,) = cache.iterdir()
    break_it(file)
    for one, other in zip(first, read(dataset), strict=True):
        assert_same(one, other)
    assert "again" in capsys.readouterr().err
    read(dataset)
    assert len(decoded) == 2


def test_a_cache_that_cannot_be_written_is_no_error(dataset, cache, capsys):
    cache.write_text("a file where a folder should be")
    assert len(read(dataset)) == 12
    assert "cannot write" in capsys.readouterr().err


# --- the action scale --------------------------------------------------------------------------------------


def test_the_action_scale_widens_each_bound_by_its_own_size():
    positions = np.zeros((4, 7), np.float32)
    positions[:, 0] = [0, 0.1, 0.05, 0.05]  # deltas 0.1, -0.05, 0
    positions[:, 1] = [0, 0.05, 0.15, 0.35]  # deltas 0.05, 0.1, 0.2; 0 belongs to the range too
    demonstration = Demonstration(positions, np.float32([1, 1, 0, 0]), None, np.zeros((4, 0), np.float32))
    scale = action_range([demonstration])
    np.testing.assert_allclose(scale.low[[0, 1, 7]], [-0.06, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(scale.high[[0, 1, 7]], [0.12, 0.24, 1], rtol=1e-5)
    normalized = scale.to_unit(demonstration.actions)
    assert np.abs(normalized).max() <= 1
    assert normalized[:, 7].tolist() == [1, -1, -1]
    for unit, action in zip(normalized, demonstration.actions, strict=True):
        np.testing.assert_allclose(robot_action(scale, unit), action, atol=1e-6)
    assert robot_action(scale, np.ones(8, np.float32))[1] == np.float32(0.2)  # never beyond the limit


# --- real episodes -----------------------------------------------------------------------------------------


def test_real_episodes():
    root = real_file("rlbench")
    for path in (root, root / "reach_target"):
        loaded = load_rlbench(
            path, task="reach_target", images=Images(("front", "wrist")), need_task_state=True
        )
        assert [len(demo.gripper_open) for demo in loaded.demonstrations] == [70, 64, 57]
    assert loaded.too_fast == 0
    for demonstration in loaded.demonstrations:
        assert demonstration.joint_targets is None  # an older format
        assert demonstration.frames.shape[1:] == (2, 3, 84, 84)
        assert demonstration.frames.std() > 10
        assert demonstration.task_state.shape[1] == 3
        assert np.abs(demonstration.actions[:, :7]).max() < 0.05
        assert (demonstration.actions[:, 7] == 1).all()
    episodes = to_episodes(loaded.demonstrations, action_range(loaded.demonstrations), pixels=True)
    assert [len(episode) for episode in episodes] == [69, 63, 56]
    assert "steps              188" in loaded.summary()


def test_real_frames_are_those_of_the_files():
    root = real_file("rlbench")
    folder = root / "reach_target" / "variation0" / "episodes" / "episode0"
    (demonstration,) = load_rlbench(folder, images=Images(size=128)).demonstrations
    for view, camera in enumerate(CAMERAS):
        with Image.open(folder / f"{camera}_rgb" / "33.png") as image:
            np.testing.assert_array_equal(
                demonstration.frames[33, view].transpose(1, 2, 0), np.asarray(image)
            )


def test_real_episodes_lack_cameras():
    expect_one_line(real_file("rlbench"), "episode1", "left_shoulder", "front, wrist", cameras=CAMERAS)


def test_real_episodes_survive_a_broken_description(tmp_path):
    source = real_file("rlbench") / "reach_target"
    assert (source / "variation0" / "variation_descriptions.pkl").exists()
    demonstrations = load_rlbench(source, images=Images(("wrist",))).demonstrations
    write_rlbench(tmp_path, "reach_target", demonstrations, cameras=("wrist",))
    again = load_rlbench(tmp_path, images=Images(("wrist",))).demonstrations
    for one, other in zip(demonstrations, again, strict=True):
        assert_same(one, other)
