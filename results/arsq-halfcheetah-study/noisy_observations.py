"""ARSQ from observations blurred anew for every update: does it then learn less by heart?

python results/arsq-halfcheetah-study/noisy_observations.py arsq --observation-noise 0.02 --task ...

`experiments/d4rl.py` with one more flag. Acting sees no noise.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path[0] = str(Path(__file__).resolve().parents[2])

import algos.arsq
from experiments.common import Benchmark, Experiment, main
from experiments.d4rl import BENCHMARK
from rlzoo.main import run_main
from rlzoo.types import Batch


@dataclasses.dataclass(frozen=True)
class Noise:
    """What d4rl.py does not have."""

    observation_noise: float = 0.0
    """Standard deviation of Gaussian noise on a batch's observations, before and after the step, in units of
    the data's own deviation where observations are standardised."""


def configure(
    benchmark: Benchmark, experiment: Experiment[Any, Any], checkpoint: Mapping[str, Any] | None
) -> tuple[Benchmark, Experiment[Any, Any]]:
    """Let the agent augment its batches with the noise."""

    def blurred(obs: dict[str, Tensor]) -> dict[str, Tensor]:
        deviation = experiment.options.observation_noise
        return {key: value + deviation * torch.randn_like(value) for key, value in obs.items()}

    def augment(batch: Batch) -> Batch:
        return batch._replace(obs=blurred(batch.obs), next_obs=blurred(batch.next_obs))

    algos.arsq.augment = augment
    return benchmark, experiment


NOISY = dataclasses.replace(
    BENCHMARK,
    script="results/arsq-halfcheetah-study/noisy_observations.py",
    options=Noise(),
    configure=configure,
)

if __name__ == "__main__":
    run_main(lambda: main(NOISY))
