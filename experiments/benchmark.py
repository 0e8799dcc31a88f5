"""Time agents and their parts, beside the floor that an update's matrix products set.

python experiments/benchmark.py                       every agent, at the papers' sizes and the small ones
python experiments/benchmark.py --agents arsq --presets small --scaling
python experiments/benchmark.py --images --agents arsq --batch-size 64
python experiments/benchmark.py --agents --against sb3
python experiments/benchmark.py --compare before.json after.json
python experiments/benchmark.py --redraw results/benchmarks/FILE.json --page results/benchmarks.md

Run it while nothing else runs: where the machine was busy it says so and quotes nothing. Writes a JSON file
with the hardware's name; --page makes a page of tables and pictures from it.
"""

# Methods of the contracts `Agent` and `VectorTask` are described there.
# ruff: noqa: D102

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from algos import AGENTS
from envs.panda import env as panda
from envs.rlbench.protocol import ACTION_DIM, CAMERAS, FRAME_STACK, IMAGE_SIZE, Images
from experiments import export
from experiments.benchmark_page import write_page
from experiments.runner.experiment import default_experiment
from experiments.runner.launch import build
from experiments.train_d4rl import D4RLSuite
from experiments.train_mujoco import MujocoSuite
from experiments.train_rlbench import RLBenchSuite
from rlzoo.agent import Agent, AgentConfig
from rlzoo.capture import capture
from rlzoo.errors import UserError
from rlzoo.evaluate import policy_action
from rlzoo.nn.images import augment
from rlzoo.policy import Policy
from rlzoo.replay import ReplayBuffer, empty_batch, map_batch
from rlzoo.run.cli import parse_flags, run_main
from rlzoo.run.extras import load_extra
from rlzoo.run.files import atomic_write, check_writable
from rlzoo.run.logger import Logger
from rlzoo.run.machine import describe_machine, resolve_device, tune_cpu
from rlzoo.run.progress import Progress
from rlzoo.run.signals import StopSignal
from rlzoo.settings import Count, CountOrZero, Settings
from rlzoo.train import Trainer
from rlzoo.types import Array, Batch, Episode, FloatArray, Spaces, Step, VectorTask

DATASET = Path(__file__).resolve().parents[1] / "results/datasets/hopper-demos.hdf5"
WITH_DATA = ("arsq", "cqn", "bc")  # timed on Hopper with recorded data, the others on HalfCheetah
MOST_BUSY = 0.1  # of the cores, by others
WIDEST_SPREAD = 0.25  # between the quartiles, of the median
BUSY = "the machine was busy: {}; try again when it is idle (--anyway quotes the figures anyway)"
LANES = (1, 10, 100)  # environments that an action is timed for
# What the table on the screen shows; the file has all.
SHOWN = ("update", "floor", "encoder", "sample", "act 1", "environments", "loop", "iteration")


@dataclasses.dataclass(frozen=True)
class Request(Settings):
    """What to time, and how often."""

    agents: tuple[str, ...] = tuple(AGENTS)
    """Agents to time."""
    presets: tuple[Literal["paper", "small"], ...] = ("paper", "small")
    """Sizes: the papers' and those for two cores."""
    images: bool = False
    """Agents that see images at the size of RLBench's protocol, instead of states."""
    batch_size: Count | None = None
    """Transitions per update; None: the preset's."""
    updates: CountOrZero = 500
    """Updates on real data before anything is timed."""
    repeats: Count = 50
    """Timed calls of each part, of which the median is taken."""
    iterations: Count = 200
    """Timed iterations of the whole loop."""
    scaling: bool = False
    """Also how an update's cost grows with its sizes, environments and seeds."""
    against: Literal["sb3"] | None = None
    """Also our SAC in turn with Stable-Baselines3's."""
    compare: tuple[Path, Path] | None = None
    """Two JSON files to compare instead of timing anything."""
    page: Path | None = None
    """A Markdown page to make of the results and those beside them."""
    redraw: Path | None = None
    """Make --page of this JSON file instead of timing anything."""
    device: str = "auto"
    """auto, cpu, cuda, …"""
    threads: Count | None = None
    """CPU threads of PyTorch; None: one per core."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """How products are rounded, as in the experiments."""
    anyway: bool = False
    """Quote figures of a busy machine too, marked as such."""
    output: Path | None = None
    """JSON file; None: one in results/benchmarks, named by what was timed and the hardware."""


class Measured(NamedTuple):
    """A time in milliseconds: the median of some calls, and how far apart their quartiles are of it."""

    median: float
    spread: float


def measure(call: Callable[[], Any], repeats: int, device: torch.device, *, warmup: int = 3) -> Measured:
    """Time a call, the device's work included."""
    times = []
    for index in range(repeats + warmup):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= warmup:
            times.append((time.perf_counter() - started) * 1e3)
    median = statistics.median(times)
    low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else (median,) * 3
    return Measured(median, (high - low) / median)


def product_rate(device: torch.device) -> float:
    """Floating-point operations per second of a pair of 512 x 512 products, in the precision that is set."""
    first, second = torch.randn(2, 2, 512, 512, device=device)
    return 2 * 2 * 512**3 / (measure(lambda: first @ second, 50, device, warmup=20).median / 1e3)


def busy_share() -> float:
    """The share of this machine's cores that others use now, while this process waits for a second."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0

    def read() -> tuple[int, int]:
        ticks = [int(value) for value in path.read_text().splitlines()[0].split()[1:]]
        return sum(ticks), ticks[3] + ticks[4]  # idle, and waiting for a disk

    total, idle = read()
    time.sleep(1)
    later, later_idle = read()
    return 1 - (later_idle - idle) / max(later - total, 1)


# --------------------------------------------------------------------------------------------- one agent


@contextlib.contextmanager
def trainer_of(request: Request, name: str, preset: str, device: torch.device) -> Iterator[Trainer]:
    """A trainer as a run has it, its loop begun, `request.updates` updates old."""
    suite = D4RLSuite() if name in WITH_DATA else MujocoSuite()
    task = "hopper-medium-v2" if name in WITH_DATA else "HalfCheetah-v5"
    experiment = default_experiment(suite, name, task, preset)
    train = experiment.train
    pace = {"warmup_steps": min(train.warmup_steps, 100 * train.num_envs), "steps": 10**9, "eval_episodes": 1}
    never = dict.fromkeys(("eval_every", "checkpoint_every"), 10**9)
    batch = {"batch_size": request.batch_size or train.batch_size}
    experiment = dataclasses.replace(
        experiment,
        device=str(device),
        train=dataclasses.replace(train, **pace, **never, **batch, buffer_capacity=200_000),
        data=dataclasses.replace(experiment.data, dataset=str(DATASET) if name in WITH_DATA else None),
        video=False,
    )
    with ExitStack() as stack:
        with contextlib.redirect_stdout(io.StringIO()):  # the data's summary
            trainer, _ = build(suite, name, experiment, None, stack)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            trainer.logger = stack.enter_context(Logger(folder))
            trainer.progress, trainer.run_dir = stack.enter_context(Progress(10**9, "")), folder
            stack.enter_context(StopSignal())
            trainer.start_clock()
        while trainer.counters.updates < max(request.updates, 10):  # 10: graphs are captured by then
            trainer._iterate()
        yield trainer


def time_agent(request: Request, name: str, preset: str, device: torch.device, rate: float) -> dict[str, Any]:
    """All timings of an agent that sees states."""
    with trainer_of(request, name, preset, device) as trainer:
        agent, repeats, lanes = trainer.agent, request.repeats, trainer.task.num_envs
        batch = map_batch(torch.clone, trainer._sample())
        assert trainer.obs is not None
        obs = {name: torch.from_numpy(value).to(device) for name, value in trainer.obs.items()}
        seen = np.repeat(trainer.obs["state"][:1], max(LANES), axis=0)
        times = {
            **time_updates(agent, batch, repeats, device, rate),
            "sample": measure(trainer._sample, repeats, device),
            **{
                f"act {count}": measure(
                    lambda count=count: policy_action(
                        agent, {"state": seen[:count]}, device, deterministic=False
                    ),
                    repeats,
                    device,
                )
                for count in LANES
            },
            "act": measure(lambda: trainer.sample_action(obs).cpu(), repeats, device),
            "environments": time_step(trainer.task, repeats),
            "loop": time_idle_loop(trainer, repeats),
            "iteration": time_loop(trainer, request.iterations),
            **time_exported(trainer),
        }
        updates = trainer.config.utd * lanes  # per iteration
        return {**times, "batch": trainer.config.batch_size, "lanes": lanes, "updates": updates}


def time_updates(
    agent: Agent, batch: Batch, repeats: int, device: torch.device, rate: float
) -> dict[str, Measured]:
    """An update, on average over the agent's cycle, and its products at `rate`."""
    cycle = agent.update_cycle()
    with FlopCounterMode(display=False) as counter:
        for update in cycle:
            update(batch)
    captured = [capture(update, device) for update in cycle]

    def turn() -> None:
        for update in captured:
            update(batch)

    all_of_them = measure(turn, repeats, device, warmup=5)
    times = {"update": all_of_them}
    if device.type == "cpu" and torch.get_num_threads() == 1:  # the flag is each thread's own
        torch.set_flush_denormal(False)
        times["update with denormals"] = measure(turn, repeats, device)
        torch.set_flush_denormal(True)
    times = {part: Measured(time.median / len(cycle), time.spread) for part, time in times.items()}
    floor = counter.get_total_flops() / len(cycle) / rate * 1e3
    return {**times, "floor": Measured(floor, 0.0)}


def time_step(task: VectorTask, repeats: int) -> Measured:
    """A step of all environments; the gripper of a manipulation task stays open."""
    task.reset(0)
    action = np.zeros((task.num_envs, task.spaces.action_dim), np.float32)
    action[:, -1] = 1.0

    def step() -> None:
        task.send(action)
        task.receive()

    return measure(step, repeats, torch.device("cpu"))


def time_loop(trainer: Trainer, iterations: int) -> Measured:
    """An iteration of the whole loop, logging included: the median of ten blocks."""
    trainer.obs = None

    def block() -> None:
        for _ in range(max(1, iterations // 10)):
            trainer._iterate()
            trainer._after_step()

    with contextlib.redirect_stdout(io.StringIO()):
        measured = measure(block, 10, trainer.device, warmup=1)
    return Measured(measured.median / max(1, iterations // 10), measured.spread)


def time_exported(trainer: Trainer) -> dict[str, Measured]:
    """One observation by the policy that `rlzoo.load_policy` gives and by its ONNX model, on one CPU thread.

    Without what `rlzoo export` needs, nothing.
    """
    if any(importlib.util.find_spec(name) is None for name in export.NEEDED):
        return {}
    agent = {"agent": trainer.agent.state_dict(), "step": trainer.counters.step}
    policy = Policy.of_checkpoint({**trainer.metadata, **agent}, torch.device("cpu"))
    inputs = export.as_tensors(export.random_observations(policy, 3, seed=0))
    model = export.to_onnx(export.Graph(policy), inputs, ["action", "unit_action"])
    onnx, eager = export.single_calls(export.session(model.SerializeToString()), policy)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = [measure(call, 200, torch.device("cpu"), warmup=20) for call in (eager, onnx)]
    finally:
        torch.set_num_threads(threads)
    return dict(zip(("policy", "ONNX"), times, strict=True))


class IdleAgent(Agent):
    """Does nothing: what is left of an iteration is the loop's own."""

    Config = AgentConfig
    about = ""

    def __init__(self, action: Tensor) -> None:
        super().__init__()
        self.action, self.optimizers = action, {}

    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        return self.action

    def update_cycle(self) -> tuple[Any, ...]:
        return (lambda batch: {"loss/none": batch.reward[0]},)


class IdleTask:
    """Environments that take no time."""

    def __init__(self, task: VectorTask, obs: dict[str, Array]) -> None:
        self.num_envs, self.spaces, self.obs = task.num_envs, task.spaces, obs
        no = np.zeros(self.num_envs, np.bool_)
        nothing = np.zeros(self.num_envs, np.float32)
        self.step = Step(obs, nothing, no, no, np.full(self.num_envs, np.nan, np.float32))

    def reset(self, seed: int) -> dict[str, Array]:
        return self.obs

    def send(self, action: FloatArray) -> None:
        pass

    def receive(self) -> Step:
        return self.step

    def get_state(self) -> list[Any]:
        return []


def time_idle_loop(trainer: Trainer, repeats: int) -> Measured:
    """What an iteration costs beside update, sampling, action and environments."""
    assert trainer.obs is not None
    action = torch.zeros(trainer.task.num_envs, trainer.task.spaces.action_dim, device=trainer.device)
    idle = Trainer(
        IdleAgent(action),
        IdleTask(trainer.task, trainer.obs),  # type: ignore[arg-type]
        trainer.eval_task,
        dataclasses.replace(trainer.config, warmup_steps=0),
        replay=ReplayBuffer(
            trainer.task.spaces,
            capacity=10_000 * trainer.task.num_envs,
            lanes=trainer.task.num_envs,
            device=trainer.device,
            discount=0.99,
        ),
        device=trainer.device,
        seed=0,
    )
    idle.logger, idle.progress, idle.run_dir = trainer.logger, trainer.progress, trainer.run_dir
    batch = trainer._sample()
    idle._sample = lambda: batch  # type: ignore[method-assign]
    idle.start_clock()

    def block() -> None:
        for _ in range(20):
            idle._iterate()
            idle._after_step()

    with contextlib.redirect_stdout(io.StringIO()):
        measured = measure(block, max(2, repeats // 5), trainer.device)
    return Measured(measured.median / 20, measured.spread)


def random_buffer(spaces: Spaces, device: torch.device, *, is_demo: bool) -> ReplayBuffer:
    """A buffer of ten random episodes of 100 steps."""
    assert spaces.pixels is not None
    views, channels, *size = spaces.pixels
    buffer = ReplayBuffer(spaces, capacity=1010, lanes=1, device=device, discount=0.99, is_demo=is_demo)
    rng = np.random.default_rng(0)
    for _ in range(10):
        frames = (101, views, channels // spaces.frame_stack, *size)
        obs = {
            "state": rng.standard_normal((101, spaces.state_dim), np.float32),
            "pixels": rng.integers(256, size=frames, dtype=np.uint8),
        }
        action = rng.uniform(-1, 1, (100, spaces.action_dim)).astype(np.float32)
        buffer.add_episodes([Episode(obs, action, np.zeros(100, np.float32), terminated=True)])
    return buffer


def time_images(
    request: Request, name: str, preset: str, device: torch.device, rate: float
) -> dict[str, Any]:
    """All timings of an agent that sees images; half of each batch are demonstrations."""
    experiment = default_experiment(RLBenchSuite(), name, "reach_target", preset)
    views = len(experiment.options.cameras) if preset == "small" else len(CAMERAS)
    size = experiment.options.image_size if preset == "small" else IMAGE_SIZE
    stack = experiment.options.frame_stack if preset == "small" else FRAME_STACK
    spaces = Spaces(ACTION_DIM, ACTION_DIM, pixels=(views, 3 * stack, size, size), frame_stack=stack)
    agent = AGENTS[name](spaces, experiment.agent, device)
    buffers = [random_buffer(spaces, device, is_demo=is_demo) for is_demo in (True, False)]
    half = (request.batch_size or experiment.train.batch_size) // 2
    batch = empty_batch(spaces, 2 * half, device)

    def sample() -> Batch:
        for buffer, rows in zip(buffers, (slice(half), slice(half, 2 * half)), strict=True):
            buffer.sample(half, map_batch(lambda tensor, rows=rows: tensor[rows], batch))
        return batch

    sample()
    single = {key: value[:1] for key, value in batch.obs.items()}
    seen = augment(batch)
    times = {
        **time_updates(agent, batch, request.repeats, device, rate),
        "sample": measure(sample, request.repeats, device),
        "augment": measure(lambda: augment(batch), request.repeats, device),
        "act 1": measure(lambda: agent.act(single, deterministic=False), request.repeats, device),
    }
    encoder = agent.encoder  # type: ignore[attr-defined]

    def encode() -> None:
        """As an update does: with gradient before the step, without it after."""
        encoder(seen.obs).sum().backward()
        with torch.no_grad():
            encoder(seen.next_obs)

    times["encoder"] = measure(encode, request.repeats, device)
    images = Images(CAMERAS[:views], size, stack)
    for label, drawn in (("environments", None), (f"environments, {views} cameras", images)):
        with closing(panda.make("reach_target", 1, images=drawn)) as task:
            times[label] = time_step(task, request.repeats)
    return {**times, "batch": 2 * half, "lanes": 1, "updates": 1}


# ------------------------------------------------------------------------------------------ how cost grows


def time_scaling(device: torch.device) -> dict[str, dict[str, Any]]:
    """Milliseconds of a small update by its sizes, of ARSQ's action by positions, of a step by environments,
    and updates a second by seeds side by side: {what: {"x": [...], line: [...]}}."""
    base = {"state_dim": 17, "action_dim": 6, "levels": 2, "bins": 7, "batch_size": 128}
    result: dict[str, dict[str, Any]] = {}
    for what, key, values in (
        ("action dimensions", "action_dim", (3, 6, 12, 24)),
        ("levels x bins", "bins", (5, 11, 21, 41)),
        ("batch size", "batch_size", (64, 128, 256, 512)),
    ):
        result[what] = {"x": [2 * value if key == "bins" else value for value in values]}
        for name in ("arsq", "cqn", "dsac-t"):
            result[what][name] = [
                measure(small_update(name, device, **{**base, key: value}), 20, device).median
                for value in values
            ]
    dims = (3, 12, 42)
    result["positions"] = {"x": [2 * dim for dim in dims]}
    narrow = {"hidden": (256,) * 2, "state_layers": 0}
    for line, sizes in (
        ("2 x 256", narrow),
        ("3 x 512, late prefix", {"hidden": (512,) * 3, "state_layers": 2}),
    ):
        result["positions"][line] = [time_action(dim, sizes, device) for dim in dims]
    counts = (1, 5, 20, 80)
    result["environments"] = {"x": list(counts), "HalfCheetah": []}
    for count in counts:
        with closing(MujocoSuite().make("HalfCheetah-v5", count)) as task:
            result["environments"]["HalfCheetah"].append(time_step(task, 30).median)
    seeds = (1, 2, 4)
    result["seeds side by side"] = {"x": list(seeds), "arsq": [parallel_updates(count) for count in seeds]}
    return result


def small_update(
    name: str,
    device: torch.device,
    *,
    state_dim: int,
    action_dim: int,
    levels: int,
    bins: int,
    batch_size: int,
) -> Callable[[], Any]:
    """An update of a small agent, 2 x 256 units where the preset has more, on a random batch."""
    settings = default_experiment(D4RLSuite(), name, "hopper-medium-v2", "small").agent
    if name in ("arsq", "cqn"):
        early = {"state_layers": 0} if name == "arsq" else {}  # the preset's are too many for two layers
        settings = dataclasses.replace(settings, levels=levels, bins=bins, hidden=(256, 256), **early)
    spaces = Spaces(state_dim, action_dim)
    agent = AGENTS[name](spaces, settings, device)
    batch = empty_batch(spaces, batch_size, device)
    for tensor in (batch.obs["state"], batch.next_obs["state"], batch.reward):
        tensor.normal_()
    batch.action.uniform_(-1, 1)
    batch.discount.fill_(0.99)
    batch.is_demo.fill_(1.0)
    update = capture(agent.update_cycle()[0], device)
    return lambda: update(batch)


def time_action(action_dim: int, sizes: dict[str, Any], device: torch.device) -> float:
    """Milliseconds of a sampled action of ARSQ for one environment, two levels of 5 bins."""
    settings = default_experiment(D4RLSuite(), "arsq", "door-human-v1", "small").agent
    settings = dataclasses.replace(settings, levels=2, bins=5, **sizes)
    agent = AGENTS["arsq"](Spaces(39, action_dim), settings, device)
    obs = {"state": torch.randn(1, 39, device=device)}
    return measure(lambda: agent.act(obs, deterministic=False), 50, device).median


def parallel_updates(count: int, seconds: float = 3.0) -> float:
    """Updates a second of small ARSQ agents, one thread each, in `count` processes, all together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.SimpleQueue()
    workers = [
        context.Process(target=updates_per_second, args=(seconds, barrier, results)) for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    total = sum(results.get() for _ in workers)
    for worker in workers:
        worker.join()
    return float(total)


def updates_per_second(seconds: float, barrier: Any, results: Any) -> None:
    """Updates a second in this process, with one thread, once all processes are ready."""
    tune_cpu()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    update = small_update("arsq", device, state_dim=11, action_dim=3, levels=2, bins=7, batch_size=128)
    update()
    barrier.wait()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        update()
        done += 1
    results.put(done / (time.perf_counter() - started))


# --------------------------------------------------------------------------------------------- against SB3


def time_against_sb3(device: torch.device, blocks: int = 10, steps: int = 100) -> dict[str, Any]:
    """Our SAC and Stable-Baselines3's in turn on HalfCheetah: a step and an update, blocks of `steps`.

    Both with 2 x 256 units, batches of 256, one environment, an update a step; ratios are pair by pair.
    """
    import gymnasium

    stable_baselines3 = load_extra("stable_baselines3", "sb3")
    request = Request(updates=100)
    theirs = stable_baselines3.SAC(
        "MlpPolicy", gymnasium.make("HalfCheetah-v5"), learning_starts=100, device=str(device)
    )
    theirs.learn(300)
    with trainer_of(request, "sac", "paper", device) as trainer:

        def ours_block() -> None:
            for _ in range(steps):
                trainer._iterate()
                trainer._after_step()

        def their_block() -> None:
            theirs.learn(steps, reset_num_timesteps=False)

        times = []
        with contextlib.redirect_stdout(io.StringIO()):
            for _ in range(blocks):
                pair = [
                    measure(block, 1, device, warmup=0).median / steps for block in (ours_block, their_block)
                ]
                times.append(pair)
    ratios = [their / our for our, their in times]
    return {
        "ours": statistics.median(pair[0] for pair in times),
        "theirs": statistics.median(pair[1] for pair in times),
        "ratios": ratios,
        "version": stable_baselines3.__version__,
    }


# ------------------------------------------------------------------------------------------------- results


def time_start_up() -> float:
    """CPU seconds of `train_mujoco.py dsac-t --help`, the least of three: loading PyTorch and all else."""
    import resource

    script = Path(__file__).with_name("train_mujoco.py")
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, str(script), "dsac-t", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def compare(before: Path, after: Path) -> Table:
    """How many times as fast the second file's figures are as the first's."""
    try:
        old, new = (json.loads(path.read_text())["timings"] for path in (before, after))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--compare takes two JSON files of this benchmark: {error}") from error
    table = Table(title=f"{before.name} -> {after.name}: ms, and how many times as fast")
    for column in ("agent", "size", "part", "before", "after", "ratio"):
        table.add_column(column, justify="left" if column in ("agent", "size", "part") else "right")
    for name in [each for each in new if each in old]:
        for preset in [each for each in new[name] if each in old[name]]:
            for part, (was, _) in ((k, v) for k, v in old[name][preset].items() if isinstance(v, list)):
                if part in new[name][preset]:
                    now = new[name][preset][part][0]
                    table.add_row(name, preset, part, f"{was:.2f}", f"{now:.2f}", f"{was / now:.2f}")
    return table


def timings_table(timings: dict[str, dict[str, dict[str, Any]]], title: str) -> Table:
    """Agents and sizes down, parts across."""
    seen = [part for sizes in timings.values() for row in sizes.values() for part in row]
    parts = [part for part in SHOWN if part in seen]
    table = Table("agent", "size", *parts, title=title)
    for column in table.columns[2:]:
        column.justify = "right"
    for name, sizes in timings.items():
        for preset, row in sizes.items():
            table.add_row(name, preset, *(f"{row[part].median:.2f}" if part in row else "" for part in parts))
    return table


def why_busy(share: float, timings: dict[str, dict[str, dict[str, Any]]]) -> str:
    """What speaks against figures, or "": the share of the cores that others use, timings that spread."""
    if share > MOST_BUSY:
        return f"others use {share:.0%} of the cores"
    wide = [
        f"{name} {preset} {part} by {value.spread:.0%}"
        for name, sizes in timings.items()
        for preset, row in sizes.items()
        for part, value in row.items()
        if part in ("update", "iteration") and value.spread > WIDEST_SPREAD
    ]
    return f"the quartiles of {', '.join(wide)} lie apart" if wide else ""


def main() -> int:
    """Time the agents, print a table, write the JSON."""
    request: Request = parse_flags(Request, description=__doc__)
    if request.compare is not None:
        Console().print(compare(*request.compare))
        print("ratios mean something where both runs had the same machine, and to themselves")
        return 0
    if request.redraw is not None:
        if request.page is None:
            raise UserError("--redraw makes a page: name it with --page")
        write_page(request.page, request.redraw)
        print(f"written to {request.page}")
        return 0
    tune_cpu()
    device = resolve_device(request.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if unknown := sorted(set(request.agents) - set(AGENTS)):
        raise UserError(f"no agent called {', '.join(unknown)}; there are {', '.join(AGENTS)}")
    agents = [name for name in request.agents if AGENTS[name].sees_images or not request.images]
    if blind := sorted(set(request.agents) - set(agents)):
        print(f"not timed, as they learn from states alone: {', '.join(blind)}")
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    torch.set_float32_matmul_precision(request.matmul_precision)
    machine = describe_machine()
    gpus = machine["hardware"]["gpus"]
    hardware = (gpus[0]["name"] if device.type == "cuda" else machine["hardware"]["cpu"]) or "unknown-cpu"
    seen = "images" if request.images else "states"
    threads = torch.get_num_threads()
    part = "" if (request.agents, request.presets) == (tuple(AGENTS), ("paper", "small")) else "some-"
    rounded = "" if request.matmul_precision == "highest" else f"-{request.matmul_precision}"
    file = f"{part}{seen}-{hardware.replace(' ', '-')}-{threads}-threads{rounded}.json"
    output = request.output or Path("results/benchmarks") / file
    check_writable(output)
    share = busy_share()
    if (busy := why_busy(share, {})) and not request.anyway:
        raise UserError(BUSY.format(busy))
    time_one = time_images if request.images else time_agent
    timings: dict[str, dict[str, dict[str, Any]]] = {}
    for name in agents:
        for preset in request.presets:
            print(f"timing {name}, {preset}", flush=True)
            # The machine's speed changes by the minute: the floor is taken where the update is.
            row = time_one(request, name, preset, device, product_rate(device))
            timings.setdefault(name, {})[preset] = row
    more: dict[str, Any] = {"start_up_cpu_s": time_start_up()}
    if request.scaling:
        more["scaling"] = time_scaling(device)
    if request.against is not None:
        more["against_sb3"] = time_against_sb3(device)
    if (busy := why_busy(max(share, busy_share()), timings)) and not request.anyway:
        raise UserError(BUSY.format(busy))
    if timings:
        Console().print(timings_table(timings, f"ms with {seen}, {hardware}, {threads} threads"))
    for key, value in more.items():
        if key != "scaling":
            print(key, json.dumps(value))
    settings = {
        key: value for key, value in vars(request).items() if key not in ("output", "page", "compare")
    }
    content = {"unit": "milliseconds: [median, quartiles' distance / median]", "settings": settings}
    content |= {"command": sys.argv, "busy": busy, "timings": timings, **more, **machine}
    atomic_write(output, json.dumps(content, indent=2) + "\n")
    print(f"written to {output}")
    if request.page is not None:
        write_page(request.page, output)
    return 0


if __name__ == "__main__":
    run_main(main)
