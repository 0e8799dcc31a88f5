"""Whether an ARSQ agent follows the state or the codes that were chosen before.

python results/d4rl-door-human/prefix_or_state.py DATASET RUN_DIR ...

Each state of the demonstrations is shown with the first half of the coarsest codes of another demonstration's
action; the agent chooses the other half by its most likely codes. Printed, of the codes of that half in which
the two demonstrated actions differ: how many are the shown state's after the first half of its own action, of
the agent's choice, and of the other action; and how many are the other action's then.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path[0] = str(Path(__file__).resolve().parents[2])

from algos.arsq import ARSQ
from experiments.trained import load_agent, read_run
from rlzoo.demos import load_episodes
from rlzoo.errors import UserError
from rlzoo.main import run_main
from rlzoo.normalize import Scaling
from rlzoo.train import CHECKPOINT
from rlzoo.types import Spaces

ROWS = 500


@torch.no_grad()
def choose(agent: ARSQ, features: Tensor, codes: Tensor, dims: range) -> Tensor:
    """The most likely coarsest codes of `dims` in turn, after those before in `codes` [B, L, D]: [B, D]."""
    network = agent.target_advantage
    codes = codes.clone()
    for dim in dims:  # in the order by level, position `dim` is the coarsest code of that dimension
        codes[:, 0, dim] = network(features, codes)[:, dim].amin(0).argmax(-1)
    return codes[:, 0]


def report(run_dir: Path, states: np.ndarray, actions: np.ndarray, others: np.ndarray) -> None:
    """Print the shares of one run's agent: states [B, S], their actions and others' [B, D]."""
    checkpoint = read_run(run_dir, CHECKPOINT)
    scaling = Scaling.of_checkpoint(checkpoint)
    obs = scaling.scale_obs({"state": states})
    if scaling.action is not None:
        actions, others = scaling.action.to_agent(actions), scaling.action.to_agent(others)
    agent = load_agent(checkpoint, Spaces(states.shape[1], actions.shape[1]), torch.device("cpu"))
    if not isinstance(agent, ARSQ) or agent.config.order != "level":
        raise UserError(f"{run_dir} is no run of ARSQ in the order by level")
    features = agent.encoder({"state": torch.as_tensor(obs["state"])})
    encode = agent.advantage.binning.encode
    own, other = (encode(torch.as_tensor(each)) for each in (actions, others))
    dims = actions.shape[1]
    half = range(dims // 2, dims)
    chosen = choose(agent, features, other, half)[:, half.start :]
    state, prefix = (codes[:, 0, half.start :] for codes in (own, other))
    differ = state != prefix
    follows_state, follows_prefix = ((chosen == each)[differ].float().mean() for each in (state, prefix))
    taught = (choose(agent, features, own, half)[:, half.start :] == state)[differ].float().mean()
    free = (choose(agent, features, own, range(dims))[:, half.start :] == state)[differ].float().mean()
    print(f"{run_dir.parent.name}/{run_dir.name}: {differ.float().mean():.2f} of the codes differ.")
    print(f"  The state's are chosen in {taught:.2f} after its own first half, {free:.2f} after the agent's,")
    print(f"  {follows_state:.2f} after the other action's, whose are chosen in {follows_prefix:.2f} then.")


def main() -> None:
    """Print the shares for each run."""
    if len(sys.argv) < 3:
        raise UserError("give the demonstrations and folders of runs")
    rng = np.random.default_rng(0)
    episodes = load_episodes(sys.argv[1])
    lengths = [len(episode.action) for episode in episodes]
    states = np.concatenate([episode.obs["state"][:-1] for episode in episodes])
    actions = np.concatenate([episode.action for episode in episodes])
    episode = np.repeat(np.arange(len(episodes)), lengths)
    row, other = rng.integers(len(actions), size=(2, 2 * ROWS))
    apart = episode[row] != episode[other]
    row, other = row[apart][:ROWS], other[apart][:ROWS]
    for folder in map(Path, sys.argv[2:]):
        report(folder, states[row], actions[row], actions[other])


if __name__ == "__main__":
    run_main(main)
