import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.testing import assert_close

from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.model import Model
from cutaway.core.space import images, rows
from cutaway.evaluation.sensitivity import stability
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import made, row_model


def by_hand(model, x, target, noise, samples, seed):
    """Reference: one noisy copy after the other, one map after the other."""
    draws = torch.randn(samples, *x.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    before = model.gradient(x, target).slope.sum(1).flatten()
    found = []
    for draw in draws:
        noisy = (x + noise * draw).clamp(0, 1)
        if int(model.predict(noisy).argmax()) == int(model.predict(x).argmax()):
            found.append(spearmanr(before, model.gradient(noisy, target).slope.sum(1).flatten()).statistic)
    return found


def test_matches_a_loop_over_the_copies():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    found = stability(model, x, "gradient", target=1, noise=0.05, samples=5, seed=2)
    loops = [rho for i in range(2) for rho in by_hand(model, x[i : i + 1], 1, 0.05, 5, 2)]
    if found["predictions kept"] == 1.0:
        assert found["rank correlation"] == pytest.approx(sum(loops) / len(loops), abs=1e-12)
        assert found["lowest rank correlation"] == pytest.approx(min(loops), abs=1e-12)


def test_the_gradient_of_a_linear_model_does_not_move():
    model, x = row_model([3.0, -1.0, 2.0]), torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    found = stability(model, x, "gradient")
    assert found["rank correlation"] == pytest.approx(1.0)
    assert found["predictions kept"] == 1.0
    assert found.checks["verdict"].status == "ok"
    assert found.checks["ratio"].value == 0.0


def test_the_ratio_of_a_map_that_is_the_input_is_one():
    model, x = row_model([3.0, -1.0, 2.0]), torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    found = stability(model, x, lambda model, x, target: x)
    assert found.checks["ratio"].value == pytest.approx(1.0)


def test_a_map_of_noise_fails():
    model = tiny_model("conv")

    def noise(model, x, target):
        seed = int(x.sum() * 1e6)
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)

    found = stability(model, inputs_for(model, 1), noise)
    assert found["rank correlation"] < 0.2
    assert found.checks["verdict"].status == "fail"


def test_a_constant_map_does_not_pass():
    model = tiny_model("conv")
    found = stability(model, inputs_for(model, 1), lambda model, x, target: torch.ones_like(x))
    assert torch.isnan(found.values[0])
    assert found.checks["verdict"].status == "warn"


class Narrow(nn.Module):
    """Class 1 in a narrow band around a mean of one half."""

    def forward(self, x):
        score = 0.002 - (x.flatten(1).mean(1) - 0.5).abs()
        return torch.stack([torch.zeros_like(score), score], dim=1)


def test_noise_is_lowered_where_the_model_is_undecided():
    model = Model(Narrow(), images(4, channels=1), name="narrow")
    x = torch.linspace(0.4, 0.6, 16, dtype=torch.float64).view(1, 1, 4, 4)
    found = stability(model, x, lambda model, x, target: x, noise=0.05, samples=8)
    assert found.checks["lowered"].value < 0.05
    assert found.checks["verdict"].status != "ok", "the test was milder than asked for"
    assert f"noise of {found.checks['lowered'].value:g}" in found.checks["verdict"]


def test_a_prediction_that_never_stays_is_refused():
    class Last(nn.Module):
        """Class 1 exactly for the given picture."""

        def forward(self, x):
            hit = (x.flatten(1) == 0.25).all(1).double()
            return torch.stack([1 - hit, hit], dim=1)

    model = Model(Last(), images(4, channels=1), name="picky")
    x = torch.full((1, 1, 4, 4), 0.25, dtype=torch.float64)
    with pytest.raises(NotPossible, match="not stable here"):
        stability(model, x, lambda model, x, target: torch.rand_like(x))


def test_rows_do_not_depend_on_their_batch():
    model = tiny_model("conv")
    x = inputs_for(model, 3)
    together = stability(model, x, "gradient", target=[0, 1, 2], samples=3)
    alone = [stability(model, x[i : i + 1], "gradient", target=i, samples=3) for i in range(3)]
    kept = torch.tensor([one["predictions kept"] for one in alone])
    means = torch.tensor([one["rank correlation"] for one in alone], dtype=torch.float64)
    assert together["rank correlation"] == pytest.approx(float((means * kept).sum() / kept.sum()))
    assert together["lowest rank correlation"] == pytest.approx(min(one["lowest rank correlation"] for one in alone))


def test_noise_of_a_row_is_in_the_columns_own_spread():
    """Without bounds, a share of the range would mean nothing."""
    net = nn.Linear(2, 2).double()
    model = Model(net, rows(2, std=(1.0, 100.0)))
    seen = []

    def watched(model, x, target):
        seen.append(x.clone())
        return x

    x = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    stability(model, x, watched, noise=0.01, samples=200)
    noisy = seen[-1]
    assert_close(noisy.std(0), torch.tensor([0.01, 1.0], dtype=torch.float64), rtol=0.2, atol=0)


def test_a_regressor_keeps_every_copy():
    model = Model(nn.Linear(3, 1).double(), rows(3), scores="values")
    found = stability(model, torch.ones(2, 3, dtype=torch.float64), "gradient", target=0)
    assert found["predictions kept"] == 1.0


def test_text_is_refused():
    with pytest.raises(NotPossible, match="text cannot be changed"):
        stability(tiny_model("text"), ["a good film"], "gradient")


@pytest.mark.parametrize("options", [{"noise": 0.0}, {"samples": 1}, {"top": 0.0}, {"top": 1.5}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(BadOption, match=next(iter(options))):
        stability(tiny_model("conv"), inputs_for(tiny_model("conv"), 1), "gradient", **options)


def test_a_map_made_by_hand_cannot_be_made_again():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    with pytest.raises(NotPossible, match="made by hand"):
        stability(model, x, made(x))
