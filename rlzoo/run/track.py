"""Weights & Biases beside a run's own files; whatever fails there, the run goes on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlzoo.run.extras import load_extra

CONNECT_S, UPLOAD_S = 30.0, 60.0  # how long the start and the end of a run wait for the server


@contextlib.contextmanager
def wandb_mirror(
    run_dir: Path, *, project: str, config: Mapping[str, Any], tags: Sequence[str], notes: str
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """A function that logs values at a step to Weights & Biases, for `Logger.mirror`.

    ``WANDB_MODE=offline`` keeps all of it in ``<run_dir>/wandb``; so does a server that cannot be reached or
    that nobody is logged in to, which is said. A resumed run goes on with its W&B run.

    Raises:
        UserError: the package is missing.
    """
    wandb = load_extra("wandb", "wandb")
    options: dict[str, Any] = {
        "project": os.environ.get("WANDB_PROJECT", project),
        "name": run_dir.name,
        # The same for every session of this run; W&B leaves out the steps that it has already.
        "id": hashlib.sha256(os.fsencode(run_dir.resolve())).hexdigest()[:16],
        "resume": "allow",
        "dir": run_dir,
        "config": dict(config),
        "tags": list(tags),
        "notes": notes,
        "settings": wandb.Settings(
            silent=True, console="off", init_timeout=CONNECT_S, finish_timeout=UPLOAD_S, x_disable_stats=True
        ),
    }
    hint = f"what was logged is in {run_dir / 'wandb'}, `wandb sync` uploads it"
    run = None
    for mode in ({}, {"mode": "offline"}):
        try:
            run = wandb.init(**options, **mode)
            break
        except Exception as error:
            wandb.teardown()  # or its service still has this run
            _warn(f"W&B: {error}; {hint}")

    def log(step: int, values: Mapping[str, float]) -> None:
        nonlocal run
        if run is not None:
            try:
                run.log(dict(values), step=step)
            except Exception as error:  # of its service, in whatever way
                run = None
                _warn(f"W&B gets no more of this run: {error}; {hint}")

    try:
        yield log
    finally:
        try:
            if run is not None:
                run.finish()
            wandb.teardown()
        except Exception as error:
            _warn(f"W&B: {error}; {hint}")


def _warn(message: str) -> None:
    print(f"warning: {' '.join(message.split())}", file=sys.stderr)
