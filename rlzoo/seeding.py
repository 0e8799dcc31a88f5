"""The random streams of a run, all derived from its seed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np

# PyTorch and the simulators get the seed itself; each of these is a stream of its own.
EVALUATION, WARMUP, BUFFERS, RESTART = 1, 2, 3, 4


def derived_seed(seed: int, *stream: int) -> int:
    """The seed of one of a run's random streams, by a hash: runs of seeds 1 and 2 have none in common."""
    return int(np.random.SeedSequence(entropy=seed, spawn_key=stream).generate_state(1)[0])


def seed_global_generators(seed: int) -> None:
    """Seed the generators of Python and NumPy themselves, from which some environments draw."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


@contextlib.contextmanager
def global_generators_kept() -> Iterator[None]:
    """Put the generators of Python and NumPy back where they were, whatever is drawn from them inside."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
