"""Gradients equal plain autograd, at the input and inside."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.space import rows
from cutaway.testing import nets
from cutaway.testing.answers import first_tensor
from cutaway.testing.models import inputs_for, tiny_model, tiny_models
from cutaway.testing.troubled import WritesInput

MODELS = {name: model for name, model in tiny_models().items() if name != "text"}


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_at_the_input_is_that_of_autograd(name):
    model = MODELS[name]
    x = inputs_for(model, 9)
    found = model.gradient(x, [k % 3 for k in range(9)])
    leaf = x.clone().requires_grad_()
    out = first_tensor(model.module(model.space.normalised(leaf)))
    (expected,) = torch.autograd.grad(out[torch.arange(9), torch.arange(9) % 3].sum(), leaf)
    assert_close(found.slope, expected, rtol=1e-10, atol=1e-12)
    assert_close(found.value, x)
    assert_close(found.score, out.detach()[torch.arange(9), torch.arange(9) % 3])
    assert not found.slope.requires_grad
    assert not x.requires_grad


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("mlp", "first"),
        ("mlp_inplace", "first"),
        ("conv", "conv2"),
        ("conv", "bn1"),
        ("residual", "stem"),
        ("residual", "block1"),
        ("lstm", "rnn/0"),
        ("gru_batch_second", "rnn/0"),
        ("attention_batch_second", "attn/0"),
        ("encoder", "layer"),
        ("reused", "act#0"),
        ("reused", "act#1"),
        ("library_output", "part"),
        ("dataclass_output", "part/logits"),
        ("text", "input"),
    ],
)
def test_the_gradient_at_a_place_matches_differences(name, site):
    if name == "library_output":
        site = "part/logits"
    model = tiny_model(name)
    x = inputs_for(model, 2)
    found = model.gradient(x, 1, wrt=site)
    assert_close(found.value, model.run(x, read=[site])[site])
    generator = torch.Generator().manual_seed(0)
    step = 1e-6 * torch.randn(found.value.shape, generator=generator, dtype=torch.float64)
    change = model.run(x, edit={site: found.value + step}).output - model.run(x, edit={site: found.value - step}).output
    along = (found.slope * 2 * step).flatten(1).sum(1)
    assert_close(along, change[:, 1], rtol=1e-5, atol=1e-12)


def test_a_unit_and_a_position_cut_out_their_share():
    model = tiny_model("conv")
    x = inputs_for(model)
    whole = model.gradient(x, 1, wrt="conv2")
    part = model.gradient(x, 1, wrt="conv2:3@1,2")
    assert_close(part.slope, whole.slope[:, 3, 1, 2])
    assert_close(part.value, whole.value[:, 3, 1, 2])


def test_an_edit_before_the_place_counts():
    model = tiny_model("conv")
    x = inputs_for(model)
    edited = model.gradient(x, 1, wrt="conv2", edit={"relu1:0": 0.0})
    assert_close(edited.value, model.run(x, read=["conv2"], edit={"relu1:0": 0.0})["conv2"])
    at_edit = model.gradient(x, 1, wrt="conv2", edit={"conv2": 0.5})
    assert (at_edit.value == 0.5).all()


def test_inner_targets_and_inner_places_meet():
    model = tiny_model("conv")
    x = inputs_for(model)
    found = model.gradient(x, "unit('conv2:1') + 2 * logit(0)", wrt="relu1")
    unit, logit = (model.gradient(x, t, wrt="relu1") for t in ("unit('conv2:1')", "logit(0)"))
    assert_close(found.slope, unit.slope + 2 * logit.slope)


def test_a_target_before_the_place_is_refused():
    model = tiny_model("conv")
    with pytest.raises(NotPossible, match="does not depend on relu1"):
        model.gradient(inputs_for(model), "unit('conv1:1')", wrt="relu1")


def test_a_target_that_is_not_differentiable_is_refused():
    class Counted(nn.Module):
        def forward(self, x):
            return (x > 0).to(x.dtype)

    with pytest.raises(NotPossible, match=r"logit\(1\) does not depend on input"):
        Model(Counted(), rows(4)).gradient(torch.zeros(2, 4), 1)


def test_a_network_that_overwrites_what_its_gradient_needs_is_refused_with_the_way_out():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            h = torch.sigmoid(self.fc(x))
            h += 1
            return h

    with pytest.raises(NotPossible, match=r"overwrites an activation .* \(x \+= y"):
        Model(Overwrites(), rows(4)).gradient(torch.zeros(2, 4), 1)


def test_work_in_place_on_the_input_does_not_reach_the_caller():
    module = nets.seeded(WritesInput)
    model, x = Model(module, rows(4)), torch.randn(3, 4, dtype=torch.float64)
    before = x.clone()
    found = model.gradient(x, 1)
    assert_close(found.slope, 2 * module.fc.weight[1].detach() * (x > 0))
    model.run(x)
    model.census(x)
    model.is_steady(model.inputs(x))
    model.prefix(x[:1], "fc")
    assert torch.equal(x, before)


def test_one_forward_and_one_backward_for_each_input():
    model = tiny_model("conv")
    model.gradient(inputs_for(model, 11), 0)
    assert dict(model.spent) == {"forwards": 11, "backwards": 11}


def test_rows_do_not_mix():
    model = tiny_model("conv")
    x = inputs_for(model, 3)
    both = model.gradient(x, [0, 1, 2]).slope
    for k in range(3):
        assert_close(model.gradient(x[k : k + 1], k).slope, both[k : k + 1], rtol=1e-12, atol=1e-14)
