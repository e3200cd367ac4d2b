"""Pictures of planted units, whose look is known, and what the result says of itself."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, BadShape, NotPossible, UnknownName
from cutaway.core.method import find
from cutaway.core.target import Target
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.nets import seeded
from cutaway.visualization.ascend import ascended
from cutaway.visualization.diversity import gram
from cutaway.visualization.score import best_photos, held_out
from cutaway.visualization.visualize import visualize
from cutaway.zoo.shapes_cnn import ShapesCNN


def planted() -> ct.Model:
    """shapes-cnn whose second layer has a unit for red, one for blue, one for upright stripes, one that is dead."""
    net = seeded(ShapesCNN, dtype=torch.float64)
    with torch.no_grad():
        for conv in (net.conv1, net.conv2):
            conv.weight.zero_()
        net.conv1.weight[0, :, 1, 1] = torch.tensor([1.0, -0.5, -0.5])
        net.conv1.weight[1, :, 1, 1] = torch.tensor([-0.5, -0.5, 1.0])
        net.conv1.weight[2] = torch.tensor([-1.0, 1.0, 0.0]) / 3  # an upright edge, brighter to the right
        net.conv1.weight[3] = torch.tensor([1.0, -1.0, 0.0]) / 3  # and one darker to the right
        for unit, channel in enumerate((0, 1)):
            net.conv2.weight[unit, channel] = 1 / 9
        # After the pool, two pixels a step: an edge of either kind in turn.
        net.conv2.weight[2, 2, :, 1] = 1 / 3
        net.conv2.weight[2, 3, :, 1] = 1 / 3
        net.bn2.bias[3] = -50.0
    return ct.Model(net, ct.images(48, mean=0.5, std=0.25), name="planted")


@pytest.fixture(scope="module")
def made():
    objective = "[" + ", ".join(f'unit("relu2:{k}")' for k in range(4)) + "]"
    return visualize(planted(), objective=objective, size=48, steps=100)


def test_a_planted_colour_is_in_its_picture(made):
    # In the middle: at the border, where the unit is off, nothing pulls.
    red, blue = (picture[:, 12:36, 12:36].mean((1, 2)) for picture in made.images[:2])
    assert red[0] - red[1:].max() > 0.3
    assert blue[2] - blue[:2].max() > 0.3


def test_a_planted_texture_is_in_its_picture(made):
    def upright(picture):
        grey = picture.mean(0)
        return grey.diff(dim=1).square().mean() / grey.diff(dim=0).square().mean()

    assert upright(made.images[2]) > 2
    assert 0.8 < upright(made.images[0]) < 1.25


def test_a_unit_that_never_fires_is_reported(made):
    assert made.checks["silent"].status == "fail"
    assert made.checks["silent"].value == 1
    assert made.checks["score"].status == "fail"
    alive = visualize(planted(), objective='unit("relu2:0")', size=48, steps=5)
    assert alive.checks["score"].status == "ok"
    assert "silent" not in alive.checks


def test_pictures_beat_the_best_example_or_say_so():
    model = planted()
    grey = Examples(x=torch.full((3, 3, 48, 48), 0.5).double() + 0.01, names=list("abc"))
    won = visualize(model, grey, objective='unit("relu2:0")', size=48, steps=30)
    assert won.checks["photos"].status == "ok"
    assert "best photo" in won.captions[0]
    red = torch.zeros(2, 3, 48, 48).double()
    red[1, 0] = 1
    lost = visualize(model, Examples(x=red, names=list("ab")), objective='unit("relu2:0")', size=48, steps=30)
    assert lost.checks["photos"].status == "warn"
    assert lost.checks["photos"].value == 0


def test_the_best_example_is_found_across_slices():
    model = tiny_model("conv")
    x = inputs_for(model, 70)
    targets = [Target.of("logit(1)"), Target.of('unit("conv2:3")')]
    best, names = best_photos(model, targets, Examples(x=x, names=[str(i) for i in range(70)]))
    for k, target in enumerate(targets):
        values = target(model.run(x, read=[*target.sites, "output"]))
        assert_close(best[k], values.max())
        assert int(names[k]) == int(values.argmax())


def test_fresh_views_are_not_those_of_the_search():
    model = tiny_model("conv")
    x, targets = inputs_for(model, 2), [Target.of("logit(0)")] * 2
    one, same, other = (held_out(model, targets, x, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    alone = held_out(model, targets[:1], x[1:], seed=0)
    assert_close(alone, one[1:])


def test_robust_pictures_lose_less_in_other_views_than_those_of_pixels():
    net = seeded(ShapesCNN, dtype=torch.float64)
    model = ct.Model(net, ct.images(48, mean=0.5, std=0.25))
    aims = [Target.of(f'unit("bn4:{k}")') for k in range(4)]
    kept = {}
    for canvas, robust in (("fourier", True), ("pixel", False)):
        pictures = ascended(model, aims, size=48, steps=60, canvas=canvas, robust=robust)
        still = torch.stack([aim(model.run(p[None], read=aim.sites))[0] for aim, p in zip(aims, pictures, strict=True)])
        kept[canvas] = held_out(model, aims, pictures, seed=0) / still
    assert (kept["fourier"] > kept["pixel"]).all()
    assert kept["fourier"].min() > 0.8


def test_diversity_lowers_likeness_at_a_stated_cost():
    net = seeded(ShapesCNN, dtype=torch.float64)
    model = ct.Model(net, ct.images(48, mean=0.5, std=0.25))
    aim = Target.of('unit("relu4:5")')
    likeness, score = [], []
    for weight in (0.0, 1.0):
        pictures = ascended(model, [aim], size=32, steps=60, copies=4, diversity=weight)
        act = model.at_size(32, 32).run(pictures, read=["relu4"])["relu4"]
        grams = gram(act, 1).flatten(1)
        likeness.append(float((grams @ grams.T).triu(1).sum() / 6))
        score.append(float(held_out(model, [aim] * 4, pictures, seed=0).mean()))
    assert likeness[1] < likeness[0]
    assert score[1] > 0.3 * score[0]
    said = visualize(model, objective='unit("relu4:5")', size=32, steps=10, copies=3, diversity=0.5)
    assert said.images.shape == (3, 3, 32, 32)
    assert "score from" in said.checks["diversity"]


def test_weights_join_units(made):
    model = planted()
    both = visualize(model, objective='0.5 * unit("relu2:0") + 0.5 * unit("relu2:1")', size=48, steps=100).images
    red, blue = model.run(torch.cat([made.images[:2], both]), read=["relu2"])["relu2"][:, :2].mean((2, 3)).T
    assert red[2] > 2 * red[1]
    assert blue[2] > 2 * blue[0]


def test_a_negative_objective_looks_for_the_opposite():
    picture = visualize(planted(), objective='-unit("bn1:0")', size=48, steps=100).images[0].mean((1, 2))
    assert picture[0] + 0.1 < picture[1:].min()


@pytest.mark.parametrize("name", ["logit(3)", "prob(3)", 'energy("conv3")', 'unit("conv3:4@3,3")'])
def test_each_kind_of_objective_rises(name):
    model = ct.Model(seeded(ShapesCNN, dtype=torch.float64), ct.images(48, mean=0.5, std=0.25))
    assert visualize(model, objective=name, size=48, steps=25).checks["score"].status == "ok"


def test_the_size_and_the_border_are_said():
    fixed = visualize(tiny_model("conv"), objective="logit(0)", size=24, steps=1)
    assert fixed.checks["size"].value == 16
    deep = visualize(planted(), objective='unit("relu5:0")', size=16, steps=1)
    assert deep.checks["field"].value > 16
    assert "field" not in visualize(planted(), objective='unit("relu1:0")', size=16, steps=1).checks


def test_grey_networks_give_grey_pictures():
    result = visualize(tiny_model("conv_grey"), objective="logit(0)", size=16, steps=2)
    assert result.images.shape == (1, 3, 16, 16)
    assert torch.equal(result.images[:, 0], result.images[:, 2])


def test_a_transparent_picture_comes_on_grey():
    result = visualize(planted(), objective='unit("relu2:0")', canvas="alpha", size=24, steps=5)
    assert result.images.min() >= 0


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"objective": "unit('nothing:0')"}, UnknownName, "nothing"),
        ({"objective": "logit(99)"}, BadOption, "99"),
        ({"objective": "unit('relu2:0')", "canvas": "oil"}, BadOption, "canvas"),
        ({"objective": "unit('relu2:0')", "steps": -3}, BadOption, "steps"),
        ({"objective": "unit('relu2:0')", "diversity": 1}, BadOption, "copies"),
        ({"objective": "unit('relu2:900')"}, BadShape, "900"),
    ],
)
def test_what_cannot_be_is_refused(options, error, said):
    with pytest.raises(error, match=said):
        ct.run("visualize", planted(), **options)


def test_other_networks_and_empty_sets_are_refused():
    with pytest.raises(NotPossible, match="images"):
        ct.run("visualize", tiny_model("mlp"), objective="logit(0)")
    with pytest.raises(BadShape, match="at least one"):
        visualize(planted(), torch.empty(0, 3, 48, 48), objective="logit(0)")
    with pytest.raises(BadOption, match="needs x"):
        ct.run("deep_dream", planted())


def test_it_needs_no_input():
    assert find("visualize").optional == ("data",)
    assert ct.run("visualize", planted(), objective="logit(1)", size=48, steps=1).images.shape == (1, 3, 48, 48)


class Nested(nn.Module):
    """A user's own module: functional operations, and an output that is a dictionary."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3).double()

    def forward(self, x):
        h = torch.relu(self.conv(x))
        return {"logits": h.mean((2, 3)), "more": h}


def test_a_users_own_module():
    model = ct.Model(Nested(), ct.images(20), output="logits")
    result = visualize(model, objective='[logit(2), unit("conv:1"), unit("conv:1@4,4")]', size=20, steps=8)
    assert result.checks["score"].status == "ok"
