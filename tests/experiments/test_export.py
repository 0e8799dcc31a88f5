"""`rlzoo export`: every agent's policy as ONNX, compared with PyTorch before anything is written."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from algos import AGENTS
from algos.cqn import CQN
from experiments import cli, export
from rlzoo.errors import UserError
from rlzoo.policy import load_policy
from rlzoo.types import Spaces
from tests.helpers.agent_checks import PIXELS, SPACES
from tests.test_policy import small

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CODES: dict[str, Any] = {"levels": 2, "bins": 3}
FEW: dict[str, Any] = {"levels": 1, "bins": 5}  # fewer positions: what is made is unrolled, which takes long
CASES = [
    *[(name, SPACES, CODES if name in ("arsq", "cqn") else {}) for name in sorted(AGENTS)],
    *[(name, PIXELS, FEW if name in ("arsq", "cqn") else {}) for name in sorted(AGENTS)],
    ("arsq", SPACES, {**CODES, "greedy": "median", "layer_norm": True, "act_with": "target"}),
    ("arsq", SPACES, {**CODES, "conditioning": "dimensions", "trunk": "separate"}),
    ("bc", PIXELS, {**FEW, "policy": "arsq", "order": "dimension", "state_layers": 1, "greedy": "median"}),
    ("cqn", SPACES, {"levels": 1, "bins": 4, "atoms": 1}),
]


def name_of(value: object) -> str:
    if isinstance(value, Spaces):
        return "pixels" if value.pixels else "states"
    return "-".join(map(str, value.values())) if isinstance(value, dict) else str(value)


@pytest.mark.parametrize(("name", "spaces", "settings"), CASES, ids=name_of)
def test_the_onnx_model_is_the_policy(
    name: str, spaces: Spaces, settings: dict[str, Any], tmp_path: Path
) -> None:
    policy = small(name, spaces, **settings)
    check = export.export(policy, tmp_path)
    assert check.rows == 128
    assert check.ties <= 3
    assert (check.logits is None) == (policy.agent.code_logits(*an_action(policy)) is None)
    run = export.session(str(tmp_path / "model.onnx"))
    for rows in (1, 9):  # another number than any that was compared, and other observations
        inputs = export.random_observations(policy, rows, seed=50 + rows)
        (action,) = run(**inputs)
        np.testing.assert_allclose(action, export.play(load_policy(tmp_path), inputs), atol=1e-3)
    assert np.ptp(action, axis=0).max() > 0.01


def an_action(policy: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    obs = export.Graph(policy).observe(**export.as_tensors(export.random_observations(policy, 2, 0)))
    return obs, policy.agent.act(obs, deterministic=True)


def test_the_model_says_what_it_is(tmp_path: Path) -> None:
    policy = small("bc", PIXELS)
    export.export(policy, tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    texts = {each.key: each.value for each in model.metadata_props}
    assert texts["agent"] == "bc"
    assert texts["task"] == "a task"
    assert texts["step"] == "7"
    assert texts["control_rate_hz"] == "20"
    assert texts["observation"].startswith("state f32 [batch, 5]")
    assert texts["frames"].startswith("u8 [batch, 2, 2, 3, 24, 24] ")
    assert json.loads(texts["agent_config"])["hidden"] == [16, 16]
    inputs = {each.name: [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim]
              for each in model.graph.input}  # fmt: skip
    assert inputs == {"state": ["batch", 5], "frames": ["batch", 2, 2, 3, 24, 24]}
    assert [each.name for each in model.graph.output] == ["action"]
    assert str(Path(export.__file__).parents[1]).encode() not in (tmp_path / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("name", "wrong", "error"),
    [("td3", export.Graph, 0.01), ("td3", export.Graph, np.nan), ("cqn", export.Logits, 1.0)],
)
def test_a_model_that_is_not_the_policy_is_refused(
    name: str, wrong: type, error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the conversion had changed what a graph computes."""

    def session(graph: torch.nn.Module) -> export.Run:
        def run(**inputs: np.ndarray) -> list[np.ndarray]:
            outputs = graph(**export.as_tensors(inputs))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            return [output.numpy() + error * isinstance(graph, wrong) for output in outputs]

        return run

    def to_onnx(graph: torch.nn.Module, *_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(SerializeToString=lambda: graph)

    monkeypatch.setattr(export, "session", session)
    monkeypatch.setattr(export, "to_onnx", to_onnx)
    (tmp_path / "config.json").write_text("an earlier one")
    with pytest.raises(UserError, match=r"does not match the policy: .* nothing was written") as caught:
        export.export(small(name, SPACES, **(CODES if name == "cqn" else {})), tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "an earlier one"


@pytest.mark.parametrize("rule", ["mode", "median"])
def test_rounding_decides_ties_alone(rule: str) -> None:
    logits = torch.tensor([0.2, 0.3, 0.5]).log().repeat(2, 4, 1, 1)  # two levels, four rows, one dimension
    logits[0, 1] = torch.tensor([0.5 - 1e-5, 0.5 + 1e-5, 1e-6]).log()
    best = {"mode": [[2, 1, 2, 2], [2, 2, 2, 0]], "median": [[1, 1, 2, 1], [2, 0, 0, 0]]}[rule]
    found = export.is_chosen(logits, torch.tensor(best)[..., None], rule)
    # Row 1 is a tie between its first two codes; row 2 is the boundary between codes 1 and 2 for the median.
    assert found.tolist() == {"mode": [True, True, True, False], "median": [True, True, True, False]}[rule]
    other = torch.tensor([[1, 0, 0, 1], [2, 2, 0, 1]])[..., None]
    expected = {"mode": [False, True, False, False], "median": [True, True, False, False]}[rule]
    assert export.is_chosen(logits, other, rule).tolist() == expected


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | None:
    monkeypatch.setattr("sys.argv", ["rlzoo", "export", *map(str, arguments)])
    return cli.dispatch()


def test_the_command_from_an_export_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small("arsq", SPACES, **FEW).save(tmp_path / "one")
    assert run_command(monkeypatch, tmp_path / "one", tmp_path / "two", "--greedy", "median") == 0
    output = capsys.readouterr().out
    assert "arsq on a task at step 7" in output
    assert "logits on forced prefixes within" in output
    assert " ms in onnxruntime, " in output
    assert load_policy(tmp_path / "two").rule == "median"
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "config.json", "model.onnx", "model.safetensors"
    ]  # fmt: skip


def test_what_cannot_be_exported_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(message: str, *arguments: object) -> None:
        with pytest.raises(UserError, match=message) as caught:
            run_command(monkeypatch, *arguments)
        assert "\n" not in str(caught.value)

    small("sac", SPACES).save(tmp_path / "sac")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    fails("neither a run folder", tmp_path / "nothing", tmp_path / "out")
    fails("holds something else than an export", tmp_path / "sac", tmp_path / "mine")
    fails("Not a directory|File exists", tmp_path / "sac", tmp_path / "mine" / "notes.txt")
    fails("is not auto-regressive", tmp_path / "sac", tmp_path / "out", "--greedy", "mode")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    fails(r"onnxruntime is not installed: pip install 'rlzoo\[export\]'", tmp_path / "sac", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_logits_of_codes_are_those_the_policy_acts_by() -> None:
    for name, settings in (("arsq", CODES), ("bc", {**CODES, "policy": "arsq"}), ("cqn", CODES)):
        policy = small(name, SPACES, **settings)
        obs, action = an_action(policy)
        logits, codes = policy.agent.code_logits(obs, action)  # type: ignore[misc]
        assert logits.shape == (2, 2, 3, 3)
        assert torch.equal(logits.argmax(-1), codes)
        binning = policy.agent.critic.binning if isinstance(policy.agent, CQN) else None
        if binning is not None:
            assert torch.equal(binning.decode(codes.transpose(0, 1)), action)
