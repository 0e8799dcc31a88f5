"""Properties of the coarse-to-fine binning."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algos.binning import MAX_INTERVALS, Binning
from rlzoo.errors import UserError

ROUNDING = 2.0**-22  # a few units in the last place of numbers up to 1


@st.composite
def binnings(draw: st.DrawFn) -> Binning:
    levels = draw(st.integers(1, 6))
    bins = draw(st.integers(2, 41))
    while bins**levels > 20_000:
        levels -= 1
    return Binning(levels, bins)


actions = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20)


@given(binnings(), actions)
def test_decoded_action_is_within_half_an_interval(binning: Binning, values: list[float]) -> None:
    action = torch.tensor([values])
    decoded = binning.decode(binning.encode(action))
    assert decoded.dtype == torch.float32
    assert (decoded - action).abs().max() <= 1 / binning.intervals + ROUNDING
    assert decoded.abs().max() < 1


@settings(deadline=None, max_examples=30)
@given(binnings())
def test_every_code_survives_decode_and_encode(binning: Binning) -> None:
    digits = [torch.arange(binning.bins)] * binning.levels
    codes = torch.cartesian_prod(*digits).view(-1, binning.levels, 1)  # all N^L of them
    assert torch.equal(binning.encode(binning.decode(codes)), codes)


@pytest.mark.parametrize(("levels", "bins"), [(20, 2), (7, 7), (2, 1024)])
def test_every_code_survives_at_the_finest_allowed(levels: int, bins: int) -> None:
    binning = Binning(levels, bins)
    assert binning.intervals > MAX_INTERVALS / 2
    codes = torch.randint(bins, (50_000, levels, 1))
    assert torch.equal(binning.encode(binning.decode(codes)), codes)


@given(binnings(), actions)
def test_intervals_nest(binning: Binning, values: list[float]) -> None:
    action = torch.tensor([values])
    centers = binning.centers(binning.encode(action))  # [L+1, 1, D]
    assert torch.equal(centers[0], torch.zeros_like(action))
    for level in range(binning.levels):
        half, finer_half = (1 / binning.bins**depth for depth in (level, level + 1))
        distance = (centers[level + 1] - centers[level]).abs()
        assert (distance <= half - finer_half + ROUNDING).all()  # inside the coarser interval
        assert ((action - centers[level]).abs() <= half + ROUNDING).all()


@given(binnings(), actions)
def test_the_first_levels_do_not_depend_on_the_later(binning: Binning, values: list[float]) -> None:
    action = torch.tensor([values])
    coarse = Binning(1, binning.bins)
    expected = coarse.encode(action)[:, 0]
    difference = (binning.encode(action)[:, 0] - expected).abs()
    near = ((action + 1) * binning.bins / 2 - ((action + 1) * binning.bins / 2).round()).abs() < 1e-5
    assert ((difference == 0) | near).all()


@given(binnings())
def test_edges_belong_to_the_outermost_intervals(binning: Binning) -> None:
    edges = torch.tensor([[-1.0, 1.0, torch.finfo(torch.float32).min, torch.finfo(torch.float32).max]])
    last = binning.bins - 1
    expected = torch.tensor([0, last, 0, last]).expand(1, binning.levels, 4)
    assert torch.equal(binning.encode(edges.clamp(-2, 2)), expected)
    just_inside = torch.nextafter(edges[:, :2], torch.zeros(1, 2))
    assert torch.equal(binning.encode(just_inside), expected[..., :2])


@settings(deadline=None)
@given(binnings(), st.integers(0, 10**6))
def test_a_border_goes_to_a_neighbour(binning: Binning, number: int) -> None:
    border = 1 + number % (binning.intervals - 1)
    action = torch.tensor([[2 * border / binning.intervals - 1]])
    codes = binning.encode(action)[0, :, 0]
    index = sum(int(code) * binning.bins ** (binning.levels - 1 - i) for i, code in enumerate(codes))
    assert index in (border - 1, border)
    exact = binning.bins & (binning.bins - 1) == 0  # a power of two: float32 holds the border itself
    assert not exact or index == border


@given(binnings(), actions)
def test_clipping_as_the_reference_does_changes_nothing(binning: Binning, values: list[float]) -> None:
    action = torch.tensor([values])
    clipped = action.clamp(-0.99999, 0.99999)
    assert torch.equal(binning.encode(action), binning.encode(clipped))


def test_leading_dimensions_are_kept() -> None:
    binning = Binning(2, 5)
    action = torch.rand(3, 4, 6) * 2 - 1
    codes = binning.encode(action)
    assert codes.shape == (3, 4, 2, 6)
    assert codes.dtype == torch.int64
    assert binning.centers(codes).shape == (3, 3, 4, 6)
    assert torch.equal(binning.decode(codes)[1], binning.decode(codes[1]))


@pytest.mark.parametrize(("levels", "bins"), [(0, 5), (1, 1), (21, 2)])
def test_impossible_sizes_are_refused(levels: int, bins: int) -> None:
    with pytest.raises(UserError, match="levels"):
        Binning(levels, bins)
