"""A run's numbers: TensorBoard events, films among them, and the same in a CSV file for everything else."""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries
from torch.utils.tensorboard.summary import text as text_summary

from rlzoo.errors import UserError
from rlzoo.run.files import WriteError, atomic_path, errors_named, remove_leftovers
from rlzoo.run.folder import METRICS_FILE

if TYPE_CHECKING:  # imageio, which a run that draws nothing has no need of
    from rlzoo.run.video import Gif

_HEADER = "step,tag,value\n"
_EVENTS_PREFIX = "events.out.tfevents."
_PAGE_SUFFIX = ".0000"  # other writers' files in the folder of a sweep have their host's name behind the time
_EVENTS_NAME = re.compile(re.escape(_EVENTS_PREFIX) + r"(\d{10})\.\d{4,}")
_PAGE_METRICS = ("eval/return", "eval/best_return", "eval/normalized_score", "eval/success")


class Logger:
    """Writes a run's metrics to TensorBoard and to ``metrics.csv`` (``step,tag,value``).

    Every call is handed to the operating system before it returns, so that a killed process loses nothing
    that was logged and leaves at most one incomplete line at the end. TensorBoard's own writer does its work
    in a thread, where a full disk shows as a traceback from that thread; here every call that cannot write
    raises a `UserError` at once.
    """

    def __init__(
        self, run_dir: Path, resume_step: int | None = None, *, drop_tags: Collection[str] = ()
    ) -> None:
        """Start the files of a new run, or go on with those of an old one.

        Args:
            run_dir: the run's folder, which no other process may be logging to.
            resume_step: environment steps at the checkpoint that the run goes on from, None for a new run.
                Whatever was logged after it is dropped, so that the curves have neither gap nor duplicate.
            drop_tags: dropped at that very step too, because it was logged once the checkpoint had been
                written: the evaluation that closes a run, and its summary.
        """
        metrics = run_dir / METRICS_FILE
        self.mirror: Callable[[int, Mapping[str, float]], None] | None = None  # is told all that is logged
        self._latest: dict[str, float] = {}  # the last value of each curve
        self._step = resume_step or 0
        if resume_step is not None:
            remove_leftovers(run_dir)
            self._latest = _truncate_metrics(metrics, resume_step, drop_tags)
            _truncate_events(run_dir, resume_step, drop_tags)
        self._metrics = _AppendedFile(metrics, new=resume_step is None)
        if resume_step is None:
            self._metrics.write(_HEADER.encode())
        # Its name sorts after those of earlier sessions, also where the clock has been set back since:
        # TensorBoard reads them in that order.
        earlier = [path.name for path in run_dir.glob(f"{_EVENTS_PREFIX}*")]
        starts = [int(start[1]) for start in map(_EVENTS_NAME.fullmatch, earlier) if start]
        name = f"{_EVENTS_PREFIX}{max([int(time.time()), *starts]):010d}.{len(earlier):04d}"
        self._events_file = _AppendedFile(run_dir / name, new=True)
        self._events = RecordWriter(self._events_file)
        self._add_event(file_version="brain.Event:2")
        if resume_step is not None:
            # For a TensorBoard that is open meanwhile and has read what has just been cut off.
            self._add_event(step=resume_step + 1, session_log=SessionLog(status=SessionLog.START))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write `values` (by TensorBoard tag; floats or 0-d tensors) at `step` environment steps.

        ``metrics.csv`` gets them as Python's `repr`, which reads back as exactly the same float; TensorBoard
        keeps 32 bits.
        """
        self._step = int(step)
        numbers = {tag: float(value) for tag, value in values.items()}
        if not numbers:
            return
        self._latest.update(numbers)
        rows = io.StringIO()
        csv.writer(rows, lineterminator="\n").writerows((self._step, *item) for item in numbers.items())
        self._metrics.write(rows.getvalue().encode())
        self._add_summary(Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in numbers.items()]))
        if self.mirror is not None:
            self.mirror(self._step, numbers)

    def text(self, tag: str, markdown: str) -> None:
        """Show a text on TensorBoard's text page, at the last step that was logged."""
        self._add_summary(text_summary(tag, markdown))  # type: ignore[no-untyped-call]

    def film(self, step: int, tag: str, gif: Gif) -> None:
        """Show an animated GIF at `step` environment steps in TensorBoard, among its images."""
        self._step = int(step)
        image = Summary.Image(
            height=gif.height, width=gif.width, colorspace=3, encoded_image_string=gif.content
        )
        self._add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]))

    def hparams(
        self, config: Mapping[str, bool | int | float | str], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Tell TensorBoard's hparams tab how this run was set, and at its end what came of it.

        Call it with the configuration (from `flatten_config`) at the start, so that a run which never ends is
        listed too, and with the final metrics at the end. The tab shows the last value of each curve as the
        run's metric; metrics that are not that already (``eval/best_return``) are logged at the last step.

        No experiment summary is written: TensorBoard would take that of any one run for all of them, and the
        hyperparameters of other agents would not be shown. Without it, it collects them from all runs.
        """
        # As text, or PyTorch makes booleans numbers and TensorBoard offers the interval from 0 to 1.
        values = {name: str(value) if isinstance(value, bool) else value for name, value in config.items()}
        _experiment, session_start, session_end = hparams_summaries(values, {})  # type: ignore[no-untyped-call]
        self._add_summary(session_start)
        if metrics is not None:
            new = {tag: value for tag, value in metrics.items() if self._latest.get(tag) != value}
            self.log(self._step, new)
            self._add_summary(session_end)

    def flush(self) -> None:
        """Force everything logged onto the disk, before a checkpoint counts as written."""
        self._metrics.sync()
        self._events_file.sync()

    def close(self) -> None:
        """Close the files; closing again does nothing."""
        with contextlib.closing(self._events_file):
            self._metrics.close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self.close()
        except UserError:
            if kind is None:  # else it would hide what happened first
                raise

    def _add_summary(self, summary: Summary) -> None:
        self._add_event(step=self._step, summary=summary)

    def _add_event(self, **content: Any) -> None:
        self._events.write(Event(wall_time=time.time(), **content).SerializeToString())


class _AppendedFile:
    """A file that only grows, one whole record a call.

    What a full disk did not take stays in the buffer and goes first should there be room later, so a record
    is never left torn in the middle of the file. That somebody has deleted, moved or replaced it meanwhile is
    noticed at the next call: what is written would be lost, or land elsewhere.
    """

    def __init__(self, path: Path, *, new: bool) -> None:
        self._path = path
        with errors_named(path):
            self._file = path.open("xb" if new else "ab")

    def write(self, data: bytes) -> None:
        with errors_named(self._path):
            self._file.write(data)
            self._file.flush()
            try:
                in_place = os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
            except (FileNotFoundError, NotADirectoryError):
                in_place = False
        if not in_place:
            raise WriteError(
                self._path, f"{self._path} was deleted, moved or replaced while the run was under way"
            )

    def sync(self) -> None:
        self.write(b"")
        with errors_named(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with errors_named(self._path):
            self._file.close()


def _truncate_metrics(path: Path, step: int, drop_tags: Collection[str]) -> dict[str, float]:
    """Keep the whole rows up to `step`, there without `drop_tags`. Returns the last value of each tag."""
    latest: dict[str, float] = {}
    with errors_named(path), path.open("a+", newline="", errors="replace") as old:
        old.seek(0)
        with atomic_path(path) as temporary, temporary.open("w", newline="") as new:
            new.write(_HEADER)
            for line in old:
                # Neither the header nor a torn line is a row.
                with contextlib.suppress(ValueError, csv.Error):
                    row_step, tag, value = next(csv.reader([line]))
                    earlier = int(row_step) < step or (int(row_step) == step and tag not in drop_tags)
                    if earlier and line.endswith("\n"):
                        latest[tag] = float(value)
                        new.write(line)
    return latest


def _truncate_events(run_dir: Path, step: int, drop_tags: Collection[str]) -> None:
    """Cut each event file off at the first event after `step`, of `drop_tags` at it, or at a torn one.

    The steps of one file never fall, as each was written by one session. Marking the place to resume from
    (TensorBoard's ``SessionLog.START``) is not enough: its fast data server pays no heed to the mark.
    """
    for path in run_dir.glob(f"{_EVENTS_PREFIX}*"):
        size = 0  # in bytes, of the events to keep
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            tags = {value.tag for value in event.summary.value}
            if event.step > step or (event.step == step and not tags.isdisjoint(drop_tags)):
                break
            size += len(record) + 16  # a record has 12 bytes (length, checksum) before its data and 4 after
        with errors_named(path):
            os.truncate(path, size)


def write_hparams_page(folder: Path, settings: Mapping[str, object], first: Collection[str]) -> None:
    """Make TensorBoard's hparams tab begin with chosen settings and the return, for the runs in `folder`.

    It shows settings that differ, by name, before all others; without this it would find out by itself which
    do and list the metrics by the alphabet.

    Args:
        folder: what TensorBoard is opened on; the runs' folders lie in it. Its earlier page is replaced.
        settings: a value for each column, of the runs together, as in `Logger.hparams`.
        first: the names of those to begin with.
    """
    columns = []
    for name, value in settings.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        kind = api_pb2.DATA_TYPE_FLOAT64 if is_number else api_pb2.DATA_TYPE_STRING
        # No domain: TensorBoard would hide every run whose value is not in it.
        columns.append(api_pb2.HParamInfo(name=name, type=kind, differs=name in first))
    metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in _PAGE_METRICS]
    page = api_pb2.Experiment(hparam_infos=columns, metric_infos=metrics, time_created_secs=time.time())
    about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(experiment=page))
    summary = Summary(value=[Summary.Value(tag=metadata.EXPERIMENT_TAG, metadata=about)])
    with errors_named(folder):
        for path in folder.glob(f"{_EVENTS_PREFIX}*{_PAGE_SUFFIX}"):
            path.unlink()
        with (folder / f"{_EVENTS_PREFIX}{int(time.time()):010d}{_PAGE_SUFFIX}").open("wb") as file:
            events = RecordWriter(file)
            events.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
            events.write(Event(wall_time=time.time(), summary=summary).SerializeToString())
