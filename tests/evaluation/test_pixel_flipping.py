import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.attribution.gradient import gradient
from cutaway.core.errors import BadOption
from cutaway.core.fill import Fill
from cutaway.evaluation.flipping import pixel_flipping
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import SIDE, box_model, bright, made, oracle, row_model

MOST, LEAST = "most relevant first", "least relevant first"


def by_hand(model, picture, scores, fill, *, cells, steps, share, sign):
    """Flip cell after cell in a loop; the target is the logit of class 1."""
    width = SIDE // cells
    boxes = [
        (slice(r * width, (r + 1) * width), slice(c * width, (c + 1) * width))
        for r in range(cells)
        for c in range(cells)
    ]
    order = sorted(boxes, key=lambda box: -sign * float(scores[box].mean()))
    filled, now = Fill.of(fill)(picture[None], model.space)[0], picture.clone()
    start, falls, done = float(model.run(now[None]).scores[0, 1]), [], 0
    for step in range(steps + 1):
        while done < round(share * step * len(order) / steps):
            now[(slice(None), *order[done])] = filled[(slice(None), *order[done])]
            done += 1
        falls.append(start - float(model.run(now[None]).scores[0, 1]))
    return falls


@pytest.mark.parametrize("fill", ["zero", "blur:2"])
@pytest.mark.parametrize("share", [0.5, 1])
def test_matches_a_loop_over_the_cells(fill, share):
    model, x = tiny_model("conv"), bright(2)
    values = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = pixel_flipping(model, x, made(values), fills=(fill,), cells=4, steps=8, share=share)
    for name, sign in ((MOST, 1), (LEAST, -1)):
        loops = [
            by_hand(model, x[i], values[i].sum(0), fill, cells=4, steps=8, share=share, sign=sign) for i in range(2)
        ]
        expected = torch.tensor(loops, dtype=torch.float64).mean(0)
        assert_close(found.y[name], expected, atol=1e-12, rtol=0)
        assert found.summary[name] == pytest.approx(float(expected.mean()), abs=1e-12)


def test_the_true_mask_beats_every_control_with_every_fill():
    found = pixel_flipping(box_model(), bright(6), made(oracle(6)), cells=4)
    for fill in ("noise", "zero"):
        best = found.summary[f"{MOST}, {fill} fill"]
        assert all(
            best > v for k, v in found.summary.items() if k.endswith(f", {fill} fill") and not k.startswith(MOST)
        )
    one = pixel_flipping(box_model(), bright(6), made(oracle(6)), cells=4, fills="zero")
    assert one.checks["verdict"].status == "ok"
    assert one.checks["gap"].value > 0


def test_the_aopc_of_the_true_mask_is_known():
    """One of 16 cells decides; it goes first, and the fall stays: 8 of 9 points, of 8 times the mean brightness."""
    found = pixel_flipping(box_model(), bright(), made(oracle()), cells=4, steps=8, fills="zero")
    expected = 8 * 8 * float(bright()[:, :, 12:16, 0:4].mean()) / 9
    assert found.summary[MOST] == pytest.approx(expected, abs=1e-9)
    assert found.summary[LEAST] == pytest.approx(0, abs=1e-9)


def test_the_opposite_of_the_reason_fails():
    found = pixel_flipping(box_model(), bright(6), made(-oracle(6)), cells=4, fills="zero")
    assert found.checks["verdict"].status == "fail"
    assert found.checks["gap"].status == "warn"


def test_a_constant_map_is_a_random_order_and_says_so():
    found = pixel_flipping(box_model(), bright(3), made(torch.ones(3, 3, SIDE, SIDE)), cells=4, fills="zero")
    assert found.checks["ties"].status == "warn"
    assert found.checks["verdict"].status == "warn"


def test_rows_and_text_are_flipped_too():
    model = row_model([3.0, 1.0, 2.0, 0.0])
    found = pixel_flipping(model, torch.ones(1, 4), made(torch.tensor([[3.0, 1.0, 2.0, 0.0]])), share=1, fills="zero")
    assert_close(found.y[MOST], torch.tensor([0.0, 3, 5, 6, 6]), check_dtype=False)
    assert_close(found.y[LEAST], torch.tensor([0.0, 0, 1, 3, 6]), check_dtype=False)
    text = tiny_model("text")
    assert torch.isfinite(pixel_flipping(text, inputs_for(text, 2)).y[MOST]).all()


def test_the_controls_are_run_once_for_several_maps():
    model, options = box_model(), {"cells": 4, "fills": "zero"}
    first = pixel_flipping(model, bright(2), made(oracle(2)), **options)
    second = pixel_flipping(model, bright(2), made(-oracle(2)), **options)
    alone = pixel_flipping(box_model(), bright(2), made(-oracle(2)), **options)
    assert second.provenance.cost.forwards < first.provenance.cost.forwards / 2
    assert "an earlier call" in second.checks["reused"]
    assert all(torch.equal(y, alone.y[name]) for name, y in second.y.items())


def test_options_out_of_range_are_refused():
    for wrong in ({"share": 0}, {"share": 1.5}, {"steps": 1}, {"orders": 1}, {"cells": -1}):
        with pytest.raises(BadOption):
            pixel_flipping(box_model(), bright(), made(oracle()), **wrong)


class Normalised(nn.Module):
    """The network with the normalisation that happens inside a `Model`, for a peer that takes modules."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.space = model.module, model.space

    def forward(self, x):
        return self.inner(self.space.normalised(x))


@pytest.mark.peers
def test_quantus_gives_the_same_scores_pixel_by_pixel():
    """Quantus returns the score itself after each step, and the score of the input is not among its points."""
    quantus = pytest.importorskip("quantus", reason="quantus is in requirements-peers.txt")
    model = tiny_model("conv_grey", torch.float32)
    x = inputs_for(model, 3)
    values = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    metric = quantus.PixelFlipping(
        features_in_step=16,
        perturb_baseline=0.0,
        return_auc_per_sample=False,
        abs=False,
        normalise=False,
        disable_warnings=True,
        display_progressbar=False,
    )
    theirs = np.array(
        metric(
            model=Normalised(model).eval(),
            x_batch=x.numpy(),
            y_batch=np.ones(3, dtype=int),
            a_batch=values.numpy(),
            channel_first=True,
            softmax=False,
        )
    )
    ours = pixel_flipping(model, x, made(values), fills="zero", cells=0, steps=16, share=1)
    before = model.run(x).scores[:, 1].double()
    assert theirs.shape == (3, 16)
    assert_close(ours.y[MOST][1:], before.mean() - torch.from_numpy(theirs).double().mean(0), atol=1e-5, rtol=0)


def test_without_controls_the_curve_is_the_same_and_there_is_no_verdict():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    why = gradient(model, x, [0, 1])
    options = {"fills": ("zero", "noise"), "cells": 4, "steps": 4}
    full, alone = pixel_flipping(model, x, why, **options), pixel_flipping(model, x, why, controls=False, **options)
    assert list(alone.y) == ["most relevant first"]
    assert torch.equal(alone.y["most relevant first"], full.y["most relevant first"])
    assert {name: full.summary[name] for name in alone.summary} == alone.summary
    assert alone.checks["verdict"].status == "note"
    assert "gap" not in alone.checks
    assert alone.provenance.cost.forwards < full.provenance.cost.forwards / 3
