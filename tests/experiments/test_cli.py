"""How `rlzoo` starts: what it imports, what is on the screen meanwhile, and Ctrl-C."""

from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rlzoo
from experiments import cli
from rlzoo.run.folder import PROJECT

RLZOO = str(Path(sys.executable).parent / "rlzoo")


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [RLZOO, *arguments], cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize(
    "arguments",
    [("train", "mujoco", "sac", "--task", "Reacher-v5", "--steps", "99999"), ("evaluate", "nowhere")],
    ids=["train", "evaluate"],
)
def test_ctrl_c_while_pytorch_is_loaded_is_one_line(arguments: tuple[str, ...]) -> None:
    process = start(*arguments)
    assert process.stderr is not None
    try:
        begun = time.monotonic()
        assert process.stderr.readline() == "loading PyTorch\n"
        waited = time.monotonic() - begun
        time.sleep(0.3)  # in the middle of the imports
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (errors, output, process.returncode) == ("interrupted\n", "", 128 + signal.SIGINT)
    assert waited < 5  # 0.2 s where the processor is free


@pytest.mark.parametrize("arguments", [("--help",), ("tasks", "d4rl"), ("train", "d4rl", "bc", "--help")])
def test_nothing_is_said_of_pytorch_where_nothing_is_computed(arguments: tuple[str, ...]) -> None:
    process = start(*arguments)
    output, errors = process.communicate(timeout=120)
    assert (errors, process.returncode) == ("", 0)
    assert output


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, text=True, capture_output=True, check=True
    )
    return set(shown.stdout.splitlines())


def test_what_a_command_has_no_need_of_is_not_imported() -> None:
    """Each of these costs tenths of a second and more of every start."""
    assert not {"torch", "numpy", "tyro", "rich"} & modules_after("import experiments.cli")
    light = modules_after("import experiments.runner.launch, experiments.suites")
    assert not {"torch._dynamo", "tensorboard", "matplotlib", "minari", "mujoco"} & light


def test_training_imports_no_compiler_and_no_plots(tmp_path: Path) -> None:
    flags = ["sac", "--task", "Reacher-v5", "--steps", "40", "--warmup-steps", "20", "--eval-every", "40"]
    flags += ["--eval-episodes", "1"]
    flags += ["--batch-size", "4", "--agent.hidden", "8", "--buffer-capacity", "99", "--threads", "1"]
    found = modules_after(
        "from experiments.runner.launch import main; from experiments.suites import SUITES\n"
        f"main(SUITES['mujoco'], {[*flags, '--runs-dir', str(tmp_path)]!r})"
    )
    assert {"torch", "mujoco", "tensorboard"} <= found
    assert not {"torch._dynamo", "matplotlib", "minari"} & found


def test_the_garbage_collector_works_again_once_loaded() -> None:
    code = "import gc; from experiments import cli\nwith cli.loading(announced=False): import json\n"
    code += "assert gc.isenabled(); assert gc.get_freeze_count() > 1000"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ImportError), cli.loading(announced=False):
        raise ImportError
    assert signal.getsignal(signal.SIGINT) == before


def test_the_version() -> None:
    said, _ = start("--version").communicate(timeout=60)
    assert said == f"rlzoo {rlzoo.__version__}\n"
    assert rlzoo.__version__ == importlib.metadata.version("rlzoo")
