"""What every agent owes the training loop, with states and with images."""

import copy
import dataclasses
import io
import math

import pytest
import torch
from torch import Tensor

from algos import AGENTS
from rlzoo.agent import Agent
from rlzoo.capture import capture, capture_sampling
from rlzoo.errors import UserError
from rlzoo.replay import map_batch
from rlzoo.train import TrainConfig
from rlzoo.types import Batch, Spaces
from tests.helpers.agent_checks import (
    CPU,
    PIXELS,
    SPACES,
    check_update_never_waits_for_the_device,
    make_batch,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """An agent with its observations."""

    name: str
    spaces: Spaces

    def make(self, seed: int = 0, device: torch.device = CPU, hidden: tuple[int, ...] = (16, 16)) -> Agent:
        torch.manual_seed(seed)
        agent_type = AGENTS[self.name]
        images = {"encoder_channels": (4, 8, 8), "feature_dim": 6} if agent_type.sees_images else {}
        return agent_type(self.spaces, agent_type.Config(hidden=hidden, **images), device)

    def batch(self, rows: int = 12, seed: int = 0) -> Batch:
        return make_batch(rows, seed, self.spaces)

    def run_updates(self, agent: Agent, first: int, last: int) -> None:
        cycle = agent.update_cycle()
        for index in range(first, last):
            cycle[index % len(cycle)](self.batch(seed=index))


def cases() -> list[Case]:
    """Every agent with states, and with images if it sees them."""
    return [
        Case(name, spaces)
        for spaces in (SPACES, PIXELS)
        for name, agent_type in sorted(AGENTS.items())
        if spaces.pixels is None or agent_type.sees_images
    ]


@pytest.fixture(
    params=cases(), ids=lambda case: f"{case.name}-{'pixels' if case.spaces.pixels else 'states'}"
)
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    return chosen


def test_actions_have_the_right_shape_and_range(case: Case) -> None:
    agent, obs = case.make(), case.batch(7).obs
    obs["state"] *= 100
    for deterministic in (True, False):
        action = agent.act(obs, deterministic=deterministic)
        assert action.shape == (7, case.spaces.action_dim)
        assert action.dtype == torch.float32
        assert not action.requires_grad
        assert action.abs().max() <= 1


def test_acting_changes_nothing_and_the_deterministic_action_draws_nothing(case: Case) -> None:
    agent, obs = case.make(), case.batch(7).obs
    before = copy.deepcopy(agent.state_dict())
    random_state = torch.get_rng_state()
    first = agent.act(obs, deterministic=True)
    assert torch.equal(random_state, torch.get_rng_state())
    agent.act(obs, deterministic=False)
    assert torch.equal(first, agent.act(obs, deterministic=True))
    assert_same_state(before, agent.state_dict())


def test_metrics_are_detached_scalars_named_by_their_tags(case: Case) -> None:
    agent = case.make()
    for update in agent.update_cycle():
        metrics = update(case.batch())
        assert any(tag.startswith("loss/") for tag in metrics)
        for tag, value in metrics.items():
            assert tag.split("/")[0] in {"loss", "value", "policy"}
            assert value.shape == ()
            assert not value.requires_grad
            assert torch.isfinite(value)


def test_updates_move_every_trained_weight_and_leave_the_batch_alone(case: Case) -> None:
    agent = case.make()
    before = {key: value.clone() for key, value in agent.named_parameters()}
    batch = case.batch()
    pristine = copy.deepcopy(batch)
    cycle = agent.update_cycle()
    for _ in range(3):
        for update in cycle:
            update(batch)
    torch.testing.assert_close(batch, pristine, rtol=0, atol=0)
    unmoved = [key for key, value in agent.named_parameters() if torch.equal(value, before[key])]
    assert unmoved == []


def test_an_update_never_waits_for_the_host(case: Case) -> None:
    check_update_never_waits_for_the_device(case.make, case.spaces)


def test_a_saved_agent_goes_on_exactly(case: Case) -> None:
    straight = case.make()
    case.run_updates(straight, 0, 5)
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    random_state = torch.get_rng_state()
    case.run_updates(straight, 5, 9)
    file.seek(0)
    resumed = case.make(seed=1)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    torch.set_rng_state(random_state)
    case.run_updates(resumed, 5, 9)
    assert_same_state(straight.state_dict(), resumed.state_dict())


def test_equal_seeds_make_equal_agents(case: Case) -> None:
    agents = [case.make(seed=3) for _ in range(2)]
    for agent in agents:
        torch.manual_seed(4)
        case.run_updates(agent, 0, 4)
    assert_same_state(agents[0].state_dict(), agents[1].state_dict())


def test_a_state_of_another_shape_is_refused(case: Case) -> None:
    other = case.make(hidden=(8, 8))
    with pytest.raises(RuntimeError, match="size mismatch"):
        case.make().load_state_dict(other.state_dict())


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_no_setting_is_what_no_run_can_use(name: str) -> None:
    """Not a number anywhere, a negative learning rate, decay, weight or noise, a moving average beyond 1."""
    config = AGENTS[name].Config
    floats = {field.name for field in dataclasses.fields(config) if isinstance(field.default, float)}
    floats |= {name for name in ("advantage_tau", "target_entropy") if hasattr(config, name)}
    wrong = [(setting, math.nan) for setting in floats]
    ends = ("lr", "weight", "decay", "margin", "noise", "clip")
    wrong += [(setting, -0.1) for setting in floats if setting.endswith(ends)]
    wrong += [(setting, value) for setting in floats if setting.endswith("tau") for value in (0.0, 1.1)]
    assert len(wrong) > len(floats)
    for setting, value in wrong:
        with pytest.raises(UserError, match=setting.replace("_", "[_-]")):
            config(**{setting: value})


# Another value of each setting that may be idle.
OTHER = {
    "advantage_tau": 0.5,
    "levels": 2,
    "bins": 7,
    "temperature": 0.3,
    "order": "dimension",
    "conditioning": "none",
    "greedy": "median",
    "trunk": "separate",
    "state_layers": 1,
    "layer_norm": True,
    "loss": "mse",
    "log_std_range": (-0.2, 0.1),
    "action_limit": 0.5,
    "v_min": -3.0,
    "v_max": 9.0,
    "dominance_weight": 50.0,
    "target_entropy": 30.0,
    "temperature_lr": 0.5,
    "fixed_td_bound": 0.01,
    "running_std_rate": 0.9,
}


@pytest.mark.parametrize(
    ("name", "settings", "awake"),
    [
        ("arsq", {}, {"act_with": "target"}),
        ("bc", {}, {"policy": "arsq", "levels": 3, "bins": 5}),
        ("bc", {"policy": "arsq"}, {"policy": "gaussian"}),
        ("bc", {"loss": "mse"}, {"loss": "likelihood"}),
        ("cqn", {"atoms": 1}, {"atoms": 5}),
        ("sac", {"automatic_temperature": False}, {"automatic_temperature": True}),
        ("dsac-t", {}, {"variance_based_adjustment": False}),
        ("dsac-t", {"automatic_temperature": False}, {"automatic_temperature": True}),
        ("dsac", {}, {"variance_based_adjustment": True}),
    ],
)
def test_settings_called_idle_change_no_action_and_others_do(
    name: str, settings: dict[str, object], awake: dict[str, object]
) -> None:
    agent_type = AGENTS[name]

    def acts(**changes: object) -> Tensor:
        torch.manual_seed(0)
        agent = agent_type(SPACES, agent_type.Config(hidden=(16, 16), **changes), CPU)
        for index in range(8):
            for update in agent.update_cycle():
                update(make_batch(seed=index))
        return agent.act(make_batch(200).obs, deterministic=True)

    plain, woken = acts(**settings), acts(**settings | awake)
    still_idle = agent_type.Config(**settings | awake).idle()
    named = [key.removeprefix("agent.") for key in agent_type.Config(**settings).idle() if "agent." in key]
    assert named
    for setting in named:
        change = {setting: OTHER[setting]}
        assert torch.equal(plain, acts(**settings | change)), setting
        if f"agent.{setting}" not in still_idle:
            assert not torch.equal(woken, acts(**settings | awake | change)), setting


def test_bc_makes_no_use_of_what_values_are_learned_from() -> None:
    def state(batch: Batch) -> dict[str, object]:
        agent = Case("bc", SPACES).make()
        for update in agent.update_cycle():
            update(batch)
        return agent.state_dict()

    batch = make_batch()
    changed = batch._replace(reward=2 * batch.reward, discount=0 * batch.discount)
    assert_same_state(dict(state(batch)), dict(state(changed)))
    idle = {key.removeprefix("train.") for key in AGENTS["bc"].Config().idle() if "train." in key}
    assert idle <= {field.name for field in dataclasses.fields(TrainConfig)}


def assert_same_state(one: object, other: object) -> None:
    """Equal to the last bit, through dicts and lists."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert isinstance(other, dict)
        assert list(one) == list(other)
        for key in one:
            assert_same_state(one[key], other[key])
    elif isinstance(one, list):
        assert isinstance(other, list)
        for left, right in zip(one, other, strict=True):
            assert_same_state(left, right)
    elif isinstance(one, Tensor):
        assert isinstance(other, Tensor)
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_updates_equal_eager_ones_on_a_gpu(case: Case) -> None:
    device = torch.device("cuda")
    states = []
    for mode in ("off", "auto"):
        agent = case.make(device=device)
        torch.cuda.manual_seed(0)
        cycle = [capture(update, device, mode) for update in agent.update_cycle()]  # type: ignore[arg-type]
        for index in range(20):
            cycle[index % len(cycle)](map_batch(lambda t: t.to(device), case.batch(seed=index)))
        states.append(agent.state_dict())
    for key, value in states[0].items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, states[1][key], rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_actions_are_the_newest_policys_on_a_gpu(case: Case) -> None:
    """The same tensors are filled anew and networks change in between; deterministic where it can be."""
    device = torch.device("cuda")
    agent = case.make(device=device)
    obs = {name: value.to(device) for name, value in case.batch(seed=0).obs.items()}
    act = capture_sampling(agent, device)
    for seed in range(8):
        for name, value in case.batch(seed=seed).obs.items():
            obs[name].copy_(value)
        drawn = act(obs).clone()
        assert drawn.shape == agent.act(obs, deterministic=True).shape
        assert float(drawn.abs().max()) <= 1
    with torch.no_grad():  # from now on every action is the same, whatever is seen
        for parameter in agent.parameters():
            parameter.zero_()
    torch.cuda.manual_seed(0)
    spread = torch.stack([act(obs).clone() for _ in range(50)]).mean(0)
    expected = torch.stack([agent.act(obs, deterministic=False) for _ in range(50)]).mean(0)
    torch.testing.assert_close(spread, expected, atol=0.6, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_update_reads_a_batch_that_is_filled_anew(case: Case) -> None:
    device = torch.device("cuda")
    states = []
    for mode in ("off", "auto"):
        agent = case.make(device=device)
        torch.cuda.manual_seed(0)
        cycle = [capture(update, device, mode) for update in agent.update_cycle()]  # type: ignore[arg-type]
        batch = map_batch(lambda t: t.to(device), case.batch(seed=0))
        for index in range(12):
            map_batch(lambda target, source: target.copy_(source), batch, case.batch(seed=index))
            cycle[index % len(cycle)](batch)
        states.append(agent.state_dict())
    for key, value in states[0].items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, states[1][key], rtol=1e-4, atol=1e-5)
