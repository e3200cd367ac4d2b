"""What every long method does about limits: it is refused when it is too dear, and stops with what it has."""

import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.attribution.expected import expected_gradients
from cutaway.attribution.noise import smoothgrad
from cutaway.core import budget
from cutaway.core.budget import TooMuch, limits
from cutaway.core.catalogue import find
from cutaway.core.fill import sample
from cutaway.core.model import Model
from cutaway.core.space import images
from cutaway.testing.models import inputs_for, tiny_model

# Methods, with options that make them long, and what their steps are called.
LONG = {
    "smoothgrad": ({"samples": 200}, "samples"),
    "smoothgrad_squared": ({"samples": 200}, "samples"),
    "vargrad": ({"samples": 200}, "samples"),
    "expected_gradients": ({"samples": 200}, "samples"),
    "integrated_gradients": ({"tol": 0.0, "max_steps": 200}, "gradients"),
    "occlusion": ({"window": 3, "stride": 1}, "pieces"),
    "leave_one_out": ({"features": "cells:12"}, "parts"),
    "erasure": ({"features": "cells:12"}, "parts"),
    "smallest_flip": ({"features": "cells:8", "tries": 3000}, "sets"),
    "score_cam": ({"layer": "0"}, "channels"),
    "meaningful_perturbation": ({"iterations": 100}, "iterations"),
    "extremal_perturbation": ({"iterations": 100}, "steps"),
    "extremal_channels": ({"iterations": 100, "invert": 20}, "steps"),
    "rise": ({"masks": 400, "agreement": 1}, "masks"),
    "integrated_hessians": ({"steps": 24}, "points"),
    "shapley_interaction": ({"features": "cells:4", "forwards": 4000}, "forwards"),
}


class Clock:
    """Time passes only while the model runs: a second for each forward of one input, two for each backward."""

    def __init__(self, model):
        self.model = model

    def __call__(self):
        return float(self.model.spent["forwards"] + 2 * self.model.spent["backwards"])


@pytest.fixture
def timed(monkeypatch):
    """Runs a method with a limit in passes, and says what it gave and what it took."""

    def run(name, model, x, seconds, **options):
        clock = Clock(model)
        monkeypatch.setattr(budget, "clock", clock)
        began = clock()
        with limits(seconds=seconds):
            found = find(name).function(model, x, 1, **options)
        return found, clock() - began

    return run


def wide():
    """A model with channels enough to be cut short."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 8 * 8, 3)
    )
    return Model(net.double(), images(12))


@pytest.mark.parametrize("name", LONG)
def test_a_time_limit_ends_it_with_what_there_is(name, timed):
    options, noun = LONG[name]
    model = wide()
    x = inputs_for(model, 2)
    whole, needed = timed(name, model, x, 1e9, **options)
    assert "partial" not in whole.checks
    cut, took = timed(name, model, x, 1e-6, **options)
    assert took < needed
    said = cut.checks["partial"]
    assert said.status == "warn"
    numbers = re.match(rf"The time limit of 1e-06 s ended this after ([\d,]+) of up to ([\d,]+) {noun}\b", said)
    assert numbers, said
    done, wanted = (int(n.replace(",", "")) for n in numbers.groups())
    assert 0 < done == said.value < wanted
    assert cut.values.shape == whole.values.shape
    for tensor in cut.arrays().values():
        assert torch.isfinite(tensor).all() or name == "shapley_interaction"  # which has no diagonal


@pytest.mark.parametrize("name", LONG)
def test_a_limit_that_is_not_reached_changes_nothing(name):
    options, _ = LONG[name]
    model = wide()
    x = inputs_for(model, 1)
    free = find(name).function(model, x, 1, **options)
    with limits(seconds=1e6):
        limited = find(name).function(model, x, 1, **options)
    assert_close(limited.values, free.values, atol=1e-9, rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in LONG if name != "integrated_gradients"])
def test_more_time_means_more_steps_and_the_limit_is_kept(name, timed):
    options, _ = LONG[name]
    model = wide()
    x = inputs_for(model, 3)
    _, needed = timed(name, model, x, 1e9, **options)
    _, least = timed(name, model, x, 1e-6, **options)
    done = []
    for share in (0.3, 0.6):
        found, took = timed(name, model, x, share * needed, **options)
        assert took <= share * needed + 1.2 * least, f"{took} of {share * needed}, at least {least}"
        done.append(found.checks["partial"].value if "partial" in found.checks else 1e9)
    assert done[0] < done[1]


@pytest.mark.parametrize("name", LONG)
def test_what_is_too_dear_is_refused_before_it_begins(name):
    options, _ = LONG[name]
    model = wide()
    x = inputs_for(model, 2)
    before = model.spent["forwards"]
    with limits(forwards=9), pytest.raises(TooMuch, match=r"would take about .*; the limit is 9\. .*--yes"):
        find(name).function(model, x, 1, **options)
    assert not model.spent["backwards"]
    # Of one input, what it takes to know the layer or the parts.
    assert model.spent["forwards"] - before <= 8


def test_inputs_share_the_time_alike(timed):
    model = wide()
    found, _ = timed("smoothgrad", model, inputs_for(model, 3), 3 * 3 * 64, samples=400)
    assert "64 of up to 400 samples." in found.checks["partial"]


def test_what_a_finished_input_leaves_goes_to_the_others(timed):
    """The second input is the baseline, so that its path ends at once; the third has the time of two."""
    model = tiny_model("conv")
    x = inputs_for(model, 3)
    x[1] = 0
    found, _ = timed("integrated_gradients", model, x, 900, tol=0.0, max_steps=4000)
    steps = found.extra["steps"].tolist()
    assert steps[1] < 20
    assert 1.4 * steps[0] < steps[2]


def test_of_pieces_not_asked_the_values_are_the_mean_of_the_others(timed):
    model = wide()
    x = inputs_for(model, 1)
    whole, _ = timed("leave_one_out", model, x, 1e9, features="cells:12")
    cut, _ = timed("leave_one_out", model, x, 1e-6, features="cells:12")
    asked = torch.isclose(cut.values, whole.values, atol=1e-9, rtol=0)
    rest = cut.values[~asked]
    assert_close(rest, whole.values[asked].mean().expand_as(rest), atol=1e-9, rtol=0)
    assert f"the mean of these, {float(rest[0]):.3g}, around which" in cut.checks["partial"]


def test_the_standard_error_of_half_the_samples_is_that_of_repeated_runs(timed):
    """Reference: the spread of 200 runs with other seeds, each ended after half of its samples."""
    model = tiny_model("mlp_tanh")
    x, references = inputs_for(model, 1), sample(inputs_for(model, 20, seed=1))
    runs = [timed("expected_gradients", model, x, 60, references=references, samples=32, seed=k)[0] for k in range(200)]
    assert {run.checks["partial"].value for run in runs} == {16}
    told = torch.stack([run.extra["standard_error"].square() for run in runs]).mean(0).sqrt()
    assert_close(told, torch.stack([run.values for run in runs]).std(0), rtol=0.2, atol=0)
    full = expected_gradients(model, x, 1, references=references, samples=20_000).values
    far = (torch.stack([run.values for run in runs]).mean(0) - full).abs()
    assert (far < 4 * told / 200**0.5).all()


def test_a_mean_of_fewer_samples_has_the_error_of_fewer_samples(timed):
    model = tiny_model("mlp_tanh")
    x = inputs_for(model, 2)
    cut, _ = timed("smoothgrad", model, x, 2 * 3 * 40, samples=400, seed=2)
    assert cut.checks["partial"].value == 40
    alone = smoothgrad(model, x, 1, samples=40, seed=2)
    assert_close(cut.values, alone.values, atol=1e-12, rtol=0)
    assert_close(cut.extra["standard_error"], alone.extra["standard_error"], atol=1e-12, rtol=0)


def test_half_of_the_points_come_near_the_integral_of_second_derivatives(timed):
    model = tiny_model("mlp_tanh")
    x = inputs_for(model, 1)
    whole, needed = timed("integrated_hessians", model, x, 1e9, steps=32)
    cut, _ = timed("integrated_hessians", model, x, needed / 2, steps=32)
    assert 10 < cut.checks["partial"].value < 20
    assert (cut.values - whole.values).abs().max() < 0.02 * whole.values.abs().max()
