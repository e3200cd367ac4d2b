"""A run that starts in the middle gives what the whole run gives."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.core.errors import BadOption, BadShape
from cutaway.core.model import Model
from cutaway.core.space import rows
from cutaway.testing import nets
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.troubled import Random, Tally

PLACES = [
    ("mlp", "first"),
    ("mlp_inplace", "first"),
    ("conv", "relu1"),
    ("conv", "bn1"),
    ("conv", "conv2"),
    ("residual", "stem"),
    ("residual", "block1"),
    ("residual", "block1.0"),
    ("residual", "block2"),
    ("concatenation", "left"),
    ("concatenation", "right"),
    ("concatenation", "gate"),
    ("lstm", "rnn/0"),
    ("gru_batch_second", "rnn/0"),
    ("encoder", "norm"),
    ("encoder", "layer.linear1"),
    ("encoder_batch_second", "layer"),
    ("attention", "attn/0"),
    ("reused", "act#1"),
    ("text", "encoder.linear1"),
    ("text", "input"),
    ("tuple_output", "part/0"),
    ("weight_norm", "0"),
    ("conv", "input"),
]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_continuing_from_a_place_equals_the_whole_run(name, place):
    model = tiny_model(name)
    x = inputs_for(model, 1)
    prefix = model.prefix(x, place)
    assert_close(prefix.value, model.run(x, read=[place])[place])
    variants = torch.cat([prefix.value * scale for scale in (1.0, 0.5, 0.0, -1.0, 2.0)])
    continued = model.run(None, prefix=prefix, edit={place: variants}, read=[place, "output"])
    for k in range(5):
        whole = model.run(x, edit={place: variants[k : k + 1]})
        assert_close(continued.output[k : k + 1], whole.output, rtol=1e-10, atol=1e-10)
        assert_close(continued[place][k], variants[k])


@pytest.mark.parametrize(
    ("name", "place"), [("conv", "conv2"), ("residual", "block1"), ("encoder", "layer.linear1"), ("text", "input")]
)
def test_gradients_continue_from_a_place_too(name, place):
    model = tiny_model(name)
    x = inputs_for(model, 1)
    prefix = model.prefix(x, place)
    variants = torch.cat([prefix.value, prefix.value * 0.3])
    found = model.gradient(None, [0, 1], wrt=place, prefix=prefix, edit={place: variants})
    for k in range(2):
        whole = model.gradient(x, k, wrt=place, edit={place: variants[k : k + 1]})
        assert_close(found.slope[k : k + 1], whole.slope)
        assert_close(found.score[k : k + 1], whole.score)


@pytest.mark.parametrize(
    ("name", "place"),
    [("conv", "conv2"), ("residual", "block2"), ("concatenation", "gate"), ("encoder", "layer.linear1")],
)
def test_what_lies_before_the_place_is_not_computed_again(name, place):
    model = tiny_model(name)
    prefix = model.prefix(inputs_for(model, 1), place)
    assert prefix.calls is not None
    # Spoil the first weights: a run that used them would be different.
    expected = model.run(None, prefix=prefix, edit={place: prefix.value}).output
    with torch.no_grad():
        next(p for p in model.module.parameters() if p.ndim > 1).add_(1)
    assert_close(model.run(None, prefix=prefix, edit={place: prefix.value}).output, expected)


def test_a_unit_may_be_changed_at_the_place_and_another_later():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    prefix = model.prefix(x, "relu1")
    values = prefix.value.repeat(3, 1, 1, 1)
    values[torch.arange(3), torch.arange(3)] = 0
    found = model.run(None, prefix=prefix, edit={"relu1": values, "conv2:1": 0.0}).output
    for k in range(3):
        assert_close(found[k : k + 1], model.run(x, edit={f"relu1:{k}": 0.0, "conv2:1": 0.0}).output)


class Wandering(nn.Module):
    """Takes another path in each forward, so that a recording does not fit."""

    def __init__(self, tally):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)
        self.tally = tally

    def forward(self, x):
        self.tally.note(1)
        h = self.a(x) if len(self.tally) % 2 else torch.addmm(self.a.bias, x, self.a.weight.T)
        return self.b(h)


class Mixing(nn.Module):
    """Folds the batch into another axis, which a recording of one row cannot foresee."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        n = x.shape[0]
        h = self.a(x).view(n * 2, 2).tanh()
        return self.b(self.late(h.reshape(n, 4)))

    def late(self, h):
        return h


@pytest.mark.parametrize("module", [Wandering(Tally()), Mixing()], ids=["wandering", "mixing"])
def test_where_a_recording_does_not_fit_the_whole_network_runs(module):
    model = Model(module.double().eval(), rows(4))
    x = torch.randn(1, 4, dtype=torch.float64)
    prefix = model.prefix(x, "b")
    variants = torch.randn(5, 3, dtype=torch.float64)
    assert_close(model.run(None, prefix=prefix, edit={"b": variants}).output, variants)


class ReadsValues(nn.Module):
    """Its path depends on a number in an activation."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = self.a(x)
        h = h * 2 if h.abs().max().item() > 1e6 else h + 1
        return self.c(self.b(h))


def test_a_path_that_depends_on_values_is_followed():
    model = Model(nets.seeded(ReadsValues), rows(4))
    x = torch.randn(1, 4, dtype=torch.float64)
    prefix = model.prefix(x, "b")
    variants = torch.cat([prefix.value, -prefix.value])
    found = model.run(None, prefix=prefix, edit={"b": variants}).output
    assert_close(found[:1], model.run(x).output)
    assert_close(found[1:], model.run(x, edit={"b": -prefix.value}).output)


def test_a_random_network_is_run_in_full():
    model = Model(nn.Sequential(nets.seeded(Random), nn.Linear(3, 2).double()), rows(4))
    prefix = model.prefix(torch.randn(1, 4, dtype=torch.float64), "0")
    assert_close(
        model.run(None, prefix=prefix, edit={"0": torch.zeros(2, 3, dtype=torch.float64)}).output,
        model.module[1].bias.detach().expand(2, -1),
    )


def test_a_prefix_is_of_one_input_and_needs_values():
    model = tiny_model("mlp")
    with pytest.raises(BadShape, match="one input for a prefix; got 2"):
        model.prefix(inputs_for(model, 2), "first")
    prefix = model.prefix(inputs_for(model, 1), "first")
    with pytest.raises(BadOption, match="'first': tensor"):
        model.run(None, prefix=prefix)
    with pytest.raises(BadOption, match="'first': tensor"):
        model.run(None, prefix=prefix, edit={"act": 0.0})


def test_chunks_of_a_continued_run_are_exact():
    small, large = (tiny_model("residual", batch_size=size) for size in (2, 64))
    x = inputs_for(small, 1)
    outputs = []
    for model in (small, large):
        prefix = model.prefix(x, "block1")
        values = prefix.value * torch.linspace(0, 2, 7, dtype=torch.float64)[:, None, None, None]
        outputs.append(model.run(None, prefix=prefix, edit={"block1": values}).output)
    assert_close(*outputs, rtol=1e-12, atol=1e-12)
