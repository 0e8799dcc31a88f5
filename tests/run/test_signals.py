from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlzoo.run.folder import PROJECT
from rlzoo.run.signals import GRACE, SIGNALS, Stopped, StopSignal, TimedOut
from tests.helpers.processes import is_running

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT)}

IMPORTS = (
    "import os, signal, sys, time\n"
    "from rlzoo.run.cli import run_main\n"
    "from rlzoo.run.signals import StopSignal\n"
)


def run_script(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", IMPORTS + code]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=60, check=False)


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_asks_and_the_script_finishes_its_work(number: signal.Signals) -> None:
    result = run_script(
        "def main():\n"
        "    with StopSignal() as stop:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        time.sleep(0)\n"
        "        assert stop.requested\n"
        "        print('checkpoint written for', stop.requested.name)\n"
        "    return stop.exit_code\n"
        "run_main(main)"
    )
    assert result.stdout == f"checkpoint written for {number.name}\n"
    assert (
        result.stderr == "stopping after this step; a checkpoint is written first (again to stop at once)\n"
    )
    assert result.returncode == 128 + number


def test_second_signal_stops_at_once() -> None:
    result = run_script(
        "def main():\n"
        "    with StopSignal():\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(30)\n"
        "run_main(main)"
    )
    assert result.returncode == 130
    assert result.stderr.splitlines()[1:] == ["interrupted"]


SWALLOWS = {
    "a destructor": (
        "class Handle:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(0)\n"
        "del [Handle()][0]\n"
    ),
    "a callback from C": (
        "import ctypes\n"
        "def call():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0)\n"
        "    return 0\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(call)()\n"
    ),
    "a catch-all": (
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(0)\nexcept BaseException:\n    pass\n"
    ),
}


@pytest.mark.parametrize("place", SWALLOWS)
@pytest.mark.parametrize("second", [False, True], ids=["while loading", "second one"])
def test_what_is_to_end_the_process_is_swallowed_nowhere(place: str, second: bool) -> None:
    begin = "os.kill(os.getpid(), signal.SIGINT)\n" if second else ""
    result = run_script(
        f"stop = StopSignal(at_once={not second}).__enter__()\n{begin}{SWALLOWS[place]}print('went on')"
    )
    assert result.returncode == 128 + signal.SIGTERM, result.stderr
    assert result.stderr.splitlines()[-1] == "interrupted"
    assert result.stdout == ""


def test_ending_at_once_leaves_neither_files_nor_processes_behind(tmp_path: Path) -> None:
    """Though a worker hangs, and leaves signals to its parent."""
    script = tmp_path / "script.py"
    script.write_text(
        IMPORTS + "from pathlib import Path\n"
        "from rlzoo.run.files import atomic_path\n"
        "from rlzoo.run.signals import leave_signals_to_parent, worker_context\n"
        "def hang():\n"
        "    leave_signals_to_parent()\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    print('shown')\n"
        "    process = worker_context().Process(target=hang, daemon=True)\n"
        "    process.start()\n"
        f"    with StopSignal(at_once=True), atomic_path(Path({str(tmp_path)!r}, 'whole')) as path:\n"
        "        path.write_text('half')\n"
        f"        Path({str(tmp_path)!r}, 'pid').write_text(str(process.pid))\n"
        "        process.join()\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as running:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGHUP)
        output, errors = running.communicate(timeout=60)
    assert (running.returncode, output, errors) == (128 + signal.SIGHUP, "shown\n", "interrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pid", "script.py"]
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_a_signal_sent_to_the_process_and_to_its_group_is_one() -> None:
    """As `timeout` and `srun` do; half a second later it is the second."""
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested == signal.SIGTERM
    result = run_script(
        "with StopSignal():\n"
        "    for _ in range(2):\n"
        "        os.kill(os.getpid(), signal.SIGUSR2)\n"
        "        time.sleep(0.5)\n"
        "    print('went on')\n"
    )
    assert (result.returncode, result.stdout) == (128 + signal.SIGUSR2, "")


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    result = run_script(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"  # as nohup does
        "with StopSignal() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print(stop.requested)"
    )
    assert result.stdout == "None\n", result.stderr


def catch_all(seconds: float) -> None:
    try:
        time.sleep(seconds)
    except Exception:
        time.sleep(seconds)


@pytest.mark.parametrize("before", [False, True])
def test_a_wait_is_cut_short_soon_after_a_signal_and_nothing_else_is(before: bool) -> None:
    with StopSignal() as stop:
        timer = threading.Timer(0.0 if before else 0.2, os.kill, (os.getpid(), signal.SIGUSR1))
        started = time.monotonic()
        timer.start()
        if before:
            timer.join()
        with pytest.raises(Stopped), stop.waiting():
            catch_all(30)
        assert GRACE - 0.1 < time.monotonic() - started < GRACE + 1
        with pytest.raises(Stopped):
            stop.check()
        with stop.waiting():
            pass
        time.sleep(GRACE + 0.1)  # no longer within


def test_a_wait_may_grant_more_after_a_signal_that_comes_within_it() -> None:
    with StopSignal() as stop:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with stop.waiting(grace=10.0):
            time.sleep(GRACE + 1)
        started = time.monotonic()
        with pytest.raises(Stopped), stop.waiting():  # the next one grants no more than it says
            catch_all(30)
        assert time.monotonic() - started < GRACE + 1


def test_a_wait_has_a_limit() -> None:
    with StopSignal() as stop:
        started = time.monotonic()
        with pytest.raises(TimedOut), stop.waiting(0.2):
            catch_all(30)
        assert time.monotonic() - started < 2
        with stop.waiting(0.2):
            pass
        time.sleep(0.3)
        assert stop.requested is None


def test_once_deferred_a_signal_is_a_request() -> None:
    with StopSignal(at_once=True) as stop:
        stop.defer()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == signal.SIGINT


def test_workers_forked_within_ignore_ctrl_c_and_end_on_sigterm() -> None:
    result = run_script(
        "with StopSignal():\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(30)\n"
        "    _, status = os.waitpid(child, 0)\n"
        "    print(os.WTERMSIG(status))"
    )
    assert result.stdout == f"{int(signal.SIGTERM)}\n"
    assert result.stderr == ""


def test_previous_handlers_come_back() -> None:
    numbers = SIGNALS
    before = [signal.getsignal(number) for number in numbers]
    with StopSignal() as stop:
        assert [signal.getsignal(number) for number in numbers] == [stop._handle] * 5
    assert [signal.getsignal(number) for number in numbers] == before
    assert stop.requested is None
    assert stop.exit_code == 0


def test_other_threads_leave_the_handlers_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    inside: list[object] = []

    def work() -> None:
        with StopSignal():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
