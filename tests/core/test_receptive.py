"""Receptive fields, told from one forward, against what the gradient really reaches."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cutaway as ct
from cutaway.core.errors import NotPossible
from cutaway.core.receptive import receptive_field


class Odd(nn.Module):
    """Strides, dilation, uneven padding, pooling, a skip, and functional spelling."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 5, stride=2, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding="same", dilation=2)
        self.c = nn.Conv2d(4, 4, (1, 3), stride=(1, 2))
        self.last = nn.Identity()

    def forward(self, x):
        x = F.avg_pool2d(self.a(F.pad(x, (2, 1, 0, 1))), 2)
        return self.last(self.c(F.elu(self.b(x) + x))).mean((2, 3))


def reached(model, site, x, y, column):
    """The box that a position's gradient covers."""
    slope = model.gradient(x, f"unit('{site}:0@{y},{column}')").slope[0].abs().sum(0)
    rows, columns = slope.sum(1).nonzero(), slope.sum(0).nonzero()
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


@pytest.mark.parametrize("site", ["a", "b", "c", "last"])
def test_the_box_is_what_the_gradient_reaches(site):
    torch.manual_seed(0)
    model = ct.Model(Odd().double(), ct.images((61, 75)))
    x = torch.rand(1, 3, 61, 75, dtype=torch.float64)
    field = receptive_field(model, site, x)
    height, width = model.run(x, read=[site])[site].shape[2:]
    for y, column in ((0, 0), (height // 2, width // 2), (height - 1, width - 1)):
        assert field.box(y, column, 61, 75) == reached(model, site, x, y, column)
    assert not field.everywhere


def test_the_known_field_of_three_convolutions():
    """Two 3 x 3 and one of stride 2: 7 pixels, centres 2 apart from pixel 0 on."""
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1, stride=2), nn.Conv2d(1, 1, 2))
    field = receptive_field(ct.Model(net, ct.images(16, channels=1)), "1", torch.rand(1, 1, 16, 16))
    assert (field.y.size, field.y.step, field.y.first) == (5, 2, 0)
    field = receptive_field(ct.Model(net, ct.images(16, channels=1)), "2", torch.rand(1, 1, 16, 16))
    assert (field.y.size, field.y.step, field.y.first) == (7, 2, 1)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.Identity()

    def forward(self, x):
        x = self.conv(x)
        return self.out(x * F.adaptive_avg_pool2d(x, 1).sigmoid()).mean((2, 3))


def test_a_gate_from_the_whole_picture_is_said():
    field = receptive_field(ct.Model(Gated(), ct.images(12)), "out", torch.rand(1, 3, 12, 12))
    assert field.everywhere
    assert field.y.size == 3


def test_a_place_without_positions_is_refused():
    model = ct.Model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 2)), ct.images(12))
    with pytest.raises(NotPossible, match="cannot be traced back"):
        receptive_field(model, "2", torch.rand(1, 3, 12, 12))


def test_a_real_network_is_traced_to_its_last_layer():
    """EfficientNet-Lite0 pads by hand where an even size meets stride 2; its last positions are 32 pixels apart."""
    pytest.importorskip("efficientnet_lite_pytorch")
    model = ct.load("efficientnet-lite0")
    x = torch.rand(1, 3, 224, 224)
    field = receptive_field(model, "_blocks.5", x)
    assert not field.everywhere  # the normalisation is the same for all inputs
    assert field.y.step == field.x.step == 16 or field.y.step == 8
    top, left, bottom, right = reached(model, "_blocks.5", x, 6, 6)
    box = field.box(6, 6, 224, 224)
    # Weights of 0 and dead rectifiers leave pixels out; none may lie outside.
    assert box[0] <= top < bottom <= box[2]
    assert box[1] <= left < right <= box[3]
