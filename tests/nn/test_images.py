"""The image encoder, the random shift and the projections, against their definitions written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos import AGENTS
from algos.arsq import ARSQ, ARSQConfig
from algos.bc import BC, BCConfig
from rlzoo.agent import Agent
from rlzoo.errors import UserError
from rlzoo.nn.images import MultiViewEncoder, ObservationEncoder, Projection, augment, random_shift, shift
from rlzoo.types import Batch, Spaces
from tests.helpers.agent_checks import CPU, PIXELS, make_batch

SMALL: dict[str, Any] = {"hidden": (16, 16), "encoder_channels": (4, 8, 8), "feature_dim": 6}


def images(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------------- augmentation


def test_shift_equals_padding_and_cropping() -> None:
    pixels = images(20, 3, 4, 12, 15)
    down, right = torch.randint(-4, 5, (2, 20, 3))
    moved = shift(pixels, down, right)
    assert moved.dtype == torch.uint8
    padded = np.pad(pixels.numpy(), [(0, 0)] * 3 + [(4, 4)] * 2, mode="edge")
    for row in range(20):
        for view in range(3):
            y, x = 4 + int(down[row, view]), 4 + int(right[row, view])
            expected = padded[row, view, :, y : y + 12, x : x + 15]
            assert np.array_equal(moved[row, view].numpy(), expected)


def test_every_view_of_every_row_draws_a_shift_of_its_own() -> None:
    torch.manual_seed(0)
    # The values say where a pixel came from; in the middle no border interferes.
    y, x = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    pixels = torch.stack([y, x]).to(torch.uint8).expand(500, 2, 2, 20, 20)
    found = random_shift(pixels)[..., 10, 10].to(torch.int64) - 10  # [500, views, (down, right)]
    assert found.unique().tolist() == list(range(-4, 5))
    pairs = found.flatten(0, 1).unique(dim=0)
    assert len(pairs) == 81
    assert 0.05 < (found[:, 0] == found[:, 1]).float().mean() < 0.2  # 1 in 9 by chance


def test_a_batch_is_augmented_before_and_after_the_step_apart_and_left_alone() -> None:
    batch = make_batch(spaces=PIXELS)
    batch = batch._replace(next_obs=batch.obs)
    pristine = batch.obs["pixels"].clone()
    augmented = augment(batch)
    assert torch.equal(batch.obs["pixels"], pristine)
    assert not torch.equal(augmented.obs["pixels"], augmented.next_obs["pixels"])
    assert augmented.obs["state"] is batch.obs["state"]
    states = make_batch()
    assert augment(states) is states


# ------------------------------------------------------------------------------------------------ encoder


def test_encoder_written_out() -> None:
    torch.manual_seed(0)
    encoder, pixels = MultiViewEncoder((2, 6, 24, 24), (4, 8)), images(3, 2, 6, 24, 24)
    for parameter in encoder.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    features = encoder(pixels)
    assert features.shape == (3, encoder.output_dim) == (3, 2 * 8 * 6 * 6)
    for view, cnn in enumerate(encoder.views):
        x = pixels[:, view].float() / 255 - 0.5
        for layer in (0, 3):
            convolution, norm = cnn[layer], cnn[layer + 1]
            x = F.conv2d(x, convolution.weight, convolution.bias, stride=2, padding=1)
            deviation = x - x.mean(1, keepdim=True)
            x = deviation / (deviation.square().mean(1, keepdim=True) + 1e-5).sqrt()
            x = F.silu(norm.weight[:, None, None] * x + norm.bias[:, None, None])
        expected = x.permute(0, 2, 3, 1).flatten(1)
        found = features[:, view * 8 * 36 : (view + 1) * 8 * 36]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_views_share_no_weights() -> None:
    encoder, pixels = MultiViewEncoder((2, 3, 16, 16), (4, 8)), images(3, 2, 3, 16, 16)
    changed = pixels.clone()
    changed[:, 1] = 255 - changed[:, 1]
    first, second = encoder(pixels).chunk(2, -1)
    other_first, other_second = encoder(changed).chunk(2, -1)
    assert torch.equal(first, other_first)
    assert not torch.equal(second, other_second)
    same = encoder(pixels[:, :1].expand(-1, 2, -1, -1, -1)).chunk(2, -1)
    assert not torch.equal(*same)


@pytest.mark.parametrize(("size", "left"), [((84, 84), 25), ((24, 24), 1), ((64, 48), 12), ((31, 17), 1)])
def test_any_size_of_image(size: tuple[int, int], left: int) -> None:
    encoder = MultiViewEncoder((1, 3, *size), (2, 4, 4, 8))
    assert encoder.output_dim == 8 * left
    assert encoder(images(2, 1, 3, *size)).shape == (2, 8 * left)


def test_the_authors_encoder() -> None:
    encoder = MultiViewEncoder((4, 24, 84, 84), ARSQConfig().encoder_channels)
    assert encoder.output_dim == 4 * 256 * 5 * 5
    assert sum(p.numel() for p in encoder.parameters()) == 4 * (
        16 * (24 * 32 + 32 * 64 + 64 * 128 + 128 * 256) + 3 * (32 + 64 + 128 + 256)
    )
    weight = encoder.views[0][3].weight.flatten(1)  # [64, 32 * 16]
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(64), atol=1e-5, rtol=0)


def test_too_small_images_and_empty_widths_are_refused() -> None:
    with pytest.raises(UserError, match="24x12 pixels are too few"):
        MultiViewEncoder((1, 3, 24, 12), (4, 4, 4, 4))
    for agent_type in AGENTS.values():
        with pytest.raises(UserError, match="encoder-channels"):
            agent_type.Config(encoder_channels=(4, 0))


def test_projection_written_out() -> None:
    torch.manual_seed(0)
    projection = Projection(7, 5, 3, ensemble=2)
    for parameter in projection.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(4, 7 + 5 + 2)
    projected = projection(x)
    assert projected.shape == (2, 4, 3 + 3 + 2)
    layers = ((projection.pixels, x[:, :7]), (projection.state, x[:, 7:12]))
    for member in range(2):
        parts = []
        for kind, (layer, inputs) in enumerate(layers):
            weight = layer.weight[3 * member : 3 * member + 3]
            gain, bias = projection.gain[kind, member], projection.bias[kind, member]
            parts.append(F.layer_norm(inputs @ weight.T, (3,), gain, bias).tanh())
        torch.testing.assert_close(projected[member], torch.cat([*parts, x[:, 12:]], -1))


# ------------------------------------------------------------------------------------------------- agents


def make(name: str, spaces: Spaces = PIXELS, **settings: Any) -> Agent:
    torch.manual_seed(0)
    agent_type = AGENTS[name]
    return agent_type(spaces, agent_type.Config(**{**SMALL, **settings}), CPU)


def encoder_weights(agent: Agent) -> list[Tensor]:
    encoder = agent.encoder
    assert isinstance(encoder, ObservationEncoder)
    return [parameter.detach().clone() for parameter in encoder.parameters()]


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_targets_have_projections_but_no_encoder(name: str) -> None:
    agent = make(name)
    convolutions = [key for key, module in agent.named_modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 2 * 3  # views and layers, once
    assert all(key.startswith("encoder.") for key in convolutions)
    projections = [key for key, module in agent.named_modules() if isinstance(module, Projection)]
    targets = sum("target" in key for key in projections)
    assert targets == (0 if name == "bc" else 1 if name == "sac" else len(projections) / 2)


@pytest.mark.parametrize(("name", "updates"), [("dsac-t", 1), ("sac", 1), ("td3", 2)])
def test_the_critics_alone_train_the_encoder(name: str, updates: int) -> None:
    """Up to the actor's first step its learning rate decides about the policy, not about the encoder."""
    agents = [make(name, actor_lr=rate) for rate in (1e-3, 1e-2)]
    before = encoder_weights(agents[0])
    for agent in agents:
        torch.manual_seed(1)
        for update in agent.update_cycle()[:updates]:
            update(make_batch(spaces=PIXELS))
    one, other = (encoder_weights(agent) for agent in agents)
    assert all(map(torch.equal, one, other))
    policies = [list(agent.policy.parameters()) for agent in agents]  # type: ignore[union-attr]
    assert not all(map(torch.equal, *policies))
    assert not any(map(torch.equal, before, one))


@pytest.mark.parametrize("name", ["dsac-t", "sac", "td3"])
def test_the_actor_s_optimiser_holds_no_encoder(name: str) -> None:
    agent = make(name)
    held = {
        key: {id(parameter) for parameter in optimizer.parameters}
        for key, optimizer in agent.optimizers.items()
    }
    encoder = {id(parameter) for parameter in agent.encoder.parameters()}  # type: ignore[union-attr]
    assert encoder <= held["critic"]
    assert not encoder & held["actor"]


def test_both_twins_train_the_encoder_and_each_projects_for_itself() -> None:
    agent = make("arsq", layer_norm=True, activation="silu")
    assert isinstance(agent, ARSQ)
    for _ in range(2):  # the heads start at zero
        agent.update(make_batch(spaces=PIXELS))
    losses = agent.losses(make_batch(seed=1, spaces=PIXELS)).total
    parameters = [*agent.encoder.parameters()]
    one, other, both = (
        torch.autograd.grad(loss, parameters, retain_graph=True)
        for loss in (losses[0], losses[1], losses.sum())
    )
    for first, second, total in zip(one, other, both, strict=True):
        assert first.abs().max() > 0
        assert second.abs().max() > 0
        torch.testing.assert_close(first + second, total, rtol=1e-3, atol=1e-5)
    projection = agent.advantage.projection
    assert projection is not None
    (gradient,) = torch.autograd.grad(losses[0], [projection.pixels.weight])
    assert gradient[:6].abs().max() > 0
    assert not gradient[6:].any()


def test_images_are_encoded_once_and_projected_once_however_many_positions() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    def products(levels: int) -> int:
        agent, batch = make("arsq", levels=levels, bins=3), make_batch(spaces=PIXELS)
        assert isinstance(agent, ARSQ)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            agent.advantage(agent.encoder(batch.obs), agent.advantage.binning.encode(batch.action))
        return int(counter.get_total_flops())

    per_position = 2 * 2 * 12 * (3 * 16 + 16 * 16 + 16 * 3)  # twins, rows; prefix, hidden layer, head
    assert products(4) - products(1) == 9 * per_position


def test_layers_with_layer_norm_written_out() -> None:
    """Linear (no bias)–LayerNorm–SiLU, twice, then a head that starts at zero; prefix and features beside."""
    agent, batch = (
        make("arsq", levels=2, bins=3, layer_norm=True, activation="silu"),
        make_batch(4, 0, PIXELS),
    )
    assert isinstance(agent, ARSQ)
    network = agent.advantage
    codes = network.binning.encode(batch.action)
    seen = agent.encoder(batch.obs)
    assert not agent.value(seen).any()
    torch.testing.assert_close(network(seen, codes).exp(), torch.full((2, 6, 4, 3), (1 / 3) ** 0.1))
    for parameter in agent.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    seen = agent.encoder(batch.obs)
    advantage, value = network(seen, codes), agent.value(seen)
    assert network.projection is not None
    prefixes = network.prefix(codes)  # [T, B, D]
    for twin in range(2):
        for position in range(6):
            x = torch.cat([network.projection(seen)[twin], prefixes[position]], -1)
            for weight, gain, bias in zip(network.weights, network.gains, network.biases, strict=True):
                x = F.silu(F.layer_norm(x @ weight[twin, 0], (16,), gain[twin, 0, 0], bias[twin, 0, 0]))
            x = x @ network.head_weight[twin, position] + network.head_bias[twin, position]
            torch.testing.assert_close(advantage[twin, position], 0.1 * (x / 0.1).log_softmax(-1))
        projection, mlp = agent.value
        x = projection(seen)[twin]
        for weight, gain, bias in zip(mlp.weights, mlp.gains, mlp.biases, strict=True):
            x = F.silu(F.layer_norm(x @ weight[twin], (16,), gain[twin, 0], bias[twin, 0]))
        torch.testing.assert_close(value[twin], x @ mlp.head_weight[twin] + mlp.head_bias[twin])


@pytest.mark.learning
@pytest.mark.parametrize("policy", ["gaussian", "arsq"])
def test_imitation_finds_a_bright_dot(policy: Any) -> None:
    """The action is where the dot is, in images the agent has not seen; the state says nothing."""
    torch.manual_seed(0)
    spaces = Spaces(state_dim=1, action_dim=2, pixels=(1, 3, 24, 24))
    config = BCConfig(
        policy=policy, levels=2, bins=5, hidden=(64,), encoder_channels=(8, 16, 16), feature_dim=32, lr=3e-3
    )
    agent = BC(spaces, config, CPU)

    def draw(rows: int) -> Batch:
        place = torch.randint(5, 19, (rows, 2))  # a shift of 4 leaves it in the image
        pixels = torch.full((rows, 1, 3, 24, 24), 40, dtype=torch.uint8)
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            pixels[torch.arange(rows), :, :, place[:, 0] + y, place[:, 1] + x] = 220
        obs = {"state": torch.zeros(rows, 1), "pixels": pixels}
        ones = torch.ones(rows)
        return Batch(obs, (place - 11.5) / 8, ones, ones, obs, ones)

    for _ in range(200):
        agent.update(draw(64))
    batch = draw(200)
    error = (agent.act(batch.obs, deterministic=True) - batch.action).abs().mean()
    assert error < 0.25  # guessing the middle: 0.44; a shift of 4 pixels is 0.5


def test_presets_of_rlbench_build() -> None:
    from experiments.runner.experiment import default_experiment
    from experiments.train_rlbench import RLBenchSuite

    for observations in ("pixels", "state"):
        suite, pixels = RLBenchSuite(["--observations", observations]), observations == "pixels"
        for name in AGENTS:
            experiment = default_experiment(suite, name, "reach_target")
            assert experiment.train.batch_size == 512 or name == "bc"
            assert experiment.train.steps == 30_250
        arsq = default_experiment(suite, "arsq", "reach_target").agent
        assert (arsq.levels, arsq.bins, arsq.act_with) == (3, 5, "target")
        assert arsq.layer_norm == pixels
        assert replace(arsq, layer_norm=False, activation="tanh") == arsq or pixels
