import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.attribution.gradient import gradient, input_x_gradient
from cutaway.core.errors import BadOption, NotPossible
from cutaway.evaluation.moves import max_sensitivity
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import box_model, bright, made, oracle, row_model

X = torch.tensor([[0.3, -0.2, 0.5, 0.1], [1.0, 0.2, -0.7, 0.4]], dtype=torch.float64)


def tanh_model():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return ct.Model(net, ct.rows(4, low=-10, high=10), name="tanh")


def draws(samples, radius):
    generator = torch.Generator().manual_seed(0)
    return radius * (2 * torch.rand(samples, 4, generator=generator, dtype=torch.float64) - 1)


def test_the_slope_of_a_linear_function_does_not_move():
    model = row_model([3.0, -1.0, 2.0, 0.5])
    found = max_sensitivity(model, X, gradient(model, X, 1))
    assert found["largest change"] == pytest.approx(0, abs=1e-12)
    assert found.checks["verdict"].status == "ok"


def test_contributions_to_a_linear_function_move_as_the_input_does():
    """With all weights alike, map and input have the same relative change."""
    model = row_model([2.0] * 4)
    found = max_sensitivity(model, X, input_x_gradient(model, X, 1), radius=0.3)
    assert found["largest change"] == pytest.approx(found["largest change of the input"], abs=1e-12)


def test_matches_a_loop_over_the_draws():
    model = tanh_model()
    found = max_sensitivity(model, X, gradient(model, X, 1), radius=0.5, samples=6)
    worst, means = [], []
    for row in X:
        before = gradient(model, row[None], 1).values
        moved = [
            float((gradient(model, row[None] + e, 1).values - before).norm() / before.norm()) for e in draws(6, 0.5)
        ]
        worst.append(max(moved))
        means.append(sum(moved) / 6)
    assert found["largest change"] == pytest.approx(sum(worst) / 2, abs=1e-12)
    assert found["mean change"] == pytest.approx(sum(means) / 2, abs=1e-12)


def test_a_map_that_jumps_is_warned_of():
    model = tiny_model("conv")
    found = max_sensitivity(model, inputs_for(model, 2), lambda model, x, target: torch.sign(torch.sin(1e6 * x)))
    assert found.checks["verdict"].status == "warn"


def test_changed_pictures_stay_inside_their_bounds():
    found = max_sensitivity(box_model(), bright(), input_x_gradient(box_model(), bright(), 1), radius=0.9)
    assert 0 < found["largest change"] < 1


def test_what_does_not_fit_is_refused():
    model = box_model()
    for wrong in ({"radius": 0}, {"samples": 0}):
        with pytest.raises(BadOption):
            max_sensitivity(model, bright(), gradient(model, bright(), 1), **wrong)
    with pytest.raises(NotPossible, match="made by hand"):
        max_sensitivity(model, bright(), made(oracle()))
    with pytest.raises(NotPossible, match="zero everywhere"):
        max_sensitivity(model, bright(), lambda model, x, target: torch.zeros_like(x))
    with pytest.raises(NotPossible, match="text"):
        max_sensitivity(tiny_model("text"), inputs_for(tiny_model("text"), 1))


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_captum_gives_the_same_largest_change_for_the_same_draws():
    metrics = pytest.importorskip("captum.metrics", reason="captum is in requirements-peers.txt")
    captum = pytest.importorskip("captum.attr", reason="captum is in requirements-peers.txt")
    model = tanh_model()
    theirs = metrics.sensitivity_max(
        captum.Saliency(model.module).attribute,
        X,
        perturb_func=lambda inputs: inputs + draws(7, 0.5).repeat(len(inputs) // 7, 1),
        n_perturb_samples=7,
        target=1,
        abs=False,
    )
    found = max_sensitivity(model, X, gradient(model, X, 1), radius=0.5, samples=7)
    assert found["largest change"] == pytest.approx(float(theirs.mean()), rel=1e-9)
