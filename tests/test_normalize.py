"""What lies between a task and an agent: standardised observations, rescaled actions."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import d4rl, evaluate, make_dataset
from experiments.common import main
from rlzoo.checkpoint import load_checkpoint
from rlzoo.demo_writers import write_d4rl
from rlzoo.demos import load_episodes
from rlzoo.errors import UserError
from rlzoo.normalize import ActionScaling, ObservationScaling, Scaling
from rlzoo.types import Episode, Spaces, Step

DATA = Path(__file__).parents[1] / "results" / "datasets" / "hopper-demos.hdf5"


def episode(action: np.ndarray) -> Episode:
    steps = len(action)
    states = np.arange(2 * (steps + 1), dtype=np.float32).reshape(-1, 2)
    return Episode({"state": states}, action.astype(np.float32), np.zeros(steps, np.float32), False)


def test_the_actions_range_is_the_datas_and_a_twentieth_more_within_the_tasks() -> None:
    episodes = [episode(np.array([[-0.5, -1.0, 0.3], [0.1, 0.0, 0.3]])), episode(np.array([[0.5, 1.0, 0.3]]))]
    scaling = ActionScaling.of(episodes)
    np.testing.assert_allclose(scaling.low, [-0.55, -1, 0.2995], atol=1e-6)
    np.testing.assert_allclose(scaling.high, [0.55, 1, 0.3005], atol=1e-6)


@pytest.mark.parametrize("bound", [-1.0, 1.0])
def test_a_dimension_that_rests_at_a_bound_has_a_width(bound: float) -> None:
    action = np.full((3, 1), bound)
    scaling = ActionScaling.of([episode(action)])
    assert scaling.low < scaling.high
    assert scaling.to_agent(action) == pytest.approx(bound)
    assert np.abs(scaling.to_task(np.array([[-1.0], [1.0]]))).max() <= 1


def test_actions_go_there_and_back() -> None:
    rng = np.random.default_rng(0)
    action = rng.uniform(-0.9, 0.4, (50, 4)).astype(np.float32)
    scaling = ActionScaling.of([episode(action)])
    ours = scaling.to_agent(action)
    assert ours.dtype == np.float32
    assert 0.85 < np.abs(ours).max() < 1  # a twentieth of the range on either side is the agent's own
    np.testing.assert_allclose(scaling.to_task(ours), action, atol=1e-6)
    beyond = np.full((1, 4), 7.0, np.float32)
    np.testing.assert_allclose(scaling.to_task(beyond)[0], scaling.high, atol=1e-6)
    np.testing.assert_array_equal(scaling.to_agent(beyond), np.ones((1, 4)))


class Recorder:
    """One lane that keeps what it is sent."""

    num_envs, spaces = 1, Spaces(2, 1)

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        return {"state": np.array([[3.0, 5.0]], np.float32)}

    def send(self, action: np.ndarray) -> None:
        self.action = action

    def receive(self) -> Step:
        zeros = np.zeros(1, np.float32)
        return Step({"state": np.array([[1.0, 1.0]], np.float32)}, zeros, zeros > 0, zeros > 0, zeros)


OBS = ObservationScaling(np.array([1, 1], np.float32), np.array([2, 4], np.float32))
ACTION = ActionScaling(np.array([-0.2], np.float32), np.array([0.6], np.float32))


@pytest.mark.parametrize("obs", [None, OBS])
@pytest.mark.parametrize("action", [None, ACTION])
def test_an_agent_sees_task_and_data_alike(
    obs: ObservationScaling | None, action: ActionScaling | None
) -> None:
    scaling = Scaling(obs, action)
    inner = Recorder()
    task = scaling.wrap(inner)
    assert (task is inner) == scaling.changes_nothing == (obs is None and action is None)
    np.testing.assert_allclose(task.reset(0)["state"], [[1, 1]] if obs else [[3, 5]])
    task.send(np.array([[0.5]], np.float32))
    np.testing.assert_allclose(inner.action, [[0.4]] if action else [[0.5]], atol=1e-6)
    np.testing.assert_allclose(task.receive().obs["state"], [[0, 0]] if obs else [[1, 1]])
    (seen,) = scaling.episodes([episode(np.array([[0.4]]))])
    np.testing.assert_allclose(seen.action, [[0.5]] if action else [[0.4]], atol=1e-6)
    np.testing.assert_allclose(seen.obs["state"][1], [0.5, 0.5] if obs else [2, 3])


@pytest.mark.parametrize("scaling", [Scaling(), Scaling(OBS), Scaling(None, ACTION), Scaling(OBS, ACTION)])
def test_a_checkpoint_brings_it_back(scaling: Scaling) -> None:
    found = Scaling.of_checkpoint(scaling.metadata())
    assert found.changes_nothing == scaling.changes_nothing
    original = episode(np.array([[0.1], [0.2]]))
    for ours, theirs in zip(found.episodes([original]), scaling.episodes([original]), strict=True):
        np.testing.assert_array_equal(ours.obs["state"], theirs.obs["state"])
        np.testing.assert_array_equal(ours.action, theirs.action)


def test_checkpoints_from_before_change_nothing() -> None:
    assert Scaling.of_checkpoint({}).changes_nothing


def test_a_run_learns_from_and_acts_in_the_datas_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Offline, then online: its buffers hold the agent's units, the simulator is sent the task's."""
    narrow = tmp_path / "narrow.hdf5"
    recorded = load_episodes(DATA)[:4]
    episodes = [dataclasses.replace(each, action=each.action * np.float32(0.25)) for each in recorded]
    write_d4rl(narrow, episodes, {})
    sent = []
    make = d4rl.d4rl_env.make

    def recording(*args, **kwargs):  # type: ignore[no-untyped-def]
        task = make(*args, **kwargs)
        send = task.send
        task.send = lambda action: (sent.append(action.copy()), send(action))
        return task

    monkeypatch.setattr(d4rl.d4rl_env, "make", recording)
    flags = ["--task", "hopper-expert-v2", "--dataset", str(narrow), "--rescale-actions", "--device", "cpu"]
    flags += ["--offline-steps", "4", "--steps", "30", "--eval-every", "10", "--eval-episodes", "2"]
    flags += ["--batch-size", "8", "--agent.hidden", "8", "--agent.bins", "5", "--buffer-capacity", "100"]
    flags += ["--runs-dir", str(tmp_path / "runs")]
    assert main(d4rl.BENCHMARK, ["arsq", *flags]) == 0
    assert "actions mapped from the data's ranges" in capsys.readouterr().out
    (info,) = tmp_path.rglob("run.json")
    checkpoint = load_checkpoint(info.parent / "checkpoints" / "latest.pt")
    scaling = Scaling.of_checkpoint(checkpoint)
    assert scaling.obs is not None
    assert scaling.action is not None
    reach = max(np.abs(each.action).max() for each in episodes)
    assert scaling.action.high.max() <= reach * 1.11
    # The coarsest interval's centre at an agent's 0.8 is well within the data's range.
    assert 0 < np.abs(np.concatenate(sent)).max() <= reach
    stored = checkpoint["trainer"]["replay"]["fields"]["action"].numpy()
    assert 0.8 <= np.abs(stored).max() <= 1
    # What it goes on with is what it had.
    before = len(sent)
    assert main(d4rl.BENCHMARK, ["--resume", str(info.parent), "--steps", "50"]) == 0
    assert np.abs(np.concatenate(sent[before:])).max() <= reach
    before = len(sent)
    monkeypatch.setattr("sys.argv", ["evaluate.py", str(info.parent), "--episodes", "1"])
    assert evaluate.main() == 0
    assert 0 < np.abs(np.concatenate(sent[before:])).max() <= reach
    # A dataset made of it is in the task's units; its buffer is not.
    act = make_dataset.load_policy(checkpoint, Spaces(11, 3), torch.device("cpu"), None)
    chosen = act({"state": np.stack([each.obs["state"][0] for each in episodes])})
    assert np.all((chosen >= scaling.action.low) & (chosen <= scaling.action.high))
    with pytest.raises(UserError, match="does not hold the task's own"):
        make_dataset.replayed(checkpoint, Spaces(11, 3))
