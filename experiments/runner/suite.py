"""What a benchmark brings to a run: the base class of the suites in `experiments.suites`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from algos import AGENTS
from experiments.runner.flags import Experiment, NoOptions
from rlzoo.actions import ActionRange
from rlzoo.agent import Agent
from rlzoo.errors import UserError
from rlzoo.interface import Interface
from rlzoo.settings import Settings
from rlzoo.train import Trainer
from rlzoo.types import Episode, FloatArray, Spaces, VectorTask


class Suite:
    """A benchmark, made anew for every run: how its tasks are made, what data they have, how they are scored.

    Attributes:
        name: as in ``rlzoo train NAME`` and ``experiments/train_NAME.py``.
        default_task: trained on when no task is named.
        presets: the names that ``--preset`` takes; the first is the default.
        options: the benchmark's own flags with their defaults.
        folder: where its runs go, below the runs' folder.
        film: whether evaluations are filmed unless ``--no-video`` is given.
        remark: a line under the final table, such as the paper's result; "" for none.
        lanes: how many episodes of an evaluation are played side by side at most; None: all.
        least_std: what standardised observations [S] are divided by at least.
        metadata: what else goes into a run's checkpoints.
        agents: those it trains, by name.
        build: where something else than the loop of `rlzoo.train` trains, what makes that in the place of
            `launch.build`: (agent's name, experiment, folder of an interrupted run to start anew or None,
            exit stack) -> trainer, warnings. Such runs cannot go on where they were.
    """

    name: str
    default_task: str
    presets: tuple[str, ...] = ("paper", "small")
    options: Settings = NoOptions()
    film = False
    remark = ""
    lanes: int | None = None
    least_std: FloatArray | float = 0.0
    agents: Mapping[str, type[Agent]] = AGENTS
    build: Callable[..., tuple[Trainer, list[str]]] | None = None

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        """`arguments` are the command line's: flags among them may decide what the presets are."""
        self.folder = self.name
        self.metadata: Mapping[str, Any] = {}

    @property
    def script(self) -> str:
        """The file that trains on this benchmark, seen from the project's folder."""
        return f"experiments/train_{self.name}.py"

    def tasks(self) -> list[str]:
        """The names of the tasks there are."""
        raise NotImplementedError

    def preset(self, name: str, agent: str, task: str) -> dict[str, Any]:
        """Settings by flag name ("steps", "agent.hidden", "data.offline", "options.demos").

        Args:
            name: of the preset, one of `presets`.
            agent: its name in `agents`; one that the presets do not know gets the task's settings.
            task: the task's name.

        Raises:
            UserError: there is no such task.
        """
        return {}

    def complete(self, experiment: Experiment[Any, Any]) -> Experiment[Any, Any]:
        """The experiment with the benchmark's automatic choices made, before anything is simulated."""
        return experiment

    def prepare(self, experiment: Experiment[Any, Any], checkpoint: Mapping[str, Any] | None) -> None:
        """Settle what tasks need of the data before they can be made; `checkpoint`: of an earlier run."""

    def make(self, task: str, num_envs: int, *, processes: bool = False, render: bool = False) -> VectorTask:
        """`num_envs` copies of a task; imports the simulator."""
        raise NotImplementedError

    def load_data(self, task: str, dataset: str | None, spaces: Spaces) -> list[Episode] | None:
        """The recorded episodes of `dataset`, or the task's own where it is None; None where it has none."""
        if dataset is not None:
            raise UserError(f"{self.name} has no use for --dataset")
        return None

    def score(self, task: str) -> Callable[[float], float] | None:
        """What maps a task's mean return to the benchmark's score, where it has one."""
        return None

    def action_range(self, task: str) -> ActionRange:
        """What an agent's actions of -1 and 1 stand for in the task's recorded data."""
        return ActionRange(-1.0, 1.0)

    def interface(self, name: str, task: VectorTask) -> Interface:
        """What the task called `name` is outside of rlzoo, where its policies may be played."""
        return getattr(task, "interface", Interface())

    def gymnasium_id(self, task: str) -> str | None:
        """The id by which `gymnasium.make` makes the very same task; None where there is none."""
        return None
