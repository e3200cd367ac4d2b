"""Games whose values are known: by all orders, by closed forms, and by many repetitions."""

import itertools
import math

import pytest
import torch
from scipy.special import stdtrit
from torch.testing import assert_close

from cutaway.maths.pairs import Pairs, _shapley_of_covariance, estimate
from cutaway.maths.shapley import all_coalitions, interactions, shapley


def table(k, seed=0):
    return torch.randn(2**k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(k, seed=0):
    """A game with all orders of interaction, such as networks play."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.randn(k, 24, generator=g).double()
    hidden = torch.relu(all_coalitions(k).double() @ weights * 0.7 + torch.randn(24, generator=g).double())
    return hidden @ torch.randn(24, generator=g).double()


def by_all_orders(values, k):
    """The definition: mean gain over all k! orders."""
    found = torch.zeros(k, dtype=torch.float64)
    for order in itertools.permutations(range(k)):
        code = 0
        for i in order:
            found[i] += values[code | 1 << i] - values[code]
            code |= 1 << i
    return found / math.factorial(k)


def from_pairs(values, k, forwards, seed, how):
    pairs = Pairs(k, seed)
    pairs.grow((forwards - 2) // 2)
    codes = pairs.coalitions.long() @ (1 << torch.arange(k))
    odd = (values[codes] - values[len(values) - 1 - codes]) / 2
    return estimate(pairs, odd, float(values[-1] - values[0]), how)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_all_coalitions_give_the_mean_over_all_orders(k):
    assert_close(shapley(table(k)), by_all_orders(table(k), k), rtol=0, atol=1e-12)


def test_twelve_players_by_the_subset_formula():
    k, values = 12, table(12)
    found = torch.zeros(k, dtype=torch.float64)
    for code, row in enumerate(all_coalitions(k).tolist()):
        s = sum(row)
        for i in range(k):
            if not row[i]:
                weight = math.factorial(s) * math.factorial(k - s - 1) / math.factorial(k)
                found[i] += weight * (values[code | 1 << i] - values[code])
    assert_close(shapley(values), found, rtol=0, atol=1e-12)


def test_interactions_by_the_subset_formula():
    k, values = 5, table(5)
    found = interactions(values)
    for i, j in itertools.combinations(range(k), 2):
        expected = 0.0
        for code in range(2**k):
            if code >> i & 1 or code >> j & 1:
                continue
            s = code.bit_count()
            weight = math.factorial(s) * math.factorial(k - s - 2) / math.factorial(k - 1)
            both = values[code | 1 << i | 1 << j] - values[code | 1 << i] - values[code | 1 << j] + values[code]
            expected += weight * float(both)
        assert found[i, j] == found[j, i] == pytest.approx(expected, abs=1e-12)
    assert found.diagonal().isnan().all()


@pytest.mark.parametrize("how", ["smooth", "regression"])
@pytest.mark.parametrize("k", [4, 7, 8])
def test_all_pairs_give_the_exact_answer(how, k):
    values = table(k)
    found = from_pairs(values, k, 2**k, 0, how)
    assert_close(found.values, shapley(values), rtol=0, atol=1e-8)
    assert not found.error.any()


def test_more_pairs_than_a_smooth_game_is_fitted_to(monkeypatch):
    monkeypatch.setattr("cutaway.maths.pairs._FITTED", 40)
    values = network(8)
    assert_close(from_pairs(values, 8, 256, 0, "smooth").values, shapley(values), rtol=0, atol=1e-8)
    rough = from_pairs(values, 8, 150, 0, "smooth")
    assert ((rough.values - shapley(values)).abs() <= 5 * rough.error + 1e-9).all()


@pytest.mark.parametrize("how", ["smooth", "regression"])
def test_an_additive_game_is_solved_by_a_few_pairs(how):
    weights = torch.tensor([2.0, -1, 0, 0.5, 3, 1, -4, 0.1, 1, 2], dtype=torch.float64)
    values = all_coalitions(10).double() @ weights
    found = from_pairs(values, 10, 60, 0, how)
    assert_close(found.values, weights, rtol=0, atol=1e-5)
    assert float(found.values.sum()) == pytest.approx(float(weights.sum()), abs=1e-9)


def test_pairs_are_balanced_and_never_repeated_nor_complements_of_each_other():
    for k, total in ((6, 31), (7, 40), (30, 200)):
        pairs = Pairs(k, 1)
        for step in (total // 3, total // 2, total):
            pairs.grow(step)
        rows = pairs.coalitions
        assert len(rows) == total
        assert len({tuple(r) for r in torch.cat([rows, ~rows]).tolist()}) == 2 * total
        assert (rows.sum(1) <= k // 2).all()


def test_growing_in_steps_gives_the_same_pairs_as_growing_at_once():
    one, two = Pairs(9, 5), Pairs(9, 5)
    one.grow(100)
    two.grow(30)
    two.grow(100)
    assert {tuple(r) for r in one.coalitions.tolist()} == {tuple(r) for r in two.coalitions.tolist()}


def test_the_shapley_values_of_the_covariance_are_those_of_the_game_it_describes():
    k, r = 6, 0.7
    chosen = torch.tensor([[True, True, False, True, False, False], [False] * 6])
    for row, found in zip(chosen, _shapley_of_covariance(chosen, r), strict=True):
        game = r ** (all_coalitions(k) != row).sum(1).double()
        assert_close(found, shapley(game), rtol=0, atol=1e-13)


@pytest.mark.parametrize("how", ["smooth", "regression"])
@pytest.mark.parametrize("forwards", [120, 240])
def test_nine_in_ten_intervals_hold_the_truth(how, forwards):
    """60 samples of each of two games with 12 players; the intervals say 95 %."""
    inside = []
    for game in (0, 1):
        values = network(12, game)
        truth = shapley(values)
        for seed in range(60):
            found = from_pairs(values, 12, forwards, seed, how)
            half = found.error * float(stdtrit(found.freedom, 0.975))
            inside.append(((found.values - truth).abs() <= half).double().mean())
    assert torch.stack(inside).mean() >= 0.9


def test_the_smooth_estimate_has_less_than_half_the_error_of_the_regression():
    """Mean over five games; single ones go from a quarter to half."""
    error = dict.fromkeys(("smooth", "regression"), 0.0)
    for how, game, seed in itertools.product(error, range(5), range(6)):
        values = network(12, game)
        truth = shapley(values)
        found = from_pairs(values, 12, 960, seed, how).values
        error[how] += float((found - truth).square().sum() / truth.square().sum())
    assert error["smooth"] < error["regression"] / 2
