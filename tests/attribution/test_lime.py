"""A linear model around one input: exact where the network is linear, and honest where it is not."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.attribution.lime import lime
from cutaway.attribution.lime_fit import _Fit, kernel
from cutaway.core.budget import limits
from cutaway.core.errors import BadOption
from cutaway.core.features import of_ids
from cutaway.core.game import play
from cutaway.core.model import Model
from cutaway.core.space import rows
from cutaway.core.target import logit
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import BOX, box_model, bright, row_model


def tanh_model(columns=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(columns, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return Model(net, rows(columns, low=-10, high=10)), torch.randn(1, columns, generator=generator).double()


def by_hand(model, x, k, width, ridge, distance):
    """The equation, slowly: every set of columns, one forward for each, and normal equations in NumPy."""
    n = x.shape[1]
    a, b = np.zeros((n + 1, n + 1)), np.zeros(n + 1)
    for z in itertools.product((0.0, 1.0), repeat=n):
        there = sum(z) / n
        if distance == "cosine":
            d = 1.0 - (sum(z) / (math.sqrt(sum(z)) * math.sqrt(n)) if any(z) else 0.0)
        else:
            d = math.sqrt(1 - there)
        weight = math.exp(-(d**2) / width**2)
        score = float(model.run(x * torch.tensor([z]).double()).output[0, k])
        row = np.array([1.0, *z])
        a += weight * np.outer(row, row)
        b += weight * score * row
    a[1:, 1:] += ridge * np.eye(n)
    return np.linalg.solve(a, b)[1:]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_with_all_sets_it_is_the_weighted_regression_of_the_paper(distance, ridge):
    model, x = tanh_model()
    why = lime(model, x, 1, fill="zero", distance=distance, width=0.7, ridge=ridge)
    assert why.values[0].tolist() == pytest.approx(by_hand(model, x, 1, 0.7, ridge, distance).tolist(), abs=1e-10)
    assert not why.extra["error"].any()
    assert why.provenance.cost.forwards < 40
    assert "All sets of 5 parts were taken" in why.checks["stability"]


@pytest.mark.parametrize("samples", [60, 5000])
def test_a_linear_model_gets_its_own_weights(samples):
    """Whatever the draw, the kernel and its width: w times what is missing."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(12, generator=generator).double()
    x = torch.randn(1, 12, generator=generator).double()
    for distance, width in (("cosine", 0.25), ("euclidean", 0.6)):
        why = lime(
            row_model(weights.tolist()), x, 1, fill="zero", samples=samples, distance=distance, width=width, ridge=0.0
        )
        assert torch.allclose(why.values[0], weights * x[0], atol=1e-9)
        assert why.checks["fidelity"].value == pytest.approx(1.0)
        assert why.checks["fidelity"].status == "ok"


def test_the_ridge_pulls_towards_zero():
    model, x = row_model([2.0, -1.0, 0.5]), torch.tensor([[1.0, 1.0, 1.0]]).double()
    sizes = [float(lime(model, x, 1, ridge=r).values.norm()) for r in (0.0, 1.0, 10.0)]
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_the_kernel_counts_nearly_whole_inputs_most():
    z = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    for distance, far in (("cosine", 1 - 0.5), ("euclidean", math.sqrt(0.75))):
        weights = kernel(z, distance, 0.5)
        assert weights[0] == 1
        assert (weights.diff() < 0).all()
        assert float(weights[2]) == pytest.approx(math.exp(-(far**2) / 0.25))


def test_the_standard_error_is_the_spread_over_seeds():
    """The error of one call against the spread of many: a claim about chance, tested by chance."""
    model, x = tanh_model(14, 4)
    calls = [lime(model, x, 1, fill="zero", samples=300, seed=seed) for seed in range(40)]
    spread = torch.stack([c.values[0] for c in calls]).std(0)
    claimed = torch.stack([c.extra["error"][0] for c in calls]).mean(0)
    ratio = claimed / spread
    assert 0.8 < float(ratio.mean()) < 1.25
    assert float(ratio.min()) > 0.6
    assert float(ratio.max()) < 1.6


def test_the_expected_agreement_is_that_of_other_seeds():
    """What the check promises, from halves of one draw, is what another draw gives."""
    from cutaway.maths.statistics import spearman, spearman_brown

    model, x = tanh_model(30, 5)
    calls = [lime(model, x, 1, fill="zero", samples=200, seed=seed) for seed in range(12)]
    promised = sum(spearman_brown(c.checks["stability"].value) for c in calls) / 12
    pairs = itertools.combinations(calls, 2)
    found = [float(spearman(a.values[0], b.values[0])) for a, b in pairs]
    assert abs(promised - sum(found) / len(found)) < 0.08


def test_a_network_that_is_no_sum_is_called_so():
    """Parity of four columns: no part does anything alone, and a linear model explains nothing."""

    class Parity(nn.Module):
        def forward(self, x):
            odd = (x.round().sum(1) % 2)[:, None]
            return torch.cat([odd, 1 - odd], 1)

    model = Model(Parity(), rows(4, low=0, high=1), name="parity", scores="values")
    why = lime(model, torch.ones(1, 4), 0, fill="zero", width=10.0)
    assert why.checks["fidelity"].status == "warn"
    assert why.checks["fidelity"].value < 0.05


def test_fidelity_on_samples_left_out_exposes_a_fit_to_noise():
    """Hardly more samples than parts, a ridge of nearly nothing: perfect inside, useless outside."""
    model, x = tanh_model(40, 6)
    why = lime(model, x, 1, fill="zero", samples=44, ridge=1e-3)
    assert "explains 97% of" in why.checks["fidelity"]
    assert why.checks["fidelity"].value < 0.3
    assert {why.checks[name].status for name in ("fidelity", "counting", "stability")} == {"warn"}


def test_the_fidelity_on_samples_left_out_is_that_of_leaving_each_out():
    """Reference: as many fits as samples, each without one of them."""
    generator = torch.Generator().manual_seed(9)
    z = (torch.rand(25, 4, generator=generator) < 0.5).double()
    scores, pi = torch.randn(25, generator=generator).double(), torch.rand(25, generator=generator).double()
    off = 0.0
    for i in range(25):
        rest = torch.arange(25) != i
        fit = _Fit(z[rest], scores[rest], pi[rest], 0.7)
        off += float(pi[i] * (scores[i] - fit.predicted(z[i])) ** 2)
    spread = float(pi @ (scores - pi @ scores / pi.sum()) ** 2)
    fast = _Fit(z, scores, pi, 0.7).explained(z, scores, pi, left_out=True)
    assert fast == pytest.approx(1 - off / spread, abs=1e-10)


def test_a_planted_column_a_planted_word_and_a_planted_box_come_first():
    why = lime(row_model([0.1, 0.0, 3.0, -0.2]), torch.ones(1, 4).double(), 1, fill="zero")
    assert int(why.values[0].argmax()) == 2

    why = lime(box_model(), bright(), 1, features="cells:4", fill="zero", samples=300)
    inside = why.values[0, 0][BOX].mean()
    outside = why.values[0, 0].clone()
    outside[BOX] = 0
    assert inside > 50 * outside.abs().max()

    text = tiny_model("text")
    with torch.no_grad():
        text.module.embedding.weight.mul_(0.05)
        text.module.embedding.weight[14] *= 100
    why = lime(text, "the film was awful fun", 0)
    assert why.tokens[0][int(why.values[0].abs().argmax())] == "awful"


def test_superpixels_of_a_shape_lie_on_the_shape():
    model, test = ct.load("shapes-cnn"), ct.data("shapes/test[0:12]")
    hits = 0
    for k in range(len(test)):
        one = test[k]
        why = lime(model, one.x, int(one.labels), features="superpixels:30", fill="mean", samples=300)
        best = why.values[0, 0] == why.values.max()
        hits += float(test.masks[k][best].float().mean()) > 0.3
    assert hits >= 9


def test_keeping_few_parts_keeps_those_that_matter():
    weights = [0.05, 4.0, 0.0, -3.0, 0.1, 0.2, -0.02, 2.0, 0.01, 0.03, 0.0, 0.02]
    why = lime(row_model(weights), torch.ones(1, 12).double(), 1, fill="zero", keep=3, ridge=0.0)
    assert why.values[0].nonzero()[:, 0].tolist() == [1, 3, 7]
    assert why.values[0, [1, 3, 7]].tolist() == pytest.approx([4.0, -3.0, 2.0], abs=0.1)
    every = lime(row_model(weights), torch.ones(1, 12).double(), 1, fill="zero", keep=99, ridge=0.0)
    assert torch.allclose(every.values[0], torch.tensor(weights).double(), atol=1e-9)


def test_a_flat_target_has_a_flat_map_and_says_so():
    why = lime(row_model([1.0, 1.0]), torch.zeros(1, 2).double(), 1, keep=1)
    assert not why.values.any()
    assert why.checks["fidelity"].status == "warn"


def test_a_part_of_several_entries_has_its_weight_at_each():
    model = row_model([1.0, 2.0, 3.0])
    why = lime(model, torch.ones(1, 3).double(), 1, features=of_ids(torch.tensor([0, 1, 1])), fill="zero", ridge=0.0)
    assert why.values[0].tolist() == pytest.approx([1.0, 5.0, 5.0])


def test_units_of_a_layer_are_parts_too():
    model = tiny_model("conv")
    why = lime(model, inputs_for(model, 1), 1, wrt="conv1", samples=100)
    assert why.values.shape[1] == model.module.conv1.out_channels
    assert (why.values.flatten(2).std(2) == 0).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples": 3}, "4 samples or more"),
        ({"width": 0.0}, "kernel width above 0"),
        ({"ridge": -1.0}, "ridge of at least 0"),
        ({"keep": 0}, "keep 1 part"),
        ({"samples": 8, "ridge": 0.0}, "tell 20 parts apart"),
        ({"samples": 100, "ridge": 0.0, "width": 1e-3}, "tell 20 parts apart"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    model, x = tanh_model(20)
    with pytest.raises(BadOption, match=said):
        lime(model, x, 1, **options)


@pytest.mark.peers
@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_captum_gives_the_same_weights_from_the_same_samples(alpha):
    """captum's Lime, fed with our samples and kernel, and its own ridge regression."""
    peer = pytest.importorskip("captum.attr", reason="captum is a peer, not a dependency")
    linear = pytest.importorskip("captum._utils.models.linear_model", reason="captum is a peer, not a dependency")
    model, x = tanh_model(12, 7)
    samples = 300
    z = torch.rand(samples, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64) < 0.5
    z[0] = True

    def perturb(original, **more):
        yield from z[:, None].double()

    theirs = peer.Lime(
        model.module,
        interpretable_model=linear.SkLearnRidge(alpha=alpha),
        similarity_func=lambda original, changed, mask, **more: kernel(mask.bool(), "cosine", 0.25)[0],
        perturb_func=perturb,
    ).attribute(x, target=1, n_samples=samples, perturbations_per_eval=10)
    ours = lime(model, x, 1, fill="zero", samples=samples, ridge=alpha, seed=3).values
    # captum hands its samples to the regression in float32.
    assert torch.allclose(ours, theirs.double(), atol=1e-4 * float(ours.abs().max()))


def test_scores_of_the_samples_are_those_of_the_game():
    """A sanity check of the plumbing: a weight from two sets alone is a difference of two scores."""
    model, x = tanh_model(1, 8)
    why = lime(model, x, 1, fill="zero", ridge=0.0)
    game = play(model, x, logit(1))
    assert float(why.values) == pytest.approx(game.full - game.empty)


def test_the_time_limit_fits_the_samples_so_far():
    model = tiny_model("conv")
    x, options = inputs_for(model, 1), {"features": "cells:4"}
    with limits(seconds=1e-6):
        short = lime(model, x, 1, samples=600, **options)
    assert short.checks["partial"].value == 256
    assert short.provenance.cost.forwards < 300
    assert torch.equal(short.values, lime(model, x, 1, samples=256, **options).values)
    assert "partial" not in lime(model, x, 1, samples=600, **options).checks


def test_all_sets_of_few_parts_are_taken_whatever_the_time():
    with limits(seconds=1e-6):
        result = lime(tiny_model("mlp"), inputs_for(tiny_model("mlp"), 1), 1, samples=600)
    assert "partial" not in result.checks
