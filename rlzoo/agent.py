"""The contract between an agent and the training loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from rlzoo.nn.optim import Adam
from rlzoo.settings import Settings
from rlzoo.types import Batch

Update = Callable[[Batch], dict[str, Tensor]]


@dataclass(frozen=True)
class Learning:
    """What an agent is about to learn from, for `AgentConfig.remarks`.

    Attributes:
        batch_size: rows of a batch.
        has_demos: whether there are demonstrations.
        demo_rows: how many rows of a batch are demonstrations.
        demo_fraction: the share asked for.
        returns: the smallest and the largest discounted return from any step of the recorded data, in the
            rewards learnt from, computed when it is called; None without data.
    """

    batch_size: int
    has_demos: bool
    demo_rows: int
    demo_fraction: float
    returns: Callable[[], tuple[float, float]] | None


@dataclass(frozen=True)
class AgentConfig(Settings):
    """Base of every agent's hyperparameters.

    An agent that sees images has `feature_dim` and `encoder_channels` among them, what its
    `rlzoo.nn.images.ObservationEncoder` is built from.
    """

    flag_prefix: ClassVar[str] = "agent."

    def remarks(self, learning: Learning) -> list[str]:
        """Warnings about these settings for what is about to be learned from, a line each.

        Raises:
            UserError: nothing can be learned.
        """
        return []

    def idle(self) -> dict[str, str]:
        """Settings that have no effect beside the others, and why.

        Returns:
            By name ("agent.bins"; of the training loop, "train.discount") what ends "has no effect ...", as
            "without --agent.policy arsq" does.
        """
        return {}

    @property
    def greedy_rules(self) -> tuple[str, ...]:
        """The names of the ways to choose a deterministic action; empty where there is one way only."""
        return ()


class Agent(nn.Module):
    """A learner that acts. The loop sees nothing but this class.

    It is an `nn.Module` so that PyTorch's own `state_dict` holds the whole of it: networks, targets and
    log-temperature as parameters, running statistics as buffers, and the optimisers as extra state.
    """

    # Of its hyperparameters; an agent is made by (spaces, config, device).
    Config: ClassVar[type[AgentConfig]]
    about: ClassVar[str]  # what it is and where it was published, one line for `--help`
    sees_images: ClassVar[bool] = True  # False: it is refused on tasks with images

    optimizers: dict[str, Adam]

    @abstractmethod
    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        """Actions [N, A] in [-1, 1] for observations [N, ...]; no gradient, no change to the agent."""

    def code_logits(self, obs: dict[str, Tensor], action: Tensor) -> tuple[Tensor, Tensor] | None:
        """Of an agent whose actions are sequences of codes: the logits behind an action.

        Args:
            obs, action: B observations and actions [B, D] in [-1, 1], of which each code is scored after the
                codes before it.

        Returns:
            The logits of all codes [L, B, D, N] and the action's codes [L, B, D], L codes for each of its D
            dimensions; None where actions are no codes.
        """
        return None

    @abstractmethod
    def update_cycle(self) -> tuple[Update, ...]:
        """The updates to run in turn: update i is ``cycle[i % len(cycle)](batch)``.

        Each is a fixed graph of tensor operations (no host synchronisation, no shape that changes), so it
        can be captured as a CUDA graph. It returns detached 0-d tensors named by their TensorBoard tags
        (``loss/*``, ``value/*``, ``policy/*``).
        """

    def minimize(self, name: str, loss: Tensor) -> None:
        """One step of optimiser `name` on `loss`; only that optimiser's parameters get a gradient."""
        self.optimizers[name].minimize(loss)

    def get_extra_state(self) -> dict[str, Any]:
        """The optimisers' states, which `state_dict` includes."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Load the optimisers' states. Called by `load_state_dict`."""
        if set(state) != set(self.optimizers):
            raise ValueError(f"optimisers {sorted(state)} found, {sorted(self.optimizers)} expected")
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])
