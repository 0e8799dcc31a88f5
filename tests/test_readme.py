"""Every command of the README, run to its result at reduced steps; `make` and TensorBoard's excepted."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlzoo
from envs.gym.rendering import rendering_backend
from experiments import cli
from rlzoo.errors import UserError

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "results/datasets/hopper-demos.hdf5"
EXCEPTED = ("make ", "tensorboard ")
REDUCED = "--warmup-steps 10 --eval-every 20 --eval-episodes 1 --log-every 10 --batch-size 4 --threads 1"
# What a command takes besides, by how it begins; a flag that it has already is replaced.
REDUCTIONS = {
    "rlzoo train mujoco --resume": "--steps 60 --threads 1",
    "rlzoo train mujoco": f"--steps 20 {REDUCED} --buffer-capacity 2000 --agent.hidden 8 8",
    "rlzoo train d4rl": f"--steps 20 {REDUCED} --buffer-capacity 2000 --agent.hidden 8 8 8",
    "rlzoo train rlbench": f"--steps 20 {REDUCED} --agent.hidden 8 8 --demos 2 --observations state",
    "rlzoo train sb3": "--steps 20 --eval-every 20 --eval-episodes 1 --agent.n-steps 8 --batch-size 4",
    "rlzoo evaluate": "--episodes 2",
    "rlzoo compare": "",
    "rlzoo make-dataset": "--steps 30 --num-envs 1",
    "rlzoo sweep grid": f"--over task=hopper-medium-v2 --over seed=1,2 --steps 20 {REDUCED}",
    "rlzoo sweep search": f"--seeds 101 --trials 1 --dataset my_data.hdf5 --steps 20 {REDUCED}",
    "rlzoo export": "",
}
# The run that stands for RUN_DIR, by how a command begins.
RUNS = {
    "rlzoo train mujoco --resume": "mujoco/HalfCheetah-v5/dsac-t/*",
    "rlzoo make-dataset": "mujoco/HalfCheetah-v5/dsac-t/*",
    "rlzoo": "d4rl/*/arsq/*",
}


def commands() -> list[str]:
    """The lines of the README's blocks, continued ones as one, without comments."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def matching(command: str, table: dict[str, str]) -> str:
    """The entry of the first key that the command begins with."""
    return next(value for begin, value in table.items() if command.startswith(begin))


def reduced(command: str) -> list[str]:
    """The command's words at reduced steps, the newest run of its kind for RUN_DIR."""
    extra = shlex.split(matching(command, REDUCTIONS))
    if "RUN_DIR" in command:
        runs = Path("results/runs").glob(matching(command, RUNS))
        command = command.replace("RUN_DIR", str(max(runs, key=lambda path: path.stat().st_mtime)))
    given = {word for word in extra if word.startswith("--")}
    kept, dropping = [], False
    for word in shlex.split(command):
        dropping = word in given if word.startswith("--") else dropping
        if not dropping:
            kept.append(word)
    return kept + extra


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "data").mkdir()
    for name in ("my_data.hdf5", "data/hopper-medium-v2.hdf5"):
        shutil.copy(SAMPLE, folder / name)
    return folder


@pytest.mark.learning
def test_the_commands_of_the_readme_lead_to_their_results(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the README's order, as later commands take what earlier ones left."""
    monkeypatch.chdir(folder)
    done = []
    for command in commands():
        if command.startswith(EXCEPTED):
            continue
        words = reduced(command)
        if "--video" in words:
            try:
                rendering_backend()
            except UserError:
                words = words[: words.index("--video")]
        monkeypatch.setattr("sys.argv", words)
        assert not cli.dispatch(), (command, capsys.readouterr().err)
        done.append(words[1])
    assert set(done) == {"train", "evaluate", "compare", "make-dataset", "sweep", "export"}
    assert Path("hopper-medium.hdf5").exists()
    assert list(Path("figures/mine").rglob("*.pdf"))
    # The three lines of Python.
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert snippet is not None
    names: dict[str, Any] = {"rlzoo": rlzoo, "observation": np.zeros(11, np.float32)}
    exec(snippet.group(1), names)
    assert names["action"].shape == (3,)
