"""Reading runs, telling experiments apart, and what is made of them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
import yaml
from matplotlib.axes import Axes

from experiments.compare import (
    COLORS,
    Group,
    Panel,
    Request,
    Run,
    comparable,
    find_runs,
    gather,
    group,
    lengths,
    line_styles,
    mean_and_spread,
    named_by_content,
    plot,
    read_run,
    recorded_mean,
    table,
    write_published,
)
from experiments.paper import LOOK
from rlzoo.errors import UserError
from rlzoo.run.folder import plain
from rlzoo.train import TrainConfig
from tests.helpers.runs import images, make_run

ROOT = Path(__file__).resolve().parents[2]


def write_run(
    folder: Path, seed: int = 1, value: float = 1.0, info: Any = None, **settings: dict[str, Any] | Any
) -> None:
    """A run folder of SAC, evaluated after 60 and 120 steps."""
    folder.mkdir(parents=True)
    config = {"agent_name": "sac", "task": "Reacher-v5", "seed": seed, **plain(TrainConfig()), **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run.json").write_text(json.dumps({"command": "-"} if info is None else info))
    lines = ["step,tag,value", f"60,eval/return,{value / 2}", "60,time/training_s,30"]
    lines += ["60,loss/critic,9", f"120,eval/return,{value}", "120,time/training_s,60", "120,eval/re"]
    (folder / "metrics.csv").write_text("\n".join(lines))  # the last line of a run killed while it wrote


def publish(output: Path, *inputs: Path, **options: Any) -> dict[str, str]:
    """What compare.py writes from runs, but for the picture."""
    gather(Request(output, inputs, **options))
    return {path.name: path.read_text() for path in output.glob("*.*") if path.suffix != ".png"}


def labels(runs: list[Run]) -> dict[str, list[int]]:
    """The seeds under each label."""
    return {one.label: [run.seed for run in one.runs] for one in group(runs)[0]["task"]}


def test_seeds_are_gathered_into_data_and_a_page(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "s1-1", seed=1, value=4.0)
    write_run(tmp_path / "runs" / "s2-1", seed=2, value=8.0)
    output = tmp_path / "out"
    command = [sys.executable, "experiments/compare.py", str(output), str(tmp_path / "runs")]
    result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("| task | agent | seeds |")
    page = (output / "README.md").read_text()
    assert "| Reacher-v5 | sac | 1, 2 | 120 | 6.0 ± 2.8 | 6.0 ± 2.8 | 1.00 ± 0.00 |" in page
    assert "![learning curves](curves.png)" in page
    assert len(imageio.imread(output / "curves.png")) > 100
    assert len(json.loads((output / "runs.json").read_text())) == 2
    rows = [line.split(",") for line in (output / "curves.csv").read_text().splitlines()]
    assert [(row[2], row[4]) for row in rows if row[5] == "eval/return"] == [
        ("1", "60"),
        ("1", "120"),
        ("2", "60"),
        ("2", "120"),
    ]


def test_a_seed_joins_published_runs_whose_folders_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, runs = tmp_path / "out", tmp_path / "runs"
    for seed, rate in ((1, 0.001), (2, 0.001), (3, 0.01)):
        write_run(runs / str(seed) / f"s{seed}-{seed}", seed=seed, agent={"actor_lr": rate})
    at_once = publish(output, runs, minutes=9.0)
    publish(output, runs / "1", runs / "3", minutes=9.0)
    shutil.rmtree(runs / "1")
    shutil.rmtree(runs / "3")
    assert publish(output, output, runs, minutes=9.0) == at_once
    capsys.readouterr()
    assert publish(output, output, runs, minutes=9.0) == at_once  # given twice, a run counts once
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "Reacher-v5, sac: agent.actor_lr=0.001",
        "Reacher-v5, sac (2): agent.actor_lr=0.01",
    ]
    assert "- Reacher-v5, sac (2): agent.actor_lr=0.01" in at_once["README.md"]


def test_labels_are_given_by_folder_and_kept(tmp_path: Path) -> None:
    for seed, bins in ((1, 5), (2, 7), (3, 5)):
        write_run(tmp_path / "runs" / str(seed) / f"s{seed}-{seed}", seed=seed, agent={"bins": bins})
    first = [tmp_path / "runs" / "1", tmp_path / "runs" / "2"]
    publish(tmp_path / "out", *first, label=("five bins", "seven bins"))
    page = publish(tmp_path / "out", tmp_path / "out", tmp_path / "runs" / "3")["README.md"]
    assert "| five bins | 1, 3 |" in page  # the third has the first one's settings
    assert "| seven bins | 2 |" in page
    with pytest.raises(UserError, match="1 labels for 2 folders"):
        gather(Request(tmp_path / "out", tuple(first), label=("five bins",)))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder with two published runs, of the same name as they began in the same second."""
    runs = [make_run(settings={"agent.tau": tau}, training_s={100: 2.0}) for tau in (0.1, 0.2)]
    write_published(group(runs)[0]["task"], tmp_path / "out")
    return tmp_path / "out"


def test_runs_of_one_name_are_kept_apart(published: Path, tmp_path: Path) -> None:
    runs = find_runs([published])
    taus = [(run.settings["agent.tau"], run.final("eval/return"), run.training_s) for run in runs]
    assert taus == [(0.1, 300.0, {100: 2.0}), (0.2, 300.0, {100: 2.0})]
    assert labels(runs) == {"sac": [1], "sac (2)": [1]}
    longer = [dataclasses.replace(run, evaluations={400: {"eval/return": 7.0}}) for run in runs]
    write_published(group(longer)[0]["task"], tmp_path / "longer")
    for folders in ([published, tmp_path / "longer"], [tmp_path / "longer", published]):
        assert [run.final("eval/return") for run in find_runs(folders)] == [7.0, 7.0]
    with pytest.raises(UserError, match=f"no run with an evaluation in {tmp_path}$"):
        find_runs([published, tmp_path])  # what lies below is not taken for runs


def test_settings_without_effect_keep_no_seeds_apart() -> None:
    for policy, together in (("gaussian", [2]), ("arsq", [1, 1])):
        settings = [{"agent.policy": policy, "agent.bins": bins} for bins in (5, 7)]
        runs = [make_run(agent="bc", seed=seed, label="bc", settings=of) for seed, of in enumerate(settings)]
        assert [len(one.runs) for one in group(runs)[0]["task"]] == together


SAME, OTHER = "1" * 64, "2" * 64


def learnt_from(path: str, content: str | None, seed: int = 1, agent: str = "sac") -> Run:
    known = {} if content is None else {"data": {"steps": 9, "mean_return": 4.0, "sha256": content}}
    info = {"command": "-", **known}
    return make_run(seed=seed, agent=agent, settings={"data.dataset": path}, info=info)


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (("a.hdf5", SAME), ("/x/a.hdf5", SAME), {"sac": [1, 2]}),  # one file, from two folders
        (("a.hdf5", SAME), ("b.hdf5", SAME), {"sac": [1, 2]}),  # and under two names
        (("a.hdf5", SAME), ("a.hdf5", OTHER), {"sac, a.hdf5": [1], "sac, a.hdf5, SHA-256 22222222": [2]}),
        (("a.hdf5", None), ("a.hdf5", OTHER), {"sac": [1, 2]}),  # the first is of an earlier rlzoo
        (("a.hdf5", None), ("b.hdf5", None), {"sac, a.hdf5": [1], "sac, b.hdf5": [2]}),
    ],
)
def test_data_are_told_apart_by_what_is_in_them(first: Any, second: Any, names: dict[str, list[int]]) -> None:
    assert labels(named_by_content([learnt_from(*first), learnt_from(*second, seed=2)])) == names


def test_agents_that_learn_from_other_data_of_one_name_are_not_taken_for_alike() -> None:
    runs = [learnt_from("a.hdf5", SAME), learnt_from("a.hdf5", OTHER, agent="bc")]
    groups, lines = group(named_by_content(runs))
    assert [one.label for one in groups["task"]] == ["bc, a.hdf5, SHA-256 22222222", "sac, a.hdf5"]
    assert "task, bc, a.hdf5, SHA-256 22222222: online, a.hdf5, SHA-256 22222222" in lines


def test_a_damaged_account_of_the_data_is_one_line(tmp_path: Path) -> None:
    for number, data in enumerate((5, {"steps": 9}, {"sha256": "1", "mean_return": "x"})):
        write_run(tmp_path / f"s1-{number}", info={"command": "-", "data": data})
        with pytest.raises(UserError, match=f"s1-{number} is not a complete run folder"):
            read_run(tmp_path / f"s1-{number}")


def test_runs_without_an_evaluation_are_said_to_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        write_run(tmp_path / f"s{seed}-1", seed)
    (tmp_path / "s2-1" / "metrics.csv").write_text("step,tag,value\n10,loss/critic,9\n")
    assert [run.seed for run in find_runs([tmp_path])] == [1]
    assert capsys.readouterr().err == "without an evaluation, left out: s2-1\n"


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("curves.csv", "300,eval/return,300.0\n", "300,ev", "a line of curves.csv is not whole"),
        ("curves.csv", "sac (2)", "sac (3)", "do not hold the same runs"),
        ("curves.csv", ",run,", ",", "a line of curves.csv is not whole"),
        ("curves.csv", "300.0", "many", "could not convert"),
        ("curves.csv", "task,sac", '"' + "x" * 200_000, "field larger than"),
        ("runs.json", '"settings"', '"setting"', "no 'settings'"),
        ("runs.json", '"seed"', '"sed"', "no 'seed'"),
        ("runs.json", '{"command": "-"}', "null", "not iterable"),
        ("runs.json", "{", "[", "delimiter"),
    ],
)
def test_damaged_publications_are_refused(
    published: Path, name: str, old: str, new: str, reason: str
) -> None:
    content = (published / name).read_text()
    content = json.dumps(json.loads(content)) if name == "runs.json" else content
    assert old in content
    (published / name).write_text(content.replace(old, new, 1))
    with pytest.raises(UserError, match=f"the published runs in .*out cannot be read back: .*{reason}"):
        find_runs([published])


def test_only_settings_that_make_another_experiment_tell_runs_apart(tmp_path: Path) -> None:
    """A run that first trained offline is another experiment; a longer one, or a preset's name, is not."""
    settings = {"train.offline_steps": 40, "train.steps": 9, "train.eval_every": 3, "preset": "small"}
    settings["resolved.capture"] = True
    assert comparable("nobody", settings) == comparable("nobody", {"train.offline_steps": 40})
    assert comparable("nobody", settings) != comparable("nobody", {})
    write_run(tmp_path / "s1-1", seed=1, preset="small", resolved={"train": {"capture": "off"}})
    write_run(tmp_path / "s2-2", seed=2)
    write_run(tmp_path / "s3-3", seed=3, train={"buffer_capacity": 100})
    groups = group(find_runs([tmp_path]))[0]["Reacher-v5"]
    assert [[run.seed for run in one.runs] for one in groups] == [[1, 2], [3]]


def test_a_run_from_before_a_setting_has_its_default(tmp_path: Path) -> None:
    write_run(tmp_path / "s1-1", seed=1, agent={})
    write_run(tmp_path / "s2-2", seed=2, agent={"tau": 0.005}, train={"n_step": 1})
    write_run(tmp_path / "s3-3", seed=3, agent={"tau": 0.01})
    write_run(tmp_path / "s4-4", seed=4, agent={"target_entropy": -9.0})  # None is the default
    groups, lines = group(find_runs([tmp_path]))
    assert [[run.seed for run in one.runs] for one in groups["Reacher-v5"]] == [[1, 2], [3], [4]]
    assert lines[0] == "Reacher-v5, sac: agent.target_entropy=None, agent.tau=0.005"


@pytest.mark.parametrize("agent", ["sac", "sb3-ppo"])
def test_a_setting_that_came_later_has_its_default_in_earlier_runs(agent: str) -> None:
    now = comparable(agent, {"agent.lr": 1.0, "train.reward_scale": 1.0})
    assert comparable(agent, {"agent.lr": 1.0}) == now
    assert comparable(agent, {"agent.lr": 1.0, "train.reward_scale": 10.0}) != now


def test_the_oldest_of_several_experiments_has_the_label_itself() -> None:
    runs = [
        make_run("s1-20260102-0", settings={"agent.bins": 5}),
        make_run("s2-20260101-0", seed=2, settings={"agent.bins": 7}),
        make_run("s1-20260103-0", settings={"agent.bins": 7}),
        make_run("s1-20260101-0", agent="bc"),
    ]
    assert labels(runs) == {"bc": [1], "sac": [1, 2], "sac (2)": [1]}
    assert group(runs)[1] == ["task, sac: agent.bins=7", "task, sac (2): agent.bins=5"]


def test_the_table_has_the_scores_that_were_logged() -> None:
    success = {step: {"eval/return": 9.0, "eval/success": share} for step, share in ((100, 0.5), (200, 0.75))}
    groups = [Group("ARSQ", [make_run(evaluations=success)], "88"), Group("BC", [make_run()])]
    header, _, arsq, bc = table([Panel("Task", groups)]).splitlines()
    assert header == "| task | agent | seeds | steps | final return | best return | final success | paper |"
    assert arsq == "| Task | ARSQ | 1 | 200 | 9.0 | 9.0 | 0.75 | 88 |"
    assert bc == "| Task | BC | 1 | 300 | 300.0 | 300.0 |  |  |"
    header = table([Panel("Task", groups[:1], "eval/success", "success")]).splitlines()[0]
    assert header == "| task | agent | seeds | steps | final success | best success | final return | paper |"


def test_both_final_statistics_of_dsac_ts_papers() -> None:
    rising_then_falling = [*range(20), 90, *range(9)]  # of 30 evaluations the last 3 count
    curve = {step: {"eval/return": float(value)} for step, value in enumerate(rising_then_falling)}
    header, _, row = table([Panel("Task", [Group("DSAC-T", [make_run(evaluations=curve)])])]).splitlines()
    assert header == "| task | agent | seeds | steps | final return | best final return | best return |"
    assert row == "| Task | DSAC-T | 1 | 29 | 7.0 | 8.0 | 90.0 |"


def test_lengths_that_differ_are_shown() -> None:
    def runs(*last: int) -> list[Run]:
        return [make_run(evaluations={step: {"eval/return": 1.0}}) for step in last]

    assert lengths(runs(600_002, 600_015)) == "600k"
    assert lengths(runs(5_000, 60_000, 60_000)) == "5k to 60k"
    assert lengths(runs(2_000_000)) == "2M"
    assert lengths(runs(120)) == "120"


@pytest.mark.filterwarnings("error")
def test_a_run_that_diverged_is_shown() -> None:
    assert mean_and_spread([math.nan, 1.0]) == "nan ± nan"
    assert mean_and_spread([math.inf, 1.0]) == "inf ± nan"
    assert mean_and_spread([1.0, 2.0, 6.0, None]) == "3.0 ± 2.6"
    assert mean_and_spread([]) == ""


def test_without_runs_nothing_is_written(published: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in published.iterdir()}
    with pytest.raises(UserError, match="at least one folder"):
        gather(Request(published))
    write_run(tmp_path / "runs" / "s1-1", info=[1])
    with pytest.raises(UserError, match="is not a complete run folder"):
        gather(Request(published, (tmp_path / "runs",)))
    assert {path: path.read_bytes() for path in published.iterdir()} == before


def test_what_was_reached_in_equal_training_time() -> None:
    fast, slow = (
        make_run(agent=agent, training_s={step: pace * step for step in range(0, 301, 50)})
        for agent, pace in (("fast", 0.1), ("slow", 1.0))
    )
    assert [run.after(2.0, "eval/return") for run in (fast, slow)] == [300.0, 100.0]
    assert slow.after(1.0, "eval/return") is None  # nothing was evaluated within a minute
    panel = Panel("task", [Group("fast", [fast]), Group("slow", [slow])])
    header, _, *lines = table([panel], minutes=2.0).splitlines()
    assert header.endswith("| minutes of training | return after 2 minutes |")
    assert [line.split("| ")[-2:] for line in lines] == [["0.50 ", "300.0 |"], ["5.0 ", "100.0 |"]]


def test_an_agent_has_one_colour_everywhere() -> None:
    groups = [Group(label, [make_run(agent=agent)]) for label, agent in (("A", "bc"), ("B", "arsq"))]
    other = [Group(label, [make_run(agent="arsq")]) for label in ("B", "C")]
    styles = line_styles([Panel("one", groups), Panel("two", other)])
    assert list(styles) == ["B", "C", "A"]  # by agents, in the order of the colours
    assert styles["B"] == {"color": COLORS["arsq"], "linestyle": "solid"}
    assert styles["C"] == {"color": COLORS["arsq"], "linestyle": "dashed"}
    assert styles["A"] == {"color": COLORS["bc"], "linestyle": "solid"}


@pytest.mark.filterwarnings("error")  # matplotlib warns where it finds no room for the curves
def test_a_sweep_has_a_colour_for_each_label_and_room_for_the_curves(tmp_path: Path) -> None:
    names = [f"ARSQ with a long label, number {index}" for index in range(21)]
    heights = []
    for count in (1, len(names)):
        panel = Panel("task", [Group(name, [make_run(agent="arsq")]) for name in names[:count]])
        plot([panel], tmp_path / "curves.png")
        heights.append(len(imageio.imread(tmp_path / "curves.png")))
        assert len({str(style["color"]) for style in line_styles([panel]).values()}) == count
    assert heights[1] > 1.5 * heights[0]


def test_the_mean_is_drawn_over_the_steps_that_all_seeds_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where, with several environments, seeds were evaluated some steps apart."""
    curves = [{10: 1.0, 20: 2.0, 30: 3.0}, {12: 2.0, 22: 4.0}]
    runs = [
        make_run(evaluations={step: {"eval/return": value} for step, value in curve.items()})
        for curve in curves
    ]
    drawn = []
    monkeypatch.setattr(Axes, "plot", lambda axes, x, y, **kwargs: drawn.append((x, y)))
    plot([Panel("task", [Group("sac", runs)])], tmp_path / "curves.png")
    steps, means = drawn[-1]
    assert list(steps) == [12, 20, 22]
    np.testing.assert_allclose(means, [1.6, 2.8, 3.1])


@pytest.mark.parametrize("steps", [[[1003], [1000], [1001]], [[1003, 2000], [1000, 2019], [1001, 2002]]])
def test_the_mean_is_drawn_where_seeds_evaluate_some_steps_apart(
    steps: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is a run with one evaluation: as a dot, since a line needs two points."""
    runs = [
        make_run(seed=index, evaluations={step: {"eval/return": float(index)} for step in of_seed})
        for index, of_seed in enumerate(steps)
    ]
    drawn = []
    monkeypatch.setattr(Axes, "plot", lambda axes, x, y, **style: drawn.append((x, y, style)))
    plot([Panel("task", [Group("sac", runs)])], tmp_path / "curves.png")
    mean_steps, means, _ = drawn[-1]
    assert len(mean_steps) == len(steps[0])
    np.testing.assert_allclose(mean_steps, np.mean(steps, axis=0), rtol=0.01)
    np.testing.assert_allclose(means, 1.0)
    assert all(("marker" in style) == (len(x) == 1) for x, _, style in drawn)


def test_runs_of_other_lengths_are_kept_apart_and_said() -> None:
    def run(seed: int, last: int, **settings: Any) -> Run:
        curve = {step: {"eval/return": 1.0} for step in range(10, last + 1, 10)}
        return make_run(f"s{seed}-{seed}", seed=seed, evaluations=curve, settings=settings)

    runs = [run(1, 200), run(2, 100), run(3, 195), run(4, 100)]
    assert labels(runs) == {"sac": [1, 3], "sac, to 100": [2, 4]}
    assert group(runs)[1] == [
        "task, sac: of several lengths, kept apart: seeds 1, 3 to 200; seeds 2, 4 to 100"
    ]
    goal = {"train.stop_at_return": 9.0}  # ends each seed where it is good enough
    assert labels([run(1, 200, **goal), run(2, 100, **goal)]) == {"sac": [1, 2]}


@pytest.mark.parametrize(
    ("ours", "theirs", "shown"),
    [
        ({"data.offline": True}, {}, ["arsq, offline", "sac, online"]),
        ({"train.offline_steps": 5}, {}, ["arsq, offline first", "sac, online"]),
        ({"data.dataset": "/x/a.hdf5"}, {"data.dataset": "b.hdf5"}, ["arsq, a.hdf5", "sac, b.hdf5"]),
        ({"data.dataset": "/x/a.hdf5"}, {"data.dataset": "a.hdf5"}, ["arsq", "sac"]),
    ],
)
def test_other_data_and_offline_stand_behind_the_agents_names(
    ours: dict[str, Any], theirs: dict[str, Any], shown: list[str]
) -> None:
    runs = [make_run(agent="arsq", settings=ours), make_run(settings=theirs)]
    assert list(labels(runs)) == shown
    assert bool(group(runs)[1]) == (shown != ["arsq", "sac"])
    by_hand = [dataclasses.replace(run, label=name) for run, name in zip(runs, "AB", strict=True)]
    assert list(labels(by_hand)) == ["A", "B"]
    assert bool(group(by_hand)[1]) == (shown != ["arsq", "sac"])


def test_one_label_has_one_mode_on_all_tasks() -> None:
    offline = {"data.offline": True}
    runs = [
        make_run(settings=offline, task="one"),
        make_run(agent="bc", settings=offline, task="one"),
        make_run(task="two"),
        make_run(agent="bc", settings=offline, task="two"),
    ]
    groups, _ = group(runs)
    assert [one.label for one in groups["one"]] == ["bc, offline", "sac, offline"]
    assert [one.label for one in groups["two"]] == ["bc, offline", "sac, online"]


def test_a_label_means_the_same_settings_on_every_task() -> None:
    """On the second task the first value came last, on the third it is not there."""
    runs = [
        make_run(f"s1-{age}", task=task, settings={"agent.tau": tau})
        for age, (task, tau) in enumerate(
            [("a", 0.1), ("a", 0.2), ("b", 0.2), ("b", 0.1), ("c", 0.2), ("d", 0.3)]
        )
    ]
    groups, lines = group(runs)
    shown = {
        task: {one.label: one.runs[0].settings["agent.tau"] for one in of} for task, of in groups.items()
    }
    both = {"sac": 0.1, "sac (2)": 0.2}
    assert shown == {"a": both, "b": both, "c": {"sac (2)": 0.2}, "d": {"sac (3)": 0.3}}
    assert lines[-2:] == ["c, sac (2): agent.tau=0.2", "d, sac (3): agent.tau=0.3"]


def test_runs_of_two_sweeps_have_the_same_names(tmp_path: Path) -> None:
    for day, name in enumerate("AB", 1):
        info = {"command": "-", "started": f"2026-01-0{day}T00:00:00+00:00"}
        write_run(tmp_path / name / "sac-s1", value=float(day), info=info)
    folders = tmp_path / "A", tmp_path / "B"
    page = publish(tmp_path / "labelled", *folders, label=("before", "after"))["README.md"]
    assert "| before | 1 | 120 | 1.00 |" in page
    assert "| after | 1 | 120 | 2.0 |" in page
    publish(tmp_path / "out", *folders)
    again = publish(tmp_path / "again", tmp_path / "out", *folders)
    assert "| sac | 1, 1 | 120 | 1.5 ± 0.7 |" in again["README.md"]
    assert list(json.loads(again["runs.json"])) == ["Reacher-v5/sac/sac-s1", "Reacher-v5/sac/sac-s1 (2)"]


def test_seeds_that_never_succeeded_count_where_others_tell_of_success(tmp_path: Path) -> None:
    for seed, rate in ((1, "1.0"), (2, None)):
        write_run(tmp_path / "runs" / f"s{seed}-1", seed=seed)
        if rate is not None:
            path = tmp_path / "runs" / "s1-1" / "metrics.csv"
            whole, _, _ = path.read_text().rpartition("\n")
            path.write_text(f"{whole}\n120,eval/success,{rate}\n")
    page = publish(tmp_path / "out", tmp_path / "runs", paper=True, score="success")["README.md"]
    assert "| 0.50 ± 0.71 |" in page


@pytest.mark.parametrize("torn", ["180,eval/return,3", "180,eval/return,1e-", "180,eval/return,", "1"])
def test_half_a_line_of_a_run_that_was_killed_does_not_count(torn: str, tmp_path: Path) -> None:
    write_run(tmp_path / "s1-1", value=7.0)
    path = tmp_path / "s1-1" / "metrics.csv"
    whole, _, _ = path.read_text().rpartition("\n")
    path.write_text(f"{whole}\n{torn}")
    assert read_run(tmp_path / "s1-1").curve("eval/return") == {60: 3.5, 120: 7.0}


def test_runs_that_began_in_the_same_second_are_several(tmp_path: Path) -> None:
    info = {"command": "-", "started": "2026-01-01T00:00:00+00:00"}
    for steps in (60, 120):
        write_run(tmp_path / "runs" / f"sac-{steps}-s1", value=float(steps), info=info)
    assert [run.final("eval/return") for run in find_runs([tmp_path / "runs"])] == [120.0, 60.0]
    publish(tmp_path / "out", tmp_path / "runs")
    assert len(find_runs([tmp_path / "out", tmp_path / "runs"])) == 2


def test_one_label_by_hand_for_two_agents() -> None:
    runs = [make_run("s1-1", label="mine"), make_run("s1-2", agent="sac2", label="mine")]
    assert labels(runs) == {"mine": [1], "mine (2)": [1]}


def test_what_others_wrote_is_not_written_over(tmp_path: Path) -> None:
    for name in "AB":
        write_run(tmp_path / name / "s1-1")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    for output, reason in ((tmp_path / "notes", "a README.md"), (tmp_path / "A", "runs")):
        before = sorted(output.rglob("*"))
        with pytest.raises(UserError, match=f"{output}, the folder to write to, has {reason}"):
            publish(output, tmp_path / "B")
        assert sorted(output.rglob("*")) == before
    publish(tmp_path / "A", tmp_path / "A")  # beside its runs, when that is asked for


def test_presets_tell_experiments_of_an_agent_apart() -> None:
    runs = [
        make_run("s1-1", settings={"agent.tau": 0.1}, preset="paper"),
        make_run("s1-2", settings={"agent.tau": 0.2}, preset="small"),
    ]
    assert list(labels(runs)) == ["sac", "sac, small"]
    same = [dataclasses.replace(run, preset="paper") for run in runs]
    assert list(labels(same)) == ["sac", "sac (2)"]
    elsewhere = [dataclasses.replace(run, task="other") for run in runs[1:]]
    assert [one.label for one in group([*runs, *elsewhere])[0]["other"]] == ["sac, small"]
    assert list(labels(runs[1:])) == ["sac"]


@pytest.fixture(scope="module")
def hopper_and_cheetah(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two tasks, two agents with three seeds and one with one, in D4RL's scores; and what was printed."""
    folder, rng = tmp_path_factory.mktemp("paper"), np.random.default_rng(0)
    runs = []
    for task in ("hopper-medium-v2", "halfcheetah-medium-v2"):
        for agent, level, seeds in (("arsq", 90, 3), ("bc", 50, 3), ("sac", 10, 1)):
            for seed in range(seeds):
                scores = level + rng.normal(0, 5, 10)
                curve = {
                    1000 * i + 3 * seed: {"eval/return": 30 * score, "eval/normalized_score": score}
                    for i, score in enumerate(scores.tolist(), 1)
                }
                runs.append(make_run(f"s{seed}-1", agent, seed, task=task, label=agent, evaluations=curve))
    write_published([one for groups in group(runs)[0].values() for one in groups], folder / "data")
    request = Request(folder / "out", (folder / "data",), paper=True, data_mean=("hopper-medium-v2=48",))
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        gather(request)
    return folder, shown.getvalue()


def test_a_paper_gets_its_figures_and_tables(hopper_and_cheetah: tuple[Path, str]) -> None:
    folder, shown = hopper_and_cheetah
    paper = folder / "out" / "paper"
    assert f"figures and tables for a paper: {paper}" in shown
    names = {path.name for path in paper.iterdir()}
    figures = {
        f"{name}.{kind}" for name in ("curves", "profiles", "intervals") for kind in ("png", "pdf", "svg")
    }
    assert names == {"README.md", "tables.tex", *figures}
    page = (paper / "README.md").read_text()
    assert {path.name for path in images(paper)} == {"curves.png", "profiles.png", "intervals.png"}
    assert "| task | data | ARSQ | BC | SAC |" in page
    row = next(line for line in page.splitlines() if line.startswith("| hopper-medium-v2 |"))
    assert re.match(
        r"\| hopper-medium-v2 \| 48.0 \| [89]\d\.\d ± \d\.\d \(3\) \| .* \| -?\d+\.\d \(1\) \|$", row
    )
    assert re.search(r"^\| ARSQ \| [89]\d\.\d \[.*\] \| [89]\d\.\d \[.*\] \| 6 \|$", page, re.M)
    assert re.search(r"^\| SAC \| -?\d+\.\d \| -?\d+\.\d \| 2 \|$", page, re.M)  # one seed: no interval
    assert "| ARSQ |  | 1.00 [1.00, 1.00] | 1.00 |" in page
    for said in ("interpolated linearly", "stratified bootstrap", "Student's t"):
        assert said in page
    latex = (paper / "tables.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 3
    assert r"$\pm$" in latex


def test_a_papers_figures_are_legible_at_their_printed_width(hopper_and_cheetah: tuple[Path, str]) -> None:
    paper = hopper_and_cheetah[0] / "out" / "paper"
    for name, inches in (("curves", 6.75), ("intervals", 6.75), ("profiles", 3.3)):
        box = re.search(rb"/MediaBox \[ ?0 0 ([0-9.]+)", (paper / f"{name}.pdf").read_bytes())
        assert box is not None
        assert float(box[1]) == pytest.approx(72 * inches, abs=1)
        assert imageio.imread(paper / f"{name}.png").shape[1] == pytest.approx(300 * inches, abs=2)
    assert min(value for key, value in LOOK.items() if key.endswith("size")) >= 7


def test_a_paper_made_twice_is_the_same(hopper_and_cheetah: tuple[Path, str]) -> None:
    folder, _ = hopper_and_cheetah
    request = Request(folder / "again", (folder / "data",), paper=True, data_mean=("hopper-medium-v2=48",))
    gather(request)
    for path in (folder / "out" / "paper").iterdir():
        assert path.read_bytes() == (folder / "again" / "paper" / path.name).read_bytes(), path.name


def test_an_agents_name_in_capitals_may_be_anothers_label(tmp_path: Path) -> None:
    write_run(tmp_path / "A" / "s1-1", value=1.0)
    write_run(tmp_path / "B" / "s1-2", value=2.0, agent={"tau": 0.5})
    publish(tmp_path / "named", tmp_path / "A", label=("SAC",))
    publish(tmp_path / "out", tmp_path / "named", tmp_path / "B", paper=True)
    assert "| Reacher-v5 | 1.00 (1) | 2.0 (1) |" in (tmp_path / "out" / "paper" / "README.md").read_text()


def test_wrong_flags_for_a_paper_write_nothing(hopper_and_cheetah: tuple[Path, str], tmp_path: Path) -> None:
    data = hopper_and_cheetah[0] / "data"
    for options, message in (
        ({"data_mean": ("hopper-medium-v2",)}, "expected TASK=SCORE"),
        ({"data_mean": ("Hopper=3",)}, "no runs on Hopper"),
        ({"score": "success"}, "--score is success, which some runs do not have"),
    ):
        with pytest.raises(UserError, match=message):
            gather(Request(tmp_path / "out", (data,), paper=True, **options))
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("task", "own"), [("hopper-expert-v2", True), ("Hopper-v5", False)])
def test_the_datas_own_mean_is_read_where_the_data_are_here(task: str, own: bool) -> None:
    demos = ROOT / "results" / "datasets" / "hopper-demos.hdf5"
    run = make_run(task=task, settings={"data.dataset": str(demos)})
    mean = recorded_mean(run, "eval/normalized_score")
    assert mean == (pytest.approx(64.3, abs=0.05) if own else None)
    assert recorded_mean(dataclasses.replace(run, settings={}), "eval/return") is None
