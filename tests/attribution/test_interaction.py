import itertools
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.attribution.interaction import shapley_interaction, side_by_side
from cutaway.attribution.interaction_hessian import integrated_hessians
from cutaway.core.budget import limits
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.fill import Fill
from cutaway.maths.shapley import all_coalitions, interactions
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import row_model

BOTH = [shapley_interaction, integrated_hessians]


class Planted(nn.Module):
    """3 a b + 2 c - d e^2: two pairs and one column by itself."""

    def __init__(self):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        a, b, c, d, e = x.T
        return torch.stack([3 * a * b + 2 * c - d * e**2, a], dim=1) + self.zero


class Table(nn.Module):
    """A row model whose output for zeros and ones is a game's table."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, x):
        return self.table[(x > 0.5).long() @ (1 << torch.arange(x.shape[1]))][:, None]


def planted():
    return ct.Model(Planted().eval(), ct.rows(list("abcde"), low=-10, high=10), scores="values")


X = torch.tensor([[1.0, 2.0, 3.0, 1.0, 2.0]]).double()


@pytest.mark.parametrize("method", BOTH)
def test_a_planted_product_is_found_and_nothing_else(method):
    result = method(planted(), X, 0, features="columns")
    off = result.values.masked_fill(torch.eye(5).bool(), 0)
    assert {tuple(sorted(p)) for p in (off.abs() > 1e-9).nonzero().tolist()} == {(0, 1), (3, 4)}
    assert off[0, 1] > 0 > off[3, 4]
    assert "'a' and 'b'" in result.checks["strongest"]


@pytest.mark.parametrize("method", BOTH)
def test_an_additive_model_shows_none(method):
    result = method(row_model([2.0, -1.0, 0.5]), torch.tensor([[1.0, 2.0, 3.0]]).double(), 1)
    assert result.values.masked_fill(torch.eye(3).bool(), 0).abs().max() < 1e-9


def test_the_product_of_two_has_their_product_as_index():
    values = shapley_interaction(planted(), X, 0, features="columns").values
    assert values[0, 1] == pytest.approx(6)
    assert values[3, 4] == pytest.approx(-4)
    assert values.diagonal().isnan().all()


@pytest.mark.parametrize("k", [2, 5, 6, 9, 12])
def test_each_two_players_come_side_by_side_once(k):
    paths = side_by_side(k)
    pairs = [frozenset(p) for path in paths for p in itertools.pairwise(path)]
    n = k + k % 2
    assert len(pairs) == len(set(pairs)) == n * (n - 1) // 2
    assert all(sorted(path) == list(range(n)) for path in paths)


@pytest.mark.parametrize("k", [8, 9])
def test_nine_in_ten_estimated_intervals_hold_the_truth(k):
    weights = torch.randn(k, 16, generator=torch.Generator().manual_seed(2)).double()
    table = torch.relu(all_coalitions(k).double() @ weights - 0.3).sum(1)
    model = ct.Model(Table(table).eval(), ct.rows(k, low=0, high=1), scores="values")
    truth, off, inside, error = interactions(table), ~torch.eye(k).bool(), [], []
    for seed in range(40):
        result = shapley_interaction(
            model, torch.ones(1, k).double(), 0, features="columns", forwards=2**k - 1 if k == 8 else 500, seed=seed
        )
        inside.append(((result.low <= truth) & (truth <= result.high))[off].double().mean())
        error.append((result.values - truth)[off])
    assert torch.stack(inside).mean() >= 0.9
    errors = torch.stack(error)
    assert (errors.mean(0).abs() <= 4.5 * errors.std(0) / math.sqrt(40)).all()  # no bias


def test_integrated_hessians_of_a_product_by_hand():
    """Of a b: a quarter of the product for each of the four entries, as the paper's double integral gives."""
    values = integrated_hessians(planted(), X, 0, features="columns").values
    assert_close(values[:2, :2], torch.full((2, 2), 1.5).double(), rtol=0, atol=1e-5)
    assert values[2, 2] == pytest.approx(6, abs=1e-4)


def double_integral(net, x, begin, points=60):
    """Equations 6 and 7 of the paper with second derivatives and midpoints in both directions."""
    way, k = x - begin, len(x)
    found = torch.zeros(k, k, dtype=torch.float64)
    for i, j in itertools.product(range(points), repeat=2):
        a, b = (i + 0.5) / points, (j + 0.5) / points
        at = begin + a * b * way
        slope = torch.autograd.functional.jacobian(lambda z: net(z[None])[0, 1], at)
        bent = torch.autograd.functional.hessian(lambda z: net(z[None])[0, 1], at)
        found += (a * b * bent * torch.outer(way, way) + torch.diag(slope * way)) / points**2
    return found


def test_one_integral_gives_the_double_integral_of_the_paper():
    model = tiny_model("mlp_tanh")
    x = inputs_for(model, 1)
    result = integrated_hessians(model, x, 1, shift=0.003)
    expected = double_integral(model.module, x[0], torch.zeros(4).double())
    assert_close(result.values, expected, rtol=0, atol=3e-4)


@pytest.mark.parametrize(("name", "steps", "share"), [("mlp_tanh", 32, 1e-3), ("mlp", 1000, 0.05), ("conv", 64, 0.02)])
def test_all_pairs_sum_to_the_change_of_the_target(name, steps, share):
    """Also for rectifiers, whose second derivative is zero almost everywhere; their kinks need more steps."""
    model = tiny_model(name)
    x = inputs_for(model, 1)
    result = integrated_hessians(model, x, 1, features="auto:4", steps=steps)
    change = float((model.run(x).output - model.run(Fill.of("zero")(x, model.space)).output)[0, 1])
    assert float(result.values.sum()) == pytest.approx(change, abs=share * float(result.values.abs().sum()))
    assert result.checks["gap"].value == pytest.approx(abs(float(result.values.sum()) - change), abs=1e-9)


def test_kinks_are_told_from_curves():
    for name, status in (("mlp_tanh", "ok"), ("conv", "warn")):
        model = tiny_model(name)
        result = integrated_hessians(model, inputs_for(model, 1), 1, features="auto:4")
        assert result.checks["kinks"].status == status


@pytest.mark.parametrize("method", BOTH)
def test_words_are_marked_as_a_sequence_and_columns_are_not(method):
    text = tiny_model("text")
    result = method(text, "the film was very good", 1)
    assert result.sequence
    assert result.row_names == ["the", "film", "was", "very", "good"]
    assert not method(planted(), X, 0).sequence


def test_several_inputs_give_the_mean_and_different_words_are_refused():
    model = planted()
    two = torch.cat([X, 2 * X])
    one, other = (shapley_interaction(model, x[None], 0).values for x in two)
    assert_close(shapley_interaction(model, two, 0).values, (one + other) / 2, equal_nan=True)
    text = tiny_model("text")
    with pytest.raises(BadShape, match="inputs with the same parts"):
        shapley_interaction(text, ["the film was good", "a dull plot but fun"], 1)


@pytest.mark.parametrize(
    ("method", "options", "error", "match"),
    [
        (shapley_interaction, {"features": "cells:4", "forwards": 300}, BadOption, "512 forwards or more"),
        (shapley_interaction, {"features": "cells:1"}, BadShape, "at least two parts"),
        (integrated_hessians, {"steps": 0}, BadOption, "1 step"),
        (integrated_hessians, {"shift": 0.0}, BadOption, "shift"),
        (integrated_hessians, {"baseline": "noise"}, BadOption, "fixed numbers"),
    ],
)
def test_what_cannot_be_done_is_refused(method, options, error, match):
    model = tiny_model("conv")
    with pytest.raises(error, match=match):
        method(model, inputs_for(model, 1), 1, **options)


def test_limits_hold_for_pairs_too():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    with limits(seconds=1e-6):
        result = shapley_interaction(model, x, 1, features="cells:4", forwards=2000)
    assert result.checks["partial"].status == "warn"
    for method in BOTH:
        with limits(forwards=100), pytest.raises(NotPossible, match="--yes"):
            method(model, x, 1)
