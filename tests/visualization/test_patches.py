"""Top patches: the cut is where the unit looks, the pattern is 0 outside, and planted parts are found."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, NotPossible
from cutaway.visualization.patches import top_patches
from tensorflow_js import needs, tiny_darknet


def squares(n=12, size=24):
    """Grey pictures with one bright square of 3 x 3, brighter in every next picture; its middle is returned."""
    draw = torch.Generator().manual_seed(0)
    x, middles = torch.full((n, 3, size, size), 0.4), torch.randint(0, size - 2, (n, 2), generator=draw) + 1
    for i, (row, column) in enumerate(middles.tolist()):
        x[i, :, row - 1 : row + 2, column - 1 : column + 2] = 0.5 + 0.5 * i / n
    return Examples(x=x, names=[str(i) for i in range(n)], source="squares"), middles


class Finder(nn.Module):
    """Unit 0 finds bright squares of 3 x 3 pixels, unit 1 never fires, unit 2 answers the same to all."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.wide = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.ReLU()
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[0], self.conv.bias[:] = 1 / 27, torch.tensor([-0.42, -1.0, 1.0])
            self.wide.weight.zero_()
            self.wide.weight[range(3), range(3), 1, 1] = 1
            self.wide.bias.zero_()

    def forward(self, x):
        return self.last(self.wide(self.relu(self.conv(x)))).mean((2, 3))


def test_a_planted_square_is_cut_out_with_its_pattern():
    data, middles = squares()
    found = top_patches(ct.Model(Finder(), ct.images(24), scores="values"), data, layer="last:0", k=3, size=15)
    assert found.extra["examples"].tolist() == [11, 10, 9]
    assert torch.equal(found.extra["positions"], middles[[11, 10, 9]])
    field = [[r - 2, c - 2, r + 3, c + 3] for r, c in middles[[11, 10, 9]].tolist()]
    assert found.extra["boxes"].tolist() == [[max(0, a), max(0, b), min(24, c), min(24, d)] for a, b, c, d in field]
    # A field of 5 pixels, shown three times as large: the square is in its middle, the pattern is nowhere else.
    for k in range(3):
        patch, pattern = found.images[2 * k][:, ::3, ::3], found.images[2 * k + 1][:, ::3, ::3]
        assert torch.allclose(
            patch[:, 1:4, 1:4], data.x[[11, 10, 9][k], 0, middles[[11, 10, 9][k]][0], middles[[11, 10, 9][k]][1]]
        )
        assert (pattern[:, 1:4, 1:4] > 0.9).all()
        rim = F.pad(torch.zeros(3, 3, dtype=torch.bool), (1, 1, 1, 1), value=True)
        assert (pattern[:, rim] == 0.5).all()
    assert found.checks["field"].status == "ok"


def test_beyond_the_border_a_patch_is_grey():
    x = torch.zeros(1, 3, 24, 24)
    x[..., :2, :2] = 1
    found = top_patches(ct.Model(Finder(), ct.images(24), scores="values"), x, layer="last:0", k=1, size=8)
    assert found.extra["boxes"].tolist() == [[0, 0, 3, 3]]
    corner = found.images[0]
    assert (corner[:, 0] == 0.5).all()
    assert (corner[:, :, 0] == 0.5).all()
    assert (corner[:, 4, 4] == 1).all()


@pytest.mark.parametrize("pattern", ["deconvnet", "guided", "gradient"])
def test_every_pattern_ends_where_the_receptive_field_does(pattern):
    """The box of core.receptive against the support of the plain gradient, taken anew."""
    model, data = ct.load("shapes-cnn"), ct.data("shapes/test[0:40]")
    found = top_patches(model, data, layer="relu3", units=("0", "5"), k=4, pattern=pattern)
    assert found.checks["field"].value == 0
    for i in range(len(found.extra["units"])):
        unit, example = int(found.extra["units"][i]), int(found.extra["examples"][i])
        y, x = found.extra["positions"][i].tolist()
        slope = model.gradient(data[example].x, f"unit('relu3:{unit}@{y},{x}')").slope[0].abs().sum(0)
        rows, columns = slope.sum(1).nonzero(), slope.sum(0).nonzero()
        top, left, bottom, right = found.extra["boxes"][i].tolist()
        assert top <= int(rows.min())
        assert int(rows.max()) < bottom
        assert left <= int(columns.min())
        assert int(columns.max()) < right
        act = model.run(data[example].x, read=["relu3"])["relu3"][0, unit]
        assert float(act.max()) == pytest.approx(float(found.extra["activations"][i]))
        assert float(act[y, x]) == float(act.max())


class Gated(nn.Module):
    """Each channel times a number from the whole picture."""

    def __init__(self):
        super().__init__()
        self.conv, self.gated = nn.Conv2d(3, 2, 3, padding=1), nn.ReLU()
        nn.init.constant_(self.conv.bias, 1.0)

    def forward(self, x):
        act = self.conv(x)
        return self.gated(act * act.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3))


def test_a_gate_that_sees_the_whole_picture_is_said():
    torch.manual_seed(0)
    model = ct.Model(Gated(), ct.images(16), scores="values")
    found = top_patches(model, torch.rand(3, 3, 16, 16), layer="gated", units=("0",), k=1)
    assert found.checks["field"].status == "warn"
    assert "whole picture" in found.checks["field"]


def test_units_that_never_fire_or_never_change_are_said():
    data, _ = squares()
    model = ct.Model(Finder(), ct.images(24), scores="values")
    found = top_patches(model, data, layer="last", units=("0", "1", "2"), k=2)
    assert found.extra["units"].tolist() == [0, 0, 2, 2]
    assert "Units 1 are never above 0" in found.checks["silent"]
    assert "units 2" in found.checks["constant"]
    with pytest.raises(NotPossible, match="units 1 of last are never above 0 on 12 examples"):
        top_patches(model, data, layer="last:1")


def test_pictures_smaller_than_the_receptive_field_are_shown_whole():
    model, x = ct.load("shapes-cnn").at_size(32, 32), ct.data("shapes/test[0:10]").x[:, :, 8:40, 8:40].contiguous()
    found = top_patches(model, x, layer="relu5", k=2, size=32)
    assert "larger than the pictures (32 x 32)" in found.checks["large"]
    # A field of 46 pixels; the units are those of the highest peaks.
    assert found.images.shape == (3 * 2 * 2, 3, 32, 32)
    peaks = model.run(x, read=["relu5"])["relu5"].amax((0, 2, 3))
    assert found.extra["units"].unique().tolist() == sorted(peaks.topk(3).indices.tolist())


@needs("tiny-darknet", "imagenet-samples")
def test_units_of_a_real_network():
    """With padding, pools and leaky rectifiers: 3 + 1 + 4 + 2 + 8 + 8 pixels at the sixth convolution."""
    model = tiny_darknet()
    found = top_patches(model, ct.data("imagenet-samples[0:12]", space=model.space), layer="leaky_re_lu_6", k=2)
    assert found.checks["field"].status == "ok"
    assert found.checks["field"].value == 0
    sizes = found.extra["boxes"][:, 2:] - found.extra["boxes"][:, :2]
    assert int(sizes.max()) == 26


def test_bad_input_is_refused():
    model, data = ct.load("shapes-cnn"), ct.data("shapes/test[0:4]")
    with pytest.raises(BadOption, match="at least one patch"):
        top_patches(model, data, k=0)
    with pytest.raises(BadOption, match="numbers from 0 to 47"):
        top_patches(model, data, layer="relu3", units=("48",))
    with pytest.raises(BadOption, match="got the position"):
        top_patches(model, data, layer="relu3@1,1")
    with pytest.raises(NotPossible, match="works on images"):
        top_patches(ct.Model(nn.Linear(4, 2), ct.rows(4)), torch.zeros(2, 4))
