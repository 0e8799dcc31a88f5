from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from rlzoo.errors import UserError
from rlzoo.run.folder import PROJECT
from rlzoo.run.logger import Logger, write_hparams_page
from rlzoo.run.video import Gif

TAG = "eval/return"


def rows_of(run_dir: Path) -> list[tuple[int, str, float]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "tag", "value"]
    return [(int(step), tag, float(value)) for step, tag, value in rows]


def events_of(run_dir: Path) -> EventAccumulator:
    return EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()


def curve_of(run_dir: Path, tag: str = TAG) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events_of(run_dir).Scalars(tag)]


def log_steps(run_dir: Path, steps: range, resume_step: int | None = None) -> None:
    with Logger(run_dir, resume_step) as logger:
        for step in steps:
            logger.log(step, {TAG: float(step)})


def test_values_come_back_exactly_from_csv_and_as_32_bits_from_tensorboard(tmp_path: Path) -> None:
    values = {"a": 0.1 + 0.2, "b": 1e-300, "c": -math.inf, "d": math.pi * 1e20, "e": 3.0}
    with Logger(tmp_path) as logger:
        logger.log(1000, values)
    assert rows_of(tmp_path) == [(1000, tag, value) for tag, value in values.items()]
    for tag, value in values.items():
        assert curve_of(tmp_path, tag) == [(1000, float(np.float32(value)))]


def test_nan_and_tensors_are_logged(tmp_path: Path) -> None:
    with Logger(tmp_path) as logger:
        logger.log(np.int64(1), {"loss/q": torch.tensor(0.25), "loss/nan": math.nan})  # type: ignore[arg-type,dict-item]
        logger.log(2, {})
    rows = rows_of(tmp_path)
    assert rows[0] == (1, "loss/q", 0.25)
    assert math.isnan(rows[1][2])
    assert len(rows) == 2


def test_every_call_is_in_the_files_before_they_are_closed(tmp_path: Path) -> None:
    logger = Logger(tmp_path)
    logger.log(10, {TAG: 1.0})
    assert rows_of(tmp_path) == [(10, TAG, 1.0)]
    assert curve_of(tmp_path) == [(10, 1.0)]
    logger.flush()
    logger.close()
    logger.close()


def test_killed_process_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, pathlib; from rlzoo.run.logger import Logger\n"
        "logger = Logger(pathlib.Path(sys.argv[1]))\n"
        "for step in range(100): logger.log(step, {'eval/return': step})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, check=False)
    assert result.returncode == -signal.SIGKILL
    assert [step for step, _, _ in rows_of(tmp_path)] == list(range(100))
    assert [step for step, _ in curve_of(tmp_path)] == list(range(100))


def test_resumed_curves_have_neither_gap_nor_duplicate(tmp_path: Path) -> None:
    log_steps(tmp_path, range(0, 100, 10))
    log_steps(tmp_path, range(45, 130, 5), resume_step=40)
    log_steps(tmp_path, range(120, 200, 10), resume_step=110)
    steps = [0, 10, 20, 30, 40, *range(45, 115, 5), *range(120, 200, 10)]
    assert rows_of(tmp_path) == [(step, TAG, float(step)) for step in steps]
    assert curve_of(tmp_path) == [(step, float(step)) for step in steps]


def test_resume_cuts_the_event_files_themselves(tmp_path: Path) -> None:
    """TensorBoard's fast data server does not heed the mark that the accumulator above goes by."""
    log_steps(tmp_path, range(0, 100, 10))
    Logger(tmp_path, resume_step=50).close()
    for path in tmp_path.glob("events*"):
        alone = tmp_path / path.name.replace("events.out.tfevents.", "")
        alone.mkdir()
        path.rename(alone / path.name)
        assert all(
            step <= 50 for tag in events_of(alone).Tags()["scalars"] for step, _ in curve_of(alone, tag)
        )


@pytest.mark.parametrize(
    "tail", ["90,eval/ret", "90,eval/return,9", "90,eval/return,9\n", "garbage\n", "9", 200_000 * "\0", "\n"]
)
def test_resume_drops_later_and_torn_lines(tmp_path: Path, tail: str) -> None:
    log_steps(tmp_path, range(0, 40, 10))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write(tail)
    log_steps(tmp_path, range(40, 60, 10), resume_step=30)
    assert rows_of(tmp_path) == [(step, TAG, float(step)) for step in range(0, 60, 10)]


def test_torn_line_of_a_step_before_the_checkpoint_is_dropped_too(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,tag,value\n1,a,0.5\n2,a,123.45")
    Logger(tmp_path, resume_step=10).close()
    assert rows_of(tmp_path) == [(1, "a", 0.5)]


def test_resume_cuts_a_torn_event(tmp_path: Path) -> None:
    log_steps(tmp_path, range(0, 40, 10))
    (events,) = tmp_path.glob("events*")
    whole = events.read_bytes()
    events.write_bytes(whole[:-3])
    log_steps(tmp_path, range(30, 60, 10), resume_step=25)
    assert whole.startswith(events.read_bytes())
    assert [step for step, _ in curve_of(tmp_path)] == [0, 10, 20, 30, 40, 50]


def test_resume_without_any_metrics_starts_them(tmp_path: Path) -> None:
    log_steps(tmp_path, range(10, 20), resume_step=9)
    assert [step for step, _, _ in rows_of(tmp_path)] == list(range(10, 20))


def test_resume_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    leftover = tmp_path / "checkpoints" / ".latest-123-0123abcd.tmp.pt"
    leftover.touch()
    Logger(tmp_path, resume_step=0).close()
    assert not leftover.exists()


def test_new_run_does_not_overwrite_another(tmp_path: Path) -> None:
    log_steps(tmp_path, range(3))
    with pytest.raises(UserError, match=r"cannot write .*metrics\.csv: File exists"):
        Logger(tmp_path)
    assert len(rows_of(tmp_path)) == 3


def hparams_of(run_dir: Path) -> dict[str, HParamsPluginData]:
    contents = events_of(run_dir).summary_metadata
    plugins = {tag: metadata.plugin_data for tag, metadata in contents.items()}
    return {
        tag: HParamsPluginData.FromString(plugin.content)
        for tag, plugin in plugins.items()
        if plugin.plugin_name == "hparams"
    }


def films_of(run_dir: Path, tag: str) -> list[tuple[int, bytes]]:
    """Step and file of each film."""
    found = EventAccumulator(str(run_dir), size_guidance={"images": 0}).Reload().Images(tag)
    assert all((event.width, event.height) == (4, 2) for event in found)
    return [(event.step, event.encoded_image_string) for event in found]


def test_films_are_images_of_tensorboard_and_are_cut_like_curves(tmp_path: Path) -> None:
    with Logger(tmp_path) as logger:
        for step in (10, 20, 30):
            logger.log(step, {TAG: 1.0})
            logger.film(step, "eval/video", Gif(b"GIF89a" + bytes([step]), width=4, height=2))
    expected = [(step, b"GIF89a" + bytes([step])) for step in (10, 20, 30)]
    assert films_of(tmp_path, "eval/video") == expected
    Logger(tmp_path, resume_step=25).close()
    assert films_of(tmp_path, "eval/video") == expected[:2]
    Logger(tmp_path, resume_step=20, drop_tags=["eval/video"]).close()
    assert films_of(tmp_path, "eval/video") == expected[:1]
    assert curve_of(tmp_path) == [(10, 1.0), (20, 1.0)]
    assert rows_of(tmp_path) == [(10, TAG, 1.0), (20, TAG, 1.0)]


def test_hparams_of_a_run_that_goes_on(tmp_path: Path) -> None:
    with Logger(tmp_path) as logger:
        logger.hparams({"agent.levels": 2, "task": "t", "fast": True})
    data = hparams_of(tmp_path)
    assert set(data) == {"_hparams_/session_start_info"}
    hparams = data["_hparams_/session_start_info"].session_start_info.hparams
    assert hparams["agent.levels"].number_value == 2
    assert hparams["task"].string_value == "t"
    assert hparams["fast"].string_value == "True"


def test_final_metrics_are_the_curves_last_values(tmp_path: Path) -> None:
    with Logger(tmp_path) as logger:
        logger.hparams({"seed": 1})
        logger.log(500, {TAG: 5.0})
        logger.hparams({"seed": 1}, {TAG: 5.0, "eval/best_return": 7.0})
    assert set(hparams_of(tmp_path)) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    assert curve_of(tmp_path) == [(500, 5.0)]
    assert curve_of(tmp_path, "eval/best_return") == [(500, 7.0)]
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == set()


def test_final_metrics_of_a_stopped_and_resumed_run_are_the_new_ones(tmp_path: Path) -> None:
    with Logger(tmp_path) as logger:
        logger.log(10, {TAG: 5.0})
        logger.hparams({"seed": 1}, {TAG: 5.0, "eval/best_return": 5.0})
    with Logger(tmp_path, resume_step=10) as logger:
        logger.log(20, {TAG: 9.0})
        logger.hparams({"seed": 1}, {TAG: 9.0, "eval/best_return": 9.0})
    assert curve_of(tmp_path) == [(10, 5.0), (20, 9.0)]
    assert curve_of(tmp_path, "eval/best_return") == [(10, 5.0), (20, 9.0)]


def test_final_metrics_after_resuming_are_no_duplicates(tmp_path: Path) -> None:
    log_steps(tmp_path, range(0, 20, 10))
    with Logger(tmp_path, resume_step=10) as logger:
        logger.hparams({"seed": 1}, {TAG: 10.0})
    assert curve_of(tmp_path) == [(0, 0.0), (10, 10.0)]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("which", ["_metrics", "_events_file"])
def test_full_disk_is_one_line(tmp_path: Path, which: str) -> None:
    logger = Logger(tmp_path)
    file = getattr(logger, which)
    file.close()
    file._file = Path("/dev/full").open("wb")  # noqa: SIM115
    expected = f"cannot write {file._path}: No space left on device"
    for call in (lambda: logger.log(1, {TAG: 1.0}), logger.flush, logger.close):
        with pytest.raises(UserError) as raised:
            call()
        assert str(raised.value) == expected
    logger.close()  # both are closed by now


def test_room_on_the_disk_again_leaves_no_torn_line(tmp_path: Path) -> None:
    """A limit on the file's size stands for the full disk: only part of a row fits."""
    code = (
        "import resource, sys, pathlib\n"
        "from rlzoo.errors import UserError\nfrom rlzoo.run.logger import Logger\n"
        "logger = Logger(pathlib.Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))\n"
        "failed = False\n"
        "for step in range(100):\n"
        "    try: logger.log(step, {'eval/return': step})\n"
        "    except UserError as error:\n"
        "        failed = True\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "logger.close(); assert failed"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, check=True)
    assert [step for step, _, _ in rows_of(tmp_path)] == list(range(100))


def test_file_in_place_of_the_run_dir(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file"):
        Logger(tmp_path / "file")


def page_of(folder: Path) -> tuple[list[str], list[str], dict[str, dict[str, object]]]:
    """What TensorBoard's hparams tab shows: columns and metrics in their order, and each run's metrics."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    backend, request = backend_context.Context(TBContext(data_provider=provider)), RequestContext()
    asked = api_pb2.GetExperimentRequest()
    page = get_experiment.Handler(request, backend, "", asked).run()
    every = api_pb2.ListSessionGroupsRequest(slice_size=100, allowed_statuses=[0, 1, 2, 3])
    groups = list_session_groups.Handler(request, backend, "", every).run().session_groups
    runs = {group.name: {one.name.tag: one.value for one in group.metric_values} for group in groups}
    return [one.name for one in page.hparam_infos], [one.name.tag for one in page.metric_infos], runs


def test_the_page_of_a_sweep_begins_with_what_is_swept_and_hides_no_run(tmp_path: Path) -> None:
    settings = {"agent": "sac", "agent.bins": 3, "agent.lr": 0.1, "seed": 1}
    for agent, own in (("sac", "agent.tau"), ("bc", "agent.greedy")):
        (tmp_path / f"{agent}-s1").mkdir()
        with Logger(tmp_path / f"{agent}-s1") as logger:
            logger.hparams({**settings, "agent": agent, own: 0.5})
            logger.log(10, {"eval/a": 0.0, TAG: 5.0})
            logger.hparams(settings, {TAG: 5.0, "eval/best_return": 7.0})
    other = tmp_path / "events.out.tfevents.1700000000.myhost.1.0"  # of another program
    other.touch()
    write_hparams_page(tmp_path, {**settings, "agent.tau": 0.5}, first={"agent", "seed"})
    every = {**settings, "agent.tau": 0.5, "agent.greedy": 0.5}
    write_hparams_page(tmp_path, every, first={"agent", "agent.lr"})
    assert len(list(tmp_path.glob("events*"))) == 2
    other.unlink()
    columns, metrics, runs = page_of(tmp_path)
    assert columns == ["agent", "agent.lr", "agent.bins", "agent.greedy", "agent.tau", "seed"]
    assert metrics[:2] == [TAG, "eval/best_return"]
    assert {name: values[TAG] for name, values in runs.items()} == {"sac-s1": 5.0, "bc-s1": 5.0}
