"""What goes around a run: arguments of its environment, its name, tags and notes, Weights & Biases."""

from __future__ import annotations

import csv
import json
import math
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments import evaluate, make_dataset
from experiments.compare import find_runs, group
from experiments.runner.experiment import default_experiment
from experiments.runner.launch import main, size_hint
from experiments.runner.suite import Suite
from experiments.train_d4rl import D4RLSuite
from experiments.train_mujoco import GymOptions, MujocoSuite
from experiments.train_sb3 import SB3Suite
from rlzoo.data.load import load_episodes
from rlzoo.errors import UserError
from rlzoo.run import track

SHORT = ["--task", "Reacher-v5", "--steps", "120", "--num-envs", "2", "--batch-size", "8", "--threads", "1"]
SHORT += ["--eval-every", "60", "--eval-episodes", "2", "--log-every", "20", "--agent.hidden", "8"]
SHORT += ["--device", "cpu", "--warmup-steps", "20", "--buffer-capacity", "500"]


def train(runs_dir: Path, *flags: str, agent: str = "sac", suite: type[Suite] = MujocoSuite) -> Path:
    before = set(runs_dir.rglob("run.json"))
    assert main(suite, [agent, *SHORT, "--runs-dir", str(runs_dir), *flags]) == 0
    (info,) = set(runs_dir.rglob("run.json")) - before
    return info.parent


def values(run_dir: Path, tag: str) -> list[float]:
    with (run_dir / "metrics.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["tag"] == tag]


class TwoSizes(MujocoSuite):
    def preset(self, name: str, agent: str, task: str) -> dict[str, Any]:
        return {"steps": 40 if name == "small" else 60, "warmup_steps": 20, "buffer_capacity": 500}


class TestSizesForACPU:
    def test_they_are_named_where_the_published_ones_are_trained(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def says(*flags: str) -> bool:
            assert main(TwoSizes, [*flags]) == 0
            said = capsys.readouterr().out
            assert "training on cpu" in said
            return "training on cpu (--preset small has sizes for one)" in said

        begin = ["sac", "--task", "Reacher-v5", "--batch-size", "8", "--agent.hidden", "8", "--device", "cpu"]
        begin += ["--eval-episodes", "1", "--threads", "1", "--runs-dir", str(tmp_path)]
        assert says(*begin)
        (info,) = tmp_path.rglob("run.json")
        assert not says(*begin, "--preset", "small")
        assert not says(*begin, "--steps", "50")  # a size of one's own, as in `make train`
        assert not says("sac", "--config", str(info.parent), "--runs-dir", str(tmp_path))  # takes no preset
        assert not says("--resume", str(info.parent), "--steps", "80")

    def test_not_of_an_agent_that_has_but_one_size(self) -> None:
        suite = D4RLSuite()
        hints = {
            name: size_hint(suite, name, default_experiment(suite, name, "pen-human-v1"))
            for name in ("arsq", "bc")
        }
        assert [bool(hint) for hint in hints.values()] == [True, False]


class TestArgumentsOfTheEnvironment:
    def test_values_are_read_as_yaml_or_as_a_tuple(self) -> None:
        given = ("a=1", "b=1e-3", "c=true", "d=[0.2, 1.0]", "xml_file=ant.xml", "e=x=y", "f=-0.5", "g=")
        given += ("h=[1e-3, {x: -2.5E+4}]", "i=1e-3m", "j=nan", "task=x", "render=false", "arguments=1")
        given += ("k=(0.7, 2.0)", 'l=(-1e-3, float("inf"))', "m=(float('-inf'), (1, None))")
        assert GymOptions(given).arguments() == {
            "a": 1,
            "b": 0.001,
            "c": True,
            "d": [0.2, 1.0],
            "xml_file": "ant.xml",
            "e": "x=y",
            "f": -0.5,
            "g": None,
            "h": [0.001, {"x": -25000.0}],
            "i": "1e-3m",
            "j": "nan",
            "task": "x",
            "render": False,
            "arguments": 1,
            "k": (0.7, 2.0),
            "l": (-0.001, math.inf),
            "m": (-math.inf, (1, None)),
        }

    def test_a_tuple_reaches_the_environment(self, tmp_path: Path) -> None:
        flags = ["--task", "Hopper-v5", "--env", 'healthy_z_range=(1.2, float("inf"))']
        run_dir = train(tmp_path, *flags, "--env", "max_episode_steps=30")
        assert max(values(run_dir, "eval/episode_length")) < 30  # it falls below 1.2 m soon

    @pytest.mark.parametrize(
        "wrong",
        [
            "frame_skip",
            "=4",
            "frame skip=4",
            "d=[0.2",
            "d=(0.7, inf)",
            "d=(0.7",
            "d=2024-13-45",
            "d=" + "[" * 3000,
        ],
    )
    def test_what_is_none_is_refused(self, wrong: str) -> None:
        with pytest.raises(UserError, match="--env"):
            GymOptions((wrong,))

    @pytest.mark.parametrize(("suite", "agent"), [(MujocoSuite, "sac"), (SB3Suite, "sb3-sac")])
    def test_they_reach_training_and_evaluation_and_are_written_down(
        self, suite: type[Suite], agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        env = ["--env", "max_episode_steps=30", "--env", "reward_control_weight=0.5"]
        run_dir = train(tmp_path, *env, agent=agent, suite=suite)
        config = yaml.safe_load((run_dir / "config.yaml").read_text())
        assert config["options"]["env"] == ["max_episode_steps=30", "reward_control_weight=0.5"]
        assert set(values(run_dir, "train/episode_length")) == {30.0}
        assert set(values(run_dir, "eval/episode_length")) == {30.0}
        output = tmp_path / "returns.csv"
        monkeypatch.setattr(
            "sys.argv", ["evaluate.py", str(run_dir), "--episodes", "2", "--output", str(output)]
        )
        assert evaluate.main() == 0
        assert [row["steps"] for row in csv.DictReader(output.open())] == ["30", "30"]

    def test_they_change_what_is_rewarded(self, tmp_path: Path) -> None:
        plain, changed = (
            train(tmp_path / name, *flags)
            for name, flags in (("a", ()), ("b", ("--env", "reward_dist_weight=9")))
        )
        assert values(changed, "eval/return")[0] < values(plain, "eval/return")[0]
        (groups, lines) = group(find_runs([tmp_path]))
        assert len(groups["Reacher-v5"]) == 2
        assert any("options.env" in line for line in lines)

    def test_a_resumed_run_keeps_them(self, tmp_path: Path) -> None:
        run_dir = train(tmp_path, "--env", "max_episode_steps=30")
        assert main(MujocoSuite, ["--resume", str(run_dir), "--steps", "240"]) == 0
        assert set(values(run_dir, "train/episode_length")) == {30.0}
        with pytest.raises(UserError, match="--env cannot change"):
            main(MujocoSuite, ["--resume", str(run_dir), "--steps", "300", "--env", "max_episode_steps=40"])

    def test_recorded_data_are_of_the_runs_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_dir = train(tmp_path, "--env", "max_episode_steps=30")
        flags = ["medium", "--medium", str(run_dir), "--steps", "60", "--output", str(tmp_path / "x.hdf5")]
        monkeypatch.setattr("sys.argv", ["make_dataset.py", *flags, "--num-envs", "2"])
        assert make_dataset.main() == 0
        episodes = load_episodes(str(tmp_path / "x.hdf5"), state_dim=10, action_dim=2)
        assert {len(episode) for episode in episodes} == {30}

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--env", "frame_skp=4"], "Reacher-v5 cannot be made with frame_skp=4: .*frame_skp"),
            (["--env", "frame_skip=often"], "Reacher-v5 cannot be made with frame_skip='often'"),
        ],
    )
    def test_what_the_environment_does_not_take_is_one_line(
        self, flags: list[str], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError, match=message):
            train(tmp_path, *flags)


class TestNameTagsAndNotes:
    def test_they_are_in_the_run_and_on_tensorboards_text_page(self, tmp_path: Path) -> None:
        about = ["--name", "low gamma/2", "--tags", "ablation", "gamma", "--notes", "Does it *matter*?"]
        run_dir = train(tmp_path, *about)
        assert run_dir.name.startswith("s1-")
        assert run_dir.name.endswith("-low-gamma-2")
        info = json.loads((run_dir / "run.json").read_text())
        assert (info["name"], info["tags"]) == ("low gamma/2", ["ablation", "gamma"])
        assert info["notes"] == "Does it *matter*?"
        (event,) = EventAccumulator(str(run_dir)).Reload().Tensors("run/text_summary")
        (text,) = event.tensor_proto.string_val
        assert text.decode() == (
            "**name**: low gamma/2\n\n**tags**: ablation, gamma\n\n**notes**: Does it *matter*?"
        )

    def test_without_any_nothing_is_said(self, tmp_path: Path) -> None:
        run_dir = train(tmp_path)
        assert not {"name", "tags", "notes"} & set(json.loads((run_dir / "run.json").read_text()))
        assert EventAccumulator(str(run_dir)).Reload().Tags()["tensors"] == []

    def test_notes_may_come_later_and_the_name_may_not(self, tmp_path: Path) -> None:
        run_dir = train(tmp_path, "--name", "first", "--tags", "a")
        assert main(MujocoSuite, ["--resume", str(run_dir), "--steps", "140", "--notes", "It worked."]) == 0
        info = json.loads((run_dir / "run.json").read_text())
        assert (info["name"], info["tags"], info["notes"]) == ("first", ["a"], "It worked.")
        with pytest.raises(UserError, match="--name cannot change"):
            main(MujocoSuite, ["--resume", str(run_dir), "--name", "second"])

    def test_they_make_no_other_experiment(self, tmp_path: Path) -> None:
        train(tmp_path, "--name", "one", "--notes", "x")
        train(tmp_path, "--seed", "2", "--tags", "b")
        (groups, lines) = group(find_runs([tmp_path]))
        assert [len(one.runs) for one in groups["Reacher-v5"]] == [2]
        assert lines == []

    def test_runs_from_before_there_were_any_go_on(self, tmp_path: Path) -> None:
        run_dir = train(tmp_path)
        path = run_dir / "config.yaml"
        config = yaml.safe_load(path.read_text())
        config = {k: v for k, v in config.items() if k not in ("name", "tags", "notes", "track")}
        path.write_text(yaml.safe_dump({**config, "options": {}}))
        assert main(MujocoSuite, ["--resume", str(run_dir), "--steps", "140"]) == 0


def leveldb_records(content: bytes, start: int) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: blocks of 32 KiB, records in one piece or several."""
    place, whole = start, b""
    while place + 7 <= len(content):
        if (left := -place % 32_768) and left < 7:  # the end of a block, too short for a header
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield whole
            whole = b""


class TestWeightsAndBiases:
    @staticmethod
    def history(run_dir: Path) -> dict[tuple[int, str], float]:
        """What its files hold: the value of each tag at each step."""
        from wandb.proto import wandb_internal_pb2

        found = {}
        for path in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb")):
            for data in leveldb_records(path.read_bytes(), start=7):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(data)
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                step = items.get("_step", record.history.step.num)
                found |= {(step, tag): value for tag, value in items.items() if not tag.startswith("_")}
        return found

    def test_offline_it_holds_every_metric_of_the_run_and_of_the_resumed_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_MODE", "offline")
        run_dir = train(tmp_path, "--track", "wandb", "--tags", "a", "--notes", "why")
        assert main(MujocoSuite, ["--resume", str(run_dir), "--steps", "180"]) == 0
        with (run_dir / "metrics.csv").open() as file:
            rows = {(int(row["step"]), row["tag"]): float(row["value"]) for row in csv.DictReader(file)}
        kept = self.history(run_dir)
        assert len(rows) > 50
        assert {key: kept.get(key) for key in rows} == pytest.approx(rows)

    def test_a_server_that_is_not_there_does_not_stop_a_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setattr(track, "CONNECT_S", 2.0)
        run_dir = train(tmp_path, "--track", "wandb")
        assert "warning: W&B: " in capsys.readouterr().err
        assert (60, "eval/return") in self.history(run_dir)

    def test_a_connection_that_is_lost_does_not_either(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import wandb

        calls = []

        def log(self: Any, data: dict[str, float], **options: Any) -> None:
            calls.append(data)
            if len(calls) == 3:
                raise ConnectionResetError("Connection lost")

        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setattr(wandb.Run, "log", log)
        run_dir = train(tmp_path, "--track", "wandb")
        assert len(calls) == 3
        assert capsys.readouterr().err.count("W&B gets no more of this run: Connection lost") == 1
        assert len(values(run_dir, "eval/return")) == 2

    def test_a_missing_package_is_one_line_before_anything_is_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(UserError, match=r"wandb is not installed: pip install 'rlzoo\[wandb\]'"):
            train(tmp_path, "--track", "wandb")
        assert not list(tmp_path.iterdir())
