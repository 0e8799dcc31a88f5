"""The values that pass between environments, buffers, agents and the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

FloatArray = npt.NDArray[np.float32]
Frame = npt.NDArray[np.uint8]  # RGB [H, W, 3]
BoolArray = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Spaces:
    """The sizes an agent is built from. Actions are always in [-1, 1]^action_dim.

    Attributes:
        state_dim: S, the length of the observation vector ``obs["state"]``.
        action_dim: A (D in the papers), the number of action dimensions.
        pixels: shape [V, F*C, H, W] of ``obs["pixels"]`` as an agent sees it (V views, F stacked frames of
            C channels), or None for a task without images.
        frame_stack: F, the number of frames a buffer stacks when it samples; 1 without images.
    """

    state_dim: int
    action_dim: int
    pixels: tuple[int, int, int, int] | None = None
    frame_stack: int = 1


class Batch(NamedTuple):
    """Transitions as an agent's update sees them: tensors on its device, B rows, B fixed for a run.

    The loop fills the same tensors for every update: what is to outlive an update must be copied.
    """

    obs: dict[str, Tensor]  # "state" f32 [B, S]; with images also "pixels" u8 [B, V, F*C, H, W]
    action: Tensor  # f32 [B, A] in [-1, 1]
    reward: Tensor  # f32 [B], the sum of the n steps' rewards, each discounted to the first
    discount: Tensor  # f32 [B], gamma**k * (1 - terminated); a time-out does not terminate
    next_obs: dict[str, Tensor]  # k steps later
    is_demo: Tensor  # f32 [B], 0 or 1


class Step(NamedTuple):
    """What N environments return for one batched action.

    After `terminated` or `truncated`, the next step of that environment ignores its action and returns the
    first observation of a new episode with reward 0 (Gymnasium's next-step autoreset), so every final
    observation is seen once, in its place.
    """

    obs: dict[str, Array]  # each [N, ...]
    reward: FloatArray  # [N]
    terminated: BoolArray  # [N]
    truncated: BoolArray  # [N], a time-out: the state is not terminal
    success: FloatArray  # [N], 1 or 0 where the task says so, NaN where it does not


class VectorTask(Protocol):
    """N copies of one task, stepped together. Observations and rewards are NumPy arrays on the host."""

    num_envs: int
    spaces: Spaces

    def reset(self, seed: int) -> dict[str, Array]:
        """Start a new episode everywhere; `seed` alone decides what follows. Returns obs, each [N, ...]."""

    def send(self, action: FloatArray) -> None:
        """Begin a step with actions [N, A] in [-1, 1]; `receive` must follow."""

    def receive(self) -> Step:
        """Finish the step begun by `send`. This and other calls raise `SimulatorFailure` if one fails."""

    def get_state(self) -> list[dict[str, Any]]:
        """Everything the copies need to go on exactly (physics, counters, generators), one dict each."""

    def set_state(self, state: list[dict[str, Any]]) -> None:
        """Put back what `get_state` returned."""

    def render(self) -> npt.NDArray[np.uint8]:
        """The first copy's current frame, RGB [H, W, 3]."""

    def restart(self) -> None:
        """Make all simulators anew, whatever state they are in; `reset` must follow."""

    def close(self) -> None:
        """Free the simulators."""


@dataclass(frozen=True)
class Episode:
    """One recorded episode of T steps.

    Attributes:
        obs: "state" f32 [T+1, S], with images also "pixels" u8 [T+1, V, C, H, W] (single frames). The last
            row is the observation after the last action.
        action: f32 [T, A] in [-1, 1].
        reward: f32 [T].
        terminated: True where the episode ended in a terminal state, False where it was cut (time-out).
        success: True or False where the data says whether the task was solved, else None.
    """

    obs: Mapping[str, Array]
    action: FloatArray
    reward: FloatArray
    terminated: bool
    success: bool | None = None

    def __len__(self) -> int:
        return len(self.action)

    @property
    def episode_return(self) -> float:
        """The undiscounted sum of rewards."""
        return float(self.reward.sum(dtype=np.float64))
