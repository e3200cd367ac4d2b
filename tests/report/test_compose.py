"""Explaining a photo: which maps, which evidence, which sentence."""

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, NotPossible
from cutaway.evaluation.trust_tests import METHODS
from cutaway.report import compose


@pytest.fixture(scope="module")
def page():
    model = ct.load("shapes-cnn")
    ((photo, notes),) = compose.inputs(model, ct.data("shapes/test[0]"), compose.chosen("gradient,occlusion"))
    return photo, notes


def test_each_map_comes_with_its_evidence_and_one_sentence(page):
    photo, notes = page
    assert [m.attribution.provenance.method for m in photo.maps] == ["gradient", "occlusion"]
    assert notes == []
    for shown in photo.maps:
        usual = {"deletion", "insertion", "parameter_randomization", "stability", "sensitivity_n"}
        assert set(shown.evidence) == usual | {"energy_in_region", "pointing_game"}
        assert shown.sentence.count(". ") == 0
        assert shown.sentence.endswith(".")


def test_the_target_is_the_predicted_class_by_name(page):
    photo, _ = page
    best, probability = photo.predictions[0]
    assert photo.target == f'logit("{best}")'
    assert probability == max(p for _, p in photo.predictions)


def test_units_of_two_layers_are_ranked_by_what_their_removal_costs(page):
    photo, _ = page
    assert len(photo.units) == 2
    for pictures in photo.units:
        falls = [float(c.rpartition(" ")[2].replace("−", "-")) for c in pictures.captions]
        assert falls == sorted(falls)
        assert pictures.images.shape[1:] == (3, 48, 48)


def test_a_method_that_the_model_does_not_allow_is_said_and_left_out():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 3))
    model = ct.Model(net, ct.images(8))
    ((photo, notes),) = compose.inputs(
        model, Examples(torch.rand(1, 3, 8, 8), ["noise"]), compose.chosen("gradient,guided_backprop")
    )
    assert [m.attribution.provenance.method for m in photo.maps] == ["gradient"]
    assert any(note.startswith("guided_backprop: ") for note in notes)


def test_latent_vectors_have_no_page():
    model = ct.Model(nn.Linear(3, 2), ct.latents(3))
    with pytest.raises(NotPossible, match="cutaway run"):
        next(compose.inputs(model, Examples(torch.zeros(1, 3), ["row"]), compose.chosen(None)))


def test_methods_by_name_by_default_and_all():
    assert [m.name for m in compose.chosen(None)] == list(METHODS["image"])
    assert [m.name for m in compose.chosen(None, "tokens")] == list(METHODS["tokens"])
    assert "deconvnet" in [m.name for m in compose.chosen("all")]
    with pytest.raises(BadOption, match="explain a prediction"):
        compose.chosen("gradient,deletion")
