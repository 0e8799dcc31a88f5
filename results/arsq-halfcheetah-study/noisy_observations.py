"""ARSQ from observations blurred anew for every update: does it then learn less by heart?

python results/arsq-halfcheetah-study/noisy_observations.py DEVIATION arsq --task ...

Runs `experiments/d4rl.py` with the arguments after DEVIATION, the standard deviation of Gaussian noise on the
observations of each batch, before and after the step; with standardised observations it is in units of the
data's own deviation. Acting sees no noise.
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


def run() -> int:
    """Train with the noise."""
    try:
        deviation = float(sys.argv[1])
    except (IndexError, ValueError):
        raise UserError("give a standard deviation, then what experiments/d4rl.py is to be given") from None

    def blurred(obs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value + deviation * torch.randn_like(value) for key, value in obs.items()}

    def augment(batch: Batch) -> Batch:
        return batch._replace(obs=blurred(batch.obs), next_obs=blurred(batch.next_obs))

    algos.arsq.augment = augment
    return main(BENCHMARK, sys.argv[2:])


if __name__ == "__main__":
    run_main(run)
