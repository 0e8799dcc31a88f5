import json
from pathlib import Path

import pytest
import torch

from algos import AGENTS
from experiments import benchmark
from experiments.benchmark import Measured, why_busy
from rlzoo.errors import UserError

QUICK = ["--device", "cpu", "--updates", "2", "--repeats", "2", "--iterations", "10", "--batch-size", "8"]


def run(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark.py", *QUICK, *flags])
    assert benchmark.main() == 0


@pytest.fixture
def without_start_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "time_start_up", lambda: 1.0)


@pytest.mark.usefixtures("without_start_up")
def test_timings_become_a_file_and_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One agent of each kind: on recorded data with one environment, and on 20 without."""
    output, page = tmp_path / "deep" / "timings.json", tmp_path / "page.md"
    agents = ("--agents", "arsq", "sac", "--presets", "small")
    run(monkeypatch, *agents, "--anyway", "--output", str(output), "--page", str(page))
    content = json.loads(output.read_text())
    for agent, lanes in (("arsq", 1), ("sac", 20)):
        row = content["timings"][agent]["small"]
        assert row["lanes"] == lanes
        parts = {
            "update",
            "floor",
            "sample",
            "act",
            "act 1",
            "act 10",
            "act 100",
            "environments",
            "loop",
            "iteration",
            "policy",
            "ONNX",
        }
        timed = {part for part, value in row.items() if isinstance(value, list)}
        assert timed - {"update with denormals"} == parts  # that is timed with one thread only
        assert all(row[part][0] > 0 for part in parts)
        assert row["iteration"][0] > row["loop"][0]
    assert content["hardware"]["cores"] >= 1
    text = page.read_text()
    assert "| arsq | small | 8 | 1 |" in text
    assert (output.parent / "timings-iteration.png").stat().st_size > 1000
    assert "deep/timings-iteration.png" in text


@pytest.mark.usefixtures("without_start_up")
def test_agents_that_see_images_are_timed_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "timings.json"
    from tests.experiments.test_train_rlbench import needs_rendering

    needs_rendering()
    monkeypatch.setitem(AGENTS, "blind", type("Blind", (AGENTS["bc"],), {"sees_images": False}))
    flags = ("--images", "--agents", "bc", "blind", "--presets", "small", "--anyway", "--output", str(output))
    run(monkeypatch, *flags)
    assert "not timed, as they learn from states alone: blind" in capsys.readouterr().out
    assert list(json.loads(output.read_text())["timings"]) == ["bc"]
    row = json.loads(output.read_text())["timings"]["bc"]["small"]
    assert {
        "update",
        "floor",
        "encoder",
        "augment",
        "sample",
        "environments",
        "environments, 2 cameras",
    } <= set(row)


@pytest.mark.parametrize("name", ["arsq", "cqn", "dsac-t"])
def test_an_update_is_timed_at_any_sizes(name: str) -> None:
    sizes = {"state_dim": 3, "action_dim": 2, "levels": 2, "bins": 3, "batch_size": 4}
    assert benchmark.small_update(name, torch.device("cpu"), **sizes)()  # its metrics


def test_an_action_is_timed_with_the_prefix_early_and_late() -> None:
    for sizes in ({"hidden": (8, 8), "state_layers": 0}, {"hidden": (8, 8, 8), "state_layers": 2}):
        assert benchmark.time_action(2, sizes, torch.device("cpu")) > 0


def test_nothing_is_quoted_of_a_busy_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "busy_share", lambda: 0.43)
    output = tmp_path / "timings.json"
    with pytest.raises(UserError, match=r"others use 43% of the cores.*--anyway"):
        run(monkeypatch, "--agents", "sac", "--output", str(output))
    assert not output.exists()
    monkeypatch.setattr(benchmark, "busy_share", lambda: 0.0)
    output.mkdir()
    with pytest.raises(UserError, match=r"cannot write .*: it is a folder"):  # before anything is timed
        run(monkeypatch, "--agents", "sac", "--output", str(output))
    steady, wide = Measured(5.0, 0.1), Measured(5.0, 0.6)
    assert why_busy(0.02, {"sac": {"small": {"update": steady, "iteration": steady}}}) == ""
    assert "sac small iteration by 60%" in why_busy(
        0.02, {"sac": {"small": {"update": steady, "iteration": wide}}}
    )


@pytest.mark.usefixtures("without_start_up")
def test_figures_of_a_busy_machine_are_marked_where_they_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "busy_share", lambda: 0.43)
    output, page = tmp_path / "timings.json", tmp_path / "page.md"
    run(monkeypatch, "--agents", "bc", "--presets", "small", "--anyway", "--output", str(output))
    run(monkeypatch, "--redraw", str(output), "--page", str(page))
    assert "**Taken on a busy machine**: others use 43% of the cores." in page.read_text()
    (tmp_path / "older.json").write_text('{"timings": {}, "hardware": {}, "settings": {}}')
    with pytest.raises(UserError, match=r"older\.json is not a JSON file of this benchmark"):
        run(monkeypatch, "--redraw", str(output), "--page", str(page))


def test_two_files_are_compared_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, update in (("before", 8.0), ("after", 2.0)):
        timings = {"sac": {"small": {"update": [update, 0.1], "lanes": 1}}}
        (tmp_path / f"{name}.json").write_text(json.dumps({"timings": timings}))
    run(monkeypatch, "--compare", str(tmp_path / "before.json"), str(tmp_path / "after.json"))
    assert "4.00" in capsys.readouterr().out
    (tmp_path / "after.json").write_text("[]")
    with pytest.raises(UserError, match="two JSON files of this benchmark"):
        run(monkeypatch, "--compare", str(tmp_path / "before.json"), str(tmp_path / "after.json"))


def test_what_others_use_of_the_machine_is_a_share() -> None:
    assert 0 <= benchmark.busy_share() <= 1
