"""What lies between a task and an agent: standardised observations, rescaled actions."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from algos import AGENTS
from envs.d4rl import env as d4rl_env
from experiments import evaluate, make_dataset
from experiments.runner.launch import main
from experiments.train_d4rl import D4RLSuite
from rlzoo.actions import ActionRange
from rlzoo.data.load import load_episodes
from rlzoo.data.scaling import ObservationScaling, Scaling, action_range_of
from rlzoo.data.write import write_d4rl
from rlzoo.errors import UserError
from rlzoo.policy import Policy
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.types import Episode, Spaces, Step

DATA = Path(__file__).parents[2] / "results" / "datasets" / "hopper-demos.hdf5"


def episode(action: np.ndarray) -> Episode:
    steps = len(action)
    states = np.arange(2 * (steps + 1), dtype=np.float32).reshape(-1, 2)
    return Episode({"state": states}, action.astype(np.float32), np.zeros(steps, np.float32), False)


def test_the_actions_range_is_the_datas_and_a_twentieth_more_within_the_tasks() -> None:
    episodes = [episode(np.array([[-0.5, -1.0, 0.3], [0.1, 0.0, 0.3]])), episode(np.array([[0.5, 1.0, 0.3]]))]
    scaling = action_range_of(episodes)
    np.testing.assert_allclose(scaling.low, [-0.55, -1, 0.2995], atol=1e-6)
    np.testing.assert_allclose(scaling.high, [0.55, 1, 0.3005], atol=1e-6)


@pytest.mark.parametrize("bound", [-1.0, 1.0])
def test_a_dimension_that_rests_at_a_bound_has_a_width(bound: float) -> None:
    action = np.full((3, 1), bound)
    scaling = action_range_of([episode(action)])
    assert scaling.low < scaling.high
    assert scaling.to_unit(action) == pytest.approx(bound)
    assert np.abs(scaling.from_unit(np.array([[-1.0], [1.0]]))).max() <= 1


def test_actions_go_there_and_back() -> None:
    rng = np.random.default_rng(0)
    action = rng.uniform(-0.9, 0.4, (50, 4)).astype(np.float32)
    scaling = action_range_of([episode(action)])
    ours = scaling.to_unit(action)
    assert ours.dtype == np.float32
    assert 0.85 < np.abs(ours).max() < 1  # a twentieth of the range on either side is the agent's own
    np.testing.assert_allclose(scaling.from_unit(ours), action, atol=1e-6)
    beyond = np.full((1, 4), 7.0, np.float32)
    np.testing.assert_allclose(scaling.from_unit(beyond)[0], scaling.high, atol=1e-6)
    np.testing.assert_array_equal(scaling.to_unit(beyond), np.ones((1, 4)))


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
ACTION = ActionRange(np.array([-0.2], np.float32), np.array([0.6], np.float32))


@pytest.mark.parametrize("obs", [None, OBS])
@pytest.mark.parametrize("action", [None, ACTION])
def test_an_agent_sees_task_and_data_alike(
    obs: ObservationScaling | None, action: ActionRange | None
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


@dataclasses.dataclass
class Rescaled:
    """A run on demonstrations whose actions keep to a quarter of the task's range."""

    run_dir: Path
    episodes: list[Episode]
    reach: float  # the largest action in the data


@pytest.fixture(scope="module")
def rescaled(tmp_path_factory: pytest.TempPathFactory) -> Rescaled:
    """Offline, then online."""
    folder = tmp_path_factory.mktemp("rescaled")
    recorded = load_episodes(DATA)[:4]
    episodes = [dataclasses.replace(each, action=each.action * np.float32(0.25)) for each in recorded]
    write_d4rl(folder / "narrow.hdf5", episodes, {})
    flags = ["--task", "hopper-expert-v2", "--dataset", str(folder / "narrow.hdf5"), "--rescale-actions"]
    flags += ["--offline-steps", "4", "--steps", "30", "--eval-every", "10", "--eval-episodes", "2"]
    flags += ["--batch-size", "8", "--agent.hidden", "8", "--agent.bins", "5", "--buffer-capacity", "100"]
    flags += ["--device", "cpu", "--runs-dir", str(folder / "runs")]
    assert main(D4RLSuite, ["arsq", *flags]) == 0
    (info,) = folder.rglob("run.json")
    return Rescaled(info.parent, episodes, max(float(np.abs(each.action).max()) for each in episodes))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """What simulators are sent."""
    actions: list[np.ndarray] = []
    make = d4rl_env.make

    def recording(*args, **kwargs):  # type: ignore[no-untyped-def]
        task = make(*args, **kwargs)
        send = task.send
        task.send = lambda action: (actions.append(action.copy()), send(action))
        return task

    monkeypatch.setattr(d4rl_env, "make", recording)
    return actions


@pytest.fixture
def extreme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents that always choose the bounds of what they can do."""

    def act(self, obs, *, deterministic):  # type: ignore[no-untyped-def]
        return torch.tensor([[-1.0, 1.0, -1.0]]).expand(len(obs["state"]), -1)

    monkeypatch.setattr(AGENTS["arsq"], "act", act)


def scaling_of(run: Rescaled, name: str = "latest.pt") -> tuple[ActionRange, dict]:
    checkpoint = load_checkpoint(run.run_dir / "checkpoints" / name)
    scaling = Scaling.of_checkpoint(checkpoint)
    assert scaling.obs is not None
    assert scaling.action is not None
    return scaling.action, checkpoint


def test_a_runs_buffers_hold_the_agents_units(rescaled: Rescaled) -> None:
    scaling, checkpoint = scaling_of(rescaled)
    assert rescaled.reach < scaling.high.max() <= rescaled.reach * 1.11
    expected = np.concatenate([scaling.to_unit(each.action) for each in rescaled.episodes])
    assert 0.9 < np.abs(expected).max() < 0.92
    # Besides the recorded actions a buffer holds a row for every episode's end, and online steps.
    for name in ("demos", "replay"):
        stored = checkpoint["trainer"][name]["fields"]["action"].numpy().reshape(-1, 3)
        assert {tuple(row) for row in expected.round(4)} <= {tuple(row) for row in stored.round(4)}


@pytest.mark.usefixtures("extreme")
def test_a_rescaled_run_acts_in_the_tasks_units(
    rescaled: Rescaled, sent: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it goes on, in its evaluations, and when its last and its best policy are played later."""
    scaling, _ = scaling_of(rescaled)
    bounds = [scaling.low[0], scaling.high[1], scaling.low[2]]
    copied = tmp_path / "run"
    shutil.copytree(rescaled.run_dir, copied)

    def check() -> None:
        assert len(sent) > 5
        for action in sent:
            np.testing.assert_allclose(action, np.tile(bounds, (len(action), 1)), atol=1e-6)
        sent.clear()

    assert main(D4RLSuite, ["--resume", str(copied), "--steps", "50"]) == 0
    check()
    for checkpoint in ("latest", "best"):
        flags = ["evaluate.py", str(copied), "--episodes", "1", "--checkpoint", checkpoint]
        monkeypatch.setattr("sys.argv", flags)
        assert evaluate.main() == 0
        check()


@pytest.mark.usefixtures("extreme")
def test_what_is_recorded_of_a_rescaled_run_is_in_the_tasks_units(rescaled: Rescaled) -> None:
    scaling, checkpoint = scaling_of(rescaled, "best.pt")
    obs = {"state": np.zeros((500, 11), np.float32)}
    policy = Policy.of_checkpoint(checkpoint, torch.device("cpu"))
    act = make_dataset.noisy(policy, 0)
    bounds = np.array([scaling.low[0], scaling.high[1], scaling.low[2]])
    np.testing.assert_allclose(act(obs), np.tile(bounds, (500, 1)), atol=1e-6)
    np.testing.assert_allclose(policy.act(obs["state"]), act(obs))  # D4RL's own units are [-1, 1]
    noisy = make_dataset.noisy(policy, 0.02)(obs)
    np.testing.assert_allclose((noisy - bounds).std(0), 0.02, rtol=0.2)
    with pytest.raises(UserError, match="does not hold the task's own"):
        make_dataset.replayed(scaling_of(rescaled)[1], Spaces(11, 3))
