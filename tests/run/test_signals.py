from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from rlzoo.run.folder import PROJECT
from rlzoo.run.signals import StopSignal

IMPORTS = (
    "import os, signal, sys, time\n"
    "from rlzoo.run.cli import run_main\n"
    "from rlzoo.run.signals import StopSignal\n"
)


def run_script(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", IMPORTS + code]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=60, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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


def test_before_training_the_first_signal_stops_at_once() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        result = run_script(
            "def main():\n"
            "    with StopSignal(at_once=True):\n"
            "        try:\n"
            f"            os.kill(os.getpid(), {int(number)})\n"
            "            time.sleep(30)\n"
            "        finally:\n"
            "            print('cleaned up')\n"
            "run_main(main)"
        )
        assert result.returncode == 128 + number
        assert result.stderr == "interrupted\n"
        assert result.stdout == "cleaned up\n"


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
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with StopSignal() as stop:
        assert [signal.getsignal(number) for number in numbers] == [stop._handle, stop._handle]
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
