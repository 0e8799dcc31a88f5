"""Where the runs of a sweep take place: on this machine, in Slurm's queue, or on a Ray cluster.

A launcher has a number of `slots`, submits jobs, says whether one is still at work, and stops one with a
single signal, on which a run writes a checkpoint and ends. Whether it has come to its end, its folder says.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rlzoo.errors import UserError
from rlzoo.run.extras import load_extra
from rlzoo.run.files import atomic_write, errors_named
from rlzoo.run.signals import SIGNALS

LOG_FILE = "output.log"  # what a run prints, in its folder
HANDLE_FILE = "job.json"  # by what name Slurm knows a run, in its folder
# Runs side by side are fastest with one thread each.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def run_environment() -> dict[str, str]:
    """The variables of a run, which is of the same checkout as this module, whichever is installed."""
    checkout = str(Path(__file__).resolve().parents[2])
    others = filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join([checkout, *others])}


@dataclasses.dataclass(eq=False)
class Job:
    """One run of a sweep, and how it stands.

    Attributes:
        name: of its folder.
        run_dir: the folder.
        command: starts the run, or goes on with it where its folder holds one.
        steps: at its end; 0 where unknown.
        state: "queued", "running", "done", "failed", "pruning" or "pruned": told to go no further.
        tries: how often in a row it ended too early without having written a checkpoint.
        error: the last line of one that failed, or what became of one that died.
        checkpoint: when it had last written one, before it was started.
        launcher_log: where the launcher notes why a run that printed nothing came to its end.
    """

    name: str
    run_dir: Path
    command: list[str]
    steps: int = 0
    state: str = "queued"
    tries: int = 0
    error: str = ""
    checkpoint: float = 0.0
    launcher_log: Path | None = None

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.run_dir / LOG_FILE

    @property
    def cause(self) -> Path:
        """Where it stands why the run has ended."""
        return self.log if self.log.exists() or self.launcher_log is None else self.launcher_log


class Launcher(Protocol):
    """What the parent of a sweep asks of a launcher.

    Attributes:
        slots: how many jobs to have submitted at a time.
        period: seconds between two looks at the jobs.
        outlives: whether jobs go on when the parent is interrupted.
    """

    slots: int
    period: float
    outlives: bool

    def submit(self, jobs: Sequence[Job]) -> None:
        """Start jobs."""

    def attach(self, job: Job) -> bool:
        """Take over a job that an earlier parent submitted; False where it is no longer at work."""

    def poll(self, job: Job) -> int | None:
        """The job's exit code, 1 where that is unknown; None while it waits or runs."""

    def stop(self, job: Job) -> None:
        """Make a job write a checkpoint and end."""


@dataclasses.dataclass(frozen=True)
class Resources:
    """What a sweep asks of its launcher.

    Attributes:
        folder: the sweep's own.
        jobs: runs at a time; None: as many as there is room for.
        threads: of each run.
        gpu: whether a run uses one where there is one.
        per_gpu: runs that share a GPU.
        resumable: whether a run that is interrupted can go on where it was.
        slurm: parameters of sbatch by name.
        ray_address: of the cluster.
    """

    folder: Path
    jobs: int | None = None
    threads: int = 1
    gpu: bool = True
    per_gpu: int = 1
    resumable: bool = True
    slurm: dict[str, str] = dataclasses.field(default_factory=dict)
    ray_address: str = "auto"


class Local:
    """Processes on this machine, each in a session of its own: Ctrl-C reaches the parent alone."""

    period = 1.0
    outlives = False

    def __init__(self, resources: Resources) -> None:
        gpus = _visible_gpus() if resources.gpu else []
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        places = gpus * resources.per_gpu or [""] * max(1, cores // resources.threads)
        self.slots = resources.jobs or len(places)
        # Spread over the GPUs, of which each run sees one.
        self._places = [places[index % len(places)] for index in range(self.slots)]
        self._threads = resources.threads
        self._own: dict[Job, subprocess.Popen[bytes]] = {}
        self._pids: dict[Job, int] = {}
        self._taken: dict[Job, str] = {}
        self._others: dict[Path, int] | None = None  # processes of an earlier parent, by folder

    def submit(self, jobs: Sequence[Job]) -> None:
        """Start processes."""
        for job in jobs:
            place = self._place()
            environment = {**run_environment(), "OMP_NUM_THREADS": str(self._threads)}
            if place:
                environment["CUDA_VISIBLE_DEVICES"] = place
            process = _start(job.command, job.log, env=environment)
            self._own[job], self._pids[job], self._taken[job] = process, process.pid, place

    def _place(self) -> str:
        free = list(self._places)
        for place in self._taken.values():
            if place in free:
                free.remove(place)
        return free[0] if free else self._places[0]

    def attach(self, job: Job) -> bool:
        """Find the process of an earlier parent by its command."""
        if self._others is None:
            pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
            self._others = {folder: pid for pid in pids if (folder := _trained_folder(pid))}
        if (pid := self._others.get(job.run_dir.resolve())) is None:
            return False
        self._pids[job] = pid
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
            values = dict(item.split("=", 1) for item in environment if "=" in item)
            self._taken[job] = values.get("CUDA_VISIBLE_DEVICES", "")
        return True

    def poll(self, job: Job) -> int | None:
        """The exit code; that of a process of an earlier parent is unknown."""
        if job in self._own:
            code = self._own[job].poll()
        else:
            code = None if _trained_folder(self._pids[job]) == job.run_dir.resolve() else 1
        if code is not None:
            for known in (self._own, self._pids, self._taken):
                known.pop(job, None)
        return code

    def stop(self, job: Job) -> None:
        """Send one SIGTERM."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pids[job], signal.SIGTERM)


def _visible_gpus() -> list[str]:
    import torch  # here, because jobs on a cluster import this module and need no PyTorch of their own

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [str(index) for index in range(count)] if named is None else named.split(",")[:count]


def _start(command: Sequence[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, with its output at the end of `log`."""
    with errors_named(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,
            )


def _trained_folder(pid: int) -> Path | None:
    """The folder in which a process, the first of its session, was started to train; None for any other."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        folder = arguments[arguments.index("--run-dir") + 1]
        is_first = os.getsid(pid) == pid  # its worker processes have the same command
        return Path(os.readlink(f"/proc/{pid}/cwd"), folder).resolve() if is_first else None
    except (OSError, ValueError, IndexError):  # another's, ended, or of another kind
        return None


class Slurm:
    """Jobs in Slurm's queue by submitit, those submitted together as one array.

    A job that is about to run out of time, or is preempted, writes a checkpoint and queues itself again. One
    that leaves the queue without a result (cancelled, preempted for good, its node lost) has ended.
    """

    period = 10.0
    outlives = True

    def __init__(self, resources: Resources, cluster: str = "slurm") -> None:
        """`cluster` is "slurm", or "local" for submitit's stand-in on this machine."""
        self._submitit = load_extra("submitit", "slurm")
        self.slots = resources.jobs or 1000
        self._folder = (resources.folder / "slurm").absolute()
        self._job_class = {"slurm": self._submitit.SlurmJob, "local": self._submitit.LocalJob}[cluster]
        # An account 0042 is no number.
        is_number = lambda text: text.isdigit() and str(int(text)) == text  # noqa: E731
        given = {key: int(text) if is_number(text) else text for key, text in resources.slurm.items()}
        for name in ("time", "timeout_min"):
            if not isinstance(given.get(name, 0), int):
                raise UserError(f"--slurm {name} takes minutes, by which submitit tells a time-out, as 600")
        parameters = {"name": "rlzoo", "timeout_min": 60, "cpus_per_task": resources.threads, **given}
        if resources.jobs:
            parameters["array_parallelism"] = resources.jobs
        try:
            # Queued again for as long as the run takes.
            options = {f"{cluster}_max_num_timeout": 1000 if resources.resumable else 0}
            self._executor = self._submitit.AutoExecutor(self._folder, cluster=cluster, **options)
            self._executor.update_parameters(**{f"slurm_{key}": value for key, value in parameters.items()})
        except (RuntimeError, ValueError, NameError, TypeError) as error:
            raise UserError(f"--launcher slurm: {_first_line(error)}") from error
        self._jobs: dict[Job, Any] = {}
        self._asks_queue = cluster == "slurm"
        # The ids in Slurm's queue, None where it did not answer, and when it was asked.
        self._queue: frozenset[str] | None = None
        self._asked = 0.0
        self._missed: dict[Job, float] = {}  # since when a job is in the queue no more

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs, several as one array, and note each one's id in its folder."""
        tasks = [SlurmTask(job.command, str(job.log), os.getcwd()) for job in jobs]
        try:
            submitted = self._executor.submit_array(tasks)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"Slurm does not take the jobs: {_first_line(error)}") from error
        for job, handle in zip(jobs, submitted, strict=True):
            self._take(job, handle)
            atomic_write(job.run_dir / HANDLE_FILE, json.dumps({"slurm": handle.job_id}) + "\n")

    def attach(self, job: Job) -> bool:
        """Ask Slurm about the job whose id is noted in the run's folder."""
        try:
            job_id = json.loads((job.run_dir / HANDLE_FILE).read_text())["slurm"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self._take(job, self._job_class(self._folder, job_id))
        # Whether it died without a result is asked of Slurm with the next `poll`, for all jobs at once.
        return not self._jobs[job].paths.result_pickle.exists()

    def _take(self, job: Job, handle: Any) -> None:
        self._jobs[job], job.launcher_log = handle, handle.paths.stderr
        self._missed.pop(job, None)

    def poll(self, job: Job) -> int | None:
        """What the run returned; 1 where it has left the queue without a result."""
        handle = self._jobs[job]
        if handle.paths.result_pickle.exists():
            with contextlib.suppress(Exception):  # of the job, whatever it is
                return int(handle.results()[0])
            return 1
        if not self._asks_queue:
            return 1 if handle.done() else None
        now = time.monotonic()
        if now - self._asked >= self.period:
            self._queue, self._asked = self._ask_queue(), now
        if self._queue is None or handle.job_id in self._queue:
            self._missed.pop(job, None)
            return None
        # A result that was written on another machine may take a moment to be seen on this one.
        return 1 if now - self._missed.setdefault(job, now) >= 2 * self.period else None

    def _ask_queue(self) -> frozenset[str] | None:
        """The ids of all jobs that wait, run or are stopped for a while; None where there is no answer.

        Not `sacct`, as submitit asks: it knows nothing where accounting is off.
        """
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
        try:
            asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return frozenset(asked.stdout.split())

    def stop(self, job: Job) -> None:
        """Cancel the job."""
        self._jobs[job].cancel(check=False)


class SlurmTask:
    """What a job of Slurm runs: the training as a process of its own.

    submitit calls `checkpoint` when it gets its signal (SIGUSR2, before the time is up or on preemption) and
    then queues the job again. Slurm may send its signals to every process of a job; the training is shielded
    from all but one SIGINT, because on a second it would stop without a checkpoint.
    """

    def __init__(self, command: list[str], log: str, folder: str) -> None:
        self._command, self._log, self._folder = command, log, folder

    def __call__(self) -> int:
        """Train. Returns the exit code."""
        process = _start(
            self._command,
            Path(self._folder, self._log),
            cwd=self._folder,
            env=run_environment(),
            preexec_fn=_shield,
        )
        self._pid, self._signalled = process.pid, False
        signal.signal(signal.SIGTERM, lambda *_: self._stop())  # scancel
        # Not `Popen.wait`: a signal handler that waits within it would wait for ever.
        _, status = os.waitpid(self._pid, 0)
        return os.waitstatus_to_exitcode(status)

    def checkpoint(self) -> Any:
        """Let the training write its checkpoint and end; what is to be run when the job comes again."""
        from submitit.helpers import DelayedSubmission

        self._stop()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        return DelayedSubmission(SlurmTask(self._command, self._log, self._folder))

    def _stop(self) -> None:
        if not self._signalled:
            self._signalled = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGINT)


def _shield() -> None:
    """Between fork and exec: let none of Slurm's signals through."""
    names = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, names)


class Ray:
    """Tasks on a Ray cluster whose nodes share the file system, with a share of a GPU each."""

    period = 1.0
    outlives = False

    def __init__(self, resources: Resources) -> None:
        self._ray = load_extra("ray", "ray")
        host, colon, port = resources.ray_address.rpartition("://")[2].rpartition(":")
        try:
            if colon:  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=5).close()
            self._ray.init(address=resources.ray_address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"no Ray cluster can be reached at {resources.ray_address} (`ray start --head` starts one): "
                f"{_first_line(error)}"
            ) from error
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if resources.threads > max(node.get("CPU", 0) for node in alive):
            print(f"warning: no node of the cluster has the {resources.threads} CPUs that a run asks for")
        total = self._ray.cluster_resources()
        gpus = total.get("GPU", 0) if resources.gpu else 0
        room = gpus * resources.per_gpu if gpus else total.get("CPU", 1) // resources.threads
        self.slots = resources.jobs or max(1, int(room))
        # Where a task cannot be restarted it fails, and the parent submits the run again.
        options = {"num_cpus": resources.threads, "num_gpus": 1 / resources.per_gpu if gpus else 0}
        self._task = self._ray.remote(max_retries=0, **options)(ray_task)
        self._tasks: dict[Job, Any] = {}

    def submit(self, jobs: Sequence[Job]) -> None:
        """Hand tasks to the cluster."""
        for job in jobs:
            stop_file(job.log).unlink(missing_ok=True)
            self._tasks[job] = self._task.remote(job.command, str(job.log), os.getcwd(), own_environment())

    def attach(self, job: Job) -> bool:
        """Tasks end with the parent that submitted them."""
        return False

    def poll(self, job: Job) -> int | None:
        """What the run returned; 1 where its worker or node was lost."""
        task = self._tasks[job]
        if not self._ray.wait([task], timeout=0)[0]:
            return None
        del self._tasks[job]
        try:
            return int(self._ray.get(task))
        except (self._ray.exceptions.RayError, KeyboardInterrupt):
            return 1

    def stop(self, job: Job) -> None:
        """Let the task end its run; one that has not begun is cancelled."""
        stop_file(job.log).touch()
        if not job.log.exists():
            self._ray.cancel(self._tasks[job])


def stop_file(log: Path) -> Path:
    """The file that tells a task on Ray to end its run: an interrupt of Ray's own may cut its wait short."""
    return log.with_name(log.name + ".stop")


def own_environment() -> dict[str, str]:
    """What is set here of the variables that a run looks at; the workers' are those of `ray start`."""
    ours = "RLZOO_", "D4RL_", "MINARI_", "MUJOCO_", "PYOPENGL_", "COPPELIASIM_", "WANDB_"
    return {name: value for name, value in os.environ.items() if name.startswith(ours)}


def ray_task(command: list[str], log: str, folder: str, variables: dict[str, str]) -> int:
    """Train, as a process of its own, within a worker of Ray. Returns the exit code."""
    environment = {**run_environment(), **variables}
    told = stop_file(Path(folder, log))
    process = _start(command, Path(folder, log), cwd=folder, env=environment, preexec_fn=_end_with_parent)
    while process.poll() is None and not told.exists():
        time.sleep(0.2)
    if process.poll() is None:
        process.terminate()
    return process.wait()


def _end_with_parent() -> None:
    """Between fork and exec: a run whose worker is killed must not go on beside its successor.

    It hears its signals even where whoever started the cluster had blocked them.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl.h
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _first_line(error: Exception) -> str:
    """The first line of a message; the kind of error where there is none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


LAUNCHERS: dict[str, type[Launcher]] = {"local": Local, "slurm": Slurm, "ray": Ray}
