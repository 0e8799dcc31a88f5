"""Time RLBench's tasks on MuJoCo, and sampling, acting and an update of an agent that sees their images.

python experiments/benchmark_rlbench.py --agent arsq
python experiments/benchmark_rlbench.py --batch-size 64 --views 2 --encoder-channels 8 16 32 64

Defaults are RLBench's protocol at full size; the agent sees random images. Run it while nothing else runs.
Prints medians and the buffers' size, and writes them as JSON with the hardware's name.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from envs.panda import env as panda_env
from envs.rlbench.protocol import ACTION_DIM, CAMERAS, FRAME_STACK, IMAGE_SIZE
from experiments.benchmark import median_ms
from experiments.presets import AGENTS, rlbench_preset
from experiments.runner.launch import Benchmark, default_experiment
from rlzoo.capture import capture
from rlzoo.errors import UserError
from rlzoo.nn.images import augment
from rlzoo.replay import ReplayBuffer, bytes_per_row, concatenate
from rlzoo.run.cli import keep_freed_memory, parse_flags, resolve_device, run_main
from rlzoo.run.files import atomic_write
from rlzoo.run.folder import describe_machine
from rlzoo.types import Batch, Episode, FloatArray, Spaces, VectorTask


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to time, and how often."""

    agent: str = "arsq"
    """An agent, with its settings for RLBench."""
    task: str = "reach_target"
    """The task whose environment steps are timed."""
    batch_size: int = 512
    """Transitions per update, half of them demonstrations."""
    views: int = len(CAMERAS)
    """Cameras."""
    image_size: int = IMAGE_SIZE
    """Height and width in pixels."""
    encoder_channels: tuple[int, ...] = (32, 64, 128, 256)
    """Of the convolutions."""
    repeats: int = 20
    """Timed calls of each part, of which the median is taken."""
    device: str = "auto"
    """auto, cpu, cuda, …"""
    threads: int | None = None
    """CPU threads of PyTorch; None: one per core."""
    output: Path | None = None
    """JSON file; None: results/benchmarks/rlbench-<hardware>.json."""


def filled_buffer(spaces: Spaces, episodes: int, device: torch.device, *, is_demo: bool) -> ReplayBuffer:
    """A buffer of random episodes of 100 steps."""
    assert spaces.pixels is not None
    views, channels, *size = spaces.pixels
    buffer = ReplayBuffer(
        spaces, capacity=101 * episodes, lanes=1, device=device, discount=0.99, is_demo=is_demo
    )
    rng = np.random.default_rng(0)
    for _ in range(episodes):
        frame = (101, views, channels // spaces.frame_stack, *size)
        obs = {
            "state": rng.standard_normal((101, spaces.state_dim), np.float32),
            "pixels": rng.integers(256, size=frame, dtype=np.uint8),
        }
        action = rng.uniform(-1, 1, (100, spaces.action_dim)).astype(np.float32)
        buffer.add_episodes([Episode(obs, action, np.zeros(100, np.float32), terminated=True)])
    return buffer


def time_environment(settings: Settings) -> dict[str, float]:
    """Milliseconds of an environment step with random actions, without cameras and with them."""
    rng = np.random.default_rng(0)
    times = {}
    for observations in ("state", "pixels"):
        cameras = CAMERAS[: settings.views]
        options = {"observations": observations, "cameras": cameras, "image_size": settings.image_size}
        with closing(panda_env.make(settings.task, 1, **options)) as task:
            task.reset(0)
            action = rng.uniform(-1, 1, (1, ACTION_DIM)).astype(np.float32)
            action[:, -1] = 1.0  # a gripper that opens or closes at every step would be timed instead

            def step(task: VectorTask = task, action: FloatArray = action) -> None:
                task.send(action)
                task.receive()

            name = f"environment, {settings.views} cameras" if observations == "pixels" else "environment"
            times[name] = median_ms(step, 10 * settings.repeats, torch.device("cpu"))
    return times


def main() -> int:
    """Time the parts, print them, write the JSON."""
    settings = parse_flags(Settings, description=__doc__)
    if settings.agent not in AGENTS:
        raise UserError(f"no agent called {settings.agent}; there are {', '.join(AGENTS)}")
    keep_freed_memory()
    device = resolve_device(settings.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    shape = (settings.views, 3 * FRAME_STACK, settings.image_size, settings.image_size)
    spaces = Spaces(ACTION_DIM, ACTION_DIM, pixels=shape, frame_stack=FRAME_STACK)
    benchmark = Benchmark("rlbench", "reach_target", make=_no_task, preset=rlbench_preset)
    experiment = default_experiment(benchmark, settings.agent, "reach_target")
    config = dataclasses.replace(experiment.agent, encoder_channels=settings.encoder_channels)
    agent = AGENTS[settings.agent].make(spaces, config, device)
    demos, replay = (filled_buffer(spaces, 10, device, is_demo=is_demo) for is_demo in (True, False))
    rows = settings.batch_size // 2

    def sample() -> Batch:
        return concatenate(demos.sample(rows), replay.sample(settings.batch_size - rows))

    batch = sample()
    single = {name: value[:1] for name, value in batch.obs.items()}
    updates = [capture(update, device) for update in agent.update_cycle()]
    parts = {
        "sample": lambda: sample(),
        "augment (part of the update)": lambda: augment(batch),
        "act": lambda: agent.act(single, deterministic=False),
        **{f"update {i}": (lambda u=u: u(batch)) for i, u in enumerate(updates)},
    }
    times = time_environment(settings)
    times |= {name: median_ms(call, settings.repeats, device, warmup=5) for name, call in parts.items()}
    for name, value in times.items():
        print(f"{name:<30}{value:12.2f} ms {1e3 / value:12.1f} per second")
    train = experiment.train
    total = (train.buffer_capacity + train.join_capacity) * bytes_per_row(spaces) / 1e9
    print(f"replay and joined episodes at full size: {total:.2f} GB; a demonstration of 100 steps: "
          f"{101 * bytes_per_row(spaces) / 1e6:.1f} MB")  # fmt: skip
    machine = describe_machine()
    gpus = machine["hardware"]["gpus"]
    hardware = (gpus[0]["name"] if device.type == "cuda" else machine["hardware"]["cpu"]) or "unknown-cpu"
    output = settings.output or Path("results/benchmarks") / f"rlbench-{hardware.replace(' ', '-')}.json"
    shown = {k: v for k, v in dataclasses.asdict(settings).items() if k != "output"}
    content = {"unit": "milliseconds, medians", "settings": shown, "timings": times,
               "replay_and_joined_gb": total, **machine}  # fmt: skip
    atomic_write(output, json.dumps(content, indent=2) + "\n")
    print(f"written to {output}")
    return 0


def _no_task(*_: object) -> VectorTask:
    raise NotImplementedError


if __name__ == "__main__":
    run_main(main)
