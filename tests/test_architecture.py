"""The import directions: rlzoo knows neither agents nor environments, these do not know each other."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "rlzoo": {"algos", "envs", "experiments"},
    "algos": {"envs", "experiments", "gymnasium", "mujoco"},
    "envs": {"algos", "experiments"},
}
# The one exception: a policy to take away builds its agent by name.
UPWARDS = {"rlzoo/policy.py": {"algos"}}
# Simulators, to be imported only when one of their tasks is asked for.
SIMULATORS = {"mujoco", "gymnasium_robotics", "rlbench", "pyrep", "d4rl"}


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_only_what_they_may(package: str) -> None:
    for path in files(package):
        wrong = imported(ast.parse(path.read_text())) & FORBIDDEN[package]
        wrong -= UPWARDS.get(path.relative_to(ROOT).as_posix(), set())
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_simulators_are_not_imported_at_module_level(package: str) -> None:
    for path in files(package):
        body = ast.parse(path.read_text()).body
        wrong = imported(
            ast.Module(body=[n for n in body if isinstance(n, (ast.Import, ast.ImportFrom))], type_ignores=[])
        )
        assert not wrong & SIMULATORS, f"{path.relative_to(ROOT)} imports {sorted(wrong & SIMULATORS)}"


def test_no_imports_run_in_circles() -> None:
    """Also those that only type checkers see."""
    paths = [path for package in ("rlzoo", "algos", "envs", "experiments") for path in files(package)]
    names = {path: path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in paths}
    modules = {name.removesuffix(".__init__"): path for path, name in names.items()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                parts = {f"{node.module}.{alias.name}" for alias in node.names} & modules.keys()
                found |= parts or {node.module} & modules.keys()
        graph[name] = found - {name}
    TopologicalSorter(graph).prepare()  # raises a CycleError
    assert "rlzoo.train" in graph["experiments.runner.launch"]


@pytest.mark.parametrize("statement", ["import rlzoo", "from rlzoo.interface import Interface"])
def test_nothing_heavy_comes_with_the_library_itself(statement: str) -> None:
    loaded = "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    code = f"import sys; {statement}; {loaded}"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"algos", "envs", "experiments", "gymnasium", "mujoco"} & set(ast.literal_eval(output.stdout))
    assert statement != "import rlzoo" or "torch" not in ast.literal_eval(output.stdout)


def test_behavioural_cloning_does_not_import_arsq() -> None:
    for name in ("bc.py", "autoregressive.py"):
        assert "algos.arsq" not in (ROOT / "algos" / name).read_text()
