import pytest
import torch
from torch.testing import assert_close

from cutaway.attribution.gradient import gradient
from cutaway.attribution.path import integrated_gradients
from cutaway.attribution.shapley import exact_shapley
from cutaway.core.result import Provenance
from cutaway.evaluation.completeness import completeness
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import made, row_model


def test_the_contributions_of_a_linear_model_leave_no_gap():
    model, x = row_model([2.0, -1.0, 0.5]), torch.tensor([[3.0, 5.0, 4.0]], dtype=torch.float64)
    values = x * torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    found = completeness(model, x, made(values, unit="target"))
    assert found["change of the target"] == 3.0
    assert found["sum of the values"] == 3.0
    assert found["relative gap"] == 0.0


def test_a_known_part_that_is_missing_is_the_gap():
    model, x = row_model([2.0, 2.0]), torch.tensor([[1.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    found = completeness(model, x, made(torch.tensor([[2.0, 1.0], [2.0, 6.0]], dtype=torch.float64)))
    # Changes 4 and 8, sums 3 and 8: a gap of -1 in a change of 12.
    assert found["relative gap"] == pytest.approx(1 / 12)
    assert found["gap"] == -0.5
    assert found.low.tolist() == [0.0, 3.0, 4.0, -1.0]
    assert found.high.tolist() == [0.25, 8.0, 8.0, 0.0]


@pytest.mark.parametrize("name", ["mlp", "conv"])
@pytest.mark.parametrize("baseline", ["zero", "mean", "noise"])
def test_integrated_gradients_are_compared_with_their_own_baseline(name, baseline):
    model = tiny_model(name)
    x = inputs_for(model, 2)
    if baseline == "noise" and name == "mlp":
        baseline = "constant:0.5"
    samples = 3 if baseline == "noise" else 1
    why = integrated_gradients(model, x, 1, baseline=baseline, samples=samples, seed=4, tol=1e-5)
    found = completeness(model, x, why)
    assert_close(found.values[3], why.extra["gap"].mean(), atol=1e-9, rtol=0)
    assert_close(found.values[2], why.extra["change"].mean(), atol=1e-9, rtol=0)
    assert "baseline" not in found.checks
    assert found.checks["verdict"].status in ("ok", "note")


def test_at_a_layer_the_baseline_is_the_activation_of_the_filled_input():
    model = tiny_model("residual")
    x = inputs_for(model, 2)
    layer = next(place.site for place in model.layers(x) if place.kind == "Conv2d")
    why = integrated_gradients(model, x, 1, wrt=layer, tol=1e-6)
    found = completeness(model, x, why)
    assert_close(found.values[2], why.extra["change"].mean(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("fill", ["neutral", "constant:0.3", "zero"])
@pytest.mark.parametrize(("kind", "features"), [("conv", "cells:3"), ("mlp", "auto"), ("text", "words")])
def test_values_of_parts_are_compared_with_all_parts_absent(kind, features, fill):
    """What belongs to no part, such as [CLS], stays: the sum is that of the parts, and not of everything."""
    model = tiny_model(kind)
    x = ["a great film but not fun"] if kind == "text" else inputs_for(model, 2)
    why = exact_shapley(model, x, 1, features=features, fill=fill)
    found = completeness(model, x, why)
    assert found["relative gap"] < 1e-9
    assert "baseline" not in found.checks
    assert "no part to all of them" in found.checks["verdict"]
    if kind == "text":
        assert completeness(model, x, why, baseline="zero")["relative gap"] > 0.01


def test_text_is_compared_in_its_embedding():
    model = tiny_model("text")
    why = integrated_gradients(model, ["a great film but not fun"], 1, tol=1e-4)
    assert completeness(model, ["a great film but not fun"], why)["relative gap"] < 1e-3


def test_another_baseline_than_the_maps_own_is_said():
    model = tiny_model("mlp")
    x = inputs_for(model, 2)
    why = integrated_gradients(model, x, 1)
    assert completeness(model, x, why, baseline="constant:1").checks["baseline"].status == "warn"


def test_a_slope_claims_nothing():
    model = tiny_model("mlp")
    x = inputs_for(model, 2)
    check = completeness(model, x, gradient(model, x, 1)).checks["verdict"]
    assert check.status == "note"
    assert "completeness is not claimed" in check


def test_a_wide_gap_of_a_method_that_claims_completeness_fails():
    model = tiny_model("mlp")
    x = inputs_for(model, 1)
    why = integrated_gradients(model, x, 1)
    wrong = made(why.values * 2, provenance=why.provenance)
    assert completeness(model, x, wrong).checks["verdict"].status == "fail"


def test_no_change_has_no_relative_gap():
    model = row_model([1.0, 1.0])
    found = completeness(model, torch.zeros(1, 2, dtype=torch.float64), made(torch.zeros(1, 2, dtype=torch.float64)))
    assert torch.isnan(found.values[0])
    assert (
        "undefined"
        in completeness(
            model,
            torch.zeros(1, 2, dtype=torch.float64),
            made(torch.zeros(1, 2, dtype=torch.float64), provenance=Provenance(method="integrated_gradients")),
        ).checks["verdict"]
    )


def test_sums_in_double_precision():
    """Ten thousand single-precision values: a float32 sum would lose the last digits."""
    model = row_model([1.0] * 10_000)
    model.module.float()
    x = torch.full((1, 10_000), 0.1)
    found = completeness(model, x, made(x.clone()))
    assert found["sum of the values"] == pytest.approx(x.double().sum().item(), abs=1e-9)
