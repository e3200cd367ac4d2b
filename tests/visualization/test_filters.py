"""Filters as pictures: tiles on one scale, slices of deeper layers, wavelets where there are enough pixels."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cutaway as ct
from cutaway.core.errors import BadOption, NotPossible, UnknownName
from cutaway.core.kernels import kernels
from cutaway.maths.gabor import Wavelet
from cutaway.visualization.filters import filters
from tensorflow_js import needs, tiny_darknet

X = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def waves(angles, size=9, colours=(1.0, 1.0, 1.0)):
    """A convolution whose filters are wavelets of one mixture of colours."""
    conv = nn.Conv2d(3, len(angles), size, bias=False)
    middle = (size - 1) / 2
    with torch.no_grad():
        for unit, angle in enumerate(angles):
            plane = Wavelet(1.0, middle, middle, angle, 0.2, 30.0, 1.8, 1.0, 1.0).drawn(size, size)
            conv.weight[unit] = torch.tensor(colours)[:, None, None] * torch.from_numpy(plane)
    return conv


def model_of(*layers):
    return ct.Model(nn.Sequential(*layers), ct.images(32), scores="values")


def test_tiles_are_the_weights_on_one_scale():
    model = ct.load("shapes-cnn")
    found = filters(model, ct.data("shapes/test[0:1]"), size=12)
    weight = model.module.conv1.weight.detach()
    tiles = 0.5 + weight / (2 * weight.abs().max())
    assert torch.allclose(found.images, tiles.repeat_interleave(4, 2).repeat_interleave(4, 3), atol=1e-6)
    assert float((found.images - 0.5).abs().max()) == pytest.approx(0.5)
    assert torch.equal(found.extra["weights"], weight)
    each = filters(model, ct.data("shapes/test[0:1]"), size=12, scale="each")
    assert torch.allclose((each.images - 0.5).abs().amax((1, 2, 3)), torch.full((16,), 0.5))


def test_deeper_filters_are_slices_in_the_order_of_their_length():
    model = ct.load("shapes-cnn")
    found = filters(model, ct.data("shapes/test[0:1]"), layer="conv3", units=2, slices=3)
    weight = model.module.conv3.weight.detach()
    for unit in range(2):
        order = sorted(range(32), key=lambda c, unit=unit: -float(weight[unit, c].norm()))[:3]
        assert found.captions[3 * unit : 3 * unit + 3] == [f"{unit} from {c}" for c in order]
        for k, channel in enumerate(order):
            assert torch.allclose(found.extra["weights"][3 * unit + k, 0], weight[unit, channel])


def test_planted_wavelets_are_told():
    angles = [10.0, 30.0, 75.0, 120.0]
    found = filters(model_of(waves(angles, colours=(1.0, 0.5, 0.25))), X)
    told = found.extra["wavelets"]
    assert told[:, 3].tolist() == pytest.approx(angles, abs=0.5)
    assert told[:, 4].tolist() == pytest.approx([0.2] * 4, abs=0.005)
    assert told[:, 5].tolist() == pytest.approx([30.0] * 4, abs=2)
    assert (told[:, 8] > 0.999).all()
    assert found.checks["wavelets"].value == 1
    assert found.captions[1].startswith("1: 30°, 0.20 /px, fit 100%")


def test_two_mixtures_of_colours_share_a_fit():
    """Half of the squares in red along, half in blue across: one wavelet can hold half."""
    conv = waves([0.0])
    with torch.no_grad():
        conv.weight[0, 1] = 0
        conv.weight[0, 2] = conv.weight[0, 0].T
    fit = float(filters(model_of(conv), X).extra["wavelets"][0, 8])
    assert fit == pytest.approx(0.5, abs=0.05)


def test_few_pixels_hold_no_wavelet():
    found = filters(ct.load("shapes-cnn"), ct.data("shapes/test[0:1]"))
    assert "wavelets" not in found.extra
    assert "too few pixels" in found.checks["wavelets"]


class Functional(nn.Module):
    """Weights of its own, used by the function, behind a linear layer that sees the picture."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return F.conv2d(x, weight=self.kernel / 2).mean((2, 3))


def test_weights_are_found_where_they_are_used():
    net = Functional()
    found = filters(ct.Model(net, ct.images(32), scores="values"), X, wavelets=False)
    assert torch.allclose(found.extra["weights"], net.kernel.detach() / 2)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5))
    found = filters(ct.Model(linear, ct.images(8)), torch.rand(1, 3, 8, 8), wavelets=False)
    assert torch.equal(found.extra["weights"], linear[1].weight.detach().view(5, 3, 8, 8))
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 2, 5))
    model = model_of(conv)
    assert torch.allclose(kernels(model, X)[0].weight, conv.weight.detach())


def test_an_optimal_input_is_the_filter_itself():
    """Of all patches of one length, a filter answers most to its own tile: what the picture shows is meant."""
    conv = waves([20.0, 80.0])
    shown = filters(model_of(conv), X, size=9).images - 0.5
    answers = conv(F.normalize(shown.flatten(1)).view_as(shown)).flatten(1)
    assert answers.diagonal().tolist() == pytest.approx(conv.weight.flatten(1).norm(dim=1).tolist(), rel=1e-5)


@needs("tiny-darknet")
def test_the_first_filters_of_a_real_network():
    found = filters(tiny_darknet(), torch.rand(1, 3, 224, 224))
    assert found.images.shape == (16, 3, 48, 48)
    assert "conv2d_1," in found.title
    assert math.isclose(float(found.images.max()), 1.0) or math.isclose(float(found.images.min()), 0.0, abs_tol=1e-6)


def test_bad_input_is_refused():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:1]")
    with pytest.raises(BadOption, match="at least one filter"):
        filters(model, x, units=0)
    with pytest.raises(BadOption, match="whole layer"):
        filters(model, x, layer="conv1:2")
    with pytest.raises(UnknownName, match="nearest: conv2"):
        filters(model, x, layer="conv22")
    with pytest.raises(NotPossible, match="no convolution at relu3; .* at: conv1, conv2"):
        filters(model, x, layer="relu3")
    with pytest.raises(NotPossible, match="single pixels"):
        filters(model_of(nn.Conv2d(3, 4, 1)), X)
    dead = model_of(nn.Conv2d(3, 4, 5))
    nn.init.zeros_(dead.module[0].weight)
    assert filters(dead, X).checks["dead"].value == 4
