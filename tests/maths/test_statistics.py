"""Ranks, correlations and intervals against scipy and against what is known."""

import math

import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from cutaway.maths.statistics import (
    bootstrap_interval,
    correlation_interval,
    pearson,
    ranks,
    sign_flip_test,
    spearman,
    spearman_brown,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_equal_values_share_the_mean_of_their_places():
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_ranks_equal_scipy_with_many_ties():
    values = torch.randint(5, (4, 50), generator=seeded()).double()
    assert_close(ranks(values), torch.from_numpy(scipy.stats.rankdata(values.numpy(), axis=-1)))


def test_spearman_equals_scipy_with_and_without_ties():
    a, b = torch.randn(2, 200, generator=seeded(), dtype=torch.float64)
    for left, right in ((a, b), ((a * 2).round(), (a + b).round())):
        expected = scipy.stats.spearmanr(left.numpy(), right.numpy()).statistic
        assert float(spearman(left, right)) == pytest.approx(expected, abs=1e-12)


def test_spearman_ignores_any_increasing_transformation():
    a, b = torch.rand(2, 100, generator=seeded(), dtype=torch.float64)
    assert_close(spearman(a.exp(), b**3), spearman(a, b))
    assert float(spearman(a, -a.log())) == pytest.approx(-1)


def test_a_batch_is_correlated_row_by_row():
    a, b = torch.randn(2, 3, 40, generator=seeded())
    assert_close(pearson(a, b), torch.stack([pearson(left, right) for left, right in zip(a, b, strict=True)]))


def test_correlation_with_a_constant_is_nan():
    assert math.isnan(float(spearman(torch.ones(9), torch.arange(9.0))))


def test_spearman_brown_predicts_the_agreement_of_longer_measurements():
    assert spearman_brown(0.5) == pytest.approx(2 / 3)
    assert spearman_brown(spearman_brown(0.8, times=0.25), times=4) == pytest.approx(0.8)

    truth, noise = torch.randn(2000, generator=seeded()), torch.randn(4, 2000, generator=seeded(1))
    halves = float(pearson(truth + noise[0], truth + noise[1]))
    wholes = float(pearson(truth + (noise[0] + noise[1]) / 2, truth + (noise[2] + noise[3]) / 2))
    assert spearman_brown(halves) == pytest.approx(wholes, abs=0.03)


def test_correlation_interval_equals_scipy():
    a, b = torch.randn(2, 60, generator=seeded(), dtype=torch.float64)
    found = scipy.stats.pearsonr(a.numpy(), (a + b).numpy())
    expected = found.confidence_interval(0.9)
    assert correlation_interval(float(found.statistic), 60, level=0.9) == pytest.approx(tuple(expected), abs=1e-9)


def test_correlation_interval_of_three_pairs_says_nothing():
    assert correlation_interval(0.99, 3) == (-1.0, 1.0)


def test_rank_correlation_interval_covers_as_often_as_it_says():
    """The rank correlation of a bivariate normal is 6 / pi * asin(r / 2)."""
    r, n, trials = 0.6, 50, 400
    truth = 6 / math.pi * math.asin(r / 2)
    x, y = torch.randn(2, trials, n, generator=seeded(), dtype=torch.float64)
    found = spearman(x, r * x + math.sqrt(1 - r * r) * y)
    hits = sum(low <= truth <= high for low, high in (correlation_interval(f, n, ranked=True) for f in found.tolist()))
    assert 0.92 <= hits / trials <= 0.98


def test_bootstrap_of_the_mean_equals_the_interval_of_the_central_limit():
    values = torch.randn(400, generator=seeded(), dtype=torch.float64)
    low, high = bootstrap_interval(values, generator=seeded(1))
    half = 1.96 * float(values.std()) / 20
    assert float(low) == pytest.approx(float(values.mean()) - half, abs=0.01)
    assert float(high) == pytest.approx(float(values.mean()) + half, abs=0.01)


@pytest.mark.parametrize("n", [5, 8, 20])
@pytest.mark.parametrize("kind", ["normal", "uniform", "heavy"])
def test_bootstrap_of_the_mean_covers_the_truth_also_with_few_examples(n, kind):
    """Simulated: 1000 repeats, each an example set of its own; the plain percentiles cover 82 % with five."""
    normal = torch.randn(n, 1000, generator=seeded(n), dtype=torch.float64)
    drawn = {"normal": normal, "uniform": torch.special.ndtr(normal) - 0.5, "heavy": normal * normal.abs()}[kind]
    low, high = bootstrap_interval(drawn, generator=seeded())
    assert 0.9 <= float(((low <= 0) & (high >= 0)).double().mean()) <= 0.99


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("kind", ["normal", "uniform", "heavy"])
def test_of_even_fewer_examples_the_interval_is_students(n, kind):
    """Simulated: of normal values it covers what it says, of heavier tails more."""
    normal = torch.randn(n, 1000, generator=seeded(n), dtype=torch.float64)
    drawn = {"normal": normal, "uniform": torch.special.ndtr(normal) - 0.5, "heavy": normal * normal.abs()}[kind]
    low, high = bootstrap_interval(drawn, generator=seeded())
    covered = float(((low <= 0) & (high >= 0)).double().mean())
    assert covered >= 0.9
    assert kind != "normal" or covered <= 0.97


def test_bootstrap_takes_any_statistic_and_any_shape():
    values = torch.randn(80, 3, generator=seeded(), dtype=torch.float64)
    by_sums = bootstrap_interval(values, generator=seeded(2), draws=500)
    by_function = bootstrap_interval(values, lambda rows: rows.mean(0), generator=seeded(2), draws=500)
    assert_close(by_sums, by_function)
    low, high = bootstrap_interval(values, lambda rows: rows.median(0).values, generator=seeded(2), draws=200)
    assert low.shape == (3,)
    assert (low < high).all()


def test_sign_flips_of_five_equal_differences():
    assert sign_flip_test(torch.ones(5), generator=seeded()) == 2 / 32


def test_sign_flips_agree_with_scipy():
    differences = torch.randn(12, generator=seeded(3), dtype=torch.float64) + 0.4
    expected = scipy.stats.permutation_test(
        (differences.numpy(),), lambda d: d.mean(), permutation_type="samples", n_resamples=math.inf
    )
    assert sign_flip_test(differences, generator=seeded()) == pytest.approx(expected.pvalue, abs=1e-12)
    assert sign_flip_test(differences, draws=4000, generator=seeded()) == pytest.approx(expected.pvalue, abs=0.02)
