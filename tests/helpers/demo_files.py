"""Small files in the formats of `rlzoo.data.load`, and the real ones where they are present."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from rlzoo.data.load import load_episodes
from rlzoo.errors import UserError
from rlzoo.types import Episode

DATA_DIR = Path(os.environ.get("RLZOO_DATA_DIR") or Path(__file__).resolve().parents[3] / "shared" / "data")


def real_file(name: str) -> Path:
    """A file of the real data; the test is skipped where it is not there."""
    path = DATA_DIR / name
    if not path.exists():
        pytest.skip(f"no {name} in {DATA_DIR} (set RLZOO_DATA_DIR)")
    return path


def write_rows(path: Path, rows: dict, **options) -> Path:
    """An HDF5 file with these arrays under these keys."""
    with h5py.File(path, "w") as file:
        for key, values in rows.items():
            file.create_dataset(key, data=values, **options)
    return path


def counting_rows(steps: int, *, state_dim: int = 2, action_dim: int = 2) -> dict:
    """D4RL rows that tell their own index: obs i, next obs i + 1, reward i; no terminals."""
    index = np.arange(steps, dtype=np.float32)
    return {
        "observations": np.repeat(index[:, None], state_dim, axis=1),
        "actions": np.tile(np.linspace(-1, 1, steps, dtype=np.float32)[:, None], action_dim),
        "rewards": index.copy(),
        "terminals": np.zeros(steps, bool),
        "timeouts": np.zeros(steps, bool),
        "next_observations": np.repeat(index[:, None] + 1, state_dim, axis=1),
    }


def minari_rows(steps: int) -> dict:
    """One episode in Minari's layout."""
    rows = counting_rows(steps)
    return {
        "episode_0/observations": np.arange(2.0 * (steps + 1)).reshape(steps + 1, 2),
        "episode_0/actions": rows["actions"],
        "episode_0/rewards": rows["rewards"],
        "episode_0/terminations": rows["terminals"],
        "episode_0/truncations": rows["timeouts"],
    }


def adroit_record(steps: int) -> dict:
    """One episode of an Adroit pickle."""
    rows = counting_rows(steps)
    return {
        "observations": rows["observations"].astype(np.float64),
        "actions": rows["actions"],
        "rewards": rows["rewards"],
        "init_state_dict": {"qpos": np.zeros(3)},
    }


def column(episode: Episode) -> list[float]:
    """The first number of every observation."""
    return episode.obs["state"][:, 0].tolist()


def expect_one_line(path, *parts: str, **options) -> None:
    """Loading fails with a `UserError` of one line that names the file and all of `parts`."""
    with pytest.raises(UserError) as caught:
        load_episodes(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message, message
