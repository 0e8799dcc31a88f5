"""What an environment returns, checked once: where it is received, before anything is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlzoo.errors import SimulatorFailure, UserError
from rlzoo.types import Array, FloatArray


def one_number(task: str, key: str, value: Any) -> float:
    """A reward, or another number, of which there may be one in an array or a list.

    Raises:
        UserError: it is none, or more than one.
    """
    try:
        return float(np.asarray(value).item() if isinstance(value, (np.ndarray, list, tuple)) else value)
    except (TypeError, ValueError) as error:
        raise misfit(task, key, value, "one number") from error


def require_finite(
    task: str, obs: Mapping[str, Array], reward: FloatArray, steps: Callable[[], Sequence[int]]
) -> None:
    """Refuse a step, or a reset, that is to be stored and has a value that is not finite.

    Args:
        task: its name in the message.
        obs: with "state" f32 [N, S].
        reward: f32 [N].
        steps: how many steps each episode has had, 0 at a reset; asked where something is wrong.

    Raises:
        SimulatorFailure: a value is NaN or infinite; the message says which.
    """
    state = obs["state"]
    if np.isfinite(state).all() and np.isfinite(reward).all():
        return
    for name, values in (("observation", state), ("reward", reward[:, None])):
        for lane, column in np.argwhere(~np.isfinite(values)).tolist():
            which = name if name == "reward" else f"{name}[{column}]"
            step = steps()[lane]
            when = f"in step {step} of its episode" if step else "on its reset"
            raise SimulatorFailure(
                f"{task}: environment {lane} returned {which} = {values[lane, column]} {when}"
            )


def misfit(task: str, key: str, value: Any, expected: str) -> UserError:
    """The error for a value of another kind or shape than `expected`."""
    is_array = isinstance(value, np.ndarray) and value.size != 1
    shown = f"{value.dtype} {value.shape}" if is_array else " ".join(repr(value).split())[:80]
    return UserError(f"{task}: {key} is {shown}, expected {' '.join(expected.split())}")
