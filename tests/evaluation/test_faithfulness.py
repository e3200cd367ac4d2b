from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.fill import Fill
from cutaway.evaluation.faithfulness import deletion, insertion
from cutaway.evaluation.orders import centre, edges, ranks, tied
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import SIDE, box_model, bright, made, oracle, row_model

BOTH = [deletion, insertion]


def by_hand(model, picture, scores, fill, *, cells, steps, insert):
    """Reference: replace cell after cell of one picture, look at the probability of class 1, add up trapezoids."""
    width = SIDE // cells
    means = [
        (float(scores[r * width : (r + 1) * width, c * width : (c + 1) * width].mean()), r, c)
        for r in range(cells)
        for c in range(cells)
    ]
    order = sorted(means, reverse=True)
    filled = Fill.of(fill)(picture[None], model.space)[0]
    now, other = (filled.clone(), picture) if insert else (picture.clone(), filled)
    values, done = [float(model.predict(now[None])[0, 1])], 0
    for step in range(1, steps + 1):
        while done < round(step * len(order) / steps):
            _, r, c = order[done]
            part = (slice(None), slice(r * width, (r + 1) * width), slice(c * width, (c + 1) * width))
            now[part] = other[part]
            done += 1
        values.append(float(model.predict(now[None])[0, 1]))
    return values, sum((a + b) / 2 / steps for a, b in pairwise(values))


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("fill", ["zero", "mean", "blur:2"])
@pytest.mark.parametrize("steps", [5, 16])
def test_matches_a_loop_over_the_cells(method, fill, steps):
    model, x = tiny_model("conv"), bright(2)
    values = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = method(model, x, made(values), fills=(fill,), cells=4, steps=steps)
    loops = [
        by_hand(model, x[i], values[i].sum(0), fill, cells=4, steps=steps, insert=method is insertion) for i in range(2)
    ]
    expected = torch.tensor([curve for curve, _ in loops], dtype=torch.float64).mean(0)
    assert_close(found.y["this map"], expected, atol=1e-12, rtol=0)
    assert found.summary["this map"] == pytest.approx(sum(area for _, area in loops) / 2, abs=1e-12)


@pytest.mark.parametrize("method", BOTH)
def test_the_true_reason_beats_every_control(method):
    found = method(box_model(), bright(), made(oracle()), cells=4, fills=("zero",))
    sign = 1 if found.better == "higher" else -1
    best, *others = found.summary.values()
    assert len(others) == 3
    assert all(sign * best > sign * other + 0.1 for other in others)
    assert found.checks["verdict"].status == "ok"


def test_deletion_of_the_true_reason_is_over_after_one_cell():
    found = deletion(box_model(), bright(), made(oracle()), fills=("zero",), cells=4)
    before, after = (box_model().predict(bright() * keep)[0, 1] for keep in (1, 0))
    assert_close(found.y["this map"][0], before)
    assert_close(found.y["this map"][1:], after.expand(16))
    assert found.summary["this map"] == pytest.approx(float(after + (before - after) / 32), abs=1e-9)


@pytest.mark.parametrize("method", BOTH)
def test_the_opposite_of_the_reason_fails(method):
    found = method(box_model(), bright(), made(-oracle()), fills=("zero",), cells=4)
    assert found.checks["verdict"].status == "fail"
    assert "no faster than random orders" in found.checks["verdict"]


@pytest.mark.parametrize("method", BOTH)
def test_a_constant_map_is_a_random_order_and_says_so(method):
    x = bright()
    found = method(box_model(), x, made(torch.ones_like(x)), fills=("zero",), cells=4, seed=3)
    assert found.checks["ties"].status == "warn"
    assert found.checks["ties"].value == 1.0
    assert found.checks["verdict"].status != "ok"
    others = [method(box_model(), x, made(torch.ones_like(x)), fills=("zero",), cells=4, seed=s) for s in range(3)]
    assert len({other.summary["this map"] for other in others}) > 1, "ties are broken by the seed"


@pytest.mark.parametrize("method", BOTH)
def test_curves_begin_and_end_alike_and_areas_lie_between_the_extremes(method):
    x = bright(3)
    values = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = method(tiny_model("conv"), x, made(values), fills=("zero", "mean"))
    for fill in ("zero", "mean"):
        series = {name: y for name, y in found.y.items() if name.endswith(f"{fill} fill")}
        assert len(series) == (4 if fill == "zero" else 2)
        for name, y in series.items():
            first = next(iter(series.values()))
            assert_close(y[[0, -1]], first[[0, -1]])
            assert float(y.min()) <= found.summary[name] <= float(y.max())
            assert (found.low[name] <= y + 1e-12).all()
            assert (y <= found.high[name] + 1e-12).all()
    assert found.x[0] == 0
    assert found.x[-1] == 1


def test_one_input_has_the_range_of_the_random_orders_as_band():
    found = deletion(box_model(), bright(), made(oracle()), fills=("zero",), cells=4)
    assert list(found.low) == ["random order"]
    assert (found.low["random order"] <= found.y["random order"]).all()


@pytest.mark.parametrize("cells", [0, SIDE, 1000])
def test_single_pixels_as_in_the_paper(cells):
    x = bright()
    values = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = deletion(box_model(), x, made(values), fills=("zero",), cells=cells, steps=7)
    curve, area = by_hand(box_model(), x[0], values[0].sum(0), "zero", cells=SIDE, steps=7, insert=False)
    assert_close(found.y["this map"], torch.tensor(curve, dtype=torch.float64), atol=1e-12, rtol=0)
    assert found.summary["this map"] == pytest.approx(area)


def test_a_coarse_map_is_interpolated():
    x = bright()
    coarse = torch.nn.functional.adaptive_avg_pool2d(oracle(), 4)[:, :1]
    found = deletion(box_model(), x, made(coarse, wrt="layer"), fills=("zero",), cells=4)
    fine = deletion(box_model(), x, made(oracle()), fills=("zero",), cells=4)
    assert found.summary["this map"] == fine.summary["this map"]


@pytest.mark.parametrize("method", BOTH)
def test_columns_of_a_row_are_pieces(method):
    """A sum of weights: the best order takes the largest contribution first."""
    model, x = row_model([3.0, 2.0, 1.0, 0.0]), torch.ones(1, 4, dtype=torch.float64)
    best = method(model, x, made(torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)), fills=("zero",))
    sums = [6.0, 3.0, 1.0, 0.0, 0.0] if method is deletion else [0.0, 3.0, 5.0, 6.0, 6.0]
    assert_close(best.y["this map"], torch.tensor(sums, dtype=torch.float64).sigmoid())
    assert set(best.y) == {"this map", "random order"}


def test_words_are_pieces_and_padding_is_not():
    model = tiny_model("text")
    texts = ["the film was very good", "dull plot"]
    both = deletion(model, texts, "gradient", target=1)
    alone = deletion(model, texts[1:], "gradient", target=1)
    first = deletion(model, texts[:1], "gradient", target=1)
    assert_close(both.y["gradient"][0], (first.y["gradient"][0] + alone.y["gradient"][0]) / 2)
    assert_close(both.y["gradient"][-1], (first.y["gradient"][-1] + alone.y["gradient"][-1]) / 2)
    assert len(first.x) == 6, "five words"
    assert len(alone.x) == 3, "two words, and no padding"


def test_rows_do_not_depend_on_their_batch():
    model, x = tiny_model("conv"), bright(3)
    values = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).round()
    together = insertion(model, x, made(values, target="[logit(0), logit(1), logit(2)]"))
    one_map = [made(values[i : i + 1], target=f"logit({i})") for i in range(3)]
    alone = [insertion(tiny_model("conv"), x[i : i + 1], one_map[i]) for i in range(3)]
    for name, y in together.y.items():
        assert_close(y, torch.stack([one.y[name] for one in alone]).mean(0))


def test_controls_are_run_once_for_several_maps():
    model, x = box_model(), bright()
    first = deletion(model, x, made(oracle()), cells=4)
    second = deletion(model, x, made(-oracle()), cells=4)
    assert second.provenance.cost.forwards < first.provenance.cost.forwards / 4
    assert "controls" in second.checks
    for name, y in second.y.items():
        if not name.startswith("this map"):
            assert torch.equal(y, first.y[name])
    with torch.no_grad():
        model.module.factor.mul_(0.5)
    third = deletion(model, x, made(oracle()), cells=4)
    assert "controls" not in third.checks, "other weights, other curves"


def test_random_orders_are_run_once_for_deletion_and_insertion():
    """Showing cell after cell is deleting in the opposite order, read from its end."""
    model, x = box_model(), bright(2)
    options = {"cells": 4, "fills": ("zero",), "steps": 7}
    alone = insertion(box_model(), x, made(oracle(2)), **options)
    gone = deletion(model, x, made(oracle(2)), **options)
    shown = insertion(model, x, made(oracle(2)), **options)
    assert shown.provenance.cost.forwards <= alone.provenance.cost.forwards - 2 * 4 * 6
    assert_close(shown.y["random order"], gone.y["random order"].flip(0), atol=0, rtol=0)
    for name, y in alone.y.items():
        assert_close(shown.y[name], y, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("target", "label"),
    [
        ("logit(1)", "probability of bright"),
        ("logprob(1)", "probability of bright"),
        ('logit("bright")', "probability of bright"),
        ("logit(1) - logit(0)", "logit(1) - logit(0)"),
        ("loss(1)", "loss(1)"),
    ],
)
def test_the_probability_is_watched_where_there_is_one_class(target, label):
    assert deletion(box_model(), bright(), made(oracle(), target=target), fills=("zero",), cells=4).y_label == label


def test_the_target_itself_on_request():
    found = deletion(box_model(), bright(), made(oracle()), fills=("zero",), cells=4, score="target")
    assert float(found.y["this map"][0]) == pytest.approx(float(box_model().run(bright()).output[0, 1]))


def test_a_fill_that_leaves_the_answer_is_named():
    found = deletion(box_model(), bright(), made(oracle()), fills=("mean",), cells=4)
    assert found.checks["range"].status == "warn"


def test_an_interval_needs_no_luck():
    """On many inputs, a map that is right on average is ahead by its paired interval."""
    x = bright(6)
    found = deletion(box_model(), x, made(oracle(6)), fills=("zero",), cells=4)
    assert found.checks["verdict"].status == "ok"
    assert "on average over 6 inputs" in found.checks["verdict"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 1}, "steps"), ({"orders": 0}, "orders"), ({"cells": -1}, "cells"), ({"score": "logit"}, "score")],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(BadOption, match=message):
        deletion(box_model(), bright(), made(oracle()), **options)


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(BadShape, match="expected a map of shape"):
        deletion(row_model([1.0, 2.0]), torch.ones(1, 2), made(torch.ones(1, 3)))
    with pytest.raises(BadShape, match="of these 1 inputs; got one of 2"):
        deletion(box_model(), bright(), made(oracle(2)))
    with pytest.raises(BadShape, match="finite"):
        deletion(box_model(), bright(), made(oracle() / 0))
    with pytest.raises(NotPossible, match="not laid out over the picture"):
        deletion(box_model(), bright(), made(torch.ones(1, 5), wrt="fc"))


def test_a_blur_of_words_is_refused():
    with pytest.raises(NotPossible, match="no meaning"):
        deletion(tiny_model("text"), ["a good film"], "gradient", fills=("mean",))


def test_ranks_put_the_highest_first_and_break_ties_by_chance():
    chance = torch.Generator().manual_seed(0)
    assert ranks(torch.tensor([0.1, 0.7, -2.0, 0.3], dtype=torch.float64), chance).tolist() == [2, 0, 3, 1]
    first = [int(ranks(torch.zeros(4, dtype=torch.float64), chance).argmin()) for _ in range(400)]
    assert all(60 < first.count(k) < 140 for k in range(4))
    assert tied(torch.tensor([1.0, 1.0, 2.0, 3.0], dtype=torch.float64)) == 0.5


def test_controls_know_the_picture_only():
    step = torch.zeros(3, 8, 8)
    step[:, :, 4:] = 1
    assert set(edges(step).argmax(1).tolist()) <= {3, 4}
    middle = centre(torch.zeros(3, 5, 5))
    assert int(middle.argmax()) == 12


def test_every_tiny_model_can_be_examined():
    for name in ("mlp", "conv_grey", "tuple_output", "lstm", "attention"):
        model = tiny_model(name)
        found = deletion(model, inputs_for(model, 2), "gradient", steps=4, fills=("zero",))
        assert next(iter(found.y)) == "gradient"
