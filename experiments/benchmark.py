"""Time an iteration and its parts, beside the floor that its matrix products set.

python experiments/benchmark.py --agents dsac-t sac --task HalfCheetah-v5

Run it while nothing else runs. Prints medians and writes them as JSON with the hardware's name.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from envs.gym import make as mujoco_env
from experiments.presets import AGENTS
from experiments.runner.launch import Benchmark, MatmulPrecision, default_experiment
from rlzoo.capture import capture
from rlzoo.errors import UserError
from rlzoo.evaluate import policy_action
from rlzoo.replay import ReplayBuffer
from rlzoo.run.cli import StopSignal, keep_freed_memory, parse_flags, resolve_device, run_main
from rlzoo.run.files import atomic_write
from rlzoo.run.folder import describe_machine
from rlzoo.run.logger import Logger
from rlzoo.run.progress import Progress
from rlzoo.train import Trainer


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to time, and how often."""

    agents: tuple[str, ...] = ("dsac-t", "sac", "td3")
    """Agents, each with its own preset but for the settings below."""
    task: str = "HalfCheetah-v5"
    """A Gymnasium task."""
    num_envs: int = 20
    """Environments stepped per iteration; one update per iteration."""
    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of all networks."""
    batch_size: int = 256
    """Transitions per update."""
    repeats: int = 300
    """Timed calls of each part, of which the median is taken."""
    iterations: int = 1500
    """Iterations of the whole loop (three blocks, the median block counts)."""
    device: str = "auto"
    """auto, cpu, cuda, …"""
    threads: int | None = None
    """CPU threads of PyTorch; None: one per core."""
    matmul_precision: MatmulPrecision = "highest"
    """How products are rounded, as in the experiments."""
    processes: bool = False
    """Step the environments in processes of their own."""
    output: Path | None = None
    """JSON file; None: results/benchmarks/<hardware>.json."""


def median_ms(call: Callable[[], Any], repeats: int, device: torch.device, *, warmup: int = 20) -> float:
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
    return 2 * 2 * size**3 / (median_ms(lambda: first @ second, repeats, device) / 1e3)


def build(settings: Settings, name: str, device: torch.device) -> Trainer:
    """A trainer whose buffer holds enough to train from."""
    make = lambda task, lanes, processes, render: mujoco_env.make(task, lanes, processes=processes)  # noqa: E731
    benchmark = Benchmark("mujoco", settings.task, make, lambda agent, task: {})
    experiment = default_experiment(benchmark, name, settings.task)
    config = dataclasses.replace(
        experiment.train,
        num_envs=settings.num_envs,
        utd=1 / settings.num_envs,
        batch_size=settings.batch_size,
        warmup_steps=100 * settings.num_envs,
        steps=(100 + settings.iterations // 3) * settings.num_envs,
        eval_every=10**9,
        checkpoint_every=10**9,
        eval_episodes=1,
    )
    task = mujoco_env.make(settings.task, settings.num_envs, processes=settings.processes)
    torch.manual_seed(0)
    agent = AGENTS[name].make(
        task.spaces, dataclasses.replace(experiment.agent, hidden=settings.hidden), device
    )
    replay = ReplayBuffer(
        task.spaces,
        capacity=config.buffer_capacity,
        lanes=settings.num_envs,
        device=device,
        discount=config.discount,
    )
    eval_task = mujoco_env.make(settings.task, 1)
    return Trainer(agent, task, eval_task, replay, config, device=device, seed=0)


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


def time_agent(settings: Settings, name: str, device: torch.device, rate: float) -> dict[str, float]:
    """All timings of one agent, in milliseconds."""
    trainer = build(settings, name, device)
    with StopSignal():
        loop = time_loop(trainer, settings.iterations)
    agent, task, replay = trainer.agent, trainer.task, trainer.replay
    batch = replay.sample(settings.batch_size)
    cycle = agent.update_cycle()
    with FlopCounterMode(display=False) as counter:
        for update in cycle:
            update(batch)
    captured = [capture(update, device, trainer.config.capture) for update in cycle]
    updates = [median_ms(lambda u=u: u(batch), settings.repeats, device) for u in captured]  # type: ignore[misc]
    obs = task.reset(0)
    action = np.zeros((settings.num_envs, task.spaces.action_dim), np.float32)

    def step() -> None:
        task.send(action)
        task.receive()

    result = {
        "update": statistics.mean(updates),
        "floor": counter.get_total_flops() / len(cycle) / rate * 1e3,
        "sample": median_ms(lambda: replay.sample(settings.batch_size), settings.repeats, device),
        "act": median_ms(
            lambda: policy_action(agent, obs, device, deterministic=False), settings.repeats, device
        ),
        "environment": median_ms(step, settings.repeats, torch.device("cpu")),
        "iteration": loop,
    }
    task.close()
    trainer.eval_task.close()
    return result


def main() -> int:
    """Time the agents, print a table, write the JSON."""
    settings = parse_flags(Settings, description=__doc__)
    keep_freed_memory()
    device = resolve_device(settings.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if unknown := sorted(set(settings.agents) - set(AGENTS)):
        raise UserError(f"no agent called {', '.join(unknown)}; there are {', '.join(AGENTS)}")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision(settings.matmul_precision)
    machine = describe_machine()
    rate = product_rate(max(settings.hidden), device, settings.repeats)
    timings = {name: time_agent(settings, name, device, rate) for name in settings.agents}
    gpus = machine["hardware"]["gpus"]
    hardware = (gpus[0]["name"] if device.type == "cuda" else machine["hardware"]["cpu"]) or "unknown-cpu"
    table = Table(title=f"{settings.task}: ms, {hardware}, {torch.get_num_threads()} threads")
    for column in ("agent", *next(iter(timings.values()))):
        table.add_column(column, justify="right")
    for name, row in timings.items():
        table.add_row(name, *(f"{value:.2f}" for value in row.values()))
    Console().print(table)
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s; floor = an update's products at that rate")
    output = settings.output or Path("results/benchmarks") / f"{hardware.replace(' ', '-')}.json"
    content = {
        "unit": "milliseconds, medians",
        "settings": {key: str(value) if isinstance(value, Path) else value
                     for key, value in dataclasses.asdict(settings).items() if key != "output"},
        "product_gflops": rate / 1e9,
        "timings": timings,
        **machine,
    }  # fmt: skip
    atomic_write(output, json.dumps(content, indent=2) + "\n")
    print(f"written to {output}")
    return 0


if __name__ == "__main__":
    run_main(main)
