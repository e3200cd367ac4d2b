"""Dreams, inversions and caricatures: what must come back, and what is said when it does not."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.nets import seeded
from cutaway.visualization.dream import deep_dream
from cutaway.visualization.invert import caricature, invert
from cutaway.zoo.shapes_cnn import ShapesCNN


def smooth(count=2, side=24, seed=0):
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear") * 0.8 + 0.1


def shapes():
    return ct.Model(seeded(ShapesCNN, dtype=torch.float64), ct.images(24, mean=0.5, std=0.25))


def test_a_layer_that_loses_nothing_gives_the_photo_back():
    net = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1)).double()
    model, x = ct.Model(net, ct.images(24), scores="values"), smooth()
    made = invert(model, x, layer="0", steps=300)
    assert (made.images - x).abs().mean() < 0.03
    assert made.checks["score"].status == "ok"
    assert made.checks["score"].value > -0.1


def test_the_reported_distance_is_that_of_the_picture():
    model, x = tiny_model("conv"), inputs_for(tiny_model("conv"), 1)
    made = invert(model, x, layer="conv2", steps=20)
    a, b = (model.run(z.double(), read=["conv2"])["conv2"] for z in (x, made.images))
    assert made.checks["score"].value == pytest.approx(-float((a - b).norm() / a.norm()), rel=1e-6)


@pytest.mark.parametrize(
    "options", [{"layer": "conv2:1"}, {"layer": "conv2@1,2"}, {"layer": "conv2", "channels": "0;3"}]
)
def test_a_part_of_a_layer_is_enough(options):
    model, x = tiny_model("conv"), inputs_for(tiny_model("conv"), 2)
    few, many = (ct.run("invert", model, x, steps=n, **options).checks["score"].value for n in (0, 60))
    assert many > few
    assert many > -0.6


def test_channels_and_a_position_name_the_same_part():
    model, x = tiny_model("conv"), inputs_for(tiny_model("conv"), 1)
    one = invert(model, x, layer="conv2:3", steps=5)
    same = invert(model, x, layer="conv2", channels=(3,), steps=5)
    assert_close(one.images, same.images)


def test_each_photo_is_inverted_alone():
    model, x = tiny_model("conv"), inputs_for(tiny_model("conv"), 2)
    for method in (invert, caricature, deep_dream):
        options = {"steps": 4} if method is not deep_dream else {"steps": 4, "objective": 'energy("conv2")'}
        together = method(model, x, **options).images
        assert_close(method(model, x[1:], **options).images, together[1:], rtol=1e-8, atol=1e-8)


def test_a_caricature_overdoes_the_photo():
    model, x = shapes(), smooth()
    made = caricature(model, x, layer="relu3", steps=60)
    assert made.checks["score"].value > 1
    assert made.checks["score"].status == "ok"
    narrow = caricature(model, x, layer="relu3", steps=60, power=6)

    def cosine(result):
        a, b = (model.run(z, read=["relu3"])["relu3"].flatten(1) for z in (x, result.images))
        return float(torch.cosine_similarity(a, b).mean())

    assert cosine(narrow) > cosine(caricature(model, x, layer="relu3", steps=60, power=0))


def test_a_dream_begins_at_the_photo_and_rises():
    model, x = shapes(), smooth()
    still = deep_dream(model, x, objective='energy("relu4")', steps=0)
    assert_close(still.images, x)
    made = deep_dream(model, x, objective='energy("relu4")', steps=5, octaves=2)
    assert made.checks["score"].status == "ok"
    assert (made.images - x).abs().mean() < 0.2
    assert torch.corrcoef(torch.stack([made.images.flatten(), x.flatten()]))[0, 1] > 0.5


def test_small_octaves_add_coarse_waves():
    model, x = shapes(), smooth(1)
    one, three = (deep_dream(model, x, objective='unit("relu2:0")', steps=6, octaves=n).images - x for n in (1, 2))

    def coarse(change):
        return float(torch.nn.functional.avg_pool2d(change, 6).norm() / change.norm())

    assert coarse(three) > coarse(one)


def test_an_objective_for_each_photo():
    model, x = shapes(), smooth()
    made = deep_dream(model, x, objective="[logit(0), logit(1)]", steps=3, octaves=1)
    assert [c.split(":")[0] for c in made.captions] == ["logit(0)", "logit(1)"]
    with pytest.raises(BadOption, match="each of 2"):
        deep_dream(model, x, objective="[logit(0), logit(1), logit(2)]")


def test_silent_units_are_refused_or_reported():
    model = shapes()
    with torch.no_grad():
        model.module.bn1.weight[2] = 0
        model.module.bn1.bias[2] = -1
    with pytest.raises(NotPossible, match="zero everywhere"):
        invert(model, smooth(), layer="relu1:2")
    made = deep_dream(model, smooth(1), objective='unit("relu1:2")', steps=2, octaves=1)
    assert made.checks["silent"].status == "fail"


@pytest.mark.parametrize(
    ("name", "options", "error", "said"),
    [
        ("invert", {"layer": "input"}, BadOption, "layer"),
        ("invert", {"layer": "conv2", "channels": "a"}, BadOption, "whole numbers"),
        ("invert", {"layer": "conv2", "channels": "77"}, BadShape, "below 6"),
        ("invert", {"layer": "conv2", "steps": -1}, BadOption, "steps"),
        ("caricature", {"layer": "conv2", "power": -1}, BadOption, "power"),
        ("deep_dream", {"ratio": 1.0}, BadOption, "ratio"),
        ("deep_dream", {"octaves": 0}, BadOption, "octaves"),
    ],
)
def test_what_cannot_be_is_refused(name, options, error, said):
    model = tiny_model("conv")
    with pytest.raises(error, match=said):
        ct.run(name, model, inputs_for(model, 1), **options)
