"""Signals to a whole job, and simulators that fail, as a user meets them: at the training script."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.run.folder import PROJECT
from tests.experiments.test_scripts import SHORT, rows
from tests.helpers.processes import descendants, is_running

TROUBLES = '''
"""Tasks that hang, raise or end their process in the next step once a file says so."""
import os
import time
from pathlib import Path

import gymnasium as gym
import numpy as np


class Trouble(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 3)
        return self.state.copy(), {}

    def step(self, action):
        if Path("hang").exists():
            time.sleep(600)
        if Path("raise").exists():
            raise OSError("the arm does not answer")
        try:
            Path("die").unlink()
        except OSError:
            pass
        else:
            os._exit(3)
        self.state = 0.9 * self.state + 0.1 * float(action[0])
        return self.state.copy(), -float(self.state[0] ** 2), False, False, {}


gym.register("Trouble-v0", entry_point=Trouble, max_episode_steps=20)
gym.register("Endless-v0", entry_point=Trouble)
'''


class Job:
    """A training script, in a session of its own and in a folder with the module `troubles`."""

    def __init__(
        self, folder: Path, *flags: str, task: str = "troubles:Trouble-v0", prefix: tuple[str, ...] = ()
    ):
        (folder / "troubles.py").write_text(TROUBLES)
        self.folder = folder
        if flags[0] != "--resume":
            flags = ("sac", "--task", task, *SHORT, "--runs-dir", "runs", *flags)
        command = [*prefix, sys.executable, str(PROJECT / "experiments" / "train_mujoco.py"), *flags]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def run_dir(self) -> Path:
        (found,) = (self.folder / "runs").rglob("run.json")
        return found.parent

    def wait_for(self, step: int) -> None:
        """Wait until something has been logged at `step`."""
        deadline = time.monotonic() + 120
        while self.process.poll() is None and time.monotonic() < deadline:
            logged = [int(row[0]) for path in self.folder.rglob("metrics.csv") for row in rows(path.parent)]
            if logged and max(logged) >= step:
                return
            time.sleep(0.1)
        raise AssertionError(self.process.communicate())

    def signal_all(self, number: int) -> None:
        """To every process of the job, one after the other, as Slurm does."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            os.kill(pid, number)

    def end(self) -> tuple[int, str, str]:
        try:
            output, errors = self.process.communicate(timeout=120)
        finally:
            self.process.kill()
        return self.process.returncode, output, errors

    def counters(self) -> dict[str, int]:
        state = load_checkpoint(self.run_dir / "checkpoints" / "latest.pt")["trainer"]
        return dict(state["counters"])


def test_a_signal_to_every_process_of_a_job_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "stopped").mkdir()
    job = Job(tmp_path / "stopped", "--steps", "4000", "--processes")
    job.wait_for(100)
    workers = descendants(job.process.pid)
    assert len(workers) >= 8  # four environments, two of evaluations, and two of `multiprocessing`
    job.signal_all(signal.SIGUSR1)
    code, output, errors = job.end()
    assert code == 128 + signal.SIGUSR1, errors
    assert "go on with:" in output
    assert errors == "stopping after this step; a checkpoint is written first (again to stop at once)\n"
    assert not list(filter(is_running, workers))
    assert job.counters()["env_steps"] < 4000
    job = Job(tmp_path / "stopped", "--resume", str(job.run_dir))
    assert job.end()[0] == 0
    (tmp_path / "straight").mkdir()
    other = Job(tmp_path / "straight", "--steps", "4000")
    assert other.end()[0] == 0
    assert rows(job.run_dir) == rows(other.run_dir)


def test_a_signal_while_a_simulator_hangs(tmp_path: Path) -> None:
    """In a worker process: the checkpoint does not wait for it, and a second signal for nothing."""
    job = Job(tmp_path, "--steps", "100000", "--processes", "--eval-every", "100000")
    job.wait_for(100)
    (tmp_path / "hang").touch()
    time.sleep(1)
    sent = time.time()
    job.signal_all(signal.SIGTERM)
    code, output, errors = job.end()
    assert code == 128 + signal.SIGTERM, errors
    assert "Traceback" not in errors
    assert "after a resume they begin new episodes" in output
    checkpoint = job.run_dir / "checkpoints" / "latest.pt"
    assert checkpoint.stat().st_mtime - sent < 10
    at = job.counters()["env_steps"]
    (tmp_path / "hang").unlink()
    job = Job(tmp_path, "--resume", str(job.run_dir))
    job.wait_for(at + 100)
    (tmp_path / "hang").touch()
    time.sleep(1)
    workers = descendants(job.process.pid)
    job.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    written = checkpoint.stat().st_mtime
    job.process.send_signal(signal.SIGINT)
    code, _, errors = job.end()
    assert checkpoint.stat().st_mtime == written
    assert code == 128 + signal.SIGINT
    assert "interrupted" in errors.splitlines()
    assert "Traceback" not in errors
    assert not list(filter(is_running, workers))


def test_a_signal_in_an_evaluation_that_never_ends(tmp_path: Path) -> None:
    """By `timeout`, which signals the process and its group."""
    job = Job(tmp_path, "--steps", "100000", task="troubles:Endless-v0", prefix=("timeout", "600"))
    job.wait_for(60)
    time.sleep(1)
    job.process.send_signal(signal.SIGTERM)
    code, output, errors = job.end()
    assert code == 128 + signal.SIGTERM, errors
    assert "Traceback" not in errors
    assert "interrupted" not in errors
    assert "go on with:" in output
    assert job.counters()["env_steps"] == 60


def test_a_simulator_whose_process_dies_costs_an_episode(tmp_path: Path) -> None:
    job = Job(tmp_path, "--steps", "1000", "--processes")
    job.wait_for(200)
    (tmp_path / "die").touch()
    code, output, errors = job.end()
    assert code == 0, errors
    assert "Traceback" not in errors
    warnings = [line for line in output.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: troubles:Trouble-v0: a simulator's process ended unexpectedly (exit code 3); "
        "every environment begins anew"
    ]
    assert [value for _, tag, value in rows(job.run_dir) if tag == "faults/restarts"] == ["1.0"]
    assert job.counters()["env_steps"] >= 1000


def test_a_simulator_that_fails_for_good_stops_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    job = Job(tmp_path, "--steps", "100000", "--max-restarts", "2")
    job.wait_for(100)
    (tmp_path / "raise").touch()
    code, output, errors = job.end()
    assert code == 2
    assert re.fullmatch(
        r"error: troubles:Trouble-v0: environment failed in step\(\): OSError: the arm does not answer "
        r"\(troubles.py:\d+\); stopped at step [\d,]+ with a checkpoint, after 2 restarts within "
        r"10,000 steps \(--max-restarts\)\n",
        errors,
    ), errors
    assert output.count("every environment begins anew") == 2
    assert job.counters()["env_steps"] >= 100
