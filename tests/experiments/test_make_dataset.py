"""Datasets of D4RL's kinds, from runs of a few hundred steps."""

import shutil
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest

from envs.gym import make as gym_tasks
from experiments import make_dataset, quickstart
from experiments.runner.launch import main
from experiments.train_mujoco import MujocoSuite
from rlzoo.data.load import load_episodes
from rlzoo.errors import UserError
from rlzoo.policy import load_policy
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.types import Spaces, Step

TASK = "InvertedPendulum-v5"  # actions in [-3, 3], episodes that terminate within a few steps
FLAGS = ["--task", TASK, "--num-envs", "4", "--utd", "0.25", "--batch-size", "16", "--warmup-steps", "40"]
FLAGS += ["--eval-every", "100", "--eval-episodes", "2", "--buffer-capacity", "4000", "--threads", "1"]
FLAGS += ["--agent.hidden", "16", "16", "--device", "cpu"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped by its first evaluation, long before --steps."""
    folder = tmp_path_factory.mktemp("runs")
    flags = [*FLAGS, "--steps", "100000", "--stop-at-return", "1", "--runs-dir", str(folder)]
    assert main(MujocoSuite, ["sac", *flags]) == 0
    (info,) = folder.rglob("run.json")
    return info.parent


def make(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr("sys.argv", ["make_dataset.py", *flags])
    assert make_dataset.main() == 0


def load(path: Path):  # type: ignore[no-untyped-def]
    return load_episodes(path, state_dim=4, action_dim=1, action_range=gym_tasks.action_range(TASK))


def test_stop_at_return_ends_a_run_at_the_evaluation_that_reached_it(run_dir: Path) -> None:
    trainer = load_checkpoint(run_dir / "checkpoints" / "latest.pt")["trainer"]
    steps = trainer["counters"]["env_steps"]
    assert 100 <= steps < 104  # 4 at a time, fewer where an episode begins
    assert [row["step"] for row in trainer["evaluations"]] == [steps]


def test_random_data_are_uniform_over_the_tasks_own_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "random.hdf5"
    make(monkeypatch, "random", "--task", TASK, "--steps", "2000", "--output", str(path))
    with h5py.File(path) as file:
        actions = file["actions"][:]
        assert file["metadata/kind"][()] == b"random"
    assert actions.min() < -2.9
    assert actions.max() > 2.9
    assert abs(actions.mean()) < 0.3
    episodes = load(path)
    assert sum(map(len, episodes)) >= 2000
    assert all(episode.terminated and np.abs(episode.action).max() <= 1 for episode in episodes)


def test_random_and_merged_data_of_a_task_with_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--task", "Swimmer-v5", "--env", "max_episode_steps=7"]
    flags += ["--env", "exclude_current_positions_from_observation=false"]
    one, two = tmp_path / "one.hdf5", tmp_path / "two.hdf5"
    make(monkeypatch, "random", *flags, "--steps", "20", "--num-envs", "1", "--output", str(one))
    make(monkeypatch, "merged", *flags, "--datasets", str(one), str(one), "--output", str(two))
    with h5py.File(two) as file:
        assert file["observations"].shape == (42, 10)  # 8 without the position
        assert np.flatnonzero(file["timeouts"]).tolist() == [6, 13, 20, 27, 34, 41]
    for kind in (["merged", "--datasets", "one"], ["random"], ["expert", "--expert", "RUN"]):
        with pytest.raises(UserError, match="--env is for random or merged data of a Gymnasium task"):
            make(monkeypatch, *kind, "--task", "hopper-medium-v2", "--env", "a=1", "--output", "none.hdf5")


def test_a_recorded_episode_is_what_the_simulator_does(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "expert.hdf5"
    flags = ("--expert", str(run_dir), "--steps", "200", "--num-envs", "1", "--seed", "3")
    make(monkeypatch, "expert", *flags, "--output", str(path))
    task = gym_tasks.make(TASK, 1)
    obs = task.reset(3)
    for episode in load(path)[:3]:
        np.testing.assert_array_equal(episode.obs["state"][0], obs["state"][0])
        for index, action in enumerate(episode.action):
            task.send(action[None])
            step = task.receive()
            # Stored in the task's bounds and mapped back, an action may differ in its last bits.
            np.testing.assert_allclose(episode.obs["state"][index + 1], step.obs["state"][0], atol=1e-3)
            assert episode.reward[index] == step.reward[0]
        assert step.terminated[0] == episode.terminated
        task.send(action[None])
        obs = task.receive().obs
    task.close()


class Scripted:
    """Two lanes; lane 0 is solved in its second step only, lane 1 never. What a reset says does not count."""

    num_envs, spaces = 2, Spaces(1, 1)
    success = ([0, 0], [1, 0], [0, 1], [1, 0], [0, 0], [0, 0], [0, 0])

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        self.index = 0
        return {"state": np.zeros((2, 1), np.float32)}

    def send(self, action: np.ndarray) -> None:
        self.index += 1

    def receive(self) -> Step:
        ends = np.array([self.index % 4 == 3, self.index % 3 == 2])
        row = self.success[self.index - 1]
        zeros = np.zeros(2, np.float32)
        state = {"state": np.full((2, 1), self.index, np.float32)}
        return Step(state, zeros, zeros > 0, ends, np.array(row, np.float32))


class ScriptedQuiet(Scripted):
    """Says nothing but that it was solved: lane 1 in its second episode, lane 0 never."""

    nan = float("nan")
    success = ([nan, nan], [nan, nan], [nan, nan], [nan, 1], [nan, nan], [nan, nan], [nan, nan])


@pytest.mark.parametrize("told", [True, False])
def test_episodes_of_which_nothing_was_said_have_failed_where_one_has_not(told: bool) -> None:
    task = ScriptedQuiet()
    if not told:
        task.success = ([float("nan")] * 2,) * 7
    act = lambda obs: np.zeros((2, 1), np.float32)  # noqa: E731
    episodes = make_dataset.roll_out(task, act, steps=8, seed=0)  # type: ignore[arg-type]
    assert [episode.success for episode in episodes] == ([False, False, True, False] if told else [None] * 4)


def test_an_episode_once_solved_is_a_success_and_the_next_is_not() -> None:
    episodes = make_dataset.roll_out(
        Scripted(),  # type: ignore[arg-type]
        lambda obs: np.zeros((2, 1), np.float32),
        steps=8,
        seed=0,
    )
    assert [(len(episode), episode.success) for episode in episodes] == [
        (2, False), (3, True), (2, False), (3, False)
    ]  # fmt: skip


def test_an_export_records_what_its_run_does(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_policy(run_dir).save(tmp_path / "medium")
    load_policy(run_dir, checkpoint="best").save(tmp_path / "expert")
    for name, medium, expert in (
        ("run", run_dir, run_dir),
        ("export", tmp_path / "medium", tmp_path / "expert"),
    ):
        flags = ("--medium", str(medium), "--expert", str(expert), "--steps", "60")
        make(monkeypatch, "medium-expert", *flags, "--output", str(tmp_path / f"{name}.hdf5"))
    with h5py.File(tmp_path / "run.hdf5") as run, h5py.File(tmp_path / "export.hdf5") as export:
        assert len(run["actions"]) >= 60
        for key in ("observations", "actions", "rewards", "terminals"):
            np.testing.assert_array_equal(run[key], export[key])
    capsys.readouterr()
    flags = ("--medium", str(run_dir), "--steps", "60", "--output", str(tmp_path / "share.hdf5"))
    make(monkeypatch, "medium", *flags, "--expert", str(tmp_path / "expert"))
    assert "of the expert's best evaluation" in capsys.readouterr().out
    none = ("--steps", "60", "--output", "none.hdf5")
    with pytest.raises(UserError, match="medium does not say what it returned: give the folder of a run"):
        make(monkeypatch, "medium", "--medium", str(run_dir), *none, "--expert", str(tmp_path / "medium"))
    with pytest.raises(UserError, match="medium is an export, a policy alone"):
        make(monkeypatch, "medium-replay", "--medium", str(tmp_path / "medium"), *none)
    other = ("--expert", str(quickstart.DATASET.parents[1] / "policies/quickstart/arsq"))
    with pytest.raises(UserError, match=f"the runs are of different tasks: {TASK}, maze2d-medium-v1"):
        make(monkeypatch, "medium", "--medium", str(run_dir), *none, *other)


def test_the_policy_that_is_kept_makes_walkers_medium_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "medium.hdf5"
    kept = quickstart.DATASET.parent / "walker2d-medium-policy"
    make(monkeypatch, "medium", "--medium", str(kept), "--steps", "6000", "--output", str(path))
    with h5py.File(path) as file:
        ends = np.flatnonzero(file["terminals"][:] | file["timeouts"][:])
        returns = [part.sum() for part in np.split(file["rewards"][:], ends + 1)[:-1]]
        assert file["metadata/task"][()] == b"Walker2d-v4"
    # What is described: a mean of 1,742 over 85 episodes; fewer are uncertain by their spread.
    assert abs(np.mean(returns) - 1742) < 3 * np.std(returns, ddof=1) / len(returns) ** 0.5


def test_medium_replay_is_the_buffer_of_the_run(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "replay.hdf5"
    make(monkeypatch, "medium-replay", "--medium", str(run_dir), "--output", str(path))
    episodes = load(path)
    saved = load_checkpoint(run_dir / "checkpoints" / "latest.pt")["trainer"]
    recorded = {tuple(row) for row in saved["replay"]["fields"]["state"].tolist()}
    assert {tuple(row) for episode in episodes for row in episode.obs["state"].tolist()} <= recorded
    # The newest step of a lane has no successor yet, unless it ended the episode.
    steps = saved["counters"]["env_steps"]
    assert steps - 4 <= sum(map(len, episodes)) <= steps


def test_a_replay_that_has_lost_its_beginning_says_so(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["80" if flag == "4000" else flag for flag in FLAGS]
    assert main(MujocoSuite, ["sac", *flags, "--steps", "200", "--runs-dir", str(tmp_path)]) == 0
    (info,) = tmp_path.rglob("run.json")
    for run, warns in ((run_dir, False), (info.parent, True)):
        path = tmp_path / f"replay-{warns}.hdf5"
        capsys.readouterr()
        make(monkeypatch, "medium-replay", "--medium", str(run), "--output", str(path))
        assert ("warning: of the run's" in capsys.readouterr().out) == warns
    assert 0 < sum(map(len, load(path))) < 80


@pytest.mark.parametrize(
    ("task", "env_id"),
    [
        ("hopper-medium-v2", "Hopper-v4"),
        ("ant-medium-v2", None),  # D4RL's has more columns
        ("pen-human-v1", None),
        ("Hopper-v5", "Hopper-v5"),
    ],
)
def test_minari_can_make_again_what_is_gymnasiums_alone(task: str, env_id: str | None) -> None:
    assert make_dataset.suite_of(task, ()).gymnasium_id(task) == env_id


def test_medium_expert_is_half_of_each_and_written_in_both_formats(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    path = tmp_path / "both.hdf5"
    runs = ("--medium", str(run_dir), "--expert", str(run_dir), "--noise", "0.1", "--steps", "200")
    make(monkeypatch, "medium-expert", *runs, "--output", str(path), "--minari", "test/both-v0")
    ours, theirs = load(path), minari.load_dataset("test/both-v0")
    assert theirs.total_steps == sum(map(len, ours))
    assert theirs.env_spec.id == TASK
    first = theirs[0]
    np.testing.assert_array_equal(first.observations, ours[0].obs["state"])
    np.testing.assert_allclose(first.actions, 3 * ours[0].action, atol=1e-5)


def test_medium_data_say_what_share_of_the_experts_return_they_reach(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An expert without a best policy is refused before anything is recorded."""
    expert, path = tmp_path / "expert", tmp_path / "medium.hdf5"
    shutil.copytree(run_dir, expert)
    best = load_checkpoint(expert / "checkpoints" / "best.pt")
    found = best["return"]
    flags = ("--medium", str(run_dir), "--expert", str(expert), "--steps", "200", "--output", str(path))
    make(monkeypatch, "medium", *flags)
    share = np.mean([episode.episode_return for episode in load(path)]) / found
    assert (
        f"mean return: {share:.2f} of the expert's best evaluation (D4RL's medium: 0.33)"
        in capsys.readouterr().out
    )
    path.unlink()
    (expert / "checkpoints" / "best.pt").unlink()
    with pytest.raises(UserError, match=r"no checkpoint at .*best\.pt"):
        make(monkeypatch, "medium", *flags)
    assert not path.exists()


@pytest.mark.parametrize("task", [TASK, "hopper-medium-v2"])
def test_merged_is_one_file_after_another(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, both = (str(tmp_path / f"{name}.hdf5") for name in ("first", "second", "both"))
    for seed, path in (("1", first), ("2", second)):
        make(monkeypatch, "random", "--task", task, "--steps", "30", "--seed", seed, "--output", path)
    make(monkeypatch, "merged", "--task", task, "--datasets", first, second, "--output", both)
    parts = [*load_episodes(first), *load_episodes(second)]
    whole = load_episodes(both)
    assert len(whole) == len(parts)
    for ours, theirs in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(ours.obs["state"], theirs.obs["state"])
        np.testing.assert_allclose(ours.action, theirs.action, atol=1e-6)
        assert ours.terminated == theirs.terminated
    other = "hopper-medium-v2" if task == TASK else "halfcheetah-medium-v2"
    with pytest.raises(UserError, match="expected"):
        make(monkeypatch, "merged", "--task", other, "--datasets", first, "--output", f"{both}.other")


def test_an_existing_file_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_dataset, "record", lambda *_: pytest.fail("recorded"))
    path = tmp_path / "x.hdf5"
    path.write_text("precious")
    with pytest.raises(UserError, match=r"x\.hdf5 exists already: name another --output"):
        make(monkeypatch, "random", "--task", TASK, "--steps", "10", "--output", str(path))
    assert path.read_text() == "precious"


def test_nothing_is_recorded_in_vain(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_dataset, "record", lambda *_: pytest.fail("recorded"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for name in ("no-namespace", "test/no-version", "test/there-v0"):
        (tmp_path / "test/there-v0").mkdir(parents=True, exist_ok=True)
        with pytest.raises(UserError, match=name):
            make(monkeypatch, "expert", "--expert", str(run_dir), "--minari", name)
    output = ("--output", str(tmp_path / "x.hdf5"))
    with pytest.raises(UserError, match=f"--task is Hopper-v4, but the run is of {TASK}"):
        make(monkeypatch, "expert", "--expert", str(run_dir), "--task", "Hopper-v4", *output)
    assert not (tmp_path / "x.hdf5").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["expert", "--output", "x"], "expert needs --expert"),
        (["medium-expert", "--output", "x"], "needs --medium and --expert"),
        (["random", "--task", TASK], "nothing to write"),
        (
            ["random", "--task", TASK, "--output", "x", "--seed", "-1"],
            "--seed is -1, expected greater",
        ),
        (["random", "--task", TASK, "--output", "x", "--seed", str(2**63)], "--seed is 9"),
        (["merged", "--task", TASK, "--output", "x"], "merged needs --datasets"),
        (["random", "--task", TASK, "--output", "x", "--datasets", "y"], "random has no use for --datasets"),
        (["expert", "--expert", "z", "--output", "x", "--medium", "y"], "expert has no use for --medium"),
        (["medium", "--medium", "z", "--output", "x", "--expert", "y"], "z is neither a run folder"),
        (["medium-replay", "--medium", "z", "--output", "x", "--noise", "0.1"], "has no use for --noise"),
        (["expert", "--expert", "nowhere", "--output", "x"], "nowhere is neither a run folder"),
        (["random", "--task", "Hoper-v4", "--output", "x"], "Hopper-v5"),
        (["random", "--task", TASK, "--steps", "10", "--output", "."], "it is a folder"),
        (["random", "--task", TASK, "--steps", "10", "--output", "/dev/null/x.hdf5"], "cannot write"),
    ],
)
def test_bad_input_is_one_clear_line(flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=message):
        make(monkeypatch, *flags)


def test_the_planner_records_the_wandering_demonstrations_of_make_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "maze.hdf5"
    flags = ["--task", "maze2d-medium-v1", "--noise", "0.5", "--steps", "1200", "--num-envs", "2"]
    make(monkeypatch, "planner", *flags, "--output", str(path))
    with h5py.File(path) as file, h5py.File(quickstart.DATASET) as kept:
        assert file["metadata/kind"][()] == kept["metadata/kind"][()] == b"planner"
        assert len(file["observations"]) in (1200, 1800)  # whole episodes of 600 steps
        assert kept["observations"].shape == (24_000, 4)
        for data in (file, kept):  # no less than half of the actions are as strong as can be
            assert 0.5 < np.mean(np.abs(data["actions"][:]) > 0.999) < 0.9
