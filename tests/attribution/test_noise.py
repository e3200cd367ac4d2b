"""Slopes under noise: mean square and variance. The mean itself is tested in test_gradient.py."""

import pytest
import torch
from torch.testing import assert_close

from cutaway.attribution.noise import smoothgrad, smoothgrad_squared, vargrad
from cutaway.core.errors import BadOption
from cutaway.core.model import Model
from cutaway.core.space import rows
from cutaway.testing import nets
from cutaway.testing.models import inputs_for, tiny_model


def slopes_under_noise(net, x, *, samples, sigma, seed, target):
    """Reference: one noisy copy after the other, in plain torch."""
    noise = torch.randn((samples, *x.shape), generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    slopes = []
    for step in noise:
        point = (x + sigma * step)[None].requires_grad_()
        slopes.append(torch.autograd.grad(net(point)[0, target], point)[0][0])
    return torch.stack(slopes)


def test_mean_square_and_variance_are_those_of_the_slopes_at_noisy_inputs():
    net = nets.seeded(lambda: nets.Mlp("tanh"))
    model = Model(net, rows(4, low=-10, high=10))
    x = inputs_for(model, 1)
    sigma = 0.3 * float(x.max() - x.min())
    slopes = slopes_under_noise(net, x[0], samples=7, sigma=sigma, seed=3, target=2)
    options = {"samples": 7, "noise": 0.3, "seed": 3}
    squared = smoothgrad_squared(model, x, 2, **options)
    assert_close(squared.values[0], slopes.square().mean(0), atol=1e-12, rtol=0)
    assert_close(squared.extra["standard_error"][0], slopes.square().std(0) / 7**0.5, atol=1e-12, rtol=0)
    assert_close(vargrad(model, x, 2, **options).values[0], slopes.var(0, unbiased=False), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["conv", "text", "mlp_gelu"])
def test_the_mean_square_is_the_squared_mean_plus_the_variance(name):
    model = tiny_model(name)
    x = inputs_for(model, 2)
    mean, square, variance = (f(model, x, 1, samples=40).values for f in (smoothgrad, smoothgrad_squared, vargrad))
    assert_close(square, mean.square() + variance, atol=1e-12, rtol=1e-9)


def test_a_linear_network_has_no_variance():
    model = tiny_model("linear")
    values = vargrad(model, inputs_for(model, 2), 1, noise=2.0).values
    assert values.abs().max() < 1e-20


def test_the_variance_is_largest_where_the_slope_jumps():
    """Planted: y = max(0, a) + b. Near a = 0 the slope of a is 0 or 1 by chance, and that of b is always 1."""

    class Bent(torch.nn.Module):
        def forward(self, x):
            return (x[:, :1].relu() + x[:, 1:]).expand(-1, 2)

    model = Model(Bent(), rows(2, low=-9, high=9))
    values = vargrad(model, torch.tensor([[0.0, 2.0]]), 0, samples=400, noise=0.1).values[0]
    assert values[0] == pytest.approx(0.25, abs=0.01)
    assert values[1] == 0


@pytest.mark.parametrize("explain", [smoothgrad_squared, vargrad])
def test_any_place_can_be_attributed(explain):
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    assert explain(model, x, 1, wrt="conv2:3@1,2", samples=3).values.shape == (2,)
    assert not explain(model, x, 1, samples=3).signed


def test_one_sample_has_no_variance():
    model = tiny_model("mlp")
    with pytest.raises(BadOption, match="at least two samples"):
        vargrad(model, inputs_for(model, 1), 1, samples=1)


@pytest.mark.peers
@pytest.mark.parametrize(("explain", "kind"), [(smoothgrad_squared, "smoothgrad_sq"), (vargrad, "vargrad")])
def test_agrees_with_captums_noise_tunnel_within_chance(explain, kind):
    captum = pytest.importorskip("captum.attr", reason="captum is in requirements-peers.txt")
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    ours = explain(model, x, 1, samples=2000).values
    torch.manual_seed(0)
    tunnel = captum.NoiseTunnel(captum.Saliency(lambda x: model.module(model.space.normalised(x))))
    leaf = x.clone().requires_grad_()
    theirs = tunnel.attribute(leaf, nt_type=kind, nt_samples=2000, stdevs=0.15, target=1, abs=False).detach()
    assert (ours - theirs).abs().mean() / theirs.mean() < 0.1
