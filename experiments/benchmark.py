"""Time an iteration and its parts, beside the floor that its matrix products set.

python experiments/benchmark.py --agents dsac-t sac --task HalfCheetah-v5
python experiments/benchmark.py --images --agents arsq --batch-size 512 --repeats 20

Run it while nothing else runs. Prints medians and writes them as JSON with the hardware's name.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from algos import AGENTS
from envs.gym import make as gym_tasks
from envs.panda import env as panda
from envs.rlbench.protocol import ACTION_DIM, CAMERAS, FRAME_STACK, IMAGE_SIZE, Images
from experiments.runner.experiment import default_experiment
from experiments.train_mujoco import MujocoSuite
from experiments.train_rlbench import RLBenchSuite
from rlzoo.agent import Agent
from rlzoo.capture import capture
from rlzoo.errors import UserError
from rlzoo.evaluate import policy_action
from rlzoo.nn.images import augment
from rlzoo.replay import ReplayBuffer, bytes_per_row, empty_batch, map_batch
from rlzoo.run.cli import parse_flags, run_main
from rlzoo.run.files import atomic_write
from rlzoo.run.logger import Logger
from rlzoo.run.machine import describe_machine, resolve_device, tune_cpu
from rlzoo.run.progress import Progress
from rlzoo.run.signals import StopSignal
from rlzoo.settings import Count, Settings, Widths
from rlzoo.train import Trainer
from rlzoo.types import Batch, Episode, Spaces, VectorTask


@dataclasses.dataclass(frozen=True)
class Request(Settings):
    """What to time, and how often."""

    agents: tuple[str, ...] = ("dsac-t", "sac", "td3")
    """Agents, each with its own preset but for the settings below."""
    images: bool = False
    """Time agents that see images, at the size of RLBench's protocol, instead of states."""
    task: str = "HalfCheetah-v5"
    """A Gymnasium task; with --images reach_target on MuJoCo is stepped."""
    num_envs: Count = 20
    """Environments stepped per iteration; one update per iteration (1 with --images)."""
    hidden: Widths = (256, 256, 256)
    """Widths of all networks (with --images the preset's)."""
    batch_size: Count = 256
    """Transitions per update."""
    encoder_channels: Widths = (32, 64, 128, 256)
    """With --images: channels of the convolutions."""
    views: Count = 4
    """With --images: cameras."""
    image_size: Count = IMAGE_SIZE
    """With --images: height and width in pixels."""
    repeats: Count = 300
    """Timed calls of each part, of which the median is taken."""
    iterations: Count = 1500
    """Iterations of the whole loop, in three blocks of which the median counts."""
    device: str = "auto"
    """auto, cpu, cuda, …"""
    threads: Count | None = None
    """CPU threads of PyTorch; None: one per core."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """How products are rounded, as in the experiments."""
    output: Path | None = None
    """JSON file; None: results/benchmarks/<hardware>.json."""


def median_ms(call: Callable[[], Any], repeats: int, device: torch.device, *, warmup: int = 5) -> float:
    """Median wall-clock time of a call, in milliseconds, the device's work included."""
    times = []
    for index in range(repeats + warmup):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= warmup:
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def product_rate(size: int, device: torch.device, repeats: int) -> float:
    """Floating-point operations per second of the products that make up an update: [2, size, size] pairs."""
    first, second = torch.randn(2, 2, size, size, device=device)
    return 2 * 2 * size**3 / (median_ms(lambda: first @ second, repeats, device, warmup=20) / 1e3)


def time_step(task: VectorTask, repeats: int) -> float:
    """Milliseconds of a step of all environments; the gripper of a manipulation task stays open."""
    task.reset(0)
    action = np.zeros((task.num_envs, task.spaces.action_dim), np.float32)
    action[:, -1] = 1.0

    def step() -> None:
        task.send(action)
        task.receive()

    return median_ms(step, repeats, torch.device("cpu"))


def time_updates(
    agent: Agent, batch: Batch, request: Request, device: torch.device, rate: float
) -> dict[str, float]:
    """Milliseconds of an update on average over the agent's cycle, and its products' at `rate`."""
    cycle = agent.update_cycle()
    with FlopCounterMode(display=False) as counter:
        for update in cycle:
            update(batch)
    captured = [capture(update, device) for update in cycle]
    times = [median_ms(lambda u=u: u(batch), request.repeats, device) for u in captured]  # type: ignore[misc]
    return {"update": statistics.mean(times), "floor": counter.get_total_flops() / len(cycle) / rate * 1e3}


def build(request: Request, name: str, device: torch.device) -> Trainer:
    """A trainer whose buffer holds enough to train from."""
    experiment = default_experiment(MujocoSuite(), name, request.task)
    lanes = request.num_envs
    pace = {"num_envs": lanes, "utd": 1 / lanes, "batch_size": request.batch_size, "eval_episodes": 1}
    pace |= {"warmup_steps": 100 * lanes, "steps": (100 + request.iterations // 3) * lanes}
    config = dataclasses.replace(experiment.train, **pace, eval_every=10**9, checkpoint_every=10**9)
    task = gym_tasks.make(request.task, lanes)
    torch.manual_seed(0)
    agent = AGENTS[name](task.spaces, dataclasses.replace(experiment.agent, hidden=request.hidden), device)
    replay = ReplayBuffer(
        task.spaces, capacity=config.buffer_capacity, lanes=lanes, device=device, discount=config.discount
    )
    eval_task = gym_tasks.make(request.task, 1)
    return Trainer(agent, task, eval_task, config, replay=replay, device=device, seed=0)


def time_loop(trainer: Trainer, iterations: int) -> float:
    """Milliseconds per iteration of the whole loop, logging included: the median of three blocks."""
    blocks = []
    with tempfile.TemporaryDirectory() as folder, Logger(Path(folder)) as logger, Progress(1, "") as progress:
        trainer.logger, trainer.progress, trainer.run_dir = logger, progress, Path(folder)
        trainer.start_clock()
        while trainer.counters.online_updates < 50:  # warm-up steps, first updates, graph capture
            trainer._iterate()
        for _ in range(3):
            started = time.perf_counter()
            for _ in range(iterations // 3):
                trainer._iterate()
                trainer._after_step()
            if trainer.device.type == "cuda":
                torch.cuda.synchronize(trainer.device)
            blocks.append((time.perf_counter() - started) / (iterations // 3) * 1e3)
    return statistics.median(blocks)


def time_states(request: Request, name: str, device: torch.device, rate: float) -> dict[str, float]:
    """All timings of an agent that sees states, in milliseconds."""
    trainer = build(request, name, device)
    with closing(trainer.task) as task, closing(trainer.eval_task), StopSignal():
        loop = time_loop(trainer, request.iterations)
        agent, replay, repeats = trainer.agent, trainer.replay, request.repeats
        updates = time_updates(agent, replay.sample(request.batch_size), request, device, rate)
        obs = task.reset(0)
        return {
            **updates,
            "sample": median_ms(lambda: replay.sample(request.batch_size), repeats, device),
            "act": median_ms(lambda: policy_action(agent, obs, device, deterministic=False), repeats, device),
            "environment": time_step(task, repeats),
            "iteration": loop,
        }


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


def time_images(request: Request, name: str, device: torch.device, rate: float) -> dict[str, float]:
    """All timings of an agent that sees images, in milliseconds; half of each batch are demonstrations."""
    images = Images(CAMERAS[: request.views], request.image_size, FRAME_STACK)
    shape = (request.views, 3 * images.stack, images.size, images.size)
    spaces = Spaces(ACTION_DIM, ACTION_DIM, pixels=shape, frame_stack=images.stack)
    experiment = default_experiment(RLBenchSuite(), name, "reach_target")
    config = dataclasses.replace(experiment.agent, encoder_channels=request.encoder_channels)
    agent = AGENTS[name](spaces, config, device)
    buffers = [random_buffer(spaces, device, is_demo=is_demo) for is_demo in (True, False)]

    batch = empty_batch(spaces, request.batch_size // 2 * 2, device)

    def sample() -> Batch:
        half = request.batch_size // 2
        for buffer, rows in zip(buffers, (slice(half), slice(half, 2 * half)), strict=True):
            buffer.sample(half, map_batch(lambda tensor, rows=rows: tensor[rows], batch))
        return batch

    sample()
    single = {key: value[:1] for key, value in batch.obs.items()}
    capacity = experiment.train.buffer_capacity + experiment.train.join_capacity
    print(f"{name}: buffers of {capacity * bytes_per_row(spaces) / 1e9:.2f} GB at the protocol's size")
    times = {
        **time_updates(agent, batch, request, device, rate),
        "augment (in the update)": median_ms(lambda: augment(batch), request.repeats, device),
        "sample": median_ms(sample, request.repeats, device),
        "act": median_ms(lambda: agent.act(single, deterministic=False), request.repeats, device),
    }
    for label, seen in (("environment", None), (f"environment, {request.views} cameras", images)):
        with closing(panda.make("reach_target", 1, images=seen)) as task:
            times[label] = time_step(task, request.repeats)
    return times


def main() -> int:
    """Time the agents, print a table, write the JSON."""
    request: Request = parse_flags(Request, description=__doc__)
    tune_cpu()
    device = resolve_device(request.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if unknown := sorted(set(request.agents) - set(AGENTS)):
        raise UserError(f"no agent called {', '.join(unknown)}; there are {', '.join(AGENTS)}")
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    torch.set_float32_matmul_precision(request.matmul_precision)
    machine = describe_machine()
    rate = product_rate(max(request.hidden), device, request.repeats)
    time_agent = time_images if request.images else time_states
    timings = {name: time_agent(request, name, device, rate) for name in request.agents}
    gpus = machine["hardware"]["gpus"]
    hardware = (gpus[0]["name"] if device.type == "cuda" else machine["hardware"]["cpu"]) or "unknown-cpu"
    what = "images" if request.images else request.task
    table = Table(title=f"{what}: ms, {hardware}, {torch.get_num_threads()} threads")
    for column in ("agent", *next(iter(timings.values()))):
        table.add_column(column, justify="right")
    for name, row in timings.items():
        table.add_row(name, *(f"{value:.2f}" for value in row.values()))
    Console().print(table)
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s; floor = an update's products at that rate")
    file = f"{'images-' if request.images else ''}{hardware.replace(' ', '-')}.json"
    output = request.output or Path("results/benchmarks") / file
    settings = {key: value for key, value in vars(request).items() if key != "output"}
    content = {"unit": "milliseconds, medians", "settings": settings, "product_gflops": rate / 1e9}
    content |= {"timings": timings, **machine}
    atomic_write(output, json.dumps(content, indent=2) + "\n")
    print(f"written to {output}")
    return 0


if __name__ == "__main__":
    run_main(main)
