"""Gather finished runs into data to keep, a table and learning curves.

python experiments/compare.py results/mine results/runs/mujoco/HalfCheetah-v5 results/runs/mujoco/Hopper-v5
python experiments/compare.py results/mine RUNS_A RUNS_B --label "ARSQ" --label "ARSQ, 5 bins" --paper

Both write into results/mine: `curves.csv` (every evaluation of every seed, and the seconds of
training), `runs.json` (each run's settings, command, commit, versions and hardware), `curves.png` and
`README.md`, which shows the table and the curves. Such a folder can itself be given among the runs, so that
seeds join published ones whose run folders are gone. Runs whose settings, data or length differ are never
averaged: each such set is a row of its own, and what differs is said. With --paper, results/mine/paper has
figures (PNG, PDF, SVG) and tables (Markdown, LaTeX): curves, interquartile means, probabilities of
improvement and performance profiles, all with 95 % intervals.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import json
import math
import os
import re
import statistics
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pydantic
import tyro
import yaml

from algos import AGENTS
from experiments import paper
from experiments.aggregates import markdown_table, mean_and_spread, on_common_steps, thousands
from experiments.paper import DATA_STYLE
from experiments.runner.flags import Experiment
from rlzoo.agent import AgentConfig
from rlzoo.errors import UserError
from rlzoo.run.cli import parse_flags, run_main
from rlzoo.run.files import atomic_path, atomic_write
from rlzoo.run.folder import CONFIG_FILE, INFO_FILE, flatten_config, plain
from rlzoo.run.logger import METRICS_FILE
from rlzoo.types import Episode, Spaces

# Settings that make a run longer, faster or better documented, but no other experiment.
INCIDENTAL = {"suite", "script", "seed", "device", "threads", "video", "runs_dir", "preset", "config"}
INCIDENTAL |= {"name", "tags", "notes", "track"}
INCIDENTAL |= {"train.steps", "train.processes", "train.capture", "train.eval_every", "train.eval_episodes"}
INCIDENTAL |= {"train.log_every", "train.checkpoint_every"}
CURVES_FILE, RUNS_FILE = "curves.csv", "runs.json"
RETURN, SUCCESS, TIME_TAG = "eval/return", "eval/success", "time/training_s"
SCORES = {RETURN: "return", "eval/normalized_score": "normalised score", SUCCESS: "success"}
# DSAC-T's papers count what a run reached in the last tenth of its evaluations: the mean, or the best.
FINAL_SHARE = 0.1
# Runs whose last evaluations are further apart than this are of different lengths.
SAME_LENGTH = 0.95
NOTE = (
    "Final: the mean over the last tenth of a run's evaluations, best final: the highest of them, where they "
    "are more than one; best: the highest of all; ±: sample standard deviation over seeds. Thin lines are "
    "seeds; thick ones are their mean, over the steps that all of them cover, with curves interpolated "
    "linearly between evaluations."
)
# An agent has one colour in every plot; what else is shown of it differs by the style of the line.
COLORS = {"arsq": "#d55e00", "bc": "#0072b2", "cqn": "#009e73"}
COLORS |= {"dsac-t": "#cc79a7", "sac": "#e69f00", "td3": "#56b4e9", "dsac": "#8c6bb1"}
LINE_STYLES = ("solid", "dashed", "dotted", "dashdot")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run as read from its folder, or from where it was published.

    Attributes:
        name: its folder's, s<seed>-<time>.
        label: given by hand, else the agent's name.
        preset: that its settings began from; "" where that was not kept.
        info: run.json: command, commit, versions, hardware, data.
        data: what the recorded data are called: where nothing better is known, the path they were read from.
        settings: by flat name, without the incidental ones; those that are None are left out.
        evaluations: the eval/* values by step.
        training_s: seconds of training by step, evaluations left out; empty where it was not logged.
    """

    name: str
    task: str
    agent: str
    label: str
    seed: int
    info: dict[str, Any]
    settings: dict[str, Any]
    evaluations: dict[int, dict[str, float]]
    training_s: dict[int, float]
    preset: str = ""
    data: str = ""

    @property
    def last(self) -> int:
        """The step of the last evaluation."""
        return max(self.evaluations)

    @property
    def conditions(self) -> dict[str, str]:
        """What two agents have to share for their results to be compared: how they learn, from what."""
        offline = self.settings.get("data.offline"), self.settings.get("train.offline_steps")
        mode = "offline" if offline[0] else "offline first" if offline[1] else "online"
        return {"mode": mode, "data": Path(self.data).name}

    def curve(self, tag: str) -> dict[int, float]:
        """The values of one tag by step."""
        return {step: values[tag] for step, values in self.evaluations.items() if tag in values}

    def last_tenth(self, tag: str) -> list[float]:
        """The values of the last tenth of the evaluations, of one at least."""
        values = list(self.curve(tag).values())
        return values[-max(1, round(FINAL_SHARE * len(values))) :]

    def final(self, tag: str) -> float:
        """The mean over the last tenth of the evaluations."""
        return statistics.mean(self.last_tenth(tag))

    def after(self, minutes: float, tag: str) -> float | None:
        """The value at the last evaluation within so much training; None if there is none."""
        reached = [step for step, seconds in self.training_s.items() if seconds <= 60 * minutes]
        known = [value for step, value in self.curve(tag).items() if reached and step <= max(reached)]
        return known[-1] if known else None


@dataclasses.dataclass(frozen=True)
class Group:
    """The seeds of one experiment: a row of a table and a colour of a plot."""

    label: str
    runs: list[Run]
    paper: str = ""  # what the paper reports
    variant: str = ""  # of the agent, where its name alone is the label


@dataclasses.dataclass(frozen=True)
class Panel:
    """The experiments on one task, which share a plot."""

    title: str
    groups: list[Group]
    score: str = RETURN
    score_name: str = SCORES[RETURN]
    steps: str = "environment steps (offline: updates)"
    data: float | None = None  # score of the recorded data that the agents learn from


def read_run(folder: Path) -> Run:
    """Read a run folder. A `UserError` says which file is missing or damaged."""
    try:
        config = yaml.safe_load((folder / CONFIG_FILE).read_text())
        entry = {"run": folder.name, "agent": config["agent_name"], "label": config["agent_name"]}
        resolved = config.get("resolved", {})
        chosen = {key: resolved[key] for key in resolved if key.startswith("options.")}
        entry |= {"task": config["task"], "seed": config["seed"], "settings": flatten_config(config) | chosen}
        entry["preset"] = str(config.get("preset") or "")
        entry["info"] = json.loads((folder / INFO_FILE).read_text())
        with (folder / METRICS_FILE).open() as file:
            whole = (line for line in file if line.endswith("\n"))  # a kill may have left half a line
            return make_run(entry, csv.DictReader(whole))
    except (OSError, csv.Error, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is not a complete run folder: {error}") from error


def make_run(entry: dict[str, Any], rows: Iterable[dict[str, str]]) -> Run:
    """A run from its entry in `runs.json`, and its evaluations and times from rows of step, tag and value."""
    evaluations: dict[int, dict[str, float]] = defaultdict(dict)
    training_s = {}
    for row in rows:
        if row["tag"].startswith("eval/"):
            evaluations[int(row["step"])][row["tag"]] = float(row["value"])
        elif row["tag"] == TIME_TAG:
            training_s[int(row["step"])] = float(row["value"])
    name, task, agent, label = (entry[key] for key in ("run", "task", "agent", "label"))
    info, settings = dict(entry["info"]), comparable(agent, entry["settings"])
    if "data" in info:
        data = info["data"]
        info["data"] = {**data, "sha256": str(data["sha256"]), "mean_return": float(data["mean_return"])}
    return Run(
        *(name, task, agent, label, int(entry["seed"]), info, settings, dict(evaluations), training_s),
        preset=entry.get("preset", ""),
        data=str(settings.get("data.dataset", "")),
    )


def comparable(agent: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that seeds of one experiment share. Those that came after a run have their defaults, which
    change nothing."""
    settings = dict(settings)
    if (before := settings.pop("agent.autoregressive", None)) is not None:  # what the ablation was before
        settings["agent.conditioning"] = "full" if before else "levels"
    own = AGENTS[agent].Config() if agent in AGENTS else AgentConfig()
    known = {**flatten_config(plain(Experiment(own, ""))), **settings}
    return {key: known[key] for key in known if key not in INCIDENTAL and not key.startswith("resolved.")}


def read_published(folder: Path) -> list[Run]:
    """The runs that an earlier call of this script published in a folder. A `UserError` says which file is
    missing or damaged, or that the two do not belong together."""
    try:
        published: dict[str, dict[str, Any]] = json.loads((folder / RUNS_FILE).read_text())
        rows: dict[str, list[dict[str, str]]] = defaultdict(list)
        with (folder / CURVES_FILE).open() as file:
            for row in csv.DictReader(file):
                if None in row or not all(row.values()):
                    raise ValueError(f"a line of {CURVES_FILE} is not whole")
                rows[f"{row['task']}/{row['agent']}/{row['run']}"].append(row)
        if rows.keys() != published.keys():
            raise ValueError(f"{CURVES_FILE} and {RUNS_FILE} do not hold the same runs")
        return [make_run(entry, rows[key]) for key, entry in published.items()]
    except (OSError, csv.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"the published runs in {folder} cannot be read back: {reason}") from error


def find_runs(folders: Sequence[Path], labels: Sequence[str] = ()) -> list[Run]:
    """All runs with an evaluation: those whose folders lie below the given ones, and those published in the
    given ones themselves. One that is found twice counts once, as far as it got.

    Args:
        folders: where to look; one without runs is refused by a `UserError`.
        labels: what to call the runs of each folder; none: by their agents, or as they were published.
    """
    distinct: dict[tuple[str, ...], Run] = {}
    for index, folder in enumerate(folders):
        found = read_published(folder) if (folder / RUNS_FILE).is_file() else []
        found += map(read_run, sorted(path.parent for path in folder.rglob(INFO_FILE)))
        if begun := [run.name for run in found if not run.curve(RETURN)]:
            print(f"without an evaluation, left out: {', '.join(begun)}", file=sys.stderr)
        found = [run for run in found if run.curve(RETURN)]
        if not found:
            raise UserError(f"no run with an evaluation in {folder}")
        for run in found:
            # By when it began, too: runs of two sweeps have the same names, but for what publishing adds.
            name = re.sub(r" \(\d+\)$", "", run.name)
            key = (*experiment(run), str(run.seed), run.info.get("started", ""), name)
            if key not in distinct or max(run.evaluations) > max(distinct[key].evaluations):
                label = labels[index] if labels else run.label
                distinct[key] = dataclasses.replace(run, label=label)
    runs = named_by_content(list(distinct.values()))
    telling = {run.task for run in runs if run.curve(SUCCESS)}
    runs = [silence_is_failure(run) if run.task in telling else run for run in runs]
    return sorted(runs, key=lambda run: (run.task, run.label, run.seed))


def named_by_content(runs: Sequence[Run]) -> list[Run]:
    """The runs with one name for the same recorded data and several for others: one file has many paths, and
    one path may have had many files. Only on tasks all of whose runs know what was in their file."""
    unknown = {run.task for run in runs if run.data and "data" not in run.info}
    names: dict[str, dict[str, str]] = defaultdict(dict)  # by task and SHA-256
    renamed = []
    for run in runs:
        if run.data and run.task not in unknown:
            of_task, content, name = names[run.task], run.info["data"]["sha256"], Path(run.data).name
            if content not in of_task:
                taken = name in of_task.values()
                of_task[content] = f"{name}, SHA-256 {content[:8]}" if taken else name
            run = dataclasses.replace(run, data=of_task[content])
        renamed.append(run)
    return renamed


def silence_is_failure(run: Run) -> Run:
    """The run with no success up to where it first tells of one: some tasks do so only when there is one."""
    first = min(run.curve(SUCCESS), default=math.inf)
    silent = {step: {SUCCESS: 0.0, **of} for step, of in run.evaluations.items() if step < first}
    return dataclasses.replace(run, evaluations=run.evaluations | silent)


def experiment(run: Run) -> tuple[str, str, str]:
    """What the seeds of one experiment have in common: task, agent and settings."""
    return run.task, run.agent, str(sorted(effective(run).items()))


def effective(run: Run) -> dict[str, Any]:
    """A run's settings without those that its agent makes no use of beside the others, and with what its
    recorded data are called in place of their path."""
    settings = run.settings | ({"data.dataset": run.data} if run.data else {})
    if run.agent not in AGENTS:
        return settings
    own = {key.removeprefix("agent."): value for key, value in settings.items() if key.startswith("agent.")}
    lists = {key: yaml.safe_load(value) for key, value in own.items() if str(value).startswith("[")}
    try:
        config = settings_of(run.agent).validate_python(own | lists)
    except (UserError, pydantic.ValidationError):  # of an earlier rlzoo
        return settings
    return {key: value for key, value in settings.items() if key not in config.idle()}


@functools.cache
def settings_of(agent: str) -> pydantic.TypeAdapter[AgentConfig]:
    """What makes an agent's settings of a dict."""
    return pydantic.TypeAdapter(AGENTS[agent].Config)


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings in which runs differ."""
    settings = [effective(run) for run in runs]
    keys = sorted({key for of in settings for key in of})
    return [key for key in keys if len({str(of.get(key)) for of in settings}) > 1]


def group(runs: Sequence[Run]) -> tuple[dict[str, list[Group]], list[str]]:
    """The seeds of each experiment, by task; and what is not alike on a task, in lines.

    A label that one run of an experiment was given holds for its other runs too. Where runs on a task learn
    from different data, or some runs offline and some online, that stands behind the agents' names (behind
    labels given by hand only where one label covers both). Of several experiments that still have one label,
    one of another preset has its name behind it, else the oldest has the label itself, the next one "(2)"
    behind it, and so on; what stands there means the same settings, or preset, on every task. Runs that got
    less far than the longest are apart, unless `--stop-at-return` ended them.
    """
    given = {experiment(run): run.label for run in runs if run.label != run.agent}
    by_task: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(runs, key=_age):
        label = given.get(experiment(run), run.label) if run.label == run.agent else run.label
        by_task[run.task][label].append(dataclasses.replace(run, label=label))
    named: dict[str, dict[str, dict[tuple[str, ...], list[Run]]]] = {}  # by name, task and experiment
    unlike: dict[str, list[str]] = {}
    for task, labelled in by_task.items():
        # Tasks have different data by nature, but one label has one mode on all of them.
        data, modes = (_unlike(of) for of in ([run for run in runs if run.task == task], runs))
        unlike[task] = [key for key in runs[0].conditions if key in (modes if key == "mode" else data)]
        for label, members in labelled.items():
            by_hand = label != members[0].agent
            shown = _unlike(members) if by_hand else unlike[task]
            for run in members:
                name = ", ".join(filter(None, [label, *(run.conditions[key] for key in shown)]))
                named.setdefault(name, {}).setdefault(task, {}).setdefault(experiment(run), []).append(run)
    groups: dict[str, list[Group]] = {task: [] for task in sorted(by_task)}
    lines: list[str] = []
    told_apart = {name: _told_apart(name, named[name]) for name in sorted(named)}
    for task in groups:
        for name, (keys, suffixes) in told_apart.items():
            experiments = named[name].get(task, {})
            for members in (experiments[key] for key in suffixes if key in experiments):
                groups[task] += _groups(name + suffixes[experiment(members[0])], members, keys, lines)
        if unlike[task]:
            lines += [f"{task}, {one.label}: {_described(one)}" for one in groups[task]]
    return groups, lines


def _unlike(runs: Sequence[Run]) -> list[str]:
    """The conditions in which runs differ."""
    return [key for key in runs[0].conditions if len({run.conditions[key] for run in runs}) > 1]


def _described(one: Group) -> str:
    conditions = one.runs[0].conditions
    return f"{conditions['mode']}, {conditions['data'] or 'no --dataset'}"


def _age(run: Run) -> tuple[str, ...]:
    return run.info.get("started", ""), run.name.partition("-")[2], run.name


def _told_apart(
    name: str, by_task: Mapping[str, Mapping[tuple[str, ...], list[Run]]]
) -> tuple[list[str], dict[tuple[str, ...], str]]:
    """The settings that tell the experiments of one name apart on any task, and for each of them, in order,
    what stands behind the name: on every task the same for the same values or preset, "" for the oldest."""
    of_task = [list(experiments.values()) for experiments in by_task.values()]
    keys = sorted({key for of in of_task for key in differing([run for members in of for run in members])})
    presets = [[members[0].preset for members in of] for of in of_task]
    by_preset = bool(keys) and all(
        len(set(of)) == len(of) and all(preset and preset not in name for preset in of) for of in presets
    )

    def values(run: Run) -> tuple[str, ...]:
        settings = effective(run)
        return (run.preset,) if by_preset else (run.agent, *(str(settings.get(key)) for key in keys))

    firsts = sorted((members[0] for of in of_task for members in of), key=_age)
    distinct = list(dict.fromkeys(map(values, firsts)))
    behind = {of: f", {of[0]}" if by_preset else f" ({n})" for n, of in enumerate(distinct, 1)}
    behind[distinct[0]] = ""
    firsts.sort(key=lambda run: distinct.index(values(run)))
    return keys, {experiment(run): behind[values(run)] for run in firsts}


def _groups(shown: str, members: Sequence[Run], keys: Sequence[str], lines: list[str]) -> list[Group]:
    """The runs of an experiment: a group for each length among them."""
    first, settings = members[0], effective(members[0])
    values = ", ".join(f"{key}={settings.get(key)}" for key in keys)
    lines += [f"{first.task}, {shown}: {values}"] if keys else []
    groups = []
    of_length = [members] if "train.stop_at_return" in first.settings else by_length(members)
    for shorter, runs in enumerate(of_length):
        name = f"{shown}, to {thousands(max(run.last for run in runs))}" if shorter else shown
        groups.append(Group(name, sorted(runs, key=lambda run: (run.seed, run.name))))
    if len(of_length) > 1:
        each = "; ".join(f"seeds {_seeds(runs)} to {lengths(runs)}" for runs in of_length)
        lines.append(f"{first.task}, {shown}: of several lengths, kept apart: {each}")
    return groups


def _seeds(runs: Iterable[Run]) -> str:
    return ", ".join(str(run.seed) for run in runs)


def by_length(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs that got as far as the longest, then those that got as far as the longest of the rest, …"""
    rest, found = list(runs), []
    while rest:
        longest = max(run.last for run in rest)
        found.append([run for run in rest if run.last >= SAME_LENGTH * longest])
        rest = [run for run in rest if run.last < SAME_LENGTH * longest]
    return found


def write_published(groups: Sequence[Group], folder: Path) -> None:
    """Write `curves.csv` (task,agent,seed,run,step,tag,value) and `runs.json`."""
    published = {}
    with atomic_path(folder / CURVES_FILE) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "agent", "seed", "run", "step", "tag", "value"])
        for shown, run in ((one.label, run) for one in groups for run in one.runs):
            names = itertools.chain([run.name], (f"{run.name} ({count})" for count in itertools.count(2)))
            name = next(name for name in names if f"{run.task}/{shown}/{name}" not in published)
            of_run = [run.task, shown, run.seed, name]
            for step, values in run.evaluations.items():
                writer.writerows([*of_run, step, tag, repr(value)] for tag, value in values.items())
            writer.writerows([*of_run, step, TIME_TAG, repr(value)] for step, value in run.training_s.items())
            kept = {key: getattr(run, key) for key in ("task", "agent", "label", "seed", "preset")}
            kept |= {"settings": run.settings, "info": run.info}
            published[f"{run.task}/{shown}/{name}"] = {"run": name, **kept}
    atomic_write(folder / RUNS_FILE, json.dumps(published, indent=2) + "\n")


def lengths(runs: Sequence[Run]) -> str:
    """The runs' last evaluated step; the shortest and the longest where one got a good deal less far."""
    last = [run.last for run in runs]
    shortest = "" if min(last) >= SAME_LENGTH * max(last) else f"{thousands(min(last))} to "
    return shortest + thousands(max(last))


def table(panels: Sequence[Panel], minutes: float | None = None) -> str:
    """A row per experiment: mean and deviation over seeds of each score that was logged; with `minutes` also
    what each had reached after so much training."""
    score, name = panels[0].score, panels[0].score_name
    rows = []
    for title, one in ((panel.title, one) for panel in panels for one in panel.groups):
        seeds = ", ".join(str(run.seed) for run in one.runs)
        row = {"task": title, "agent": one.label, "seeds": seeds, "steps": lengths(one.runs)}
        for tag, of in {score: name, **SCORES}.items():
            logged = [run for run in one.runs if run.curve(tag)]
            if tag == score or name != of:
                row[f"final {of}"] = mean_and_spread(run.final(tag) for run in logged)
            if tag == score:
                tenths = [run.last_tenth(tag) for run in logged]
                best = mean_and_spread(map(max, tenths)) if any(len(tenth) > 1 for tenth in tenths) else ""
                row[f"best final {name}"] = best
                row[f"best {name}"] = mean_and_spread(max(run.curve(tag).values()) for run in logged)
        times = [max(run.training_s.values()) / 60 for run in one.runs if run.training_s]
        row["minutes of training"] = mean_and_spread(times) if len(times) == len(one.runs) else ""
        if minutes is not None:
            reached = (run.after(minutes, score) for run in one.runs)
            row[f"{name} after {minutes:g} minutes"] = mean_and_spread(reached)
        rows.append({**row, "paper": one.paper})
    return markdown_table(rows)


def line_styles(panels: Sequence[Panel]) -> dict[str, dict[str, Any]]:
    """How each label's lines look: in the colour of its agent, the agent's first label solid. Where an agent
    has more labels than there are line styles, as in a sweep, every label has its own colour."""
    labels = {one.label: one.runs[0].agent for panel in panels for one in panel.groups}
    labels = dict(sorted(labels.items(), key=lambda item: [*COLORS, item[1]].index(item[1])))
    of_agent = {agent: [label for label in labels if labels[label] == agent] for agent in labels.values()}
    if max(map(len, of_agent.values())) > len(LINE_STYLES):
        colors = matplotlib.colormaps["turbo"].resampled(len(labels))
        return {label: {"color": colors(index)} for index, label in enumerate(labels)}
    return {
        label: {"color": COLORS.get(agent, "black"), "linestyle": LINE_STYLES[of_agent[agent].index(label)]}
        for label, agent in labels.items()
    }


def plot(panels: Sequence[Panel], path: Path) -> None:
    """Learning curves, a panel for each task: each seed thin, the mean of an experiment thick."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    styles = line_styles(panels)
    lines = [Line2D([], [], linewidth=2.2, label=label, **style) for label, style in styles.items()]
    if any(panel.data is not None for panel in panels):
        lines.append(Line2D([], [], label="the recorded data", **DATA_STYLE))
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows, width = math.ceil(len(panels) / columns), (6.5, 9.0, 11.5)[columns - 1]
    legend_columns = max(1, int(10 * width / (8 + max(map(len, styles)))))
    legend_rows = math.ceil(len(lines) / legend_columns)
    figure, grid = plt.subplots(rows, columns, squeeze=False, layout="constrained")
    figure.set_size_inches(width, 3.2 * rows + 0.25 * legend_rows)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        for one in panel.groups:
            curves = [run.curve(panel.score) for run in one.runs]
            style = styles[one.label]
            for curve in curves:
                dot = {"marker": "."} if len(curve) == 1 else {}
                axes.plot(list(curve), list(curve.values()), linewidth=0.7, alpha=0.5, **dot, **style)
            steps, values = on_common_steps(curves)
            if len(steps):
                dot = {"marker": "o"} if len(steps) == 1 else {}
                axes.plot(steps, values.mean(axis=0), linewidth=2.2, **dot, **style)
        if panel.data is not None:
            axes.axhline(panel.data, **DATA_STYLE)
        axes.set(title=panel.title, xlabel=panel.steps, ylabel=panel.score_name)
        axes.xaxis.set_major_formatter(lambda value, _: thousands(value))
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.grid(alpha=0.3)
    figure.legend(handles=lines, loc="outside lower center", ncols=legend_columns, frameon=False)
    with atomic_path(path) as temporary:
        # Without the name of Matplotlib's version: the same curves make the same file.
        figure.savefig(temporary, dpi=100, metadata={"Software": None})
    plt.close(figure)


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """A page of Markdown: paragraphs wrapped, tables, images and headings as they are."""
    wrap = textwrap.TextWrapper(118, break_long_words=False, break_on_hyphens=False)
    whole = [part if part.startswith(("|", "![", "#", "- ", "```")) else wrap.fill(part) for part in parts]
    atomic_write(path, "\n\n".join([f"# {title}", *whole]) + "\n")


@dataclasses.dataclass(frozen=True)
class Request:
    """What to gather."""

    output: tyro.conf.Positional[Path | None] = None
    """Folder to write to, e.g. results/mine; what this script wrote there before is replaced."""
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders with runs in them, or published by this script."""
    label: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What to call the runs of a folder, once for each folder; default: by their agents."""
    minutes: float | None = None
    """Also compare what was reached after so much training, evaluations not counted."""
    paper: bool = False
    """Also write what a paper shows into the folder paper/ there: figures and tables with 95 % intervals."""
    score: Literal["return", "normalized_score", "success"] | None = None
    """With --paper: what is compared; None: the first of score, success and return that all runs have."""
    data_mean: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """With --paper: TASK=SCORE, the mean of the recorded data; D4RL's is read where the data are here."""


def main() -> int:
    """Gather runs into data, a table and learning curves."""
    gather(parse_flags(Request, description=__doc__))
    return 0


def gather(asked: Request) -> None:
    """Write runs as data, a table and learning curves. A `UserError` if a folder has no runs to read."""
    if asked.output is None or not asked.runs:
        raise UserError("name a folder to write to and at least one folder with runs; nothing was written")
    if asked.label and len(asked.label) != len(asked.runs):
        raise UserError(f"{len(asked.label)} labels for {len(asked.runs)} folders; nothing was written")
    check_output(asked.output, asked.runs)
    by_task, lines = group(find_runs(asked.runs, asked.label))
    every = [one for groups in by_task.values() for one in groups]
    panels = [Panel(task, groups) for task, groups in by_task.items()]
    comparison = compared(asked, panels, lines) if asked.paper else None
    write_published(every, asked.output)
    plot(panels, asked.output / "curves.png")
    shown = table(panels, asked.minutes)
    note = f"{NOTE} Each run's command, commit and hardware are in [{RUNS_FILE}]({RUNS_FILE})."
    unlike = ["\n".join(f"- {line}" for line in lines)] if lines else []
    parts = ["![learning curves](curves.png)", shown, *unlike, note]
    write_page(asked.output / "README.md", asked.output.name, parts)
    print("\n".join([shown, *lines]))
    if comparison is not None:
        paper.write(asked.output / "paper", comparison)
        print(f"figures and tables for a paper: {asked.output / 'paper'}")


def check_output(folder: Path, runs: Sequence[Path]) -> None:
    """Refuse to write over what this script did not make, or into runs whose output folder was forgotten."""
    if (folder / RUNS_FILE).is_file():
        return
    others = [name for name in ("README.md", CURVES_FILE) if (folder / name).exists()]
    what = f"a {others[0]} that is not this script's" if others else ""
    what = "runs" if folder not in runs and any(folder.rglob(INFO_FILE)) else what
    if what:
        raise UserError(f"{folder}, the folder to write to, has {what}; name another before the runs")


def compared(asked: Request, panels: Sequence[Panel], lines: list[str]) -> paper.Comparison:
    """What a paper's figures show of these experiments; agents are in capitals."""
    runs = [run for panel in panels for one in panel.groups for run in one.runs]
    tags = [f"eval/{asked.score}"] if asked.score else ["eval/normalized_score", SUCCESS, RETURN]
    tag = next((tag for tag in tags if all(run.curve(tag) for run in runs)), None)
    if tag is None:
        raise UserError(f"--score is {asked.score}, which some runs do not have; nothing was written")
    means = {}
    for text in asked.data_mean:
        task, _, value = text.rpartition("=")
        try:
            means[task] = float(value)
        except ValueError as error:
            raise UserError(f"--data-mean is {text!r}, expected TASK=SCORE; nothing was written") from error
    if unknown := sorted(means.keys() - {run.task for run in runs}):
        raise UserError(f"--data-mean: no runs on {', '.join(unknown)}; nothing was written")
    means = {run.task: mean for run in runs if (mean := recorded_mean(run, tag)) is not None} | means

    labels = {one.label for panel in panels for one in panel.groups}

    def shown(one: Group) -> str:
        agent = one.runs[0].agent
        capital = agent.upper() + one.label.removeprefix(agent) if one.label.startswith(agent) else one.label
        return (
            one.label if capital in labels else capital
        )  # a label given by hand may be the agent's in capitals

    renamed = [
        Panel(panel.title, [dataclasses.replace(one, label=shown(one)) for one in panel.groups])
        for panel in panels
    ]
    modes = {run.conditions["mode"] for run in runs}
    offline_only, online_only = modes == {"offline"}, modes == {"online"}
    return paper.Comparison(
        curves={
            p.title: {one.label: [run.curve(tag) for run in one.runs] for one in p.groups} for p in renamed
        },
        finals={
            p.title: {one.label: np.array([run.final(tag) for run in one.runs]) for one in p.groups}
            for p in renamed
        },
        styles=line_styles(renamed),
        score=SCORES[tag],
        is_return=tag == RETURN,
        steps="updates" if offline_only else "environment steps" if online_only else Panel.steps,
        data=means,
        notes=lines,
    )


@functools.cache
def _recorded(task: str, dataset: str) -> list[Episode]:
    from envs.d4rl.tasks import find
    from experiments.train_d4rl import D4RLSuite

    row = find(task)
    return D4RLSuite().load_data(task, dataset, Spaces(row.state_dim, row.action_dim))


def recorded_mean(run: Run, tag: str) -> float | None:
    """The mean score of the data that a run on a D4RL task learns from; None where it is not known."""
    from envs.d4rl.tasks import TASKS, normalized_score

    if run.task in TASKS and tag != SUCCESS and "data" in run.info:
        known = float(run.info["data"]["mean_return"])
        return known if tag == RETURN else normalized_score(run.task, known)
    path = Path(os.path.expandvars(str(run.settings.get("data.dataset", "")))).expanduser()
    if run.task not in TASKS or not path.is_file():
        return None
    episodes = _recorded(run.task, str(path))
    mean = float(np.mean([episode.episode_return for episode in episodes]))
    if tag == SUCCESS:
        told = [episode.success for episode in episodes if episode.success is not None]
        return float(np.mean(told)) if told else None
    return mean if tag == RETURN else normalized_score(run.task, mean)


if __name__ == "__main__":
    run_main(main)
