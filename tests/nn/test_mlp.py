"""Products with few outputs."""

import pytest
import torch

from rlzoo.nn.mlp import narrow_linear


@pytest.mark.parametrize("outputs", [1, 2, 7])
def test_narrow_linear_and_its_derivatives(outputs: int) -> None:
    bias, x, weight = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((3, 1, outputs), (3, 4, 5), (3, 5, outputs))
    )
    torch.testing.assert_close(narrow_linear(bias, x, weight), bias + x @ weight)
    assert torch.autograd.gradcheck(narrow_linear, (bias, x, weight))


def test_narrow_linear_where_heads_share_their_input() -> None:
    bias, x, weight = torch.randn(6, 1, 2), torch.randn(3, 1, 4, 5), torch.randn(6, 5, 2, requires_grad=True)
    shared = x.expand(-1, 2, -1, -1).flatten(0, 1)
    narrow_linear(bias, shared, weight).square().sum().backward()
    computed, weight.grad = weight.grad, None
    (bias + shared @ weight).square().sum().backward()
    torch.testing.assert_close(computed, weight.grad)
