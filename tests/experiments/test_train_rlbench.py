"""experiments/train_rlbench.py as its users run it, on the stand-in, for a few dozen steps."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from algos import AGENTS
from envs.gym import rendering
from envs.gym.rendering import rendering_backend
from envs.panda import demonstrations as panda_demos
from envs.rlbench import simulator as rlbench_simulator
from envs.rlbench.protocol import action_range, to_episodes
from envs.rlbench.write import write_rlbench
from experiments.runner.experiment import complete, default_experiment
from experiments.runner.launch import main
from experiments.train_rlbench import RLBenchSuite
from rlzoo.errors import UserError
from rlzoo.policy import load_policy
from rlzoo.run.checkpoint import load_checkpoint

SHORT = [
    "--demos",
    "3",
    "--batch-size",
    "8",
    "--eval-episodes",
    "2",
    "--eval-every",
    "20",
    "--log-every",
    "10",
]
SHORT += [
    "--steps",
    "30",
    "--agent.hidden",
    "16",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--simulator",
    "mujoco",
]
PIXELS = ["--cameras", "front", "wrist", "--image-size", "24", "--frame-stack", "2"]
PIXELS += ["--agent.encoder-channels", "4", "8", "--buffer-capacity", "300", "--join-capacity", "100"]


def train(agent: str, runs_dir: Path, *flags: str) -> Path:
    before = set(runs_dir.rglob("run.json"))
    assert main(RLBenchSuite, [agent, *SHORT, "--runs-dir", str(runs_dir), *flags]) == 0
    (new,) = set(runs_dir.rglob("run.json")) - before
    return new.parent


def metrics(run_dir: Path) -> list[tuple[str, str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        found = [(row["step"], row["tag"], row["value"]) for row in csv.DictReader(file)]
    return [row for row in found if not row[1].startswith("time/")]


def needs_rendering() -> None:
    try:
        rendering_backend()
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_every_agent_learns_from_the_tasks_state(agent: str, tmp_path: Path) -> None:
    run_dir = train(agent, tmp_path, "--observations", "state", "--task", "push_button")
    assert run_dir.parent == tmp_path / "rlbench-mujoco-state" / "push_button" / agent
    tags = {tag for _, tag, _ in metrics(run_dir)}
    assert {"eval/success", "eval/episode_length", "eval/return"} <= tags
    options = yaml.safe_load((run_dir / "config.yaml").read_text())["options"]
    assert (options["simulator"], options["observations"], options["demos"]) == ("mujoco", "state", 3)


def test_the_simulator_that_was_chosen_stands_beside_what_was_asked_for(tmp_path: Path) -> None:
    if rlbench_simulator.is_installed():
        pytest.skip("RLBench is installed here")
    run_dir = train("bc", tmp_path, "--observations", "state", "--simulator", "auto", "--steps", "1")
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["options"]["simulator"] == "auto"
    assert config["resolved"]["options.simulator"] == "mujoco"


@pytest.mark.parametrize("agent", ["arsq", "cqn", "bc", "dsac-t"])
def test_agents_learn_from_images(agent: str, tmp_path: Path) -> None:
    needs_rendering()
    run_dir = train(agent, tmp_path, *PIXELS)
    saved = load_checkpoint(run_dir / "checkpoints" / "latest.pt")["trainer"]
    assert saved["replay"]["fields"]["pixels"].shape[1:] == (2, 3, 24, 24)


@pytest.mark.parametrize("observations", ["state", "pixels"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    observations: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of an episode; no demonstrations are made again."""
    flags = ["--observations", observations]
    if observations == "pixels":
        needs_rendering()
        flags += PIXELS
    whole = train("arsq", tmp_path / "whole", *flags, "--steps", "34")
    half = train("arsq", tmp_path / "half", *flags, "--steps", "17")
    monkeypatch.delattr(panda_demos, "collect")
    assert main(RLBenchSuite, ["--resume", str(half), "--steps", "34"]) == 0
    assert metrics(half) == metrics(whole)
    states = [load_checkpoint(run / "checkpoints" / "latest.pt")["trainer"]["agent"] for run in (half, whole)]
    for name, value in states[1].items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(states[0][name], value, rtol=0, atol=0)


def test_demonstrations_of_another_scene_are_refused(tmp_path: Path) -> None:
    demonstrations = panda_demos.collect("push_button", 3, seed=1, images=None)
    write_rlbench(tmp_path / "data", "reach_target", demonstrations)  # K is 4 there, 3 here
    flags = ["--dataset", str(tmp_path / "data"), "--observations", "state"]
    with pytest.raises(UserError, match="observations of 12 numbers, but reach_target in mujoco has 11"):
        train("bc", tmp_path, *flags)


def test_rescaling_actions_once_more_is_refused() -> None:
    with pytest.raises(UserError, match="in the demonstrations' range already"):
        main(RLBenchSuite, ["bc", "--observations", "state", "--rescale-actions"])


def test_demonstrations_of_rlbenchs_robot_are_refused_by_the_stand_in(tmp_path: Path) -> None:
    recorded = panda_demos.collect("reach_target", 3, seed=1, images=None)
    assert all(demo.joint_targets is not None for demo in recorded)
    moved = [
        dataclasses.replace(
            demo, joint_positions=demo.joint_positions + 0.3, joint_targets=demo.joint_targets + 0.3
        )
        for demo in recorded
    ]
    write_rlbench(tmp_path / "data", "reach_target", moved)
    flags = ["--dataset", str(tmp_path / "data"), "--observations", "state"]
    with pytest.raises(UserError, match="are for --simulator rlbench"):
        train("bc", tmp_path, *flags)


def test_the_stand_in_takes_rlbenchs_place_only_where_the_package_is_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = lambda *, pixels=True: ["a display"] if pixels else []  # noqa: E731
    monkeypatch.setattr(rlbench_simulator, "missing", missing)
    monkeypatch.setattr(rlbench_simulator, "is_installed", lambda: True)

    def chosen(simulator: str, observations: str) -> str:
        suite = RLBenchSuite(["--observations", observations])
        suite.options = dataclasses.replace(suite.options, simulator=simulator)
        asked = dataclasses.replace(default_experiment(suite, "bc", "reach_target"), device="cpu")
        return complete(suite, asked).options.simulator

    assert chosen("auto", "state") == "rlbench"  # states need no display
    with pytest.raises(UserError, match=r"^RLBench cannot run here, it lacks a display.*--simulator mujoco"):
        chosen("auto", "pixels")
    assert chosen("mujoco", "state") == "mujoco"
    monkeypatch.setattr(rlbench_simulator, "is_installed", lambda: False)
    assert chosen("auto", "state") == "mujoco"


def test_what_draws_the_images_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs_rendering()
    train("bc", tmp_path / "images", *PIXELS, "--steps", "1")
    assert "images are drawn with " in capsys.readouterr().out
    train("bc", tmp_path / "state", "--observations", "state", "--steps", "1")
    assert "drawn" not in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--observations", "state", "--video"]])
def test_without_opengl_no_demonstration_is_recorded(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "_works", lambda name: False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delattr(panda_demos, "collect")
    with pytest.raises(UserError, match="neither EGL nor OSMesa can draw frames here"):
        train("bc", tmp_path, *flags)


def test_runs_with_images_are_filmed_unless_told_otherwise(tmp_path: Path) -> None:
    needs_rendering()
    assert (train("bc", tmp_path, *PIXELS) / "videos" / "step-20.mp4").stat().st_size > 0
    for name, flags in (("off", [*PIXELS, "--no-video"]), ("state", ["--observations", "state"])):
        run_dir = train("bc", tmp_path / name, *flags)
        assert not list(run_dir.glob("videos/*.mp4"))


def test_states_are_divided_by_no_less_than_their_physical_units(tmp_path: Path) -> None:
    run_dir = train("bc", tmp_path, "--observations", "state", "--task", "push_button", "--steps", "1")
    scaling = load_checkpoint(run_dir / "checkpoints" / "latest.pt")["scaling"]
    assert scaling["std"][:8].tolist() == [1.0] * 8  # rad; their deviation is about 0.2
    assert bool((scaling["std"][8:] >= 0.1).all())  # m
    assert scaling["std"][11] == pytest.approx(0.1)  # the button moves by some mm
    assert abs(scaling["mean"][3]) > 1  # the mean is the demonstrations'


def test_demonstrations_come_from_a_folder_in_rlbenchs_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLZOO_DATA_CACHE", str(tmp_path / "cache"))
    recorded = panda_demos.collect("reach_target", 4, seed=1, images=None)
    write_rlbench(tmp_path / "data", "reach_target", recorded)
    write_rlbench(tmp_path / "data", "reach_target", recorded, variation=1)  # which the protocol leaves out
    run_dir = train("bc", tmp_path, "--observations", "state", "--dataset", str(tmp_path / "data"))
    assert load_checkpoint(run_dir / "checkpoints" / "latest.pt")["trainer"]["demos"] is not None
    with pytest.raises(UserError, match="5 demonstrations asked for, found 4"):
        train("bc", tmp_path, "--observations", "state", "--dataset", str(tmp_path / "data"), "--demos", "5")
    with pytest.raises(UserError, match="front"):  # no images were recorded
        train("bc", tmp_path, "--dataset", str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "reach_targte"], "reach_target"),
        (["--demos", "0"], "--demos is 0"),
        (["--cameras", "frnt"], "frnt"),
        (["--cameras"], "--cameras"),
        (["--frame-stack", "0"], "--frame-stack"),
        (["--dataset", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_clear_line(flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        main(RLBenchSuite, ["arsq", *SHORT, "--runs-dir", str(tmp_path), *flags])
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("run.json"))


def test_rlbench_where_it_is_not_installed_names_what_is_missing(tmp_path: Path) -> None:
    if not rlbench_simulator.missing():
        pytest.skip("RLBench is installed here")
    with pytest.raises(UserError, match=r"(?s)PyRep.*CoppeliaSim|CoppeliaSim.*PyRep"):
        main(RLBenchSuite, ["arsq", *SHORT, "--runs-dir", str(tmp_path), "--simulator", "rlbench"])


@pytest.mark.learning
def test_behavioural_cloning_learns_when_to_close_the_gripper(tmp_path: Path) -> None:
    """By the likelihood a larger standard deviation explains that one step in thirty-two."""
    flags = ["--task", "open_drawer", "--observations", "state", "--offline", "--seed", "101"]
    flags += ["--demos", "20", "--steps", "3000", "--batch-size", "128", "--agent.hidden", "256", "256"]
    flags += ["--eval-every", "3000", "--eval-episodes", "10"]
    shown = panda_demos.collect("open_drawer", 20, seed=101, images=None)  # what both are trained on

    def closed(run_dir: Path) -> int:
        """In how many of the demonstrations it closes the gripper where they do."""
        policy, right = load_policy(run_dir), 0
        for episode in to_episodes(shown, action_range(shown), pixels=False):
            (at,) = np.flatnonzero((episode.action[:, 7] < 0) & (episode.obs["state"][:-1, 7] > 0.5))
            right += int(policy.act({"state": episode.obs["state"][at]})[7] < 0.5)
        return right

    def success(run_dir: Path) -> float:
        return [float(value) for _, tag, value in metrics(run_dir) if tag == "eval/success"][-1]

    by_error = train("bc", tmp_path, *flags)
    assert success(by_error) >= 0.8
    assert closed(by_error) >= 12
    by_likelihood = train("bc", tmp_path, *flags, "--agent.loss", "likelihood")
    assert success(by_likelihood) <= 0.2
    assert closed(by_likelihood) <= 4
