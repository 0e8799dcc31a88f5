"""What cutting actions into bins costs a policy that was trained without: success with rounded actions.

python results/d4rl-door-human/rounded_actions.py RUN_DIR INTERVALS ...

Plays 100 episodes as they are, and for each number of intervals 100 with every action replaced by the centre
of its interval, as ARSQ's and CQN's are (25 for two levels of 5 bins, 49 for two of 7, 125 for three of 5),
100 with those of the arm alone, and 100 with those of the hand. Intervals are of the agent's [-1, 1].
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path[0] = str(Path(__file__).resolve().parents[2])

from algos.binning import Binning
from envs import d4rl_env
from experiments.trained import load_agent, read_run
from rlzoo.agent import Agent, Update
from rlzoo.errors import UserError
from rlzoo.evaluate import evaluate
from rlzoo.main import run_main
from rlzoo.normalize import Scaling
from rlzoo.train import CHECKPOINT

EPISODES = 100
PARTS = {"all": slice(None), "arm": slice(4), "hand": slice(4, None)}


class Rounded(Agent):
    """Another agent's actions, those of some dimensions at the centres of their intervals."""

    def __init__(self, agent: Agent, intervals: int, dims: slice) -> None:
        super().__init__()
        self.agent, self.binning, self.dims = agent, Binning(1, intervals), dims

    def update_cycle(self) -> tuple[Update, ...]:
        """It learns nothing."""
        return ()

    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        """The rounded actions: [N, D]."""
        action = self.agent.act(obs, deterministic=deterministic).clone()
        action[:, self.dims] = self.binning.decode(self.binning.encode(action[:, self.dims]))
        return action


def main() -> None:
    """Print the success and the mean return of each."""
    if len(sys.argv) < 3 or not all(number.isdigit() for number in sys.argv[2:]):
        raise UserError("give the folder of a run and numbers of intervals")
    checkpoint = read_run(Path(sys.argv[1]), CHECKPOINT)
    task = d4rl_env.make(checkpoint["task"], EPISODES)
    played = Scaling.of_checkpoint(checkpoint).wrap(task)
    device = torch.device("cpu")
    agent = load_agent(checkpoint, task.spaces, device)

    def report(name: str, player: Agent) -> None:
        result = evaluate(player, played, episodes=EPISODES, seed=1, device=device)
        print(
            f"{name:20} success {result.success.mean():.2f}, return {result.returns.mean():,.0f}", flush=True
        )

    report("as they are", agent)
    for intervals in map(int, sys.argv[2:]):
        for part, dims in PARTS.items():
            report(f"{part}: {intervals} intervals", Rounded(agent, intervals, dims))
    task.close()


if __name__ == "__main__":
    run_main(main)
