"""Two networks that are one but for a shift of their input (Kindermans et al. 2017): which maps see that?"""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.core.catalogue import find
from cutaway.core.model import Model
from cutaway.core.space import rows
from cutaway.testing.models import inputs_for, tiny_model

SHIFT = torch.tensor([0.7, -1.1, 0.4, 0.9], dtype=torch.float64)


class Shifted(nn.Module):
    """The same answers for inputs that have a constant added."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x - SHIFT)


def both(name, **options):
    """The maps of the network and of its shifted twin, for inputs that they answer alike."""
    plain = tiny_model("mlp")
    other = Model(Shifted(plain.module), rows(4, low=-20, high=20))
    x = inputs_for(plain, 3)
    assert_close(other.run(x + SHIFT).output, plain.run(x).output)
    method, zero = find(name).function, torch.zeros_like(x[:1])
    given = ({"baseline": zero}, {"baseline": zero + SHIFT}) if options.get("moved") else ({}, {})
    if options.get("fixed"):
        given = ({"baseline": zero}, {"baseline": zero})
    return method(plain, x, 1, **given[0]).values, method(other, x + SHIFT, 1, **given[1]).values


@pytest.mark.parametrize("name", ["gradient", "guided_backprop", "deconvnet"])
def test_a_slope_does_not_see_the_shift(name):
    here, there = both(name)
    assert_close(here, there, atol=1e-11, rtol=0)


@pytest.mark.parametrize("name", ["integrated_gradients", "deeplift"])
def test_a_difference_does_not_see_it_if_the_baseline_moves_along(name):
    here, there = both(name, moved=True)
    assert_close(here, there, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["integrated_gradients", "deeplift"])
def test_with_a_baseline_that_stays_the_shift_is_explained_as_well(name):
    here, there = both(name, fixed=True)
    assert (here - there).abs().max() > 0.01


def test_a_product_with_the_input_explains_the_shift():
    here, there = both("input_x_gradient")
    assert (here - there).abs().max() > 0.01
