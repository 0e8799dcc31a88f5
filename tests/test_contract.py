"""What every agent owes the training loop."""

import copy
import io

import pytest
import torch
from agent_checks import CPU, SPACES, check_update_never_waits_for_the_device, make_batch
from torch import Tensor

from experiments.presets import AGENTS
from rlzoo.agent import Agent
from rlzoo.capture import capture
from rlzoo.replay import to_device


def make_agent(name: str, seed: int = 0) -> Agent:
    torch.manual_seed(seed)
    entry = AGENTS[name]
    return entry.make(SPACES, entry.config(hidden=(16, 16)), CPU)


@pytest.fixture(params=sorted(AGENTS))
def name(request: pytest.FixtureRequest) -> str:
    agent: str = request.param
    return agent


def run_updates(agent: Agent, first: int, last: int) -> None:
    cycle = agent.update_cycle()
    for index in range(first, last):
        cycle[index % len(cycle)](make_batch(seed=index))


def test_actions_have_the_right_shape_and_range(name: str) -> None:
    agent = make_agent(name)
    obs = {"state": 100 * torch.randn(7, SPACES.state_dim)}
    for deterministic in (True, False):
        action = agent.act(obs, deterministic=deterministic)
        assert action.shape == (7, SPACES.action_dim)
        assert action.dtype == torch.float32
        assert not action.requires_grad
        assert action.abs().max() <= 1


def test_acting_changes_nothing_and_the_deterministic_action_draws_nothing(name: str) -> None:
    agent = make_agent(name)
    before = copy.deepcopy(agent.state_dict())
    obs = {"state": torch.randn(7, SPACES.state_dim)}
    random_state = torch.get_rng_state()
    first = agent.act(obs, deterministic=True)
    assert torch.equal(random_state, torch.get_rng_state())
    agent.act(obs, deterministic=False)
    assert torch.equal(first, agent.act(obs, deterministic=True))
    assert_same_state(before, agent.state_dict())


def test_metrics_are_detached_scalars_named_by_their_tags(name: str) -> None:
    agent = make_agent(name)
    for update in agent.update_cycle():
        metrics = update(make_batch())
        assert any(tag.startswith("loss/") for tag in metrics)
        for tag, value in metrics.items():
            assert tag.split("/")[0] in {"loss", "value", "policy"}
            assert value.shape == ()
            assert not value.requires_grad
            assert torch.isfinite(value)


def test_updates_move_every_trained_weight_and_leave_the_batch_alone(name: str) -> None:
    agent = make_agent(name)
    before = {key: value.clone() for key, value in agent.named_parameters()}
    batch = make_batch()
    pristine = copy.deepcopy(batch)
    cycle = agent.update_cycle()
    for _ in range(3):
        for update in cycle:
            update(batch)
    torch.testing.assert_close(batch, pristine, rtol=0, atol=0)
    unmoved = [key for key, value in agent.named_parameters() if torch.equal(value, before[key])]
    assert unmoved == []


def test_an_update_never_waits_for_the_host(name: str) -> None:
    check_update_never_waits_for_the_device(lambda: make_agent(name))


def test_a_saved_agent_goes_on_exactly(name: str) -> None:
    straight = make_agent(name)
    run_updates(straight, 0, 5)
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    random_state = torch.get_rng_state()
    run_updates(straight, 5, 9)
    file.seek(0)
    resumed = make_agent(name, seed=1)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    torch.set_rng_state(random_state)
    run_updates(resumed, 5, 9)
    assert_same_state(straight.state_dict(), resumed.state_dict())


def test_equal_seeds_make_equal_agents(name: str) -> None:
    agents = [make_agent(name, seed=3) for _ in range(2)]
    for agent in agents:
        torch.manual_seed(4)
        run_updates(agent, 0, 4)
    assert_same_state(agents[0].state_dict(), agents[1].state_dict())


def test_a_state_of_another_shape_is_refused(name: str) -> None:
    entry = AGENTS[name]
    other = entry.make(SPACES, entry.config(hidden=(8, 8)), CPU)
    with pytest.raises(RuntimeError, match="size mismatch"):
        make_agent(name).load_state_dict(other.state_dict())


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
def test_captured_updates_equal_eager_ones_on_a_gpu(name: str) -> None:
    device = torch.device("cuda")
    states = []
    for mode in ("off", "auto"):
        torch.manual_seed(0)
        entry = AGENTS[name]
        agent = entry.make(SPACES, entry.config(hidden=(16, 16)), device)
        torch.cuda.manual_seed(0)
        cycle = [capture(update, device, mode) for update in agent.update_cycle()]  # type: ignore[arg-type]
        for index in range(20):
            cycle[index % len(cycle)](to_device(make_batch(seed=index), device))
        states.append(agent.state_dict())
    for key, value in states[0].items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, states[1][key], rtol=1e-4, atol=1e-5)
