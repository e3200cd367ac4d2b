"""The models that are known by name."""

import inspect
import json
import os
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import safetensors
import torch

from cutaway import zoo
from cutaway.core.errors import BadOption, UnknownName
from cutaway.data import load
from cutaway.zoo.entries import catalogue

OURS = {"shapes-cnn": 0.97, "digits-cnn": 0.97}
ALL_OURS = OURS | {"tic-tac-toe": 1.0}
needs_data = pytest.mark.skipif(
    not Path(os.environ.get("CUTAWAY_DATA", "-"), "imagenet-samples").is_dir(),
    reason="needs CUTAWAY_DATA with the folder imagenet-samples",
)


def right(model, examples):
    return float((model.predict(examples).argmax(1) == examples.labels).float().mean())


def test_every_model_has_a_name_and_a_line():
    listed = zoo.names()
    assert {"efficientnet-lite0", *OURS} <= {name for name, _ in listed}
    assert all(about and "\n" not in about for _, about in listed)


@pytest.mark.parametrize("name", OURS)
def test_shipped_weights_reach_their_accuracy(name):
    model = zoo.load(name)
    test = load("shapes/test[0:600]" if name == "shapes-cnn" else "digits/test")
    assert right(model, test) >= OURS[name]
    assert model.classes == test.classes
    assert not model.module.training


@pytest.mark.parametrize("name", ALL_OURS)
def test_shipped_weights_say_how_they_were_made_and_are_small(name):
    path = files("cutaway.zoo") / "weights" / f"{name}.safetensors"
    recipe = catalogue()[name].recipe
    with safetensors.safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["cutaway"])
    assert about.pop("accuracy") >= ALL_OURS[name]
    assert about == {"model": name, "seed": 0, "epochs": recipe.epochs}
    assert Path(str(path)).stat().st_size < 1_000_000


def test_shapes_are_told_by_their_pixels_alone():
    """Painted over with the mean of its surroundings, a shape is guessed (1 in 8); alone on plain grey, it is named."""
    model, test = zoo.load("shapes-cnn"), load("shapes/test[0:400]")
    masks = test.masks[:, None]
    around = (test.x * ~masks).sum((2, 3), keepdim=True) / (~masks).sum((2, 3), keepdim=True)
    assert right(model, replace(test, x=torch.where(masks, around, test.x))) < 0.2
    assert right(model, replace(test, x=torch.where(masks, test.x, torch.tensor(0.35)))) > 0.97


def test_efficientnet():
    model = zoo.load("efficientnet-lite0")
    assert len(model.classes) == 1000
    for photo, wanted in (("coffee", "espresso"), ("camera", "tripod")):
        probabilities = model.predict(load(f"photos/{photo}", space=model.space))
        assert model.class_name(int(probabilities.argmax())) == wanted
        assert probabilities.max() > 0.9


@pytest.mark.slow
@needs_data
def test_efficientnet_names_photos():
    model = zoo.load("efficientnet-lite0")
    assert right(model, load("imagenet-samples[0:500:5]", space=model.space)) >= 0.84


def test_loading_twice_gives_equal_networks():
    assert zoo.load("digits-cnn").fingerprint == zoo.load("digits-cnn").fingerprint


def test_loading_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    zoo.load("digits-cnn")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_comes_back_as_it_is():
    model = zoo.load("digits-cnn")
    assert zoo.load(model) is model


@pytest.mark.parametrize("text", ["shapes_cnn", "eficientnet", "resnet"])
def test_unknown_names_suggest_others(text):
    with pytest.raises(UnknownName, match=r"nearest: .*`cutaway models` lists all"):
        zoo.load(text)


@pytest.mark.parametrize("text", ["net.py", "weights.pt", "model.safetensors", "forest.pkl", "forest.joblib"])
def test_weights_alone_are_no_model(text):
    with pytest.raises(BadOption, match="path/net.py:factory, with weights=FILE"):
        zoo.load(text)


def test_unknown_options_are_refused_by_name():
    with pytest.raises(UnknownName, match="'weight'; nearest: weights"):
        zoo.load("digits-cnn", weight="x")
    with pytest.raises(UnknownName, match="'size'. It has none"):
        zoo.load("efficientnet-lite0", size=3)


def test_every_loader_takes_keywords_only():
    for entry in catalogue().values():
        kinds = {p.kind for p in inspect.signature(entry.load).parameters.values()}
        assert kinds <= {inspect.Parameter.KEYWORD_ONLY}
