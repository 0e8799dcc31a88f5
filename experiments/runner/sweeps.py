"""What both forms of a sweep share: its runs, the parent that supervises them, and what a person sees."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import shlex
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments.compare import FINAL_SHARE, RETURN, mean_and_spread
from experiments.runner.experiment import flag, parse
from experiments.runner.flags import Experiment
from experiments.runner.launchers import LAUNCHERS, Job, Launcher, Resources
from experiments.suites import SUITES
from rlzoo.errors import UserError
from rlzoo.run.files import atomic_write, errors_named
from rlzoo.run.folder import flatten_config, is_finished, lock_run, plain
from rlzoo.run.logger import METRICS_FILE, write_hparams_page
from rlzoo.run.progress import tensorboard_hint
from rlzoo.run.signals import StopSignal
from rlzoo.settings import Count, Settings
from rlzoo.train import CHECKPOINT

SWEEP_FILE = "sweep.json"  # what is swept in a folder
USER_ERROR = 2  # the exit code of a script whose input is at fault
TRIES = 3  # of a run that dies again and again without getting any further
LINE_PERIOD = 60.0  # seconds between two plain lines
MAX_ROWS = 16  # of running runs in the live table


@dataclasses.dataclass(frozen=True)
class SweepFlags(Settings):
    """What both forms of a sweep take."""

    output: Path | None = None
    """Folder of the sweep; None: one in results/sweeps, the same for the same command."""
    jobs: Count | None = None
    """Runs at a time; None: one per core, or GPU."""
    per_gpu: Count = 1
    """Runs that share a GPU."""
    launcher: Literal["local", "slurm", "ray"] = "local"
    """Where the runs take place."""
    slurm: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A parameter of sbatch as NAME=VALUE, such as partition=gpu or timeout_min=600."""
    ray_address: str = "auto"
    """Address of the Ray cluster; auto: the one that this machine is part of."""
    max_failures: Count = 3
    """Give up when this many runs in a row have failed (in a search: trials)."""


class Progress:
    """How far a run is: the last step and the evaluations in its log."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / METRICS_FILE
        self.step = 0
        self.returns: list[float] = []
        self._read = (0, 0)

    def update(self) -> None:
        """Read the log again where it has changed."""
        with contextlib.suppress(OSError, ValueError):  # none yet
            status = self.path.stat()
            if self._read == (status.st_size, status.st_mtime_ns):
                return
            self._read = (status.st_size, status.st_mtime_ns)
            rows = self.path.read_bytes().rpartition(b"\n")[0].split(b"\n")  # without a torn line at the end
            tag = b"," + RETURN.encode() + b","
            self.returns = [float(row.rpartition(b",")[2]) for row in rows if tag in row]
            self.step = int(rows[-1].partition(b",")[0]) if len(rows) > 1 else 0

    @property
    def final(self) -> float:
        """The mean over the last tenth of the evaluations."""
        return statistics.mean(self.returns[-max(1, round(FINAL_SHARE * len(self.returns))) :])


class Sweep:
    """The parent of a sweep's runs: it alone decides what runs, and keeps the launcher's slots full.

    Attributes:
        suite: whose training script runs.
        folder: of the sweep; each run's folder lies in it.
        asked: the sweep's flags.
        jobs: all runs so far, in the order in which they are started.
        progress: of each run.
        failed: the runs that have failed since one did not.
    """

    unit = "run"  # what too many of may fail

    def __init__(self, suite: str, folder: Path, asked: SweepFlags) -> None:
        self.suite, self.folder, self.asked = suite, folder, asked
        self.jobs: list[Job] = []
        self.progress: dict[Job, Progress] = {}
        self.launcher: Launcher
        self.stop: StopSignal
        self.failed: list[Job] = []

    def job(self, name: str, agent: str, flags: Sequence[str], steps: int) -> Job:
        """A new run in the folder `name`, or the one that is there: done already, or to be gone on with."""
        run_dir = self.folder / name
        command = [*training_script(self.suite), agent, *flags, "--run-dir", str(run_dir)]
        job = Job(name, run_dir, command, steps)
        job.state = "done" if is_finished(run_dir) else "queued"
        self.progress[job] = Progress(run_dir)
        self.progress[job].update()
        return job

    def more(self, free: int) -> list[Job]:
        """Further jobs, when there is room for `free` of them."""
        return []

    def watch(self) -> None:
        """Look at what the runs have come to so far."""

    def succeeded(self) -> None:
        """A run is done."""
        self.failed.clear()

    def failures(self) -> int:
        """How many have failed in a row."""
        return len(self.failed)

    def unknown(self) -> int:
        """How many jobs there will be beyond those known already."""
        return 0

    def best(self) -> str:
        """The best result so far, in words; "" for none."""
        done = [(self.progress[job].final, job.name) for job in self.jobs if job.state == "done"]
        return "{1}, return {0:,.1f}".format(*max(done)) if done else ""

    def run(self, launcher: Launcher) -> int:
        """Run all jobs. Returns the exit code: 0, or 128 + the signal that stopped the sweep.

        Raises:
            UserError: too many runs or trials in a row have failed, or the launcher or the disk has.
        """
        self.launcher = launcher
        with Screen(self) as screen, StopSignal() as stop:
            self.stop = stop
            try:
                for job in self.jobs:
                    if job.state == "queued" and launcher.attach(job):
                        job.state = "running"
                        screen.note(f"{job.name} is at work already")
                while not stop.requested and self._step():
                    screen.show()
                    until = time.monotonic() + launcher.period
                    while time.monotonic() < until and not stop.requested:
                        time.sleep(min(0.1, launcher.period))
            finally:  # done, a signal, too many failures, a full disk: what runs ends in order
                running = [job for job in self.jobs if job.state in ("running", "pruning")]
                if running and launcher.outlives:
                    screen.note(f"{len(running)} jobs go on; the same command finds them again")
                elif running:
                    screen.note(f"{len(running)} runs write a checkpoint and end")
                    self._stop(running)
                screen.show()
        if stop.requested:
            print("stopped; the same command goes on with it")
        return stop.exit_code

    def _step(self) -> bool:
        """See what has ended, and start what there is room for. False when all is done.

        Raises:
            UserError: too many in a row have failed.
        """
        for job in self.jobs:
            if job.state in ("running", "pruning"):
                self.progress[job].update()
                code = self.launcher.poll(job)
                if code is not None:
                    self._settle(job, code)
        self.watch()
        if self.failures() >= self.asked.max_failures:
            last = self.failed[-1]
            raise UserError(
                f"{self.failures()} {self.unit}s in a row have failed (--max-failures), "
                f"the last ({last.cause}) with: {last.error.removeprefix('error: ')}"
            )
        queued = [job for job in self.jobs if job.state == "queued"]
        free = self.launcher.slots - sum(job.state in ("running", "pruning") for job in self.jobs)
        if free > len(queued):
            new = self.more(free - len(queued))
            self.jobs += new
            queued += [job for job in new if job.state == "queued"]
        start = [] if self.stop.requested else queued[: max(free, 0)]
        for job in start:
            job.checkpoint = checkpoint_time(job)
            with errors_named(job.run_dir):
                job.run_dir.mkdir(parents=True, exist_ok=True)
        if start:
            self.launcher.submit(start)
        for job in start:
            job.state, job.error = "running", ""
        return any(job.state in ("queued", "running", "pruning") for job in self.jobs)

    def _settle(self, job: Job, code: int) -> None:
        """Decide what becomes of a run that has ended."""
        self.progress[job].update()
        if is_finished(job.run_dir):
            job.state = "done"
            self.succeeded()
            return
        if job.state == "pruning":
            job.state = "pruned"
            return
        # One that dies on the way, by a signal or with its machine, is gone on with; a mistake stays one.
        gets_on = resumes(self.suite) and checkpoint_time(job) > job.checkpoint
        job.tries = 0 if gets_on else job.tries + 1
        if code != USER_ERROR and job.tries < TRIES:
            job.state, job.error = "queued", f"it ended with {code} and goes on where it was"
            return
        job.state, job.error = "failed", last_line(job.cause) or f"exit code {code}"
        self.failed.append(job)

    def halt(self, job: Job) -> None:
        """Let a run go no further."""
        if job.state == "running":
            self.launcher.stop(job)
            job.state = "pruning"
        elif job.state == "queued":
            job.state = "pruned"

    def _stop(self, running: list[Job]) -> None:
        """Pass one signal on to all, and wait until they have ended."""
        for job in running:
            self.launcher.stop(job)
        while running := [job for job in running if self.launcher.poll(job) is None]:
            time.sleep(0.1)


def training_script(suite: str) -> list[str]:
    """The command of a benchmark's training script; -P: no folder `envs` where it is started comes first."""
    return [sys.executable, "-P", "-m", f"experiments.train_{suite}"]


def resumes(suite: str) -> bool:
    """Whether the benchmark's runs can go on where they were."""
    return suite not in SUITES or SUITES[suite].build is None


def checkpoint_time(job: Job) -> float:
    """When a run has last written a checkpoint; 0 for never."""
    with contextlib.suppress(OSError):
        return (job.run_dir / "checkpoints" / CHECKPOINT).stat().st_mtime
    return 0.0


def last_line(log: Path) -> str:
    """The last line that is not empty."""
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


class Screen:
    """What a person sees of a sweep: a live table on a terminal, plain lines elsewhere."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        console = Console()
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._began = time.monotonic()
        self._first: float | None = None  # the share that was done at the start
        self._states: dict[Job, str] = {}
        self._next_line = 0.0

    def __enter__(self) -> Screen:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def note(self, line: str) -> None:
        """Print a line that stays."""
        if self._live:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def show(self) -> None:
        """Show how the sweep stands."""
        for job in self._sweep.jobs:
            if self._states.get(job, "queued") != job.state and (self._live is None or job.error):
                progress = self._sweep.progress[job]
                result = f", return {progress.final:,.1f}" if job.state == "done" else ""
                self.note(f"{job.name}: {job.state}{result}{job.error and ', ' + job.error}")
            self._states[job] = job.state
        if self._live:
            self._live.update(Group(*self._table(), Text(self.summary())), refresh=True)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_PERIOD
            self.note(self.summary())

    def summary(self) -> str:
        """How many runs stand how, the best so far, and the time left."""
        sweep = self._sweep
        states = [job.state.replace("pruning", "running") for job in sweep.jobs]
        counts = {state: states.count(state) for state in ("running", "done", "failed", "pruned", "queued")}
        counts["queued"] += sweep.unknown()
        parts = [
            f"{count} {state}" for state, count in counts.items() if count or state in ("running", "done")
        ]
        best, left = sweep.best(), self._left()
        parts += [f"best so far {best}"] if best else []
        return ", ".join([*parts, *([f"{left} left"] if left else [])])

    def _left(self) -> str:
        """The time left, at the speed since the start; "" while that is unknown."""
        over = ("done", "failed", "pruned")
        shares = [1.0 if job.state in over else self._share(job) for job in self._sweep.jobs]
        done, total = sum(shares), len(shares) + self._sweep.unknown()
        if self._first is None:
            self._first = done
        if done - self._first < 0.01 or done >= total:
            return ""
        seconds = (time.monotonic() - self._began) * (total - done) / (done - self._first)
        return str(timedelta(seconds=round(seconds)))

    def _share(self, job: Job) -> float:
        return min(1.0, self._sweep.progress[job].step / job.steps) if job.steps else 0.0

    def _table(self) -> list[Table]:
        """The runs at work, if there are any."""
        table = Table("run", "step", "", "return")
        for column in table.columns[1:]:
            column.justify = "right"
        running = [job for job in self._sweep.jobs if job.state in ("running", "pruning")]
        for job in running[:MAX_ROWS]:
            progress = self._sweep.progress[job]
            result = f"{progress.returns[-1]:,.1f}" if progress.returns else ""
            table.add_row(job.name, f"{progress.step:,}", f"{self._share(job):.0%}", result)
        if len(running) > MAX_ROWS:
            table.add_row(f"and {len(running) - MAX_ROWS} more")
        return [table] if running else []


@dataclasses.dataclass(frozen=True)
class Plan:
    """One run, its flags checked before any run starts.

    Attributes:
        agent: its name.
        flags: for the training script.
        values: what is swept, by name.
        settings: by flat name ("agent.lr"); empty for a script whose flags are not known here.
        steps: at the run's end.
        evaluations: of the run.
        threads: as asked for; None: not at all.
        device: as asked for.
    """

    agent: str
    flags: list[str]
    values: dict[str, str]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = 0
    evaluations: int = 0
    threads: int | None = None
    device: str = "auto"

    @property
    def name(self) -> str:
        """Of the run's folder: short, as TensorBoard shows it."""
        short = {"task": "", "seed": "s"}
        parts = [short.get(name, name.rpartition(".")[2]) + value for name, value in self.values.items()]
        return "-".join(re.sub(r"[^\w.+=-]+", "-", part) for part in (self.agent, *parts))


def plan(suite: str, agent: str, flags: Sequence[str], values: Mapping[str, str]) -> Plan:
    """Fill in a run's swept values and check its flags.

    Args:
        suite: the benchmark.
        agent: its name.
        flags: for the training script; {name} in them stands for a value.
        values: what is swept, by name.

    Raises:
        UserError: a flag is unknown, or has a value that it does not take.
    """
    given = filled(flags, {**values, "agent": agent})
    for name, value in values.items():
        given += as_flags(name, value)
    if suite not in SUITES:
        return Plan(agent, given, dict(values))
    request = parse(SUITES[suite], [agent, *given], f"rlzoo train {suite}")
    asked = request.asked
    if request.run_dir or request.resume or asked.runs_dir != Experiment.runs_dir:
        raise UserError("a sweep's runs are in its own folder, --output: no --runs-dir, --run-dir, --resume")
    steps = asked.train.steps + asked.train.offline_steps
    settings = {"agent": agent, **flatten_config(plain(asked))}
    loop = (steps, steps // asked.train.eval_every, asked.threads, asked.device)
    return Plan(agent, given, dict(values), settings, *loop)


def filled(flags: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """`flags` with the value of what is swept, without quotes, in place of its {name}."""
    bare = {name: " ".join(words(name, value)) for name, value in values.items()}
    return [re.sub(r"\{([\w.-]+)\}", lambda name: bare.get(name[1], name[0]), flag) for flag in flags]


def words(name: str, value: str) -> list[str]:
    """What a swept value consists of: "256 256" are two, "'a b.hdf5'" is one."""
    try:
        return shlex.split(value)
    except ValueError as error:
        raise UserError(f"{name}={value}: {error}") from error


def as_flags(name: str, value: str) -> list[str]:
    """A swept setting as flags of the training script, true and false as a switch."""
    group, dot, last = name.replace("_", "-").rpartition(".")
    if value in ("true", "false"):
        return [f"--{group}{dot}{'' if value == 'true' else 'no-'}{last}"]
    return [f"--{group}{dot}{last}", *words(name, value)]


def named_values(option: str, texts: Sequence[str], example: str) -> dict[str, str]:
    """Names and values of NAME=VALUES. A `UserError` for one without either, or a name given twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, values = text.partition("=")
        if not name or not values:
            raise UserError(f"{option} {text} is not NAME=VALUES, such as {example}")
        if name in found:
            raise UserError(f"{option} {name} is given twice")
        found[name] = values
    return found


def split_values(values: str) -> list[str]:
    """The values of "A,B,C"; what is in brackets (not in nested ones), as "(0.7,2.0)", is one."""
    return re.split(r",(?![^(\[]*[)\]])", values)


def claim(folder: Path, experiment: dict[str, Any]) -> None:
    """Note in the folder what is swept there. A `UserError` if it holds another sweep."""
    path = folder / SWEEP_FILE
    ours = json.loads(json.dumps(experiment))
    try:
        known = json.loads(path.read_text())
    except FileNotFoundError:
        atomic_write(path, json.dumps(ours, indent=2) + "\n")
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if known != ours:
        theirs = known if isinstance(known, dict) else {}
        key = min(key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key))
        raise UserError(
            f"{folder} holds another sweep (its {key}: {json.dumps(theirs.get(key))}, here: "
            f"{json.dumps(ours.get(key))}); name another folder with --output"
        )


def default_output(name: str, experiment: dict[str, Any]) -> Path:
    """The folder of a sweep for which none is named: the same for the same experiment."""
    digest = hashlib.sha256(json.dumps(experiment, sort_keys=True).encode()).hexdigest()
    return Path("results/sweeps") / f"{name}-{digest[:6]}"


def open_launcher(
    suite: str, asked: SweepFlags, folder: Path, plans: Sequence[Plan], jobs: int | None
) -> Launcher:
    """The launcher that is asked for. A `UserError` if it is not installed or cannot be reached."""
    slurm = named_values("--slurm", asked.slurm, "partition=gpu")
    threads = max(one.threads or 1 for one in plans)
    gpu = any(one.device != "cpu" for one in plans)
    can_resume = resumes(suite)
    resources = Resources(folder, jobs, threads, gpu, asked.per_gpu, can_resume, slurm, asked.ray_address)
    return LAUNCHERS[asked.launcher](resources)


def with_threads(one: Plan) -> list[str]:
    """The flags of a run. Runs side by side are fastest with one thread each, unless others are asked for."""
    return one.flags if one.threads else [*one.flags, "--threads", "1"]


def write_page(folder: Path, plans: Sequence[Plan], names: Iterable[str]) -> None:
    """Make TensorBoard's page of hyperparameters begin with the agent and what is swept."""
    settings: dict[str, Any] = {}
    for one in plans:
        settings |= one.settings
    wanted = {f"--{name.replace('_', '-')}" for name in names}
    write_hparams_page(folder, settings, first={"agent", *(key for key in settings if flag(key) in wanted)})


def run_grid(
    suite: str, folder: Path, asked: SweepFlags, experiment: dict[str, Any], plans: Sequence[Plan]
) -> int:
    """Make every run of a grid, or those that are still to be made, and say what came of them."""
    with opened(folder, experiment):
        write_page(folder, plans, plans[0].values)
        sweep = Sweep(suite, folder, asked)
        sweep.jobs = [sweep.job(one.name, one.agent, with_threads(one), one.steps) for one in plans]
        print(f"{len(plans)} runs in {folder}")
        if code := sweep.run(open_launcher(suite, asked, folder, plans, asked.jobs)):
            return code
        rows: dict[tuple[str, ...], list[Job]] = defaultdict(list)
        for one, job in zip(plans, sweep.jobs, strict=True):
            rows[one.agent, *(value for name, value in one.values.items() if name != "seed")].append(job)
        table = Table("agent", *(name for name in plans[0].values if name != "seed"), "runs", "final return")
        for shown, jobs in rows.items():
            returns = [sweep.progress[job].final for job in jobs if job.state == "done"]
            table.add_row(*shown, str(len(returns)), mean_and_spread(returns))
        Console().print(table)
        print(f"curves and intervals: rlzoo compare results/mine {shlex.quote(str(folder))}")
        print(f"learning curves: {tensorboard_hint(folder)}")
        return int(any(job.state == "failed" for job in sweep.jobs))


@contextlib.contextmanager
def opened(folder: Path, experiment: dict[str, Any]) -> Iterator[None]:
    """Make a sweep's folder, or go on in it, and keep every other parent out."""
    with errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock_run(folder):
        claim(folder, experiment)
        yield
