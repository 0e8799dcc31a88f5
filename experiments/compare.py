"""Gather finished runs into something to commit: curves, a table and a plot, with their commands.

python experiments/compare.py results/mine results/runs/mujoco/HalfCheetah-v5 results/runs/mujoco/Hopper-v5

Runs whose settings differ are told apart by them, so a sweep is compared like any other set; what more
than half of an agent's experiments on a task share is named once, below the table.
`--minutes M` adds what each had reached after M minutes of training, to compare at equal wall-clock time.

Writes into the first folder: `curves.csv` (every evaluation of every seed, and the seconds of training),
`runs.json` (each run's settings, command, commit, versions and hardware), `README.md` (the table) and one
plot per task. Such a folder can itself be given among the runs, so that a seed joins published ones whose run
folders are gone:

python experiments/compare.py results/mine results/mine results/runs/mujoco/Hopper-v5
"""

from __future__ import annotations

import csv
import dataclasses
import json
import statistics
import textwrap
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tyro
import yaml

from experiments.presets import AGENTS
from experiments.runner.launch import Experiment
from rlzoo.errors import UserError
from rlzoo.run.cli import parse_flags, run_main
from rlzoo.run.files import atomic_path, atomic_write
from rlzoo.run.folder import CONFIG_FILE, INFO_FILE, flatten_config, plain
from rlzoo.run.logger import METRICS_FILE
from rlzoo.train import TrainConfig

# Settings that make a run longer, faster or better documented, but no other experiment.
INCIDENTAL = {"script", "seed", "device", "threads", "video", "runs_dir"}
INCIDENTAL |= {"train.steps", "train.processes", "train.capture", "train.eval_every", "train.eval_episodes"}
INCIDENTAL |= {"train.log_every", "train.checkpoint_every"}
# What this script writes, and reads back.
CURVES_FILE, RUNS_FILE = "curves.csv", "runs.json"
TIME_TAG = "time/training_s"
# DSAC-T's paper counts a run's final return as the mean of its last tenth of evaluations.
FINAL_SHARE = 0.1
LEGEND_LINE = 0.15  # inches that a line of the plot's legend takes


@dataclasses.dataclass(frozen=True)
class Run:
    """One run as read from its folder, or from where it was published.

    Attributes:
        name: of its folder, s<seed>-<time>.
        label: the agent, and the settings by which its runs differ, except where they are as in most.
        settings: by flat name, without the incidental ones.
        evaluations: a step's eval/* values.
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

    def curve(self, tag: str) -> dict[int, float]:
        """The values of one tag by step."""
        return {step: values[tag] for step, values in self.evaluations.items() if tag in values}

    def final(self, tag: str) -> float:
        """The mean over the last tenth of the evaluations."""
        values = list(self.curve(tag).values())
        return statistics.mean(values[-max(1, round(FINAL_SHARE * len(values))) :])

    def after(self, minutes: float, tag: str) -> float | None:
        """The value at the last evaluation within so much training; None if there is none."""
        reached = [step for step, seconds in self.training_s.items() if seconds <= 60 * minutes]
        known = [value for step, value in self.curve(tag).items() if reached and step <= max(reached)]
        return known[-1] if known else None


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: if a file is missing or damaged.
    """
    try:
        config = yaml.safe_load((folder / CONFIG_FILE).read_text())
        info = json.loads((folder / INFO_FILE).read_text())
        if not isinstance(info, dict):
            raise ValueError(f"{INFO_FILE} holds no settings by name")
        with (folder / METRICS_FILE).open() as file:
            evaluations, training_s = read_curves(csv.DictReader(file))
        agent = config["agent_name"]
        settings = comparable(agent, flatten_config(config))
        seed = int(config["seed"])
        return Run(folder.name, config["task"], agent, agent, seed, info, settings, evaluations, training_s)
    except (OSError, csv.Error, yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not a complete run folder: {error}") from error


def read_curves(rows: Iterable[dict[str, str]]) -> tuple[dict[int, dict[str, float]], dict[int, float]]:
    """A run's evaluations and its seconds of training, both by step, from rows of step, tag and value.

    Raises:
        ValueError, KeyError, TypeError: if a row is not of this form.
    """
    evaluations: dict[int, dict[str, float]] = defaultdict(dict)
    training_s = {}
    for row in rows:
        # A run that was killed may have left half a line.
        if (row["tag"] or "").startswith("eval/") and row["value"]:
            evaluations[int(row["step"])][row["tag"]] = float(row["value"])
        elif row["tag"] == TIME_TAG and row["value"]:
            training_s[int(row["step"])] = float(row["value"])
    return dict(evaluations), training_s


def read_published(folder: Path) -> list[Run]:
    """The runs that an earlier call of this script published in a folder.

    Raises:
        UserError: if a file is missing or damaged, both do not belong together, or they are from before
            settings were published too.
    """
    try:
        published: list[dict[str, Any]] = list(json.loads((folder / RUNS_FILE).read_text()).values())
        if any("settings" not in entry for entry in published):
            raise ValueError("it is from before settings were published; give the folders of its runs")
        rows: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
        with (folder / CURVES_FILE).open() as file:
            for row in csv.DictReader(file):
                if None in row or not all(row.values()):
                    raise ValueError(f"a line of {CURVES_FILE} is not whole")
                rows[row["task"], row["agent"], row["run"]].append(row)
        if rows.keys() != {(entry["task"], entry["label"], entry["run"]) for entry in published}:
            raise ValueError(f"{CURVES_FILE} and {RUNS_FILE} do not hold the same runs")
        return [_published_run(entry, rows) for entry in published]
    except (OSError, csv.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"the published runs in {folder} cannot be read back: {reason}") from error


def _published_run(entry: dict[str, Any], rows: dict[tuple[str, ...], list[dict[str, str]]]) -> Run:
    task, agent, name = entry["task"], entry["agent"], entry["run"]
    settings = comparable(agent, entry["settings"])
    curves = read_curves(rows[task, entry["label"], name])
    return Run(name, task, agent, agent, int(entry["seed"]), dict(entry["info"]), settings, *curves)


def comparable(agent: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that make a run another experiment, those that it did not know yet at their defaults."""
    return {key: value for key, value in {**defaults(agent), **settings}.items() if key not in INCIDENTAL}


def defaults(agent: str) -> dict[str, Any]:
    """Today's defaults, by flat name: what runs from before a setting did, as a new one changes nothing."""
    if agent not in AGENTS:
        return {}
    return flatten_config(plain(Experiment("", AGENTS[agent].config(), TrainConfig())))


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """All runs, by task, agent and seed: those whose folders lie below the given ones, and those published
    in the given ones themselves. Runs without an evaluation are left out.

    A run that is found twice, as in its own folder and published, counts once, as far as it got.

    Raises:
        UserError: if a folder holds no run with an evaluation, or one that cannot be read.
    """
    distinct: dict[tuple[str, ...], Run] = {}
    for folder in folders:
        found = read_published(folder) if (folder / RUNS_FILE).is_file() else []
        found += map(read_run, sorted(path.parent for path in folder.rglob(INFO_FILE)))
        found = [run for run in found if run.curve("eval/return")]
        if not found:
            raise UserError(f"no run with an evaluation in {folder}")
        for run in found:
            # Runs that began in the same second, in different places, have the same name.
            key = (run.task, run.agent, run.name, str(sorted(run.settings.items())))
            if key not in distinct or max(run.evaluations) > max(distinct[key].evaluations):
                distinct[key] = run
    return sorted(tell_apart(distinct.values()), key=lambda run: (run.task, run.label, run.seed))


def tell_apart(runs: Collection[Run]) -> list[Run]:
    """The runs with labels that name the settings in which those of one agent on one task differ.

    A value that more than half of the experiments share is left out, see `usual_values`.
    """
    labelled = []
    for members in by_agent(runs).values():
        differing = differing_settings(members)
        usual, names = usual_values(members, differing), setting_names(differing)
        for run in members:
            parts = [run.agent]
            for key, shown in differing.items():
                value = shown[str(run.settings.get(key))]
                if usual.get(key) != value:
                    parts.append(f"{names[key]}={value}")
            labelled.append(dataclasses.replace(run, label=" ".join(parts)))
    return labelled


def differing_settings(members: Collection[Run]) -> dict[str, dict[str, str]]:
    """The settings, by flat name, in which runs of one agent on one task differ: how each value is shown."""
    keys = sorted({key for run in members for key in run.settings})
    # One that is None is left out of the settings.
    values = {key: [str(run.settings.get(key)) for run in members] for key in keys}
    return {key: shortest_names(each) for key, each in values.items() if len(set(each)) > 1}


def usual_values(members: Collection[Run], differing: dict[str, dict[str, str]]) -> dict[str, str]:
    """Of the settings in which runs of one agent on one task differ, as shown: the values that more than half
    of their experiments share. The seeds of an experiment count once, so that one more changes no label."""
    experiments = {
        tuple(shown[str(run.settings.get(key))] for key, shown in differing.items()) for run in members
    }
    usual = {}
    for index, key in enumerate(differing):
        value, count = Counter(values[index] for values in experiments).most_common(1)[0]
        if 2 * count > len(experiments):
            usual[key] = value
    return usual


def setting_names(keys: Collection[str]) -> dict[str, str]:
    """Flat names without the sections that they are in, unless that leaves two alike."""
    short = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter(short.values())
    return {key: name if counts[name] == 1 else key for key, name in short.items()}


def unnamed_settings(runs: Iterable[Run]) -> list[str]:
    """What labels leave out, a line for each agent and task of which they leave something out."""
    lines = []
    for (task, agent), members in by_agent(runs).items():
        differing = differing_settings(members)
        names, usual = setting_names(differing), usual_values(members, differing)
        if usual:
            shown = ", ".join(f"{names[key]}={value}" for key, value in usual.items())
            lines.append(f"{agent} on {task}, unless named: {shown}.")
    return lines


def by_agent(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """The runs of the same agent on the same task together, whatever their settings."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.task, run.agent].append(run)
    return dict(groups)


def group(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Seeds of the same experiment together."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.task, run.label].append(run)
    return dict(groups)


def shortest_names(values: list[str]) -> dict[str, str]:
    """For each value its shortest tail of path components by which it differs from the others."""
    parts = {value: Path(value).parts for value in values}
    for count in range(1, max(map(len, parts.values())) + 1):
        names = {value: "/".join(each[-count:]) for value, each in parts.items()}
        if len(set(names.values())) == len(parts):
            return names
    return {value: value for value in values}


def mean_and_spread(values: list[float]) -> str:
    """`mean ± sample standard deviation`, the latter only with two seeds or more."""
    digits = 2 if max(map(abs, values)) <= 1 else 1  # a rate of success needs more than 0.9
    mean = f"{statistics.mean(values):,.{digits}f}"
    if len(values) == 1:
        return mean
    # Not statistics.stdev, which fails on the infinite or undefined return of a run that diverged.
    with np.errstate(invalid="ignore"):
        return f"{mean} ± {np.std(values, ddof=1):,.{digits}f}"


def lengths(runs: list[Run]) -> str:
    """The runs' last evaluated step; the shortest and the longest where one got a good deal less far."""
    last = [max(run.evaluations) for run in runs]
    return f"{max(last):,}" if min(last) >= 0.95 * max(last) else f"{min(last):,} to {max(last):,}"


def table(runs: list[Run], minutes: float | None = None) -> str:
    """The comparison in Markdown: final and best returns, mean and deviation over seeds, success if logged.

    Args:
        runs: what to compare.
        minutes: also what each had reached after so much training.
    """
    optional = {"normalised score": "eval/normalized_score", "success": "eval/success"}
    logged = {name: tag for name, tag in optional.items() if any(run.curve(tag) for run in runs)}
    header = ["task", "agent", "seeds", "steps", "final return", "best evaluation", *logged]
    header += ["minutes of training"] if any(run.training_s for run in runs) else []
    header += [f"return after {minutes:g} minutes"] if minutes is not None else []
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for (task, label), members in group(runs).items():
        cells = [task, label, ", ".join(str(run.seed) for run in members)]
        cells.append(lengths(members))
        cells.append(mean_and_spread([run.final("eval/return") for run in members]))
        cells.append(mean_and_spread([max(run.curve("eval/return").values()) for run in members]))
        for tag in logged.values():
            known = [run.final(tag) for run in members if run.curve(tag)]
            cells.append(mean_and_spread(known) if known else "")
        times = [max(run.training_s.values()) / 60 for run in members if run.training_s]
        if any(run.training_s for run in runs):
            cells.append(mean_and_spread(times) if times else "")
        if minutes is not None:
            reached = [run.after(minutes, "eval/return") for run in members]
            values = [value for value in reached if value is not None]
            cells.append(mean_and_spread(values) if values else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(runs: list[Run], title: str, minutes: float | None) -> str:
    """README.md: the table, and every command with its commit and hardware."""
    lines = [f"# {title}", "", table(runs, minutes), ""]
    for line in unnamed_settings(runs):
        lines += [line, ""]
    lines += [
        "Final return, and score and success if any: mean of the last tenth of the evaluations. ±: standard "
        "deviation over seeds.",
        "",
    ]
    lines += ["## Commands", ""]
    for run in runs:
        git = run.info.get("git") or {}
        hardware = run.info.get("hardware") or {}
        gpu = ", ".join(device["name"] for device in hardware.get("gpus") or [])
        commit = str(git.get("commit"))[:12] + (" with uncommitted changes" if git.get("dirty") else "")
        lines.append(f"- `{run.info.get('command')}`  ")
        lines.append(
            f"  commit {commit}; {gpu or hardware.get('cpu')}, {hardware.get('cores')} cores, "
            f"{hardware.get('torch_threads')} threads; {run.info.get('started')}"
        )
    return "\n".join(lines) + "\n"


def write_curves(runs: list[Run], path: Path) -> None:
    """Every evaluation of every run, and its seconds of training: task,agent,seed,run,step,tag,value."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "agent", "seed", "run", "step", "tag", "value"])
        for run in runs:
            of_run = [run.task, run.label, run.seed, run.name]
            for step, values in run.evaluations.items():
                writer.writerows([*of_run, step, tag, repr(value)] for tag, value in values.items())
            writer.writerows([*of_run, step, TIME_TAG, repr(value)] for step, value in run.training_s.items())


def write_runs(runs: list[Run], path: Path) -> None:
    """What each run was: its settings, and the command, commit, versions and hardware of its run.json."""
    published = {
        f"{run.task}/{run.label}/{run.name}": {
            "task": run.task,
            "agent": run.agent,
            "label": run.label,
            "seed": run.seed,
            "run": run.name,
            "settings": run.settings,
            "info": run.info,
        }
        for run in runs
    }
    atomic_write(path, json.dumps(published, indent=2) + "\n")


def plot(task: str, runs: list[Run], path: Path) -> None:
    """Learning curves of one task: each seed thin, the mean of each agent thick."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = group(runs)
    # A label of many settings takes several lines, below the curves: the figure grows by them.
    names = {key: textwrap.fill(f"{key[1]} (seeds: {len(groups[key])})", 110) for key in groups}
    lines = sum(name.count("\n") + 1 for name in names.values())
    figure, axes = plt.subplots(figsize=(7, 4.5 + LEGEND_LINE * lines), layout="constrained")
    colors = plt.get_cmap("tab10") if len(groups) <= 10 else plt.get_cmap("turbo", len(groups))
    for index, (key, members) in enumerate(groups.items()):
        color = colors(index)
        curves = [run.curve("eval/return") for run in members]
        for curve in curves:
            axes.plot(list(curve), list(curve.values()), color=color, linewidth=0.7, alpha=0.5)
        shared = sorted(set.intersection(*(set(curve) for curve in curves)))
        means = [statistics.mean(curve[step] for curve in curves) for step in shared]
        axes.plot(shared, means, color=color, linewidth=2, label=names[key])
    # An offline run's steps are updates.
    axes.set(title=task, xlabel="steps", ylabel="evaluation return")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="x-small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def main(
    output: tyro.conf.Positional[Path],
    runs: tyro.conf.Positional[tuple[Path, ...]],
    minutes: float | None = None,
) -> int:
    """Gather runs into curves, a table and plots.

    Args:
        output: folder to write to, e.g. results/mine; what it has already is replaced.
        runs: folders with runs in them, or published by this script.
        minutes: also compare what was reached after so much training, evaluations not counted.
    """
    if not runs:
        raise UserError("name at least one folder with runs, or published ones; nothing was written")
    found = find_runs(runs)
    write_curves(found, output / CURVES_FILE)
    write_runs(found, output / RUNS_FILE)
    atomic_write(output / "README.md", report(found, output.name, minutes))
    for task in sorted({run.task for run in found}):
        name = task.replace("/", "-").replace(":", "-")
        plot(task, [run for run in found if run.task == task], output / f"{name}.png")
    print(table(found, minutes))
    for line in unnamed_settings(found):
        print(line)
    return 0


if __name__ == "__main__":
    run_main(lambda: parse_flags(main))
