"""Time sampling, augmentation, acting and an update of an agent that sees images.

python experiments/benchmark_pixels.py --agent arsq
python experiments/benchmark_pixels.py --batch-size 64 --views 2 --encoder-channels 8 16 32 64

Defaults are RLBench's protocol at full size, on random images. Prints medians and the buffers' size.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import tyro

from experiments.benchmark import median_ms
from experiments.common import Benchmark, default_experiment
from experiments.presets import AGENTS, rlbench_preset
from rlzoo.capture import capture
from rlzoo.encoder import augment
from rlzoo.errors import UserError
from rlzoo.main import keep_freed_memory, resolve_device, run_main
from rlzoo.manipulation import ACTION_DIM, CAMERAS, FRAME_STACK, IMAGE_SIZE
from rlzoo.replay import ReplayBuffer, bytes_per_row, concatenate
from rlzoo.types import Batch, Episode, Spaces, VectorTask


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to time, and how often."""

    agent: str = "arsq"
    """An agent, with its settings for RLBench."""
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


def main() -> int:
    """Time the parts and print them."""
    settings = tyro.cli(Settings, description=__doc__)
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
    for name, call in parts.items():
        print(f"{name:<30}{median_ms(call, settings.repeats, device, warmup=5):12.2f} ms", flush=True)
    train = experiment.train
    total = (train.buffer_capacity + train.join_capacity) * bytes_per_row(spaces) / 1e9
    print(f"replay and joined episodes at full size: {total:.2f} GB; a demonstration of 100 steps: "
          f"{101 * bytes_per_row(spaces) / 1e6:.1f} MB")  # fmt: skip
    return 0


def _no_task(*_: object) -> VectorTask:
    raise NotImplementedError


if __name__ == "__main__":
    run_main(main)
