import pytest
import scipy.stats
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.attribution.gradient import gradient, input_x_gradient
from cutaway.attribution.occlusion import occlusion
from cutaway.core.errors import BadOption, NotPossible, UnknownName
from cutaway.evaluation.agreement import agreement, disagreement
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import row_model

PAIR = "gradient;input_x_gradient"


def test_matches_scipy_input_by_input():
    model = tiny_model("conv")
    x = inputs_for(model, 3)
    found = agreement(model, x, 1, methods="gradient;occlusion")
    a, b = (m(model, x, 1).values.sum(1).flatten(1) for m in (gradient, occlusion))
    slow = [scipy.stats.spearmanr(p, q).statistic for p, q in zip(a, b, strict=True)]
    assert found.row_names == found.column_names == ["gradient", "occlusion"]
    assert float(found.values[0, 1]) == pytest.approx(sum(slow) / 3, abs=1e-12)
    assert_close(found.values, found.values.T)
    assert_close(found.values.diagonal(), torch.ones(2, dtype=torch.float64))
    assert (found.low <= found.values + 1e-12).all()
    assert (found.values <= found.high + 1e-12).all()


def test_opposite_orders_have_minus_one_and_equal_sizes_one():
    """For f = sum x_i^2 / 2 at x below zero, the gradient is x and input times gradient x^2."""

    class Halves(nn.Module):
        def forward(self, x):
            return torch.stack([0 * x.sum(1), (x**2).sum(1) / 2], dim=1)

    model = ct.Model(Halves(), ct.rows(4, low=-9, high=9), name="halves")
    x = torch.tensor([[-1.0, -2.0, -3.0, -4.0]])
    assert float(agreement(model, x, 1, methods=PAIR).values[0, 1]) == pytest.approx(-1)
    assert float(agreement(model, x, 1, methods=PAIR, by="size").values[0, 1]) == pytest.approx(1)
    assert_close(
        disagreement(model, x, 1, methods=PAIR).values, torch.tensor([[0.5, 1 / 6, 1 / 6, 0.5]]), check_dtype=False
    )
    assert not disagreement(model, x, 1, methods=PAIR, by="size").values.any()


def test_disagreement_by_hand():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    found = disagreement(model, x, 1, methods="gradient;input_x_gradient;occlusion")
    for i in range(2):
        ranked = []
        for m in (gradient, input_x_gradient, occlusion):
            values = m(model, x, 1).values[i].sum(0).flatten()
            ranked.append((torch.from_numpy(scipy.stats.rankdata(values)) - 1) / (len(values) - 1))
        slow = torch.stack(ranked)
        assert_close(found.values[i, 0].flatten(), slow.std(0, unbiased=False), atol=1e-12, rtol=0)
        assert_close(found.extra["rank"][i, 0].flatten(), slow.mean(0), atol=1e-12, rtol=0)


def test_a_coarse_map_and_text_take_part():
    photo = tiny_model("conv")
    assert agreement(photo, inputs_for(photo, 2), 1, methods="gradient;grad_cam").values.shape == (2, 2)
    text = tiny_model("text")
    assert agreement(text, inputs_for(text, 2), 1, methods=PAIR).values.isfinite().all()
    assert disagreement(text, inputs_for(text, 2), 1, methods=PAIR).values.ndim == 2


def test_a_constant_map_has_no_order_and_says_so():
    model = row_model([1.0, 1.0, 1.0])
    found = agreement(model, torch.tensor([[1.0, 2.0, 3.0]]), 1, methods=PAIR)
    assert found.values[0, 1].isnan()
    assert found.checks["constant"].status == "warn"
    assert found.checks["verdict"].status == "warn"
    assert "gradient" in disagreement(model, torch.tensor([[1.0, 2.0, 3.0]]), 1, methods=PAIR).checks["constant"]


@pytest.mark.parametrize("method", [agreement, disagreement])
def test_what_makes_no_maps_is_refused(method):
    model = tiny_model("mlp")
    x = inputs_for(model, 1)
    with pytest.raises(BadOption, match="two or more different"):
        method(model, x, 1, methods="gradient")
    with pytest.raises(BadOption, match="two or more different"):
        method(model, x, 1, methods="gradient;gradient")
    with pytest.raises(BadOption, match="gives Curve"):
        method(model, x, 1, methods="gradient;deletion")
    with pytest.raises(UnknownName, match="gradiant"):
        method(model, x, 1, methods="gradient;gradiant")
    with pytest.raises(NotPossible):
        method(model, x, 1, methods="gradient;grad_cam")
