"""Passes that are shared give what they give apart, and are never taken from other weights, inputs or targets."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.attribution.cam import grad_cam, grad_cam_plus_plus, layer_cam
from cutaway.attribution.gradient import first_derivative, gradient, input_x_gradient
from cutaway.core.errors import NotPossible
from cutaway.core.method import catalogue
from cutaway.core.model import Model
from cutaway.core.shared import _KEPT, current, shared_passes
from cutaway.core.space import rows
from cutaway.core.target import Target
from cutaway.testing.compare import GATES, same_result
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.subjects import Trial

OF_ONE_PASS = (gradient, input_x_gradient, first_derivative, grad_cam, grad_cam_plus_plus, layer_cam)
DIFFERENTIATING = [
    name for name, entry in catalogue().items() if "gradient" in entry.needs and "target" in entry.positional
]


def three_inputs(model):
    x = model.inputs(inputs_for(model, 2))
    return [x, 0.5 * x, 0.25 * x]


def passes(model, before=None):
    return Counter(model.spent) - (before or Counter())


@pytest.mark.parametrize("name", DIFFERENTIATING)
@pytest.mark.parametrize("dtype", GATES)
def test_every_method_that_differentiates_gives_what_it_gives_apart(name, dtype):
    """Two inputs, the second after the places are known, beside a gradient at the input."""
    trial = Trial.of(name, {}).typed(dtype)
    model, other = trial.model(), trial.model()
    given = [trial.inputs(model, 2)]
    if model.space.kind != "tokens":
        given.append(0.5 * given[0])
    apart = [trial(model, x, [0, 1]) for x in given]
    with shared_passes():
        for x, expected in zip(given, apart, strict=True):
            gradient(other, x, [0, 1][: other.inputs(x).shape[0]] if model.space.kind != "tokens" else [0, 1])
            same_result(trial(other, x, [0, 1]), expected, GATES[dtype] if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("name", ["conv", "residual", "gap_linear"])
def test_six_maps_of_one_input_take_one_forward_and_one_backward(name):
    model = tiny_model(name)
    first, *others = three_inputs(model)
    apart = [[explain(model, x, [0, 1]).values for explain in OF_ONE_PASS] for x in others]
    with shared_passes():
        for explain in OF_ONE_PASS:
            explain(model, first, [0, 1])
        for x, expected in zip(others, apart, strict=True):
            before = Counter(model.spent)
            for explain, values in zip(OF_ONE_PASS, expected, strict=True):
                assert torch.equal(explain(model, x, [0, 1]).values, values)
            assert passes(model, before) == {"forwards": 2, "backwards": 2}


def test_nothing_is_shared_unless_asked_for():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    gradient(model, x, 1)
    with shared_passes():
        assert current() is not None
        with shared_passes():
            gradient(model, x, 1)
        before = Counter(model.spent)
        gradient(model, x, 1)
        assert not passes(model, before)
    assert current() is None
    gradient(model, x, 1)
    assert passes(model, before) == {"forwards": 2, "backwards": 2}


@pytest.mark.parametrize("change", ["in place", "through data", "a buffer", "another tensor"])
def test_other_weights_are_never_answered_from_an_old_pass(change):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    model = Model(net, rows(3, low=-9, high=9), scores="values")
    x = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)
    with shared_passes():
        before = gradient(model, x, 0).values
        with torch.no_grad():
            if change == "in place":
                net[0].weight.mul_(2)
            elif change == "through data":
                net[0].weight.data[0, 0] += 1
            elif change == "a buffer":
                net[1].running_mean += 1
            else:
                net[3].weight = nn.Parameter(3 * net[3].weight)
        after = gradient(model, x, 0).values
    assert not torch.equal(before, after)
    assert_close(after, gradient(model, x, 0).values, rtol=0, atol=0)


def test_other_inputs_and_targets_are_other_passes():
    model = tiny_model("mlp")
    x = inputs_for(model, 2)
    expected = [gradient(model, x, 0).values, gradient(model, x, 1).values, gradient(model, x + 1, 0).values]
    with shared_passes():
        found = [gradient(model, x, 0).values, gradient(model, x, 1).values]
        x += 1  # the same tensor, with other values
        found.append(gradient(model, x, 0).values)
    assert all(map(torch.equal, found, expected))


def test_another_model_of_the_same_weights_is_another_pass():
    nets = [nn.Sequential(nn.Linear(4, 3), act).double() for act in (nn.Tanh(), nn.Sigmoid())]
    nets[1].load_state_dict(nets[0].state_dict())
    one, other = (Model(net, rows(4, low=-9, high=9), scores="values") for net in nets)
    x = torch.ones(1, 4, dtype=torch.float64)
    with shared_passes():
        assert not torch.equal(gradient(one, x, 0).values, gradient(other, x, 0).values)


def test_a_target_whose_text_does_not_say_all_is_not_shared():
    model = tiny_model("mlp")
    x = inputs_for(model, 2)
    one, other = (Target("mine", Target.of(0).sites, lambda trace, k=k: trace.scores[:, k]) for k in (0, 1))
    with shared_passes():
        assert torch.equal(model.gradient(x, one).slope, model.gradient(x, 0).slope)
        assert torch.equal(model.gradient(x, other).slope, model.gradient(x, 1).slope)


def test_what_is_handed_out_may_be_written_into():
    model = tiny_model("mlp")
    x = inputs_for(model, 2)
    with shared_passes():
        first = model.gradient(x, 1)
        expected = first.slope.clone()
        first.slope.zero_()
        assert torch.equal(model.gradient(x, 1).slope, expected)


def test_places_that_do_not_go_together_are_asked_apart():
    """A place that does not depend on the input has a gradient all the same."""

    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.bias = nn.Linear(4, 3), nn.Linear(1, 3)

        def forward(self, x):
            return self.main(x) * self.bias(torch.ones(len(x), 1, dtype=x.dtype))

    torch.manual_seed(0)
    model = Model(Offset().double(), rows(4, low=-9, high=9), scores="values")
    x = torch.rand(2, 4, dtype=torch.float64)
    with pytest.raises(NotPossible, match="ask for it alone"):
        model.gradients(x, 1, wrt=["input", "bias"])
    expected = [[model.gradient(s * x, 1, wrt=at).slope for at in ("input", "bias")] for s in (1, 2, 3)]
    with shared_passes():
        found = [[model.gradient(s * x, 1, wrt=at).slope for at in ("input", "bias")] for s in (1, 2, 3)]
    assert_close(found, expected, rtol=0, atol=0)


def test_a_network_that_draws_at_random_is_asked_anew():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) * torch.rand(1, dtype=x.dtype)

    model = Model(Noisy(4, 3).double(), rows(4, low=-9, high=9), scores="values")
    x = torch.ones(1, 4, dtype=torch.float64)
    with shared_passes(), model.borrow():
        assert not torch.equal(model.gradient(x, 0).slope, model.gradient(x, 0).slope)


def test_few_passes_are_kept():
    model = tiny_model("mlp")
    with shared_passes():
        for k in range(5):
            gradient(model, inputs_for(model, 1) + k, 1)
        assert len(current()._kept) == _KEPT


def test_gradients_at_several_places_and_units():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    sites = ["conv2", "input", "conv2:3"]
    for found, site in zip(model.gradients(x, 1, wrt=sites), sites, strict=True):
        alone = model.gradient(x, 1, wrt=site)
        for a, b in zip(found, alone, strict=True):
            assert torch.equal(a, b)
