"""ARSQ from batches blurred anew for every update: does it then learn less by heart?

python results/arsq-halfcheetah-study/noisy_batches.py OBSERVATIONS ACTIONS arsq --task ...

Runs `experiments/d4rl.py` with the arguments after OBSERVATIONS and ACTIONS. These are standard deviations of
Gaussian noise: on observations of a batch, before and after the step (in units of the data's own deviation if
they are standardised), and on its actions, which are cut to [-1, 1] again. Acting sees no noise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path[0] = str(Path(__file__).resolve().parents[2])

import algos.arsq
from experiments.common import main
from experiments.d4rl import BENCHMARK
from rlzoo.errors import UserError
from rlzoo.main import run_main
from rlzoo.types import Batch


def blur(values: Tensor, deviation: float) -> Tensor:
    """The values with Gaussian noise of this deviation."""
    return values + deviation * torch.randn_like(values) if deviation else values


def run() -> int:
    """Train with the noise."""
    try:
        observations, actions = float(sys.argv[1]), float(sys.argv[2])
    except (IndexError, ValueError):
        raise UserError(
            "give two standard deviations, then what experiments/d4rl.py is to be given"
        ) from None

    def augment(batch: Batch) -> Batch:
        obs, next_obs = (
            {key: blur(value, observations) for key, value in each.items()}
            for each in (batch.obs, batch.next_obs)
        )
        return batch._replace(obs=obs, next_obs=next_obs, action=blur(batch.action, actions).clamp(-1, 1))

    algos.arsq.augment = augment
    return main(BENCHMARK, sys.argv[3:])


if __name__ == "__main__":
    run_main(run)
