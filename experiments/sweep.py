"""Many runs as one command: every combination of agents, tasks, seeds and settings, or a search for settings.

python experiments/sweep.py grid d4rl --agents arsq bc --over task=hopper-medium-v2,walker2d-medium-v2
python experiments/sweep.py grid d4rl --agents arsq cqn --over seed=1,2,3 --for arsq "--agent.lr 1e-4"
python experiments/sweep.py search d4rl arsq --param agent.lr=log:1e-5:1e-3 --param agent.levels=1,2,3

After the benchmark (and in a search the agent) come the flags below and any of the training script, which are
passed on to every run, with what is swept filled in: --dataset data/{task}.hdf5. --for AGENT "FLAGS" is for
the runs of one agent alone. A sweep that was interrupted or killed goes on when the same command is given
again: finished runs count, others are resumed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence

import tyro

from experiments.runner.sweeps import SweepFlags, default_output, named_values, plan, run_grid, split_values
from experiments.suites import SUITES
from rlzoo.errors import UserError
from rlzoo.run.cli import parse_flags, run_main
from rlzoo.run.extras import load_extra


@dataclasses.dataclass(frozen=True)
class GridFlags(SweepFlags):
    """Every combination of agents and values."""

    agents: tuple[str, ...] = ()
    """The agents to train."""
    over: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A flag and its values: seed=1,2,3 or agent.lr=1e-4,3e-4 or "agent.hidden=256 256,512 512"."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sweep. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\nrlzoo sweep grid --help and rlzoo sweep search --help list the flags")
        return 0
    form, *rest = arguments
    if form not in ("grid", "search"):
        raise UserError(f"rlzoo sweep grid or rlzoo sweep search, not {form!r}")
    suite = "SUITE"
    if rest and not rest[0].startswith("-"):
        suite, *rest = rest
        if importlib.util.find_spec(f"experiments.train_{suite}") is None:
            raise UserError(f"no suite called {suite!r}; there are {', '.join(SUITES)}")
    elif not {"-h", "--help"} & set(rest):
        raise UserError(f"rlzoo sweep {form} SUITE [flags], where SUITE is one of {', '.join(SUITES)}")
    if form == "grid":
        return grid(suite, rest)
    load_extra("optuna", "sweep")
    from experiments.runner.search import search  # only here: a grid does not need Optuna

    return search(suite, rest)


def own_flags(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Take every `--for AGENT FLAGS` out of the arguments."""
    rest: list[str] = []
    per_agent: dict[str, list[str]] = defaultdict(list)
    words = iter(arguments)
    for word in words:
        if word != "--for":
            rest.append(word)
            continue
        agent, flags = next(words, ""), next(words, "")
        if not flags:
            raise UserError('--for takes an agent and its flags: --for arsq "--agent.lr 1e-4"')
        per_agent[agent] += shlex.split(flags)
    return rest, dict(per_agent)


def grid(suite: str, arguments: Sequence[str]) -> int:
    """`rlzoo sweep grid SUITE [flags]`. Returns the exit code."""
    words, per_agent = own_flags(arguments)
    asked, flags = parse_flags(
        GridFlags, args=words, prog="rlzoo sweep grid SUITE", description=__doc__, return_unknown_args=True
    )
    if not asked.agents:
        raise UserError(f"which agents? --agents takes any of {', '.join(SUITES[suite].agents)}")
    if unused := sorted(per_agent.keys() - set(asked.agents)):
        raise UserError(f"--for {unused[0]}: that agent is not among --agents")
    over = named_values("--over", asked.over, "seed=1,2,3")
    experiment = {"form": "grid", "suite": suite, "flags": flags, "over": sorted(over), "for": per_agent}
    folder = asked.output or default_output(f"grid-{suite}", experiment)
    # The first seed of everything comes first.
    order = sorted(over, key=lambda name: name != "seed")
    plans = {}
    for combination in itertools.product(*(split_values(over[name]) for name in order)):
        chosen = dict(zip(order, combination, strict=True))
        for agent in asked.agents:
            own = [*flags, *per_agent.get(agent, [])]
            one = plan(suite, agent, own, {name: chosen[name] for name in over})
            plans[one.name] = one
    return run_grid(suite, folder, asked, experiment, list(plans.values()))


if __name__ == "__main__":
    run_main(main)
