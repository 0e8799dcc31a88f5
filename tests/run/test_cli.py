from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import torch

from rlzoo.errors import UserError
from rlzoo.run.cli import StopSignal, resolve_device, run_main
from rlzoo.run.folder import PROJECT

IMPORTS = "import os, signal, sys, time; from rlzoo.run.cli import StopSignal, run_main\n"


def run_script(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", IMPORTS + code]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=60, check=False)


def raising(error: BaseException) -> Callable[[], int | None]:
    def function() -> int | None:
        raise error

    return function


def test_exit_code_is_what_the_function_returns() -> None:
    for returned, code in ((None, 0), (0, 0), (143, 143)):
        with pytest.raises(SystemExit) as stopped:
            run_main(lambda value=returned: value)  # type: ignore[misc]
        assert stopped.value.code == code


LESS = "a smaller batch, network or replay buffer needs less"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no task Hoper-v4;\ndid you mean it?"), 2, "error: no task Hoper-v4; did you mean it?"),
        (MemoryError(), 2, f"error: out of memory; {LESS}"),
        (torch.OutOfMemoryError("9 GiB.\nmore"), 2, f"error: out of GPU memory; {LESS} (9 GiB.)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_foreseen_errors_are_one_line(
    error: BaseException, code: int, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(raising(error))
    assert stopped.value.code == code
    assert capfd.readouterr().err == line + "\n"


def test_no_memory_for_a_cpu_tensor_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    def allocate() -> None:
        torch.empty(10**15)

    with pytest.raises(SystemExit) as stopped:
        run_main(allocate)
    assert stopped.value.code == 2
    assert capfd.readouterr().err.startswith("error: out of memory; ")


@pytest.mark.parametrize("error", [ValueError("bug"), RuntimeError("bug"), OSError("bug")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="bug"):
        run_main(raising(error))


def test_broken_pipe_to_a_worker_is_not_hidden() -> None:
    with pytest.raises(BrokenPipeError):
        run_main(raising(BrokenPipeError()))


def test_output_that_nobody_reads_any_more_ends_quietly() -> None:
    code = IMPORTS + "run_main(lambda: [print('x' * 100, flush=True) for _ in range(10**5)] and None)"
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=PROJECT
    )
    os.close(writer)
    os.read(reader, 10)
    os.close(reader)
    _, errors = process.communicate(timeout=60)
    assert errors == ""
    assert process.returncode == 141


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


@pytest.mark.parametrize(
    ("name", "gpus", "device"),
    [
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_device(name: str, gpus: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert resolve_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "gpus"), [("cuda", 0), ("cuda:2", 2), ("gpu", 2), ("cuda:", 2), ("", 0), ("mps", 0)]
)
def test_device_that_is_not_there(name: str, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    available = "auto, cpu" + ", cuda:0, cuda:1" * (gpus == 2)
    with pytest.raises(UserError) as raised:
        resolve_device(name)
    assert str(raised.value).startswith(f"device {name!r} is not available; there are {available}")
