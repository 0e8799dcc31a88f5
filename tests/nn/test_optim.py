import pytest
import torch
from torch import nn

from rlzoo.nn.optim import Adam


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_those_of_pytorchs_fused_adamw(weight_decay: float) -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((2, 17, 33), (2, 1, 33), ())]
    theirs = [nn.Parameter(each.detach().clone()) for each in ours]
    adam = Adam(ours, 1e-3, weight_decay)
    reference = torch.optim.AdamW(theirs, lr=1e-3, weight_decay=weight_decay, fused=True)
    for step in range(20):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        adam.step()
        reference.step()
        if step == 10:  # what it has accumulated moves to another one
            state = adam.state_dict()
            adam = Adam(ours, 1e-3, weight_decay)
            adam.load_state_dict(state)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_state_of_other_parameters_is_refused() -> None:
    state = Adam([nn.Parameter(torch.ones(1))], 1e-3).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch: \(1,\) for \(3,\)"):
        Adam([nn.Parameter(torch.ones(3))], 1e-3).load_state_dict(state)
