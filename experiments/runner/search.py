"""The search for an agent's best settings by Optuna: one study, which the parent alone touches."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shlex
import statistics
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import optuna
import tyro
from matplotlib.ticker import NullFormatter
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots
from rich.console import Console
from rich.table import Table

from experiments.runner.launchers import Job
from experiments.runner.sweeps import (
    Plan,
    Sweep,
    SweepFlags,
    as_flags,
    default_output,
    filled,
    named_values,
    open_launcher,
    opened,
    plan,
    run_grid,
    split_values,
    with_threads,
    write_page,
)
from experiments.suites import SUITES
from rlzoo.errors import UserError
from rlzoo.run.cli import parse_flags
from rlzoo.run.files import atomic_path, cannot_write
from rlzoo.run.progress import tensorboard_hint
from rlzoo.settings import Count, Seed

JOURNAL = "study.journal"
WILCOXON_SEEDS = 5  # with fewer of them its test cannot reach p < 0.1
AT_A_TIME_IN_A_QUEUE = 16  # runs, where only a queue limits them: proposals are to learn from results
SHOWN_TRIALS = 10
OFFERED_SEEDS = 5  # for the final comparison


@dataclasses.dataclass(frozen=True)
class SearchFlags(SweepFlags):
    """A search for the settings with the highest return."""

    param: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A flag and its range: agent.lr=log:1e-5:1e-3 or agent.bins=3:9 or agent.levels=1,2,3."""
    seeds: tuple[Seed, ...] = (101, 102, 103)
    """Seeds of every trial, over which returns are averaged."""
    trials: Count = 30
    """Settings to try."""
    sampler: Literal["tpe", "random", "gp"] = "tpe"
    """How settings are proposed; gp: by a Gaussian process."""
    final_seeds: tuple[Seed, ...] = ()
    """Train with the best trial's settings on these seeds at the end."""


@dataclasses.dataclass
class Trial:
    """A trial that is under way.

    Attributes:
        handle: Optuna's.
        jobs: its runs, one for each seed.
    """

    handle: optuna.trial.Trial
    jobs: list[Job]


class Search(Sweep):
    """The parent of a search's runs.

    A trial is a run per seed, side by side; it is pruned when the mean of its evaluations falls behind the
    median of earlier trials at the same evaluation. From five seeds on they come one after the other, and the
    trial is pruned when Wilcoxon's signed-rank test says that it is worse than the best one, seed by seed.
    """

    unit = "trial"

    def __init__(
        self, suite: str, agent: str, folder: Path, asked: SearchFlags, space: dict[str, BaseDistribution],
        flags: Sequence[str], example: Plan,
    ) -> None:  # fmt: skip
        super().__init__(suite, folder, asked)
        self.agent, self.space, self.flags, self.example = agent, space, flags, example
        self.seeds, self.wanted = asked.seeds, asked.trials
        self.one_by_one = len(asked.seeds) >= WILCOXON_SEEDS
        self.study = open_study(folder / JOURNAL, asked, example.evaluations)
        self.trials: list[Trial] = []
        for frozen in self.study.get_trials(states=[TrialState.RUNNING]):
            if frozen.params.keys() == space.keys():
                handle = optuna.trial.Trial(self.study, frozen._trial_id)
                self.jobs += self._begin(handle)
            else:  # an earlier parent was killed while it asked for this trial
                self.study.tell(frozen.number, state=TrialState.FAIL)
                self.study.enqueue_trial(frozen.params)
        # What failed for an earlier parent is tried once more: the disk may have been full.
        params = [frozen.params for frozen in self.study.trials]
        for frozen in self.study.get_trials(states=[TrialState.FAIL]):
            if "error" in frozen.user_attrs and params.count(frozen.params) == 1:
                self.study.enqueue_trial(frozen.params)

    def more(self, free: int) -> list[Job]:
        """The runs of new trials."""
        new: list[Job] = []
        while free > len(new) and self._trials_left() > 0:
            new += self._begin(self.study.ask(self.space))
        return new

    def watch(self) -> None:
        """Tell Optuna what has come of the trials so far."""
        for trial in list(self.trials):
            if failed := [job for job in trial.jobs if job.state == "failed"]:
                trial.handle.set_user_attr("error", failed[0].error)
                self._end(trial, state=TrialState.FAIL)
            elif self.one_by_one:
                self._watch_seeds(trial)
            else:
                self._watch_evaluations(trial)

    def _watch_seeds(self, trial: Trial) -> None:
        """Report each seed that is done; then the next one, or the trial's end."""
        returns = self._returns(trial)
        known = self.study.trials[trial.handle.number].intermediate_values
        for index in range(len(known), len(returns)):
            trial.handle.report(returns[index], index)
        if len(returns) == len(self.seeds):
            self._end(trial, values=statistics.mean(returns))
        elif len(returns) == len(trial.jobs):
            if returns and trial.handle.should_prune():
                # Not as pruned: the mean so far, which the test found worse than the best, is worth knowing.
                trial.handle.set_user_attr("pruned", True)
                self._end(trial, values=statistics.mean(returns))
            else:
                following = self._seed_job(trial.handle, len(returns))
                trial.jobs.append(following)
                self.jobs.append(following)

    def _watch_evaluations(self, trial: Trial) -> None:
        """Report the mean of each evaluation that all seeds at work have made; prune, or end the trial."""
        begun = [job for job in trial.jobs if self.progress[job].returns or job.state == "running"]
        curves = [self.progress[job].returns for job in begun]
        known = self.study.trials[trial.handle.number].intermediate_values
        for index in range(len(known), min(map(len, curves), default=0)):
            trial.handle.report(statistics.mean(curve[index] for curve in curves), index)
            if trial.handle.should_prune():
                self._end(trial, state=TrialState.PRUNED)
                return
        returns = self._returns(trial)
        if len(returns) == len(self.seeds):
            self._end(trial, values=statistics.mean(returns))

    def _returns(self, trial: Trial) -> list[float]:
        """The final returns of the runs that are done."""
        return [self.progress[job].final for job in trial.jobs if job.state == "done"]

    def succeeded(self) -> None:
        """A run is done, but its trial may fail yet with another seed."""

    def failures(self) -> int:
        """How many trials have failed in a row: settings that diverge do so with every seed."""
        return len({job.name.partition("-")[0] for job in self.failed})

    def _end(self, trial: Trial, **told: Any) -> None:
        if told.get("state") != TrialState.FAIL:
            self.failed.clear()
        for job in trial.jobs:
            self.halt(job)
        self.study.tell(trial.handle.number, **told)
        self.trials.remove(trial)

    def _begin(self, handle: optuna.trial.Trial) -> list[Job]:
        """The runs of a trial: all seeds, or the first."""
        jobs = [self._seed_job(handle, index) for index in range(1 if self.one_by_one else len(self.seeds))]
        self.trials.append(Trial(handle, jobs))
        return list(jobs)

    def _seed_job(self, handle: optuna.trial.Trial, index: int) -> Job:
        seed = self.seeds[index]
        known = {**{name: str(value) for name, value in handle.params.items()}, "seed": str(seed)}
        flags = [*filled(self.flags, known), *settings(handle.params), "--seed", str(seed)]
        return self.job(f"t{handle.number:03d}-s{seed}", self.agent, flags, self.example.steps)

    def _trials_left(self) -> int:
        """How many are still to be begun; of those that were queued again the first do not count."""
        trials = self.study.get_trials(deepcopy=False)
        begun = [one for one in trials if one.state not in (TrialState.FAIL, TrialState.WAITING)]
        params = [one.params for one in begun]
        failed = [
            one
            for one in trials
            if one.state == TrialState.FAIL and "error" in one.user_attrs and one.params not in params
        ]
        waiting = sum(one.state == TrialState.WAITING for one in trials)
        return max(self.wanted - len(begun) - len(failed), waiting)

    def unknown(self) -> int:
        """Runs of trials that have not begun, and later seeds of those that have."""
        later = sum(len(self.seeds) - len(trial.jobs) for trial in self.trials)
        return max(0, self._trials_left()) * len(self.seeds) + later

    def best(self) -> str:
        """The best trial so far."""
        done = completed(self.study)
        return f"{done[0].value:,.1f} ({shown(done[0].params)})" if done else ""


def completed(study: optuna.Study) -> list[FrozenTrial]:
    """The trials whose seeds have all been played, the best first."""
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    whole = [trial for trial in done if "pruned" not in trial.user_attrs]
    return sorted(whole, key=lambda trial: -(trial.value or 0.0))


def settings(params: dict[str, Any]) -> list[str]:
    """A trial's parameters as flags."""
    return list(itertools.chain.from_iterable(as_flags(name, str(value)) for name, value in params.items()))


def shown(params: dict[str, Any]) -> str:
    """A trial's parameters for a person."""
    return ", ".join(f"{name}={short(value)}" for name, value in params.items())


def short(value: float | str) -> str:
    """A parameter's value, to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def distribution(name: str, text: str) -> BaseDistribution:
    """The range of a parameter: [log:]LOW:HIGH, of whole numbers where both bounds are, or A,B,C.

    Raises:
        UserError: it is neither.
    """
    bounds = text.removeprefix("log:").split(":")
    log = text.startswith("log:")
    if len(bounds) == 1 and not log:
        return CategoricalDistribution(split_values(text))
    try:
        low, high = bounds
        with contextlib.suppress(ValueError):
            return IntDistribution(int(low), int(high), log=log)
        return FloatDistribution(float(low), float(high), log=log)
    except ValueError as error:
        raise UserError(
            f"--param {name}={text} is no range: give LOW:HIGH, log:LOW:HIGH with LOW above 0, or A,B,C"
        ) from error


def extremes(one: BaseDistribution) -> list[str]:
    """Values by which to check that a flag takes what a range holds."""
    if isinstance(one, CategoricalDistribution):
        return [str(choice) for choice in one.choices]
    return [str(getattr(one, end)) for end in ("low", "high")]


def open_study(path: Path, asked: SearchFlags, evaluations: int) -> optuna.Study:
    """The study in a journal, or a new one, with what is left of a killed parent cleared away.

    Raises:
        UserError: this version of Optuna cannot read the journal, or the disk is full.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    # The folder is locked by this process: whose lock it was has ended.
    Path(f"{path}.lock").unlink(missing_ok=True)
    if path.exists():  # a line that was being written is none
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        count = len(storage.get_all_trials(0)) if storage.get_all_studies() else 0
        # Another seed after each restart: a sampler would propose again what it has proposed before.
        seed = asked.seeds[0] + count
        samplers = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
            "random": lambda: optuna.samplers.RandomSampler(seed=seed),
            "gp": lambda: optuna.samplers.GPSampler(seed=seed, deterministic_objective=False),
        }
        if len(asked.seeds) >= WILCOXON_SEEDS:
            pruner: optuna.pruners.BasePruner = optuna.pruners.WilcoxonPruner(p_threshold=0.1)
        else:  # the first quarter of a learning curve says little
            pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=evaluations // 4)
        return optuna.create_study(
            storage=storage,
            study_name="rlzoo",
            direction="maximize",
            load_if_exists=True,
            sampler=samplers[asked.sampler](),
            pruner=pruner,
        )
    except OSError as error:
        raise cannot_write(path, error) from error
    except (AssertionError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read by Optuna {optuna.__version__} (a newer one's?): "
            f"{type(error).__name__} {error}"
        ) from error


@contextlib.contextmanager
def journal_errors(path: Path) -> Iterator[None]:
    """A full disk where the study is written, as one line."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def search(suite: str, arguments: Sequence[str]) -> int:
    """`rlzoo sweep search SUITE AGENT [flags]`. Returns the exit code."""
    agent, words = (arguments[0], arguments[1:]) if arguments and arguments[0][0] != "-" else ("", arguments)
    asked, flags = parse_flags(
        SearchFlags,
        args=list(words),
        prog="rlzoo sweep search SUITE AGENT",
        description="A search for the settings with the highest mean return over seeds.",
        return_unknown_args=True,
    )
    if not agent:
        agents = ", ".join(SUITES[suite].agents)
        raise UserError(f"rlzoo sweep search {suite} AGENT [flags], where AGENT is one of {agents}")
    if not asked.param:
        raise UserError("which parameters? --param takes one and its range, such as agent.lr=log:1e-5:1e-3")
    if "--seed" in flags:
        raise UserError("a search has --seeds, and --final-seeds for the comparison at its end")
    if both := set(asked.seeds) & set(asked.final_seeds):
        raise UserError(f"seed {min(both)} has a part in the choice; --final-seeds have to be others")
    ranges = named_values("--param", asked.param, "agent.lr=log:1e-5:1e-3")
    space = {name: distribution(name, text) for name, text in ranges.items()}
    first = {name: extremes(one)[0] for name, one in space.items()}
    checked = [
        plan(suite, agent, flags, {**first, name: value}) for name in space for value in extremes(space[name])
    ]
    experiment = {"form": "search", "suite": suite, "agent": agent, "flags": flags, "params": ranges}
    experiment |= {"seeds": list(asked.seeds), "sampler": asked.sampler}
    folder = asked.output or default_output(f"search-{suite}-{agent}", experiment)
    with opened(folder, experiment):
        write_page(folder, checked, [*ranges, "seed"])
        jobs = asked.jobs or (AT_A_TIME_IN_A_QUEUE if asked.launcher == "slurm" else None)
        common = with_threads(dataclasses.replace(checked[0], flags=list(flags)))
        with journal_errors(folder / JOURNAL):
            sweep = Search(suite, agent, folder, asked, space, common, checked[0])
            print(f"{asked.trials} trials of {len(asked.seeds)} seeds in {folder}")
            if code := sweep.run(open_launcher(suite, asked, folder, checked, jobs)):
                return code
        if not (best := completed(sweep.study)):
            raise UserError(f"no trial has come to its end; what the runs said is in {folder}")
        report(sweep.study, folder)
    return finish(suite, agent, flags, asked, folder, best[0])


def report(study: optuna.Study, folder: Path) -> None:
    """Print the best trials as a table, and draw Optuna's plots."""
    trials = study.get_trials(deepcopy=False)
    done = completed(study)
    names = list(done[0].params)
    table = Table("trial", *names, "return", title=f"{len(trials)} trials, the best first")
    for trial in done[:SHOWN_TRIALS]:
        table.add_row(f"t{trial.number:03d}", *map(short, trial.params.values()), f"{trial.value:,.1f}")
    Console().print(table)
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    draw = {"history": plots.plot_optimization_history}
    if len({trial.value for trial in done}) > 1:
        draw |= {"slices": plots.plot_slice, "importance": plots.plot_param_importances}
    for name, function in draw.items():
        axes = np.ravel(function(study, target_name="return"))
        for one in axes:  # those of a logarithmic axis run into each other
            one.xaxis.set_minor_formatter(NullFormatter())
        figure = axes[0].figure
        figure.set_size_inches(max(6.4, 3.2 * axes.size + 1), 4.8)
        with atomic_path(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=150, bbox_inches="tight")
        plt.close("all")
    print(f"plots: {', '.join(str(folder / f'{name}.png') for name in draw)}")
    print(f"learning curves: {tensorboard_hint(folder)}")


def finish(
    suite: str, agent: str, flags: Sequence[str], asked: SearchFlags, folder: Path, best: FrozenTrial
) -> int:
    """Print the best trial's command, and make or offer its runs on seeds that had no part in the choice."""
    chosen = [*flags, *settings(best.params)]
    others = (seed for seed in itertools.count(1) if seed not in asked.seeds)
    fresh = asked.final_seeds or tuple(itertools.islice(others, OFFERED_SEEDS))
    command = ["rlzoo", "train", suite, agent, *chosen, "--seed", str(fresh[0])]
    print(f"the best trial's command:\n{shlex.join(command)}")
    final = folder / f"final-t{best.number:03d}"  # more trials may find a better one
    if not asked.final_seeds:
        over = f"seed={','.join(map(str, fresh))}"
        command = ["rlzoo", "sweep", "grid", suite, "--agents", agent, "--over", over, "--output", str(final)]
        print(f"on seeds that had no part in the choice:\n{shlex.join([*command, *chosen])}")
        return 0
    experiment = {"form": "grid", "suite": suite, "flags": chosen, "over": ["seed"], "for": {}}
    plans = [plan(suite, agent, chosen, {"seed": str(seed)}) for seed in fresh]
    return run_grid(suite, final, asked, experiment, plans)
