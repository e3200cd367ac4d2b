"""Semantic dictionaries: sorting, and the published vectors of three photos."""

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.visualization.dictionary import semantic_dictionary
from recorded import recorded, sprites
from tensorflow_js import FOLDER, needs


def test_the_lists_are_what_sorting_gives():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:3]").x
    found = semantic_dictionary(model, x, layer="relu4", places=3, channels=6, size=16)
    with model.borrow():
        assert model.fingerprint  # known, as in a method: so the pass is the same to the last bit
        act = model.run(x, read=["relu4"])["relu4"]
    for i in range(3):
        norms = act[i].double().norm(dim=0).flatten()
        places = sorted(range(len(norms)), key=lambda p, norms=norms: (-float(norms[p]), p))[:3]
        assert (found.extra["positions"][i] @ torch.tensor([12, 1])).tolist() == places
        for k, place in enumerate(places):
            vector = act[i].flatten(1)[:, place].tolist()
            order = sorted(range(48), key=lambda c, vector=vector: (-vector[c], c))[:6]
            assert found.extra["channels"][i, k].tolist() == order
            assert found.extra["values"][i, k].tolist() == [vector[c] for c in order]
    assert found.images.shape == (3 * 3 * 7, 3, 16, 16)
    assert found.captions[0] == "#0 at " + ",".join(map(str, found.extra["positions"][0, 0].tolist()))


# Photo, position, values of the first channels as the course's slides show them, cut to so many digits, and two more.
SLIDES = {
    "dog_cat": ((1, 0), [0, 0, 0, 0, 49.6, 0, 43.6, 30.2, 119.8, 62.7, 0, 51.2], {267: 349, 367: 252}),
    "bowtie_guy": ((0, 3), None, {}),
    "flowers": ((1, 3), None, {389: 118, 257: 116}),
}


@needs("building-blocks")
@pytest.mark.parametrize("name", SLIDES)
def test_the_vectors_of_the_slides_come_out_with_their_channels_pictures(name):
    """InceptionV1's mixed4d at three positions, from the activations stored with Olah et al. 2018."""
    model, photos = recorded(FOLDER / "building-blocks")
    sheet = sprites(FOLDER / "building-blocks")
    (row, column), first, listed = SLIDES[name]
    place = f"mixed4d@{row},{column}"
    found = semantic_dictionary(model, photos[name], layer=place, channels=528, icons=sheet, size=110)
    values, channels = found.extra["values"][0, 0], found.extra["channels"][0, 0]
    vector = torch.empty(528).scatter(0, channels, values)
    if first is not None:
        assert vector[:12].tolist() == pytest.approx(first, abs=0.06)
    for channel, shown in listed.items():
        assert int(vector[channel]) == shown
    assert torch.equal(vector, model.run(photos[name], read=["mixed4d"])["mixed4d"][0, :, row, column])
    assert values.tolist() == sorted(values.tolist(), reverse=True)
    # The k-th picture after the photo is the one of the k-th channel.
    for k in (0, 1, 2, 100):
        assert torch.equal(found.images[1 + k], sheet[channels[k]])
        assert found.captions[1 + k].startswith(f"{int(channels[k])}: ")


@needs("building-blocks")
def test_the_strongest_channels_of_the_slides_positions():
    """The first three of two lists, as sorting the stored arrays with numpy gives them."""
    model, photos = recorded(FOLDER / "building-blocks")
    found = semantic_dictionary(model, photos["dog_cat"], layer="mixed4d@1,0", channels=3, size=16)
    assert found.extra["channels"].flatten().tolist() == [384, 267, 367]
    assert found.extra["values"].flatten().tolist() == pytest.approx([434.43, 349.99, 252.19], abs=0.01)
    found = semantic_dictionary(model, photos["bowtie_guy"], layer="mixed4d@0,3", channels=3, size=16)
    assert found.extra["channels"].flatten().tolist() == [41, 68, 66]


def test_icons_are_made_once_for_each_channel():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:1]").x
    found = semantic_dictionary(model, x, layer="relu4", places=2, channels=2, icons=2, size=24)
    assert found.images.shape == (6, 3, 24, 24)
    different = len(found.extra["channels"].unique())
    assert found.provenance.cost.backwards == 2 * different


def test_a_position_without_activity_is_said():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    nn.init.constant_(net[0].bias, -100.0)
    found = semantic_dictionary(
        ct.Model(net, ct.images(8), scores="values"), torch.rand(1, 3, 8, 8), layer="1", places=2
    )
    assert found.checks["silent"].value == 2
    assert not found.extra["values"].any()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"places": 0}, BadOption, "at least one position"),
        ({"channels": 0}, BadOption, "at least one position"),
        ({"size": 4}, BadOption, "at least 8 pixels"),
        ({"icons": -1}, BadOption, "steps from 0"),
        ({"icons": torch.rand(3, 3, 8, 8)}, BadShape, r"expected icons \(48, 3"),
        ({"layer": "relu4:3"}, BadOption, "the unit relu4:3"),
        ({"layer": "relu4@20,0"}, BadShape, "position below"),
        ({"layer": "fc"}, BadShape, "channels and positions"),
    ],
)
def test_bad_input_is_refused(options, error, words):
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:1]").x
    with pytest.raises(error, match=words):
        semantic_dictionary(model, x, **{"layer": "relu4", **options})


def test_other_inputs_than_images_are_refused():
    with pytest.raises(NotPossible, match="works on images"):
        semantic_dictionary(ct.Model(nn.Linear(4, 2), ct.rows(4)), torch.zeros(1, 4))
