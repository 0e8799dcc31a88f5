"""D4RL's tasks: the table, the environments against D4RL's facts, finding and downloading datasets."""

import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from envs.d4rl.data import find_dataset
from envs.d4rl.env import flatten_obs, make, make_env, task_rewards
from envs.d4rl.tasks import TASKS, find, normalized_score
from envs.gym.rendering import rendering_backend
from rlzoo.data.download import cache_dir, download
from rlzoo.data.load import load_episodes
from rlzoo.data.unpickle import load_pickle
from rlzoo.errors import UserError
from rlzoo.types import Episode
from tests.helpers.demo_files import counting_rows, real_file, write_rows

HOST = "http://rail.eecs.berkeley.edu/datasets/offline_rl"


# --- the table ---------------------------------------------------------------------------------------------


def test_every_task_of_the_benchmark_is_there():
    for robot in ("halfcheetah", "hopper", "walker2d", "ant"):
        for level in ("random", "medium", "medium-replay", "medium-expert", "expert", "full-replay"):
            assert f"{robot}-{level}-v2" in TASKS
            assert f"{robot}-{level}-v1" in TASKS
            assert (f"{robot}-{level}-v0" in TASKS) == (level != "full-replay")
    for skill in ("pen", "door", "hammer", "relocate"):
        assert {f"{skill}-{s}-v{v}" for s in ("human", "cloned", "expert") for v in (0, 1)} <= set(TASKS)
    assert sum(name.startswith("antmaze") for name in TASKS) == 6 * 3
    assert {"kitchen-complete-v0", "kitchen-partial-v0", "kitchen-mixed-v0"} <= set(TASKS)
    assert {f"maze2d-{m}{d}-v1" for m in ("umaze", "medium", "large") for d in ("", "-dense")} <= set(TASKS)
    assert len(TASKS) == 4 * 17 + 4 * 6 + 18 + 3 + 8
    assert all(name == task.name for name, task in TASKS.items())
    assert len({task.url for task in TASKS.values()}) == len(TASKS)
    assert len({Path(task.url).name for task in TASKS.values()}) == len(TASKS)  # they share one cache folder


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("hopper-medium-v2", "gym_mujoco_v2/hopper_medium-v2.hdf5"),
        ("walker2d-medium-replay-v1", "gym_mujoco_v1/walker2d_medium_replay-v1.hdf5"),
        ("ant-full-replay-v2", "gym_mujoco_v2/ant_full_replay-v2.hdf5"),
        ("walker2d-medium-replay-v0", "gym_mujoco/walker_mixed.hdf5"),
        ("walker2d-medium-expert-v0", "gym_mujoco/walker2d_medium_expert.hdf5"),
        ("halfcheetah-medium-replay-v0", "gym_mujoco/halfcheetah_mixed.hdf5"),
        ("door-human-v0", "hand_dapg/door-v0_demos_clipped.hdf5"),
        ("pen-cloned-v0", "hand_dapg/pen-demos-v0-bc-combined.hdf5"),
        ("relocate-expert-v0", "hand_dapg/relocate-v0_expert_clipped.hdf5"),
        ("hammer-cloned-v1", "hand_dapg_v1/hammer-cloned-v1.hdf5"),
        (
            "antmaze-umaze-v0",
            "ant_maze_new/Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5",
        ),
        (
            "antmaze-medium-diverse-v1",
            "ant_maze_v1/Ant_maze_medium_noisy_multistart_True_multigoal_True_sparse.hdf5",
        ),
        (
            "antmaze-large-play-v2",
            "ant_maze_v2/Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5",
        ),
        ("kitchen-complete-v0", "kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"),
        ("kitchen-mixed-v0", "kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5"),
        ("maze2d-umaze-v1", "maze2d/maze2d-umaze-sparse-v1.hdf5"),
        ("maze2d-open-dense-v0", "maze2d/maze2d-open-dense.hdf5"),
    ],
)
def test_dataset_addresses(name, address):
    assert find(name).url == f"{HOST}/{address}"


# D4RL's d4rl/infos.py: the returns of a random policy and of an expert.
REFERENCE_SCORES = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "pen": (96.262799, 3076.8331017826877),
    "door": (-56.512833, 2880.5693087298737),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "maze2d-open-v0": (0.01, 20.66),
    "maze2d-umaze-v1": (23.85, 161.86),
    "maze2d-medium-v1": (13.13, 277.39),
    "maze2d-large-v1": (6.7, 273.99),
    "maze2d-open-dense-v0": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense-v1": (68.537689, 193.66285642381482),
    "maze2d-medium-dense-v1": (44.264742, 297.4552547777125),
    "maze2d-large-dense-v1": (30.569041, 303.4857382709002),
}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_reference_scores(name):
    low, high = REFERENCE_SCORES[name if name.startswith("maze2d") else name.partition("-")[0]]
    assert [normalized_score(name, low), normalized_score(name, high)] == pytest.approx([0, 100])


@pytest.mark.parametrize("call", [find, make_env, find_dataset, lambda name: make(name, 1)])
def test_unknown_names_get_the_nearest(call):
    with pytest.raises(UserError, match=r"hoper-medium-v2: .*hopper-medium-v2"):
        call("hoper-medium-v2")
    with pytest.raises(UserError, match="no such D4RL task"):
        call("zzz")


def test_no_simulator_is_imported_before_a_task_is_made():
    code = (
        "import envs.d4rl.env, envs.d4rl.data, sys;"
        "print([m for m in ('mujoco', 'gymnasium_robotics') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[3]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_the_first_copy_alone_draws_frames_though_nothing_says_how():
    """In a process of its own: MUJOCO_GL is chosen once in each."""
    try:
        rendering_backend()
    except UserError as error:
        pytest.skip(str(error))
    code = """
from envs.d4rl.env import make
for name in ("hopper-medium-v2", "door-human-v1", "antmaze-umaze-v2", "kitchen-mixed-v0", "maze2d-umaze-v1"):
    task = make(name, 2, render=True)
    task.reset(0)
    print(task.render().std() > 0, [lane.env.render_mode for lane in task._lanes])
"""
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[3],
        env={name: value for name, value in os.environ.items() if name != "MUJOCO_GL"},
        capture_output=True,
        text=True,
    )
    assert process.stdout.splitlines() == ["True ['rgb_array', None]"] * 5, process.stderr


# --- the environments --------------------------------------------------------------------------------------

KINDS = list({(task.env_id, task.variant): task.name for task in TASKS.values()}.values())


@pytest.mark.parametrize("name", KINDS)
def test_observations_and_actions_have_the_dataset_s_columns(name):
    task = find(name)
    env = make_env(name)
    assert env.spec.max_episode_steps == task.max_episode_steps
    obs, _ = env.reset(seed=0)
    assert obs.shape == env.observation_space.shape == (task.state_dim,)
    assert env.action_space.shape == (task.action_dim,)
    np.testing.assert_array_equal(env.action_space.low, -1)
    np.testing.assert_array_equal(env.action_space.high, 1)
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(obs, again)
    obs, reward, terminated, _, _ = env.step(np.zeros(task.action_dim, np.float32))
    assert obs.shape == (task.state_dim,)
    assert np.isfinite(obs).all()
    assert type(reward) is float or np.isscalar(reward)
    assert not terminated
    env.close()


def test_vector_task_and_its_snapshots():
    task = make("antmaze-umaze-v2", 2)
    first = task.reset(seed=3)["state"]
    assert first.shape == (2, 29)
    assert not np.array_equal(first[0], first[1])
    state = task.get_state()
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 2, 8)).astype(np.float32)

    def roll():
        steps = []
        for action in actions:
            task.send(action)
            steps.append(task.receive().obs["state"])
        return np.stack(steps)

    once = roll()
    task.set_state(state)
    np.testing.assert_array_equal(once, roll())
    task.close()


def test_ant_is_padded_with_the_dataset_s_zeros():
    env = make_env("ant-medium-v2")
    env.reset(seed=0)
    for _ in range(20):
        obs, *_ = env.step(np.ones(8, np.float32))
    assert not obs[27:].any()
    assert obs[:27].all()


def wall_centres(env) -> set:
    model = env.unwrapped.model
    names = [model.geom(i).name for i in range(model.ngeom)]
    return {
        tuple(np.round(model.geom_pos[i][:2] - env.get_wrapper_attr("_origin"), 6))
        for i, name in enumerate(names)
        if name.startswith("block")
    }


U_MAZE = ["#####", "#   #", "### #", "#   #", "#####"]
MEDIUM = ["########", "#  ##  #", "#  #   #", "##   ###", "#  #   #", "# #  # #", "#   #  #", "########"]


@pytest.mark.parametrize(("name", "maze"), [("umaze", U_MAZE), ("medium-play", MEDIUM)])
def test_antmaze_walls_and_start_are_where_d4rl_has_them(name, maze):
    env = make_env(f"antmaze-{name}-v2")
    obs, _ = env.reset(seed=1)
    # D4RL: the centre of cell (row, column) is at 4 (column - 1), 4 (row - 1), the start at cell (1, 1).
    expected = {
        (4.0 * (c - 1), 4.0 * (r - 1))
        for r, row in enumerate(maze)
        for c, cell in enumerate(row)
        if cell == "#"
    }
    assert wall_centres(env) == expected
    assert np.abs(obs[:2]).max() <= 0.1
    assert obs[2] == pytest.approx(0.75, abs=0.1)


def test_antmaze_goal_reward_and_termination():
    env = make_env("antmaze-umaze-v2")
    goals = []
    for seed in range(50):
        env.reset(seed=seed)
        goals.append(env.get_wrapper_attr("_goal"))
    low, high = np.min(goals, axis=0), np.max(goals, axis=0)
    assert (low >= [0, 8]).all()  # cell (3, 1), plus up to 1.5
    assert (high <= [1.5, 9.5]).all()
    assert (high - low > 1).all()

    maze = env.unwrapped
    qpos = maze.data.qpos.copy()
    for distance, reached in ((0.45, True), (0.55, False)):
        env.reset(seed=0)
        qpos[:2] = env.get_wrapper_attr("_goal") + env.get_wrapper_attr("_origin") + [distance, 0]
        maze.ant_env.set_state(qpos, np.zeros(14))
        _, reward, terminated, _, info = env.step(np.zeros(8, np.float32))
        assert (reward, terminated, info["success"]) == (float(reached), reached, reached)


def test_antmaze_ant_is_d4rl_s():
    model = make_env("antmaze-umaze-v2").unwrapped.model
    assert model.opt.timestep == 0.02
    np.testing.assert_array_equal(model.actuator_gear[:, 0] * model.actuator_ctrlrange[:, 1], 30)


@pytest.mark.parametrize(("name", "rate"), [("antmaze-umaze-v2", 10), ("maze2d-umaze-v1", 100)])
def test_films_run_at_the_mazes_own_speed(name, rate):
    task = make(name, 1)
    assert (task.render_fps, task.interface.control_rate) == (rate, rate)


@pytest.mark.parametrize(
    ("name", "maze", "goal"), [("umaze-v1", U_MAZE, (1, 1)), ("medium-v1", MEDIUM, (6, 6))]
)
def test_maze2d_walls_starts_and_goal_are_where_d4rl_has_them(name, maze, goal):
    env = make_env(f"maze2d-{name}")
    # D4RL: a wall of cell (row, column) is at (row + 1, column + 1), the ball at its position + 1.2.
    expected = {
        (round(r - 0.2, 6), round(c - 0.2, 6))
        for r, row in enumerate(maze)
        for c, cell in enumerate(row)
        if cell == "#"
    }
    assert wall_centres(env) == expected
    np.testing.assert_array_equal(env.get_wrapper_attr("_goal"), goal)
    starts = np.array([env.reset(seed=seed)[0][:2] for seed in range(60)])
    cells = np.round(starts).astype(int)
    assert np.abs(starts - cells).max() <= 0.1
    assert all(maze[r][c] == " " for r, c in cells)
    assert len({tuple(cell) for cell in cells}) > 5


def test_maze2d_moves_and_rewards_as_d4rl():
    env = make_env("maze2d-umaze-v1")
    env.reset(seed=0)
    ball = env.unwrapped.point_env
    origin = env.get_wrapper_attr("_origin")
    ball.set_state(np.array([3.0, 1.0]) + origin, np.zeros(2))  # bottom left of the U
    for _ in range(200):
        obs, reward, terminated, _, _ = env.step(np.float32([0, 1]))  # y: along the columns
    assert obs[0] == pytest.approx(3.0, abs=0.2)
    assert obs[1] == pytest.approx(3.2, abs=0.1)  # stopped by the wall of column 4
    assert (reward, terminated) == (0, False)
    for _ in range(200):
        obs, *_ = env.step(np.float32([-1, 0]))  # x: up the rows
    assert obs[0] == pytest.approx(0.4, abs=0.1)
    for distance, expected in ((0.45, 1.0), (0.55, 0.0)):
        ball.set_state(np.array([1.0, 1.0 + distance]) + origin, np.zeros(2))
        _, reward, terminated, _, info = env.step(np.zeros(2, np.float32))
        assert (reward, terminated, info["success"]) == (expected, False, bool(expected))
    dense = make_env("maze2d-umaze-dense-v1")
    dense.reset(seed=0)
    obs, reward, *_ = dense.step(np.zeros(2, np.float32))
    assert reward == pytest.approx(np.exp(-np.linalg.norm(obs[:2] - 1)))


def test_kitchen_observation_is_d4rl_s():
    env = make_env("kitchen-mixed-v0")
    obs, _ = env.reset(seed=0)
    data = env.unwrapped.data
    np.testing.assert_allclose(obs[:9], data.qpos[:9], atol=0.02)  # noise 0.1 * 0.1
    np.testing.assert_allclose(obs[9:30], data.qpos[9:], atol=0.01)
    goal = np.zeros(30)
    goal[[11, 12, 17, 18, 22]] = (-0.88, -0.01, -0.69, -0.05, -0.75)
    goal[23:] = (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)
    np.testing.assert_array_equal(obs[30:], goal)
    flatten = flatten_obs("kitchen-mixed-v0")
    rows = flatten({"observation": np.tile(np.arange(59.0), (4, 1))})
    np.testing.assert_array_equal(rows, np.tile([*range(9), *range(18, 39), *goal], (4, 1)))
    assert flatten_obs("hopper-medium-v2") is None
    for wrong in ({}, {"observation": np.zeros((7, 70))}, {"observation": np.float64(1)}):
        with pytest.raises(UserError, match=r"expected kitchen's observations \[steps, 59\]"):
            flatten(wrong)


def kitchen_episode(task, finished, reward):
    """An episode of `task` in which each of `finished` maps a step to the part that it finishes."""
    parts = {"microwave": slice(22, 23), "kettle": slice(23, 30), "light switch": slice(17, 19)}
    obs, _ = make_env(task).reset(seed=0)
    states = np.tile(obs, (len(reward) + 1, 1)).astype(np.float32)
    for step, part in finished.items():
        states[step + 1 :, parts[part]] = states[0, 30:][parts[part]]
    return Episode({"state": states}, np.zeros((len(reward), 9), np.float32), np.float32(reward), False)


@pytest.mark.parametrize("task", ["kitchen-complete-v0", "kitchen-mixed-v0"])
def test_kitchen_s_recorded_rewards_become_the_task_s(task):
    finished = {1: "kettle", 4: "microwave", 5: "light switch"}
    recorded = kitchen_episode(task, finished, [0, 1, 1, 1, 2, 3, 3])
    (made,) = task_rewards(task, [recorded])
    assert made.reward.tolist() == [0, 1, 0, 0, 1, 1, 0]
    assert made.obs is recorded.obs
    # A part that is finished from the start pays nothing, nor one that is finished again.
    again = kitchen_episode(task, {-1: "kettle", 3: "microwave"}, [1] * 7)
    again.obs["state"][5, 22] = 0
    (made,) = task_rewards(task, [again])
    assert made.reward.tolist() == [0, 0, 0, 1, 0, 0, 0]
    paid_once = [kitchen_episode(task, finished, [0, 1, 0, 0, 1, 1, 0])] * 9
    assert task_rewards(task, paid_once) is paid_once
    others = [recorded]
    assert task_rewards("hopper-medium-v2", others) is others


def test_kitchen_pays_a_part_once():
    """As gymnasium-robotics does by default: what `task_rewards` makes of recorded rewards."""
    env = make_env("kitchen-complete-v0")
    env.reset(seed=0)
    model = env.unwrapped.model
    microwave = model.joint("microwave").qposadr[0]
    rewards = []
    for _ in range(5):
        env.unwrapped.data.qpos[microwave] = -0.75
        obs, reward, terminated, _, _ = env.step(np.zeros(9, np.float32))
        rewards.append(reward)
        assert abs(obs[22] + 0.75) < 0.3
        assert not terminated
    assert rewards == [1, 0, 0, 0, 0]


def test_pen_ends_when_it_is_dropped():
    env = make_env("pen-human-v1")
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(100):
        obs, _, terminated, truncated, _ = env.step(rng.uniform(-1, 1, 24).astype(np.float32))
        assert terminated == (obs[26] < 0.075)
        if terminated or truncated:
            break
    assert terminated


@pytest.mark.parametrize(
    ("name", "episodes", "tolerance"), [("door-human-v1", 3, 2), ("hammer-human-v1", 4, 15)]
)
def test_random_policies_score_what_d4rl_says(name, episodes, tolerance):
    # Per-episode deviations are 0.7 and 6; with gymnasium-robotics' own reward, door would get -45.
    env = make_env(name)
    env.action_space.seed(0)
    env.reset(seed=0)
    total = 0.0
    for _ in range(episodes):
        env.reset()
        done = False
        while not done:
            _, reward, terminated, done, _ = env.step(env.action_space.sample())
            assert not terminated
            total += reward
    assert total / episodes == pytest.approx(find(name).min_score, abs=tolerance)


def test_human_door_demonstrations_replayed_give_the_recorded_returns():
    records = load_pickle(real_file("adroit/door-v0_demos.pickle"))
    env = make_env("door-human-v1")
    recorded, replayed, second = [], [], []
    for record in records[::3]:
        env.reset(seed=0)
        env.unwrapped.set_env_state({k: np.array(v) for k, v in record["init_state_dict"].items()})
        rewards = [env.step(action)[1] for action in record["actions"]]  # on past the time limit
        recorded.append(record["rewards"].sum())
        replayed.append(sum(rewards))
        second.append(rewards[1] / record["rewards"][1])
    # Contacts make single replays diverge; most do not.
    assert np.mean(replayed) == pytest.approx(np.mean(recorded), rel=0.03)
    assert np.median(np.abs(np.array(replayed) / recorded - 1)) < 0.02
    np.testing.assert_allclose(second, 1, atol=0.02)  # before anything moved much: the reward itself


# --- finding and downloading datasets ----------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RLZOO_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    return tmp_path / "cache"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content` at /good, and less of it, later, or something else at the other paths."""

    def do_GET(self):
        data = self.server.content
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/redirected":
            self.send_response(302)
            self.send_header("Location", "http://[bad")
            self.end_headers()
            return
        self.send_response(200)
        if self.path == "/odd":
            self.send_header("Content-Length", "²")
        elif self.path != "/unsized":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.path == "/broken":
            self.wfile.write(data[: len(data) // 2])
        elif self.path == "/stalled":
            self.wfile.write(data[:100])
            self.wfile.flush()
            time.sleep(3)
        elif self.path == "/html":
            self.wfile.write(b"x" * len(data))
        else:
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    rows = counting_rows(5, state_dim=11, action_dim=3)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content = write_rows(tmp_path / "source.hdf5", rows).read_bytes()
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def use_address(monkeypatch, address: str) -> None:
    """Let hopper-medium-v2's dataset lie at `address`."""
    task = find("hopper-medium-v2")
    monkeypatch.setitem(TASKS, task.name, type(task)(**{**vars(task), "url": address}))


def address(server, path: str) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{path}"


@pytest.mark.parametrize("path", ["good", "unsized", "odd"])
def test_download_into_the_cache_and_reading_from_it(cache, server, monkeypatch, path):
    use_address(monkeypatch, address(server, path))
    found = find_dataset("hopper-medium-v2")
    assert found == cache / path
    assert [p.name for p in cache.iterdir()] == [path]
    assert len(load_episodes(found, state_dim=11, action_dim=3)) == 1
    server.content = b""
    assert find_dataset("hopper-medium-v2") == found  # no second download


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("broken", "broke off after"),
        ("missing", "404"),
        ("html", "not HDF5"),
        ("stalled", "timed out"),
        ("redirected", "download failed"),
    ],
)
def test_failed_downloads_leave_nothing_and_name_every_way(cache, server, monkeypatch, path, reason):
    use_address(monkeypatch, address(server, path))
    monkeypatch.setattr("envs.d4rl.data.download", lambda *a, **k: download(*a, **k, timeout=0.5))
    with pytest.raises(UserError) as caught:
        find_dataset("hopper-medium-v2")
    message = str(caught.value)
    assert reason in message
    folders = (str(cache), os.environ["D4RL_DATASET_DIR"])
    for way in ("--dataset FILE", *folders, path, "mujoco/hopper/medium-v0", "make_dataset.py"):
        assert way in message
    assert "\n" not in message
    assert not cache.exists() or list(cache.iterdir()) == []


def test_no_server(cache, monkeypatch):
    use_address(monkeypatch, "http://127.0.0.1:9/file.hdf5")
    with pytest.raises(UserError, match="download failed"):
        find_dataset("hopper-medium-v2")
    assert not cache.exists()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_download_leaves_nothing(cache, server, interrupt):
    def check(path):
        assert path.exists()
        raise interrupt

    with pytest.raises(interrupt):
        download(address(server, "good"), cache / "file.hdf5", check=check)
    assert list(cache.iterdir()) == []


def test_files_are_found_in_the_order_given_cache_d4rl_s_folder(cache, tmp_path):
    assert find_dataset("hopper-medium-v2", "somewhere") == "somewhere"
    name = Path(find("hopper-medium-v2").url).name
    theirs = tmp_path / "d4rl" / name
    theirs.parent.mkdir()
    theirs.touch()
    assert find_dataset("hopper-medium-v2") == theirs
    cache.mkdir()
    (cache / name).touch()
    assert find_dataset("hopper-medium-v2") == cache / name


def test_cache_folder(monkeypatch):
    monkeypatch.delenv("RLZOO_DATA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path.home() / ".cache" / "rlzoo"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/rlzoo")
    monkeypatch.setenv("RLZOO_DATA_CACHE", "~/data")
    assert cache_dir() == Path.home() / "data"
