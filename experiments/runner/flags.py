"""The settings of one run, each of them a flag."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import tyro

from experiments.runner.data import DataConfig
from rlzoo.settings import Count, Seed, Settings
from rlzoo.train import TrainConfig

Config = TypeVar("Config")
Options = TypeVar("Options")


@dataclasses.dataclass(frozen=True)
class NoOptions(Settings):
    """For benchmarks whose tasks have no settings of their own."""


@dataclasses.dataclass(frozen=True)
class Experiment(Settings, Generic[Config, Options]):
    """One run: an agent on a task."""

    agent: Config
    """Hyperparameters of the agent."""
    task: str
    """Its name, or `list`."""
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=TrainConfig)
    """Settings of the training loop."""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=DataConfig)
    """Recorded data to learn from."""
    options: Annotated[Options, tyro.conf.arg(name="")] = dataclasses.field(default_factory=NoOptions)  # type: ignore[assignment]
    """Settings of the benchmark's tasks."""
    preset: str = "paper"
    """Defaults: paper, small, …"""
    config: Path | None = None
    """Begin with this run's settings."""
    seed: Seed = 1
    """Decides everything random in the run."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, …"""
    threads: Count | None = None
    """On the CPU; None: one per core."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Rounding of products: none, TF32, bfloat16."""
    video: bool = False
    """Film an episode per evaluation."""
    runs_dir: Path = Path("results/runs")
    """Where run folders are made."""
    name: str | None = None
    """Ends the name of the run's folder."""
    tags: tuple[str, ...] = ()
    """What the run is found by."""
    notes: str = ""
    """What the run is for."""
    track: Literal["none", "wandb"] = "none"
    """Also log to Weights & Biases."""
