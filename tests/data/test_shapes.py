"""The generated set keeps its promise: the label depends on the masked pixels only."""

import numpy as np
import pytest
import torch

from cutaway.data import load, shapes
from cutaway.data.outlines import CLUTTER, OBJECTS
from cutaway.data.shapes import CLASSES, SIZE, Draws, scene


def test_an_example_is_the_same_in_any_slice():
    one, many = load("shapes/test[7]"), load("shapes/test[0:16]")
    assert torch.equal(one.x[0], many.x[7])
    assert torch.equal(one.masks[0], many.masks[7])


def test_splits_and_neighbours_differ():
    first, second, other = scene("train", 0), scene("train", 8), scene("test", 0)
    assert first.shape == second.shape == other.shape
    assert not np.array_equal(first.picture, second.picture)
    assert not np.array_equal(first.picture, other.picture)


def test_global_random_state_is_neither_read_nor_changed():
    before = torch.get_rng_state()
    first = scene("test", 3).picture
    torch.manual_seed(123)
    np.testing.assert_array_equal(scene("test", 3).picture, first)
    torch.set_rng_state(before)


def test_pictures_are_eight_bit_values_in_the_unit_interval():
    x = load("shapes/test[0:24]").x
    assert x.shape == (24, 3, SIZE, SIZE)
    assert x.min() >= 0
    assert x.max() <= 1
    assert torch.allclose((x * 255).round() / 255, x, atol=1e-6)


def test_classes_are_balanced_in_every_run_of_eight():
    assert sorted(load("shapes/train[5:13]").labels.tolist()) == list(range(len(CLASSES)))


@pytest.mark.parametrize("name", OBJECTS)
def test_every_shape_fits_the_disc_that_clutter_keeps_out_of(name):
    u, v = np.meshgrid(np.linspace(-2, 2, 401), np.linspace(-2, 2, 401))
    inside = OBJECTS[name](u, v)
    assert np.hypot(u, v)[inside].max() <= 1.12
    assert 0.2 < inside.mean() * 16 < 3.2


def test_shapes_differ_from_each_other():
    u, v = np.meshgrid(np.linspace(-1.1, 1.1, 101), np.linspace(-1.1, 1.1, 101))
    drawn = [outline(u, v) for outline in (OBJECTS | CLUTTER).values()]
    for k, one in enumerate(drawn):
        assert all((one & other).sum() < 0.95 * (one | other).sum() for other in drawn[k + 1 :])


def test_clutter_never_lies_under_or_beside_the_shape():
    scenes = [scene("test", i) for i in range(200)]
    assert sum(s.behind.any() for s in scenes) > 100
    for s in scenes:
        grown = np.pad(s.mask, 1)
        near = grown[2:, 1:-1] | grown[:-2, 1:-1] | grown[1:-1, 2:] | grown[1:-1, :-2]
        assert not (s.behind & (s.mask | near)).any()


def test_only_the_masked_pixels_change_with_the_label(monkeypatch):
    """The same random numbers with another shape: outside both masks, nothing is different."""
    for index in range(0, 80, 8):
        drawn = []
        for k in range(len(CLASSES)):
            order = (*CLASSES[k:], *CLASSES[:k])
            monkeypatch.setattr(shapes, "CLASSES", order)
            drawn.append(scene("train", index))
        assert len({s.shape for s in drawn}) == len(CLASSES)
        for other in drawn[1:]:
            outside = ~(drawn[0].mask | other.mask)
            np.testing.assert_array_equal(drawn[0].picture[:, outside], other.picture[:, outside])


def test_nothing_but_the_shape_goes_with_the_label():
    """Colour, texture, ground and number of things are spread alike over the labels (chi-squared, 5 sigma)."""
    scenes = [scene("train", i) for i in range(1600)]
    for trait in ("colour", "texture", "ground", "clutter"):
        values = [str(len(s.clutter)) if trait == "clutter" else getattr(s, trait) for s in scenes]
        kinds = sorted(set(values))
        counts = np.zeros((len(CLASSES), len(kinds)))
        for s, value in zip(scenes, values, strict=True):
            counts[CLASSES.index(s.shape), kinds.index(value)] += 1
        expected = counts.sum(1, keepdims=True) * counts.sum(0) / len(scenes)
        degrees = (len(CLASSES) - 1) * (len(kinds) - 1)
        assert ((counts - expected) ** 2 / expected).sum() < degrees + 5 * np.sqrt(2 * degrees)


def test_the_shape_can_be_told_from_its_ground():
    for s in (scene("test", i) for i in range(100)):
        ground = ~s.mask & ~s.behind
        assert np.abs(s.picture[:, s.mask].mean(1) - s.picture[:, ground].mean(1)).max() > 0.1


def test_draws_belong_to_one_example():
    assert Draws("train", 1).between(0, 1) == Draws("train", 1).between(0, 1)
    assert len({Draws(split, i).between(0, 1) for split in ("train", "test") for i in range(50)}) == 100
