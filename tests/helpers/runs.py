"""Runs as `compare` has read them, and what pages show."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from experiments.compare import Run

CURVE = {step: {"eval/return": float(step)} for step in (100, 200, 300)}


def make_run(name: str = "s1-1", agent: str = "sac", seed: int = 1, **changes: Any) -> Run:
    """A run of three evaluations on a task called "task"."""
    data = changes.get("settings", {}).get("data.dataset", "")
    run = Run(name, "task", agent, agent, seed, {"command": "-"}, {}, CURVE, {}, data=data)
    return dataclasses.replace(run, **changes)


IMAGE = re.compile(r"!\[[^]]*\]\(([^)]+)\)")


def images(folder: Path) -> set[Path]:
    """What the pages in a folder show."""
    return {
        (page.parent / name).resolve()
        for page in folder.rglob("*.md")
        for name in IMAGE.findall(page.read_text(encoding="utf-8"))
    }
