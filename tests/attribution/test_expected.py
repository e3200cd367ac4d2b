"""Expected gradients: in the mean over references, the values sum to the change."""

import pytest
import torch
from torch.testing import assert_close

from cutaway.attribution.expected import expected_gradients
from cutaway.attribution.path import integrated_gradients
from cutaway.core.errors import BadOption, BadShape
from cutaway.core.fill import sample
from cutaway.core.model import Model
from cutaway.core.space import rows
from cutaway.testing import nets
from cutaway.testing.models import inputs_for, tiny_model


def test_a_linear_network_gives_weight_times_distance_from_the_mean_reference():
    model = tiny_model("linear")
    x, references = inputs_for(model, 1), inputs_for(model, 2, seed=1)
    result = expected_gradients(model, x, 1, references=sample(references), samples=4000)
    expected = model.module.weight[1] * (x - references.mean(0))
    assert (result.values - expected).abs().max() < 5 * result.extra["standard_error"].max()
    assert abs(result.checks["gap"].value) < 1e-12  # each path is exact here, only its beginning is chance


def test_it_is_the_mean_of_integrated_gradients_over_the_references():
    model = tiny_model("mlp_tanh")
    x, references = inputs_for(model, 1), inputs_for(model, 3, seed=1)
    found = expected_gradients(model, x, 1, references=sample(references), samples=6000)
    paths = [integrated_gradients(model, x, 1, baseline=r, tol=1e-6).values for r in references]
    sigmas = (found.values - torch.stack(paths).mean(0)) / found.extra["standard_error"]
    assert sigmas.abs().max() < 4


def test_the_standard_error_is_that_of_repeated_runs():
    """Reference: the spread of 300 runs with other seeds."""
    model = tiny_model("mlp_tanh")
    x = inputs_for(model, 1)
    references = sample(inputs_for(model, 20, seed=1))
    runs = [expected_gradients(model, x, 1, references=references, samples=20, seed=k) for k in range(300)]
    spread = torch.stack([run.values for run in runs]).std(0)
    told = torch.stack([run.extra["standard_error"].square() for run in runs]).mean(0).sqrt()
    assert_close(told, spread, rtol=0.15, atol=0)
    gaps = torch.stack([run.extra["gap"] for run in runs])
    assert gaps.mean().abs() < 4 * gaps.std() / 300**0.5


def test_the_gap_falls_with_the_root_of_the_samples():
    model = tiny_model("mlp")
    x, references = inputs_for(model, 1), sample(inputs_for(model, 20, seed=1))

    def size(samples):
        runs = (expected_gradients(model, x, 1, references=references, samples=samples, seed=k) for k in range(40))
        return torch.stack([run.extra["gap"] for run in runs]).square().mean().sqrt()

    assert size(20) / size(320) > 3


def test_a_column_that_matters_in_no_other_way_than_usual_gets_nothing_on_average():
    """Planted: only the column in which the input differs from all references has a contribution."""
    model = tiny_model("mlp_tanh")
    x = inputs_for(model, 1)
    references = x.repeat(5, 1)
    references[:, 2] = torch.linspace(-2, 2, 5)
    values = expected_gradients(model, x, 1, references=sample(references), samples=50).values[0]
    assert values[[0, 1, 3]].tolist() == [0, 0, 0]
    assert values[2] != 0


@pytest.mark.parametrize("wrt", ["input", "relu1", "conv2:3", "conv2:3@1,2"])
def test_any_place_can_be_attributed(wrt):
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    result = expected_gradients(model, x, 1, wrt=wrt, samples=40)
    assert result.checks["gap"].status == "ok"
    assert result.values.shape == model.run(x, read=[wrt.split(":")[0]])[wrt].shape


def test_text_is_attributed_at_its_embedding():
    model = tiny_model("text")
    result = expected_gradients(model, ["very good film", "bad"], "good", samples=20)
    assert result.values.shape == (2, 4, 8)


def test_a_fixed_reference_is_said_to_be_one():
    model = tiny_model("mlp")
    assert (
        "integrated gradients"
        in expected_gradients(model, inputs_for(model, 1), 1, references="zero").checks["references"]
    )


@pytest.mark.parametrize("samples", [0, 1, 7])
def test_samples_come_in_pairs(samples):
    model = tiny_model("mlp")
    with pytest.raises(BadOption, match="even number"):
        expected_gradients(model, inputs_for(model, 1), 1, samples=samples)


def test_noise_within_the_bounds_of_a_table_without_bounds_is_refused():
    model = Model(nets.seeded(nets.Mlp), rows(4))
    with pytest.raises(BadOption, match="Pass rows to draw from"):
        expected_gradients(model, torch.zeros(1, 4), 1)


def test_references_of_another_shape_are_refused():
    model = tiny_model("mlp")
    with pytest.raises(BadShape):
        expected_gradients(model, inputs_for(model, 1), 1, references=sample(torch.zeros(3, 5)))
