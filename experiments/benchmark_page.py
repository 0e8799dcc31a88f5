"""The page of tables and pictures that `experiments/benchmark.py` makes from its JSON files."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from rlzoo.errors import UserError
from rlzoo.run.files import atomic_write

_COLUMNS = ("update", "floor", "act 1", "act 10", "act 100", "sample", "environments", "loop", "iteration")
_EXPORTED = ("policy", "ONNX")
_IMAGE_COLUMNS = ("update", "floor", "encoder", "augment", "sample", "act 1", "environments")
# What an iteration's time goes to, from the bottom of a bar up.
_SHARES = ("environments", "act", "sample", "loop", "floor", "rest of the update")


def write_page(page: Path, newest: Path) -> None:
    """The page of all JSON files beside `newest`; a picture is of `newest`, or of the first that has it.

    Raises:
        UserError: `newest` is no file of the benchmark.
    """
    _read(newest)  # is not among those below where its name does not end in .json
    parts = [
        "# Benchmarks",
        "Milliseconds, medians, made by `rlzoo benchmark --page`. *Floor* is what an update's matrix "
        "products alone take at the rate that products of 512 x 512 reach in the same run, *loop* what an "
        "iteration takes beside update, sampling, action and environments. Agents that see states have made "
        "updates on real data before: ARSQ, CQN and BC one environment of Hopper with demonstrations, the "
        "others 20 of HalfCheetah; those that see images are new and see random ones. "
        "*Policy* is one observation through `rlzoo.load_policy`, *ONNX* through the exported model, both on "
        "one thread. Figures of different runs do not compare: the "
        "floor beside them tells how fast the machine was.",
    ]
    paths = sorted(newest.parent.glob("*.json"), key=lambda each: (each != newest, each.name))
    every = {path: _read(path) for path in paths}
    for path, other in every.items():
        link = os.path.relpath(path, page.parent)
        parts.append(f"## {_title(path, other)}")
        parts.append(f"[{path.name}]({link}): `{_command(other)}`, commit {_commit(other)}")
        if other["timings"]:
            parts.append(_table(other))
        parts += _notes(other)
    pictures = []
    if timed := next((path for path in paths if _has_states(every[path])), None):
        picture = timed.with_name(f"{timed.stem}-iteration.png")
        pictures.append(
            (_iteration_plot(every[timed], picture, _title(timed, every[timed])), "where time goes")
        )
    if grown := next((path for path in paths if "scaling" in every[path]), None):
        pictures.append(
            (_scaling_plot(every[grown], grown.with_name(f"{grown.stem}-scaling.png")), "how cost grows")
        )
    parts[2:2] = [f"![{text}]({os.path.relpath(path, page.parent)})" for path, text in pictures]
    if (newest.parent / "earlier").is_dir():
        parts.append(
            f"[Earlier files]({os.path.relpath(newest.parent / 'earlier', page.parent)}) are of this "
            "benchmark's forerunner and of code before these."
        )
    if not any(other["hardware"]["gpus"] for other in every.values()):
        parts.append(
            "Nothing has been measured on a GPU: the captured update and action, sampling on the device and "
            "the copies between device and host are exercised by tests on tensors without values, not timed. "
            "Sampling is not part of the captured graph, as the number of rows grows and joined episodes "
            "change their share of a batch; it writes into the tensors that the graph reads."
        )
    atomic_write(page, "\n\n".join(parts) + "\n")


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        _ = content["timings"], content["hardware"], content["busy"], content["settings"]["matmul_precision"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a JSON file of this benchmark: {error}") from error
    return content


def _title(path: Path, content: dict[str, Any]) -> str:
    hardware = content["hardware"]
    settings = content["settings"]
    on_gpu = hardware["gpus"] and settings["device"] != "cpu"
    name = hardware["gpus"][0]["name"] if on_gpu else hardware["cpu"]
    rounded = (
        "" if settings["matmul_precision"] == "highest" else f", {settings['matmul_precision']} precision"
    )
    seen = "images" if settings["images"] else "states"
    return f"{name}, {hardware['torch_threads']} of {hardware['cores']} cores, {seen}{rounded}"


def _command(content: dict[str, Any]) -> str:
    script, *flags = content["command"]
    return " ".join([f"experiments/{Path(script).name}", *flags])


def _commit(content: dict[str, Any]) -> str:
    return content["git"]["commit"][:7] if content.get("git") else "unknown"


def _has_states(content: dict[str, Any]) -> bool:
    return bool(content["timings"]) and not content["settings"]["images"]


def _table(content: dict[str, Any]) -> str:
    columns = _IMAGE_COLUMNS if content["settings"]["images"] else _COLUMNS
    if any("update with denormals" in row for sizes in content["timings"].values() for row in sizes.values()):
        columns = (columns[0], "update with denormals", *columns[1:])
    if any("ONNX" in row for sizes in content["timings"].values() for row in sizes.values()):
        columns = (*columns, *_EXPORTED)
    lines = [
        f"| agent | size | batch | envs | {' | '.join(columns)} | update / floor |",
        f"| --- | --- |{' --- |' * (len(columns) + 3)}",
    ]
    for agent, sizes in content["timings"].items():
        for size, row in sizes.items():
            cells = [_digits(row[part][0]) if part in row else "" for part in columns]
            ratio = row["update"][0] / row["floor"][0]
            lines.append(
                f"| {agent} | {size} | {row['batch']} | {row['lanes']} | {' | '.join(cells)} | {ratio:.1f} |"
            )
    return "\n".join(lines)


def _notes(content: dict[str, Any]) -> list[str]:
    lines = []
    if content["busy"]:
        lines.append(f"**Taken on a busy machine**: {content['busy']}.")
    if "start_up_cpu_s" in content:
        lines.append(
            f"Start-up (`train_mujoco.py dsac-t --help`): {content['start_up_cpu_s']:.1f} CPU seconds."
        )
    if "against_sb3" in content:
        peer = content["against_sb3"]
        low, high = min(peer["ratios"]), max(peer["ratios"])
        lines.append(
            f"SAC against Stable-Baselines3 {peer['version']}, a step and an update in turn: "
            f"{peer['ours']:.2f} and {peer['theirs']:.2f} ms, "
            f"{statistics.median(peer['ratios']):.2f} times as fast ({low:.2f} to {high:.2f} pair by pair)."
        )
    return lines


def _iteration_plot(content: dict[str, Any], path: Path, title: str) -> Path:
    rows = [
        (f"{agent}\n{size}", row)
        for agent, sizes in content["timings"].items()
        for size, row in sizes.items()
    ]
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    left = [0.0] * len(rows)
    for part in _SHARES:
        values = []
        for _, row in rows:
            value = row["update"][0] - row["floor"][0] if part == "rest of the update" else row[part][0]
            times = row["updates"] if part in ("sample", "floor", "rest of the update") else 1
            values.append(max(0.0, value * times))
        total = [row["iteration"][0] for _, row in rows]
        shares = [100 * value / whole for value, whole in zip(values, total, strict=True)]
        axes.bar([label for label, _ in rows], shares, bottom=left, label=part)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set_ylabel("per cent of an iteration")
    axes.set_title(title, fontsize=9)
    axes.tick_params(axis="x", labelsize=7)
    figure.legend(fontsize=7, ncols=len(_SHARES), loc="outside lower center")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _scaling_plot(content: dict[str, Any], path: Path) -> Path:
    panels = content["scaling"]
    figure, all_axes = plt.subplots(1, len(panels), figsize=(2.6 * len(panels), 2.6), layout="constrained")
    units = {"environments": "ms a step of all", "seeds side by side": "updates a second"}
    units["positions"] = "ms an action"
    for axes, (what, panel) in zip(all_axes, panels.items(), strict=True):
        for agent, values in panel.items():
            if agent != "x":
                axes.plot(panel["x"], values, marker="o", label=agent)
        axes.set_xlabel(what)
        axes.set_ylabel(units.get(what, "ms an update"))
        axes.set_xscale("log")
        axes.set_xticks(panel["x"], labels=[str(value) for value in panel["x"]])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
