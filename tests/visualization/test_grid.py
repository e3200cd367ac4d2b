"""Pictures of all positions of a layer: each points where its vector points."""

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.core.errors import BadOption, BadShape
from cutaway.visualization.grid import activation_grid, spatial_activations

METHODS = (spatial_activations, activation_grid)


class Colours(nn.Module):
    """Three units: how far each colour of a cell of 8 x 8 pixels lies above the middle, or below."""

    def __init__(self):
        super().__init__()
        self.pool, self.units = nn.AvgPool2d(8), nn.Identity()

    def forward(self, x):
        return self.units(self.pool(x) - 0.5).mean((2, 3))


def four_colours() -> torch.Tensor:
    """Red, green, blue and white quarters of 8 x 8 pixels; the white one is less bright."""
    x = torch.zeros(1, 3, 16, 16)
    x[0, 0, :8, :8] = x[0, 1, :8, 8:] = x[0, 2, 8:, :8] = 1
    x[0, :, 8:, 8:] = 0.6
    return x


@pytest.mark.parametrize("method", METHODS)
def test_the_picture_of_a_position_has_its_colours(method):
    model = ct.Model(Colours(), ct.images(16), scores="values")
    found = method(model, four_colours(), layer="units", steps=128, size=16)
    assert found.images.shape == (2, 3, 32, 32)
    drawn = found.images[1].unflatten(1, (2, 16)).unflatten(3, (2, 16))
    middle = drawn[:, :, 4:12, :, 4:12].mean((2, 4)).movedim(0, 2)
    for (row, column), bright in {(0, 0): 0, (0, 1): 1, (1, 0): 2}.items():
        cell = middle[row, column]
        assert int(cell.argmax()) == bright
        assert float(cell[bright]) > 0.55
        assert float(cell.sum() - cell[bright]) / 2 < 0.45


def test_cells_have_areas_in_proportion_to_their_norms():
    model = ct.Model(Colours(), ct.images(16), scores="values")
    found = activation_grid(model, four_colours(), layer="units", steps=8, size=32)
    norms = found.extra["norms"][0]
    cell = found.images[1][:, 32:, 32:]
    drawn = int((cell - 0.5).abs().amax(0).gt(1e-6).sum())
    assert drawn == pytest.approx(32 * 32 * float(norms[1, 1] / norms.max()), rel=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_silent_positions_stay_grey_and_are_counted(method):
    model = ct.Model(Colours(), ct.images(16), scores="values")
    x = four_colours()
    x[0, :, 8:, 8:] = 0.5
    found = method(model, x, layer="units", steps=2, size=16)
    assert found.checks["silent"].value == 1
    assert torch.equal(found.images[1][:, 16:, 16:], torch.full((3, 16, 16), 0.5))
    found = method(model, torch.full((1, 3, 16, 16), 0.5), layer="units", steps=2, size=16)
    assert found.checks["silent"].status == "warn"
    assert (found.images[1] == 0.5).all()


def test_another_seed_gives_another_draw():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:1]").x
    options = {"layer": "pool4", "steps": 2, "size": 8}
    one, again, other = (activation_grid(model, x, **options, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, other.images)


@pytest.mark.parametrize("method", METHODS)
def test_bad_input_is_refused(method):
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:1]").x
    with pytest.raises(BadOption, match="at least one step"):
        method(model, x, steps=0)
    with pytest.raises(BadOption, match="at least 8 pixels"):
        method(model, x, size=4)
    with pytest.raises(BadOption, match="expected a whole layer, such as relu4; got relu4:2"):
        method(model, x, layer="relu4:2")
    with pytest.raises(BadShape, match="channels and positions"):
        method(model, x, layer="fc")
