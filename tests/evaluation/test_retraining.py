"""Removal and training again: the planted truth wins, chance and constant maps do not, and every caveat is said."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.budget import limits
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.progress import reporting
from cutaway.core.recipe import Recipe
from cutaway.core.space import images, rows
from cutaway.evaluation import retraining
from cutaway.evaluation.retraining import School, known_labels, over_seeds
from cutaway.evaluation.retraining_pieces import Pieces
from cutaway.evaluation.retraining_removal import remove_and_retrain
from cutaway.testing.models import inputs_for, tiny_model, with_recipe
from cutaway.testing.planted import made

SIDE, CELL = 8, (slice(2, 4), slice(4, 6))  # the class is the brightness of this cell, one of 16


def pictures(count, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, SIDE, SIDE, generator=generator)
    labels = torch.randint(2, (count,), generator=generator)
    x[:, :, *CELL] = 0.1 + 0.8 * labels.view(-1, 1, 1, 1)
    return Examples(x=x, names=[str(i) for i in range(count)], labels=labels, classes=("dark", "bright"))


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2))


def planted(**more):
    recipe = Recipe(
        build=build,
        train=lambda: pictures(256, 1),
        space=images(SIDE, channels=1, mean=0.5, std=0.5),
        epochs=4,
        rate=0.03,
        **more,
    )
    model = Model(build(), recipe.space, classes=("dark", "bright"), name="a cell decides")
    with torch.no_grad():
        model.module[1].weight.zero_()
        model.module[1].bias.zero_()
        for row, sign in ((0, -1), (1, 1)):
            model.module[1].weight.view(2, SIDE, SIDE)[row, *CELL] = sign
    model.recipe = recipe
    return model


def truth(model, x, target):
    values = torch.zeros_like(x)
    values[:, :, *CELL] = 1
    return values


QUICK = {"cells": 4, "shares": (0.1, 0.3), "fills": ("mean", "zero"), "controls": (), "seeds": 3}


def areas(values, model=None, **options):
    found = remove_and_retrain(model or planted(), pictures(200, 2), values, **QUICK | options)
    return found, list(found.summary.values())


# -- known answers -----------------------------------------------------------------------------------------------------


def test_the_true_reason_takes_away_what_can_be_learned():
    found, (mine, chance, *_) = areas(truth)
    assert mine < 0.6
    assert chance > 0.8
    assert found.checks["verdict"].status == "ok"
    assert found.checks["whole"].value > 0.95
    low, high = found.checks["lead_mean"].interval
    assert 0.2 < low <= found.checks["lead_mean"].value <= high
    assert found.checks["leak"].status == "note"
    assert found.better == "lower"


def test_kept_alone_the_true_reason_is_enough():
    found, (mine, chance, *_) = areas(truth, keep=True, shares=(0.5, 0.9))
    assert mine > 0.95
    assert mine > chance + 0.1
    assert found.checks["verdict"].status == "ok"
    assert found.better == "higher"


def test_the_opposite_of_the_reason_loses():
    found, (mine, chance, *_) = areas(lambda m, x, t: -truth(m, x, t))
    assert mine > 0.95 > chance
    assert found.checks["verdict"].status == "fail"


def test_a_constant_map_is_chance_and_says_so():
    found, (mine, chance, *_) = areas(lambda m, x, t: torch.ones_like(x))
    assert abs(mine - chance) < 0.15
    assert found.checks["verdict"].status == "warn"
    assert found.checks["ties"].value == 200


def test_controls_that_know_the_picture_and_not_the_network_stand_beside():
    found, _ = areas(truth, controls=("edges", "centre"), fills=("mean",))
    assert list(found.summary) == ["this map", "random", "edges first", "centre first"]
    assert found.summary["this map"] < min(list(found.summary.values())[1:]) - 0.1
    assert found.checks["verdict"].status == "ok"


def test_a_map_that_tells_the_class_by_where_it_is_leaks():
    """A map that is high on the left for one class and on the right for the other: its hole tells the class."""

    def telling(model, x, target):
        left = torch.zeros_like(x)
        left[..., : SIDE // 2] = 1
        return torch.where(model.run(x).output.argmax(1).view(-1, 1, 1, 1) == 0, left, 1 - left)

    found, _ = areas(telling, shares=(0.3,))
    assert found.checks["leak"].value > 0.95
    assert found.checks["leak"].status == "warn"
    assert found.checks["verdict"].status == "warn"
    assert "see `leak`" in found.checks["verdict"]


def test_trainings_too_short_to_judge_by_are_said():
    """A network that hardly moved from its first weights knows nothing that could be removed."""
    model = planted()
    model.recipe = replace(model.recipe, rate=1e-9)
    found, _ = areas(truth, model, fills=("mean",))
    assert found.checks["whole"].status == found.checks["verdict"].status == "warn"
    assert "the network itself is right for 100.0%: these trainings are too short" in found.checks["whole"]


def test_no_controls_are_an_empty_text():
    found = ct.run("remove_and_retrain", planted(), pictures(40, 2), truth, **QUICK | {"controls": "", "seeds": 1})
    assert {name.split(",")[0] for name in found.summary} == {"this map", "random"}


# -- a slow reference --------------------------------------------------------------------------------------------------


def test_one_accuracy_is_that_of_a_loop_by_hand():
    """Reference: pixels ranked by the map, the first 20 % black in every picture, AdamW on a one-cycle schedule."""
    model, test = planted(), pictures(100, 2)
    noise = torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))

    def values(model, x, target):
        return noise.expand_as(x) + x

    options = {"cells": 0, "shares": (0.2,), "fills": ("zero",), "controls": (), "seeds": 1, "epochs": 2, "seed": 5}
    found = remove_and_retrain(model, test, values, **options)

    def without(x):
        done = x.clone()
        for picture in done:
            ranked = (noise[0] + picture[0]).flatten().argsort(descending=True)
            picture.view(-1)[ranked[: round(0.2 * SIDE * SIDE)]] = 0
        return done

    data = pictures(256, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = build()
    order = torch.Generator().manual_seed(5)
    climber = torch.optim.AdamW(net.parameters(), lr=0.03, weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(climber, 0.03, total_steps=8)
    for _ in range(2):
        for part in torch.randperm(256, generator=order).split(64):
            loss = nn.functional.cross_entropy(net((without(data.x[part]) - 0.5) / 0.5), data.labels[part])
            climber.zero_grad()
            loss.backward()
            climber.step()
            cycle.step()
    expected = (net((without(test.x) - 0.5) / 0.5).argmax(1) == test.labels).double().mean()
    assert found.y["this map"][1] == pytest.approx(float(expected), abs=1e-9)


def test_pieces_go_in_the_order_of_the_map():
    model, x = planted(), pictures(3, 0).x
    scores = torch.arange(64.0).view(1, 1, 8, 8).expand(3, 1, 8, 8)
    pieces = Pieces.of(model, x, made(scores.double()), ("this map", "random"), 4)
    gone = pieces.gone("this map", 0.25, False, 0)
    assert gone.nonzero()[:, 1].view(3, 4).tolist() == [[12, 13, 14, 15]] * 3
    assert pieces.gone("this map", 0.25, True, 0).nonzero()[:, 1].view(3, 4).tolist() == [[0, 1, 2, 3]] * 3
    assert pieces.gone("random", 0.25, False, 0).sum(1).tolist() == [4, 4, 4]
    assert not torch.equal(pieces.gone("random", 0.25, False, 0), pieces.gone("random", 0.25, False, 1))


def test_intervals_over_seeds_cover_the_truth():
    """Student's t: 95 % of the intervals of a few normal draws."""
    draws = torch.randn(4, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = over_seeds(draws)
    assert 0.93 < float(((low <= 0) & (high >= 0)).double().mean()) < 0.97


# -- recipes -----------------------------------------------------------------------------------------------------------


def test_a_training_loop_of_ones_own():
    seen = []

    def fit(module, examples, seed):
        seen.append((len(examples), seed))
        climber = torch.optim.SGD(module.parameters(), lr=1.0)
        for _ in range(30):
            loss = nn.functional.cross_entropy(module((examples.x - 0.5) / 0.5), examples.labels)
            climber.zero_grad()
            loss.backward()
            climber.step()

    _, (mine, chance, *_) = areas(truth, planted(fit=fit), seeds=2, seed=7)
    assert chance > mine + 0.2
    assert set(seen) == {(256, 7), (256, 8)}
    assert len(seen) == 2 * (1 + 2 * 2 * 2) + 1


def test_rows_and_labels_that_nobody_knows():
    model = tiny_model("mlp")
    found = remove_and_retrain(
        model, inputs_for(model, 6), "gradient", recipe=with_recipe, shares=(0.5,), fills=("mean",), seeds=2
    )
    assert list(found.summary) == ["this map", "random"]
    assert "agreement" in found.checks["labels"]


def test_the_network_is_not_touched_and_its_passes_are_counted():
    model = planted()
    before = model.fingerprint
    found, _ = areas(truth, model, seeds=1, shares=(0.3,))
    assert model.fingerprint == before
    assert found.provenance.cost.backwards >= 6 * 4 * 256
    again, _ = areas(truth, planted(), seeds=1, shares=(0.3,))
    assert_close(found.y["this map, mean fill"], again.y["this map, mean fill"], rtol=0, atol=0)


def test_one_seed_is_not_enough_for_a_verdict():
    found, _ = areas(truth, seeds=1)
    assert found.checks["verdict"].status == "note"
    assert not found.low


# -- cost, time and refusals -------------------------------------------------------------------------------------------


def test_the_cost_is_said_before_the_first_training(monkeypatch):
    monkeypatch.setattr(School, "_seconds", lambda school: 12.0)
    with limits(forwards=1000), pytest.raises(NotPossible, match=r"28 trainings of 4 passes over 256 .* about 336 s"):
        areas(truth)
    labels = []
    with reporting(lambda progress: labels.append(progress.label)):
        areas(truth, seeds=1, shares=(0.3,), fills=("mean",))
    assert "remove_and_retrain: 4 trainings, about 48 s on this machine" in labels


def test_the_time_limit_keeps_whole_shares_and_whole_seeds(monkeypatch):
    def after(count):
        left = iter(range(count))
        return lambda: next(left, None) is None

    module = "cutaway.evaluation.retraining_removal.time_is_up"
    monkeypatch.setattr(module, after(5))
    found, _ = areas(truth)
    assert found.x.tolist() == [0, 0.1]
    assert found.checks["partial"].value == 5
    monkeypatch.setattr(module, after(13))
    found, _ = areas(truth)
    assert found.x.tolist() == [0, 0.1, 0.3]
    assert found.checks["verdict"].status == "note"
    monkeypatch.setattr(module, after(2))
    with pytest.raises(NotPossible, match="before one share was done"):
        areas(truth)


def test_what_cannot_be_done_is_refused():
    model, test = planted(), pictures(20, 2)
    for options in ({"shares": (0.0,)}, {"shares": (1.0,)}, {"shares": ("half",)}, {"fills": ()}, {"seeds": 0}):
        with pytest.raises(BadOption, match="expected shares between"):
            remove_and_retrain(model, test, "gradient", **options)
    with pytest.raises(BadOption, match="expected controls out of edges, centre"):
        remove_and_retrain(model, test, "gradient", controls=("corners",))
    with pytest.raises(BadOption, match="examples and epochs of 0 or more"):
        remove_and_retrain(model, test, "gradient", examples=-1)
    with pytest.raises(BadOption, match="expected cells"):
        remove_and_retrain(model, test, "gradient", cells=-1)
    with pytest.raises(BadShape, match="two training examples or more"):
        remove_and_retrain(model, test, "gradient", examples=1)
    with pytest.raises(BadShape, match="a label for each of 20"):
        remove_and_retrain(model, test.x, "gradient", labels=test.labels[:3])
    with pytest.raises(BadOption, match=r"expected recipe=, how tiny-conv is trained"):
        remove_and_retrain(tiny_model("conv"), inputs_for(tiny_model("conv"), 2), "gradient")
    with pytest.raises(NotPossible, match="word_deletion"):
        remove_and_retrain(tiny_model("text"), ["a good film"], "gradient")
    with pytest.raises(NotPossible, match="made by hand"):
        remove_and_retrain(model, test, made(torch.ones(20, 1, SIDE, SIDE)))


def test_single_logits_and_probabilities_are_trained_as_what_they_are():
    net = nn.Linear(3, 1)
    model = Model(net, rows(3), classes=("no", "yes"))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert_close(retraining.log_probabilities(model, net(x)), model.run(x).log_probabilities)
    sure = Model(nn.Sequential(nn.Linear(3, 2), nn.Softmax(dim=1)), rows(3), scores="probabilities")
    assert_close(retraining.log_probabilities(sure, sure.module(x)).exp(), sure.run(x).probabilities)


def test_labels_are_taken_from_the_examples():
    model, test = planted(), pictures(10, 2)
    assert known_labels(model, test.x, test.labels)[1] == {}
    with pytest.raises(BadOption, match="whole numbers in a tensor"):
        known_labels(model, test.x, "1;2")
    found = ct.run("remove_and_retrain", model, test, truth, **QUICK | {"seeds": 1})
    assert "labels" not in found.checks


@pytest.mark.slow
def test_on_shapes_the_true_masks_beat_chance():
    """Cells of 6 x 6 pixels: the masks themselves have the shape that is the class."""
    test = ct.data("shapes/test[0:400]")
    known = {
        p.numpy().tobytes(): mask
        for e in (test, ct.data("shapes/train[0:800]"))
        for p, mask in zip(e.x, e.masks, strict=True)
    }

    def masks(model, x, target):
        return torch.stack([known[p.numpy().tobytes()] for p in x]).float()[:, None].expand_as(x)

    with limits(forwards=math.inf):
        found = remove_and_retrain(
            ct.load("shapes-cnn"), test, masks, examples=800, shares=(0.3,), fills=("mean",), controls=(), seeds=2
        )
    assert found.summary["this map"] < found.summary["random"] - 0.1
