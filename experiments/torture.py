"""Try to break runs: with SIGKILL and other signals at random moments, and with mutated files.

python experiments/torture.py --kills 100 --signals 100 --mutations 100000 --output torture.json

A run that was killed, or stopped by a signal, is resumed until it ends, and compared with an undisturbed one:
every number but times has to be equal to the last bit. A mutated file has to be taken or refused in one line:
no traceback, no hang, no crash, and nothing in it may be executed. The exit code is 1 where anything else
happened.

The temporary folder is $TMPDIR; where that is in memory, such as /dev/shm, this takes a fraction of the time.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import json
import os
import pickle
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from experiments.runner import launch
from experiments.suites import SUITES
from rlzoo.data.load import load_episodes
from rlzoo.data.write import write_d4rl
from rlzoo.errors import UserError
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.run.cli import parse_flags, run_main
from rlzoo.run.files import atomic_write, check_writable
from rlzoo.run.folder import PROJECT
from rlzoo.run.machine import describe_machine
from rlzoo.settings import CountOrZero, Seed, Settings
from rlzoo.types import Episode

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
DATASET = PROJECT / "results" / "datasets" / "hopper-demos.hdf5"
HANG = 120  # seconds without an answer
BEGINS = b"run folder"  # the first line of training
BATCH = 100  # mutations that one process tries

COMMON = "--threads 1 --device cpu --num-envs 2 --batch-size 16 --log-every 20 --eval-every 100 --steps 200 "
COMMON += "--eval-episodes 1 --checkpoint-every 40 --warmup-steps 40 --buffer-capacity 500 --agent.hidden 16"
RUNS = {
    "mujoco": f"sac --task Hopper-v5 {COMMON}",
    "d4rl": f"arsq --task hopper-medium-v2 {COMMON} --offline-steps 100 --dataset {DATASET}",
    "rlbench": f"cqn --task reach_target {COMMON} --simulator mujoco --observations state --demos 2",
}


@dataclasses.dataclass(frozen=True)
class Request(Settings):
    """How much of each."""

    kills: CountOrZero = 100
    """SIGKILLs at random moments, over all benchmarks."""
    signals: CountOrZero = 100
    """Signals at random moments that ask a run to stop."""
    mutations: CountOrZero = 100_000
    """Mutated checkpoints, run folders and datasets."""
    seed: Seed = 1
    """Decides the moments and the mutations."""
    output: Path | None = None
    """JSON file to write the figures to."""


@dataclasses.dataclass
class Outcome:
    """What came of one kind of trial.

    Attributes:
        counts: trials by what came of them, all of it as it should be.
        faults: what should not have happened, a line each.
    """

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    faults: list[str] = dataclasses.field(default_factory=list)


# ---- Runs that are killed or stopped


def in_child(body: Callable[[], int | None], output: Path | str = os.devnull) -> int:
    """Run `body` as a script in a forked process, what it prints appended to `output`. Returns its id."""
    if child := os.fork():
        return child
    code = 1
    try:
        for stream in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        # Line by line: a process that is killed, or ends by `os._exit`, leaves what it has said.
        sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115
        run_main(body)
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def ended(child: int, seconds: float) -> int | None:
    """The exit code of a process (negative: the signal that killed it); None if it runs on for `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def kill(child: int) -> None:
    """End a process at once."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


class Disturbed:
    """Runs of one benchmark that are disturbed, and the undisturbed one that they have to equal."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.number = name, folder, 0
        begun = time.monotonic()
        code = ended(self.start(), HANG)
        self.duration = time.monotonic() - begun
        if code != 0:
            raise UserError(f"{name}: the undisturbed run ended with {code}; {self.log} says why")
        self.reference = contents(self.run_dir())
        assert BEGINS in self.log.read_bytes()

    @property
    def log(self) -> Path:
        """What the processes of the run under way print."""
        return self.folder / f"{self.name}-{self.number}.log"

    def run_dir(self) -> Path | None:
        """The folder of the run under way, once there is a configuration in it."""
        found = [path.parent for path in (self.folder / f"{self.name}-{self.number}").rglob("config.yaml")]
        return found[0] if found else None

    def start(self) -> int:
        """Begin the run under way, or go on with it. Returns the process's id."""
        run_dir = self.run_dir()
        flags = ["--resume", str(run_dir)] if run_dir else shlex.split(RUNS[self.name])
        if run_dir is None:
            flags = [*flags, "--runs-dir", str(self.folder / f"{self.name}-{self.number}")]
        return in_child(lambda: launch.main(SUITES[self.name], flags), self.log)

    def strike(self, number: int, draw: random.Random, outcome: Outcome) -> None:
        """Let a new run be hit by a signal at random moments until it has ended by itself, and compare it."""
        self.number += 1
        code: int | None = None
        while code != 0:
            self.log.touch()
            before = self.log.stat().st_size
            child = self.start()
            code = ended(child, draw.uniform(0, 1.3 * self.duration))
            if code is None:
                begun = BEGINS in self.log.read_bytes()[before:]
                os.kill(child, number)
                code = ended(child, HANG)
                outcome.counts[signal.Signals(number).name] += 1
            if code is None:
                kill(child)
                outcome.faults.append(f"{self.name}: hangs after {signal.Signals(number).name}; {self.log}")
                return
            # Before training, also that of a resumed run, a signal may end the process in any way.
            if code != 0 and code != (-number if number == signal.SIGKILL or not begun else 128 + number):
                if not begun and code == 128 + number:
                    continue
                outcome.faults.append(f"{self.name}: exit code {code} after signal {number}; {self.log}")
                return
        found = contents(self.run_dir())
        differing = [key for key, value in self.reference.items() if not same(value, found.get(key))]
        if differing:
            outcome.faults.append(
                f"{self.name}: {', '.join(differing)} differ from an undisturbed run; {self.log}"
            )
        outcome.counts["runs compared"] += 1


def contents(run_dir: Path | None) -> dict[str, Any]:
    """What is to be equal in two runs: the curves, and all that the checkpoints hold, without times."""
    assert run_dir is not None
    with (run_dir / "metrics.csv").open() as file:
        curves = [row for row in csv.reader(file) if not row[1].startswith("time/")]
    latest = load_checkpoint(run_dir / "checkpoints" / "latest.pt")
    best = load_checkpoint(run_dir / "checkpoints" / "best.pt")
    state = latest["trainer"]
    del state["counters"]["training_s"]
    return {"curves": curves, **state, "scaling": latest["scaling"], "best": (best["agent"], best["return"])}


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        if not isinstance(other, torch.Tensor) or (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        return one.numpy().tobytes() == other.numpy().tobytes()  # not `equal`: NaN is to equal NaN
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(one[k], other[k]) for k in one)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (one != one and other != other))


def disturb(
    numbers: Sequence[int], trials: int, seed: int, folder: Path, runs: Iterable[str] = tuple(RUNS)
) -> Outcome:
    """Send one of the signals `numbers` at random moments, `trials` times over all benchmarks or more."""
    outcome, draw = Outcome(), random.Random(seed)
    disturbed = [Disturbed(name, folder) for name in runs] if trials else []
    while (
        sum(outcome.counts.values()) - outcome.counts["runs compared"] < trials and len(outcome.faults) < 10
    ):
        for each in disturbed:
            each.strike(draw.choice(numbers), draw, outcome)
    return outcome


# ---- Files that are damaged or made to mislead


def damage(data: bytes, edits: Iterable[tuple[str, float, float, int]]) -> bytes:
    """Set a byte, flip a bit, delete, repeat or move a block, or cut: kind, two places from 0 to 1, value."""
    result = bytearray(data)
    for kind, where, other, value in edits:
        if not result:
            break
        at, source = int(where * len(result)), int(other * len(result))
        if kind == "set":
            result[at] = value
        elif kind == "flip":
            result[at] ^= 1 << value % 8
        elif kind == "delete":
            del result[at : at + value % 16 + 1]
        elif kind == "repeat":
            result[at:at] = result[at : at + value]
        elif kind == "move":
            result[at : at + value] = result[source : source + value]
        else:
            del result[at:]
    return bytes(result)


EDITS = ("set", "set", "set", "flip", "flip", "delete", "repeat", "move", "cut")
ODD = (None, True, -1, 0, 2**70, 0.5, float("nan"), float("inf"), "text", "", [], {}, [[]], {"a": 1})


def edited(data: bytes, draw: random.Random) -> bytes:
    """`data` with one to eight random edits."""
    count = draw.randint(1, 8)
    return damage(
        data, [(draw.choice(EDITS), draw.random(), draw.random(), draw.randrange(256)) for _ in range(count)]
    )


def distort(content: Any, draw: random.Random) -> Any:
    """Replace one value somewhere in nested lists, dicts and tensors, in place. Returns the content."""
    if isinstance(content, dict | list) and content and draw.random() < 0.95:
        key = draw.choice(list(content)) if isinstance(content, dict) else draw.randrange(len(content))
        if draw.random() < 0.05:
            del content[key]
        else:
            content[key] = distort(content[key], draw)
        return content
    if isinstance(content, torch.Tensor) and draw.random() < 0.7:
        changes: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
            lambda value: value[:-1] if value.dim() else value[None],
            lambda value: torch.cat([value, value]) if value.dim() else value.double(),
            lambda value: value[..., None],
            lambda value: value.double(),
            lambda value: value.bool(),
            lambda value: torch.full_like(value, -1 if value.dtype != torch.bool else True),
            lambda value: value * float("nan") if value.is_floating_point() else value + 2**20,
        )
        with contextlib.suppress(RuntimeError):
            return draw.choice(changes)(content)
    return draw.choice(ODD)


class Canary:
    """What no reader may execute: it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class Mutations:
    """Mutated copies of a run's files and of small datasets, and what reads each.

    Args:
        folder: where the originals are made; each process works on copies of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.canary = folder / "executed"
        mujoco = Disturbed("mujoco", folder)
        run_dir = mujoco.run_dir()
        assert run_dir is not None
        self.run_dir, self.datasets = run_dir, make_datasets(folder / "datasets")
        self.kinds = (
            self.checkpoint,
            self.odd_checkpoint,
            self.run_folder,
            *[self.dataset] * 5,
            self.hostile,
        )

    def checkpoint(self, draw: random.Random, copy: Path) -> None:
        """A checkpoint with damaged bytes."""
        path = copy / "checkpoints" / draw.choice(("latest.pt", "best.pt"))
        path.write_bytes(edited(path.read_bytes(), draw))
        resume(copy)

    def odd_checkpoint(self, draw: random.Random, copy: Path) -> None:
        """A whole checkpoint with another value somewhere."""
        path = copy / "checkpoints" / draw.choice(("latest.pt", "latest.pt", "best.pt"))
        content = load_checkpoint(path)
        part = draw.choice(("trainer" if "trainer" in content else "agent", "trainer", "settings", ""))
        if part in content:
            content[part] = distort(content[part], draw)
        else:
            content = distort(content, draw)
        torch.save(content, path)
        resume(copy)

    def run_folder(self, draw: random.Random, copy: Path) -> None:
        """Another file of the run with damaged bytes."""
        path = draw.choice(sorted(path for path in copy.iterdir() if path.is_file()))
        path.write_bytes(edited(path.read_bytes(), draw))
        resume(copy)

    def dataset(self, draw: random.Random, copy: Path) -> None:
        """A dataset with damaged bytes."""
        name = draw.choice(sorted(self.datasets))
        path = copy / name
        path.write_bytes(edited(self.datasets[name], draw))
        for episode in load_episodes(path, state_dim=11, action_dim=3):
            assert episode.obs["state"].shape == (len(episode) + 1, 11), "the wrong shape"
            assert np.isfinite(episode.obs["state"]).all(), "not finite"

    def hostile(self, draw: random.Random, copy: Path) -> None:
        """A pickle that asks for something to be executed, as a dataset or within a checkpoint."""
        evil = Canary(self.canary)
        if draw.random() < 0.5:
            path = copy / "evil.pickle"
            data = pickle.dumps([{"observations": evil, "x": draw.random()}], draw.choice((0, 2, 4)))
            path.write_bytes(edited(data, draw) if draw.random() < 0.5 else data)
            load_episodes(path)
        else:
            path = copy / "checkpoints" / "latest.pt"
            torch.save({**torch.load(path, weights_only=True), "agent_name": evil}, path)
            resume(copy)

    def attempt(self, seed: int, copy: Path) -> str:
        """Make the mutation of this seed and read it. Returns "taken" or "refused", or what went wrong."""
        draw = random.Random(seed)
        shutil.copytree(self.run_dir, copy)
        mutate = draw.choice(self.kinds)
        try:
            mutate(draw, copy)
            result = "taken"
        except UserError as error:
            result = "refused" if "\n" not in str(error) else f"{mutate.__name__}: several lines: {error!r}"
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            result = f"{mutate.__name__}: {error!r} in {Path(place.filename).name}:{place.lineno}"
        shutil.rmtree(copy, ignore_errors=True)
        return f"{mutate.__name__}: executed" if self.canary.exists() else result


def resume(run_dir: Path) -> None:
    """Go on with a run for nothing: it has done its steps, as far as its files say so."""
    launch.main(SUITES["mujoco"], ["--resume", str(run_dir), "--steps", "200", "--offline-steps", "0"])


def make_datasets(folder: Path) -> dict[str, bytes]:
    """Small files in each format, of 11 observations and 3 actions, by name."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    episodes = [
        Episode(
            {"state": draw.normal(size=(length + 1, 11)).astype(np.float32)},
            draw.uniform(-1, 1, (length, 3)).astype(np.float32),
            draw.normal(size=length).astype(np.float32),
            terminated=bool(length % 2),
        )
        for length in (7, 12, 20)
    ]
    write_d4rl(folder / "d4rl.hdf5", episodes, {})
    with h5py.File(folder / "minari.hdf5", "w") as file:
        for index, episode in enumerate(episodes):
            ends = np.arange(len(episode)) == len(episode) - 1
            rows = {
                "observations": episode.obs["state"],
                "actions": episode.action,
                "rewards": episode.reward,
            }
            for key, values in {**rows, "terminations": ends, "truncations": ends & False}.items():
                file.create_dataset(f"episode_{index}/{key}", data=values, chunks=True)
    records = [
        {"observations": each.obs["state"][:-1], "actions": each.action, "rewards": each.reward}
        for each in episodes
    ]
    (folder / "adroit.pickle").write_bytes(pickle.dumps(records, 3))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def mutate(trials: int, seed: int, folder: Path) -> Outcome:
    """Read `trials` mutated files, a hundred in each process: one may crash, hang or eat the memory."""
    outcome = Outcome()
    mutations = Mutations(folder) if trials else None
    for begin in range(0, trials, BATCH):
        assert mutations is not None
        count, at = min(BATCH, trials - begin), 0
        while at < count and len(outcome.faults) < 100:
            at += _batch(mutations, seed * 10**9 + begin + at, count - at, folder, outcome)
    return outcome


def _batch(mutations: Mutations, first: int, count: int, folder: Path, outcome: Outcome) -> int:
    """Try up to `count` mutations in one process. Returns how many were tried."""
    report = folder / "report"
    report.write_text("")

    def body() -> NoReturn:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process in the middle of a C library, too
        with report.open("a", buffering=1) as lines:
            for seed in range(first, first + count):
                signal.alarm(HANG)
                lines.write(" ".join(mutations.attempt(seed, folder / "copy").split()) + "\n")
        os._exit(0)

    child = in_child(body)
    code = ended(child, HANG * (count + 1))
    if code is None:
        kill(child)
    shutil.rmtree(folder / "copy", ignore_errors=True)
    results = report.read_text().splitlines()
    for seed, result in enumerate(results, first):
        if result in ("taken", "refused"):
            outcome.counts[result] += 1
        else:
            outcome.faults.append(f"mutation {seed}: {result}")
    if code == 0:
        return count
    what = "hangs" if code in (None, -signal.SIGALRM) else f"ended the process with {code}"
    outcome.faults.append(f"mutation {first + len(results)}: {what}")
    return len(results) + 1


# ---- Script


def main() -> int:
    """Torture, print a table, and write the figures."""
    settings = parse_flags(Request, description=__doc__)
    if settings.output is not None:
        check_writable(settings.output)
    outcomes: dict[str, Outcome] = {}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as name:
        for kind in ("kills", "signals", "mutations"):
            folder = Path(name) / kind
            folder.mkdir()
            if kind == "mutations":
                outcomes[kind] = mutate(settings.mutations, settings.seed, folder)
            else:
                numbers = [signal.SIGKILL] if kind == "kills" else SIGNALS
                outcomes[kind] = disturb(numbers, getattr(settings, kind), settings.seed, folder)
            for fault in outcomes[kind].faults:
                print(f"fault: {fault}", flush=True)
    table = Table("", "what came of them", "faults")
    for kind, outcome in outcomes.items():
        counts = ", ".join(f"{count:,} {what}" for what, count in sorted(outcome.counts.items()))
        table.add_row(kind, counts, str(len(outcome.faults)))
    Console().print(table)
    if settings.output is not None:
        figures = {kind: {"counts": each.counts, "faults": each.faults} for kind, each in outcomes.items()}
        content = {
            "seed": settings.seed,
            "seconds": round(time.monotonic() - begun),
            **figures,
            **describe_machine(),
        }
        atomic_write(settings.output, json.dumps(content, indent=2) + "\n")
    return int(any(outcome.faults for outcome in outcomes.values()))


if __name__ == "__main__":
    run_main(main)
