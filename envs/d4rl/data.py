"""Where the dataset of a D4RL task is found: on this machine, else at D4RL's address."""

from __future__ import annotations

import os
from pathlib import Path

from envs.d4rl.tasks import find
from rlzoo.data.download import cache_dir, download
from rlzoo.data.hdf5 import open_hdf5
from rlzoo.errors import UserError
from rlzoo.run.files import expand_user


def find_dataset(task: str, given: str | os.PathLike[str] | None = None) -> str | os.PathLike[str]:
    """The source of a task's data for `rlzoo.data.load.load_episodes`: what is `given`, else D4RL's own file.

    That file is looked for in the cache (`rlzoo.data.download.cache_dir`) and in D4RL's folder
    ($D4RL_DATASET_DIR or ~/.d4rl/datasets), and else downloaded into the cache.

    Raises:
        UserError: unknown task, or no data to be had; the message names every way to get them.
    """
    row = find(task)
    if given is not None:
        return given
    ours = cache_dir() / Path(row.url).name
    if ours.is_file():
        return ours
    theirs = expand_user(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets") / ours.name
    if theirs.is_file():
        return theirs
    try:
        download(row.url, ours, check=_check)
    except UserError as error:
        minari = f"; `minari download {row.minari}` and --dataset {row.minari}" if row.minari else ""
        raise UserError(
            f"no dataset for {task}: {error}. Ways to get one: --dataset FILE with any file of a known format"
            f"; D4RL's {ours.name} put into {ours.parent} or {theirs.parent}{minari}; one made by "
            "experiments/make_dataset.py"
        ) from error
    return ours


def _check(path: Path) -> None:
    with open_hdf5(path) as file:
        if "observations" not in file:
            raise UserError(f"{path}: key 'observations' is missing, expected a D4RL dataset")
