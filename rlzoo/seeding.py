"""The random streams of a run, all derived from its seed."""

from __future__ import annotations

import numpy as np

# PyTorch and the simulators get the seed itself; each of these is a stream of its own.
EVALUATION, WARMUP, BUFFERS = 1, 2, 3


def derived_seed(seed: int, *stream: int) -> int:
    """The seed of one of a run's random streams, by a hash: runs of seeds 1 and 2 have none in common."""
    return int(np.random.SeedSequence(entropy=seed, spawn_key=stream).generate_state(1)[0])
