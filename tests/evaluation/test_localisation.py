import math

import pytest
import torch
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.evaluation.localisation import energy_in_region, pointing_game
from cutaway.evaluation.regions import grown, regions
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import SIDE, box_model, bright, made, oracle, row_model

BOTH = [pointing_game, energy_in_region]
# The planted box as text: x from 0 to 4, y from 12 to 16.
BOX = "0,12,4,16"


def with_masks(count):
    return Examples(bright(count), names=list(map(str, range(count))), masks=oracle(count)[:, 0].bool())


@pytest.mark.parametrize("method", BOTH)
def test_the_true_mask_beats_every_control(method):
    found = method(box_model(), with_masks(6), made(oracle(6)))
    assert float(found.values[0]) == 1
    assert (found.values[1:4] < 1).all()
    assert found.checks["verdict"].status == "ok"


@pytest.mark.parametrize("method", BOTH)
def test_the_opposite_of_the_reason_fails(method):
    found = method(box_model(), with_masks(6), made(1 - oracle(6)))
    assert float(found.values[0]) == 0
    assert found.checks["verdict"].status == "fail"


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("count", [1, 4])
def test_a_few_pictures_have_no_interval_and_do_not_refuse_a_map(method, count):
    found = method(box_model(), with_masks(count), made(1 - oracle(count)))
    assert found.checks["verdict"].status == "warn"
    assert found.checks["few"].value == count
    assert not len(found.low)


def test_hits_without_a_miss_do_not_make_the_hit_rate_certain():
    found = pointing_game(box_model(), with_masks(6), made(oracle(6)))
    assert (float(found.values[0]), float(found.high[0])) == (1, pytest.approx(1))
    assert float(found.low[0]) == pytest.approx(0.61, abs=0.01)


@pytest.mark.parametrize("method", BOTH)
def test_a_constant_map_scores_exactly_what_chance_does_and_says_so(method):
    found = method(box_model(), with_masks(6), made(torch.ones(6, 3, SIDE, SIDE)))
    assert_close(found["random"], float(found.values[0]), atol=1e-12, rtol=0)
    assert found.checks["ties"].status == "warn"
    assert found.checks["verdict"].status in ("warn", "fail")


@pytest.mark.parametrize("method", BOTH)
def test_boxes_as_text_are_the_same_as_a_mask(method):
    values = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    given = {"model": box_model(), "x": bright(2), "attribution": made(values)}
    a, b = method(**given, region=BOX), method(**given, region=oracle(2)[:, 0])
    assert_close(a.values, b.values, atol=0, rtol=0)
    assert a.provenance.options["region"] == BOX


@pytest.mark.parametrize("method", BOTH)
def test_a_given_region_is_taken_before_the_masks_of_the_examples(method):
    found = method(box_model(), with_masks(2), made(oracle(2)), region="8,0,12,4")
    assert float(found.values[0]) == 0


def test_boxes_of_one_input_are_joined_and_those_of_several_kept_apart():
    masks = regions("0,0,2,1+3,0,4,2;1,1,2,2", 2, 3, 4)
    assert masks[0].int().tolist() == [[1, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert masks[1].int().tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("radius", [0, 1, 1.5, 2.9, 4])
def test_growing_is_the_distance_to_the_nearest_pixel_of_the_region(radius):
    mask = torch.rand(9, 7, generator=torch.Generator().manual_seed(2)) > 0.9
    inside = mask.nonzero().tolist()
    slow = [[min(math.dist((r, c), p) for p in inside) <= radius for c in range(7)] for r in range(9)]
    assert grown(mask[None], radius)[0].tolist() == slow


def test_the_pointing_game_by_hand():
    """Ten maps with one peak each; hits are counted with a loop over distances."""
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(10, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    region = torch.zeros(10, SIDE, SIDE, dtype=torch.bool)
    region[:, 3:11, 5:13] = True
    hits = []
    for m in values[:, 0]:
        row, column = divmod(int(m.argmax()), SIDE)
        hits.append(any(math.dist((row, column), (r, c)) <= 0.1 * SIDE for r in range(3, 11) for c in range(5, 13)))
    found = pointing_game(box_model(), bright(10), made(values), region=region, tolerance=0.1)
    assert found["hits"] == pytest.approx(sum(hits) / 10)
    assert 0 < sum(hits) < 10


def test_of_several_highest_pixels_the_share_that_hits_counts():
    values = torch.zeros(1, 1, SIDE, SIDE)
    values[0, 0, 13, 1] = values[0, 0, 0, 0] = values[0, 0, 0, 9] = 1
    found = pointing_game(box_model(), bright(), made(values), region=BOX, tolerance=0)
    assert found["hits"] == pytest.approx(1 / 3)


def test_energy_by_hand():
    values = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    region = oracle(4)[:, 0].bool()
    shares, overlaps = [], []
    for m, inside in zip(values.sum(1), region, strict=True):
        shares.append(float(m[inside & (m > 0)].sum() / m[m > 0].sum()))
        top = torch.zeros(SIDE * SIDE, dtype=torch.bool)
        top[m.flatten().topk(int(inside.sum())).indices] = True
        top = top.view(SIDE, SIDE)
        overlaps.append(int((top & inside).sum()) / int((top | inside).sum()))
    found = energy_in_region(box_model(), bright(4), made(values), region=region)
    assert found["energy"] == pytest.approx(sum(shares) / 4, abs=1e-12)
    assert found["overlap"] == pytest.approx(sum(overlaps) / 4, abs=1e-12)
    assert found["random"] == pytest.approx(16 / 256)


def test_a_map_without_positive_values_counts_as_nothing_and_says_so():
    found = energy_in_region(box_model(), bright(), made(-oracle() - 1), region=BOX)
    assert found["energy"] == 0
    assert found.checks["positive"].status == "warn"


def test_a_coarse_map_is_interpolated():
    coarse = torch.zeros(1, 8, 4, 4, dtype=torch.float64)
    coarse[:, :, 3, 0] = 1
    found = pointing_game(box_model(), bright(), made(coarse, wrt="conv"), region=BOX)
    assert found["hits"] == 1


@pytest.mark.parametrize("method", BOTH)
def test_what_does_not_fit_is_refused(method):
    model, x, why = box_model(), bright(2), made(oracle(2))
    with pytest.raises(BadOption, match="expected a region"):
        method(model, x, why)
    for text in ("1,2,3", "a,b,c,d", "", "0,0,4,4;"):
        with pytest.raises(BadOption, match="expected boxes"):
            method(model, x, why, region=text)
    for text in ("4,0,4,4", "0,0,17,4"):
        with pytest.raises(BadShape, match="inside 16 x 16"):
            method(model, x, why, region=text)
    with pytest.raises(BadShape, match="no pixel"):
        method(model, x, why, region=torch.zeros(2, SIDE, SIDE))
    with pytest.raises(BadShape, match="every pixel"):
        method(model, x, why, region=torch.ones(2, SIDE, SIDE))
    with pytest.raises(BadShape, match="expected a region of shape"):
        method(model, x, why, region=torch.ones(3, SIDE, SIDE))
    with pytest.raises(BadShape, match="0 and 1"):
        method(model, x, why, region=torch.full((2, SIDE, SIDE), 0.5))
    with pytest.raises(BadOption, match="tolerance"):
        method(model, x, why, region=BOX, tolerance=-1)
    with pytest.raises(BadOption, match="whole picture"):
        method(model, x, why, region="0,0,15,15", tolerance=0.5)
    with pytest.raises(NotPossible, match="images"):
        method(row_model([1.0, 2.0]), torch.ones(1, 2))
    with pytest.raises(NotPossible, match="images"):
        method(tiny_model("text"), inputs_for(tiny_model("text"), 1))


def test_maps_of_the_shapes_network_point_at_the_shapes():
    model, examples = ct.load("shapes-cnn"), ct.data("shapes/test[0:24]")
    found = ct.run("energy_in_region", model, examples, "integrated_gradients", tolerance=0.02)
    assert found["energy"] > 2 * found["random"]
    assert found.checks["verdict"].status in ("ok", "note")
