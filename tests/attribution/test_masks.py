"""RISE: the masks, the estimator against its equation and against what is known, and the stop rule."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.testing import assert_close

from cutaway.attribution.grids import Masks
from cutaway.attribution.masks import rise
from cutaway.core.budget import limits
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.model import Model
from cutaway.core.progress import Progress, reporting
from cutaway.core.space import images
from cutaway.core.target import logit, prob
from cutaway.maths.statistics import spearman
from cutaway.testing.models import inputs_for, tiny_model


class Weighted(nn.Module):
    """The weighted sum of the pixels, as a value for one output."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight).flatten(1).sum(1, keepdim=True)


def of_rectangle(size: int = 28) -> Model:
    """The mean of the pixels of rows 4 to 9 and columns 16 to 23."""
    weight = torch.zeros(1, size, size, dtype=torch.float64)
    weight[:, 4:10, 16:24] = 1 / 48
    return Model(Weighted(weight), images(size, channels=1), scores="values")


def drawn(count: int, *, size: int = 28, cells: int = 7, keep: float = 0.5, seed: int = 0) -> torch.Tensor:
    return Masks(count, cells=cells, keep=keep, height=size, width=size, seed=seed)[:].double()


def slow_mask(seed: int, number: int, cells: int, keep: float, height: int, width: int) -> torch.Tensor:
    """Reference: section 3.3 of the paper, pixel by pixel. Enlarge the grid, then cut at the random place."""
    draws = torch.rand(
        number + 1, cells * cells + 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    grid, shift = (draws[number, :-2] < keep).double().view(cells, cells), draws[number, -2:]
    cell = (math.ceil(height / cells), math.ceil(width / cells))
    mask = torch.zeros(height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            # The centre of the pixel in the enlarged mask, in units of the grid, whose centres lie at halves.
            at = [
                (p + int(float(s) * c) + 0.5) * cells / ((cells + 1) * c) - 0.5
                for p, s, c in zip((y, x), shift, cell, strict=True)
            ]
            at = [min(max(a, 0.0), cells - 1.0) for a in at]
            (top, left), (down, across) = map(math.floor, at), (a - math.floor(a) for a in at)
            bottom, right = min(top + 1, cells - 1), min(left + 1, cells - 1)
            upper = grid[top, left] * (1 - across) + grid[top, right] * across
            lower = grid[bottom, left] * (1 - across) + grid[bottom, right] * across
            mask[y, x] = upper * (1 - down) + lower * down
    return mask


# -- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "cells"), [(28, 28, 7), (20, 31, 7), (16, 16, 4), (9, 9, 15)])
def test_masks_are_those_of_the_paper(height, width, cells):
    masks = Masks(3, cells=cells, keep=0.4, height=height, width=width, seed=5)
    for number in range(3):
        expected = slow_mask(5, number, cells, 0.4, height, width)
        assert_close(masks[number : number + 1][0].double(), expected, atol=1e-5, rtol=0)


def test_a_mask_depends_on_the_seed_and_its_number_alone():
    few, many = drawn(10), drawn(500)
    assert torch.equal(few, many[:10])
    assert not torch.equal(few, drawn(10, seed=1))


def test_every_pixel_is_shown_equally_often():
    mean = drawn(4000, keep=0.3).mean(0)
    assert_close(mean, torch.full_like(mean, 0.3), atol=5 * math.sqrt(0.3 * 0.7 / 4000), rtol=0)


def test_the_covariance_of_two_pixels_is_known():
    masks = Masks(40_000, cells=4, keep=0.3, height=12, width=9, seed=0)
    rows_known, columns_known = masks.covariance()
    known = 0.3 * 0.7 * torch.kron(rows_known, columns_known)
    assert_close(torch.cov(masks[:].double().flatten(1).T), known, atol=5 * 0.21 / math.sqrt(40_000), rtol=0)


# -- the estimator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimate", ["paper", "centred"])
@pytest.mark.parametrize("target", [prob(1), logit(0) - logit(2)])
def test_equals_the_equation_over_all_masks(estimate, target):
    """Reference: mean(score * m) / keep, or cov(score, m) / keep, from one image at a time."""
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    masks = drawn(60, size=16, keep=0.6, seed=2)
    hidden = torch.tensor(model.space.mean, dtype=x.dtype).view(1, -1, 1, 1)
    scores = torch.cat([target(model.run(x * m + hidden * (1 - m))) for m in masks])
    expected = torch.einsum("m,mhw->hw", scores, masks) / 60 / 0.6
    spread = (scores[:, None, None] * masks / 0.6).var(0, correction=0)
    if estimate == "centred":
        off = scores - scores.mean()
        expected = torch.einsum("m,mhw->hw", off, masks) / 59 / 0.6
        spread = (off[:, None, None] * (masks - 0.6) / 0.6).var(0, correction=0)
    found = rise(model, x, target, masks=60, keep=0.6, agreement=1, estimate=estimate, seed=2)
    assert_close(found.values[0, 0], expected, atol=1e-9, rtol=1e-6)
    assert_close(found.extra["error"][0, 0], (spread / 60).sqrt(), atol=1e-4, rtol=1e-3)


def test_the_mean_of_a_rectangle_is_found_where_it_is():
    model = of_rectangle()
    x = torch.ones(1, 1, 28, 28, dtype=torch.float64)
    found = rise(model, x, 0, masks=2000, agreement=1, fill="zero")
    y, x_at = divmod(int(found.values[0, 0].argmax()), 28)
    assert 4 <= y < 10
    assert 16 <= x_at < 24


def expected_map(weight: torch.Tensor, cells: int, keep: float) -> torch.Tensor:
    """Known answer for a linear score: a mask is B g, with independent g, and B known for each of the equally likely
    shifts. So Cov(w m, m_i) / keep = (1 - keep) * mean over shifts of (B B' w)_i: the weights, smoothed twice."""
    size, cell = len(weight), math.ceil(len(weight) / cells)
    units = torch.eye(cells * cells, dtype=torch.float64).view(-1, 1, cells, cells)
    large = F.interpolate(units, size=(cells + 1) * cell, mode="bilinear", align_corners=False)[:, 0]
    total = torch.zeros_like(weight)
    for y in range(cell):
        for x in range(cell):
            b = large[:, y : y + size, x : x + size]
            total += torch.einsum("ghw,g->hw", b, torch.einsum("ghw,hw->g", b, weight))
    return (1 - keep) * total / cell**2


@pytest.mark.parametrize("keep", [0.5, 0.3])
def test_a_linear_score_gives_its_weights_smoothed_by_the_masks(keep):
    weight = torch.randn(28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = Model(Weighted(weight[None]), images(28, channels=1), scores="values")
    x = torch.ones(1, 1, 28, 28, dtype=torch.float64)
    found = rise(model, x, 0, masks=4000, agreement=1, keep=keep, fill="zero")
    off = (found.values[0, 0] - expected_map(weight, 7, keep)) / found.extra["error"][0, 0]
    # In units of the standard error. Neighbours deviate together: there are about 49 independent numbers.
    assert off.abs().max() < 4
    assert 0.6 < off.square().mean().sqrt() < 1.4


def test_the_mean_of_a_rectangle_has_the_expected_map():
    model = of_rectangle()
    x = torch.ones(1, 1, 28, 28, dtype=torch.float64)
    found = rise(model, x, 0, masks=4000, agreement=1, fill="zero")
    expected = expected_map(model.module.weight[0].detach(), 7, 0.5)
    assert_close(found.values[0, 0], expected, atol=float(4 * found.extra["error"].max()), rtol=0)
    y, x_at = divmod(int(expected.argmax()), 28)
    assert 4 <= y < 10
    assert 16 <= x_at < 24


@pytest.mark.parametrize(("estimate", "few"), [("paper", 100), ("centred", 100), ("adjusted", 200)])
def test_the_error_falls_with_the_square_root_of_the_masks_and_is_what_it_says(estimate, few):
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    errors = []
    for masks in (few, 4 * few):
        found = [rise(model, x, 1, masks=masks, agreement=1, estimate=estimate, seed=s) for s in range(16)]
        spread = torch.stack([f.values for f in found]).std(0).mean()
        said = torch.stack([f.extra["error"] for f in found]).mean()
        assert float(spread / said) == pytest.approx(1, abs=0.15)
        errors.append(spread)
    assert float(errors[0] / errors[1]) == pytest.approx(2, rel=0.25)


class Rough(nn.Module):
    """A linear score with a part that hardly depends on any pixel by itself, and that no fit to the masks foretells."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        """Pictures (n, 1, h, w) to values (n, 1)."""
        score = (x[:, 0] * self.weight).sum((1, 2))
        return (score + self.weight.norm() * torch.sin(1e3 * x.sum((1, 2, 3))))[:, None]


@pytest.mark.parametrize(("kind", "masks"), [(Weighted, 400), (Rough, 100), (Rough, 400)])
@pytest.mark.parametrize("estimate", ["centred", "adjusted"])
def test_intervals_cover_the_truth_as_often_as_they_say(kind, estimate, masks):
    """Planted: the map of a linear score is known, and the rough part adds nothing to it. 60 repeats of all pixels."""
    weight = torch.zeros(28, 28, dtype=torch.float64)
    weight[4:12, 2:10], weight[16:24, 18:26] = 1.0, -0.6
    model = Model(kind(weight if kind is Rough else weight[None]), images(28, channels=1), scores="values")
    x, truth, hits = torch.ones(1, 1, 28, 28, dtype=torch.float64), expected_map(weight, 7, 0.5), []
    for seed in range(60):
        found = rise(model, x, 0, masks=masks, agreement=1, estimate=estimate, fill="zero", seed=seed)
        off = (found.values[0, 0] - truth).abs() / found.extra["error"][0, 0]
        hits.append(float((off <= 1.96).double().mean()))
    assert 0.9 <= sum(hits) / len(hits) <= 0.98


def test_each_estimate_has_the_same_expectation_and_less_noise_than_the_one_before():
    model = tiny_model("residual")
    x = inputs_for(model, 1)
    many = rise(model, x, 1, masks=5000, agreement=1, estimate="centred").values
    noise = []
    for estimate in ("paper", "centred", "adjusted"):
        maps = torch.stack(
            [rise(model, x, 1, masks=300, agreement=1, estimate=estimate, seed=s).values for s in range(1, 13)]
        )
        noise.append(maps.std(0).mean())
        off = maps.mean(0) - many
        off = off - off.mean() if estimate == "paper" else off
        # Of 12 maps of 300 masks, and one of 5,000; neighbours deviate together.
        assert off.abs().mean() < 2 * (noise[-1] ** 2 / 12 + noise[min(1, len(noise) - 1)] ** 2 * 300 / 5000).sqrt()
    assert noise[0] > 2 * noise[1]
    assert noise[1] > 1.2 * noise[2]


def test_the_centred_map_is_the_papers_map_less_the_mean_score():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    plain, centred = (rise(model, x, 1, masks=3000, agreement=1, estimate=e) for e in ("paper", "centred"))
    mean = (plain.values - centred.values).mean()
    noise = plain.extra["error"].max()
    assert_close(plain.values - mean, centred.values, atol=float(5 * noise), rtol=0)
    assert centred.extra["error"].mean() < plain.extra["error"].mean() / 5


# -- scores, rows, classes ---------------------------------------------------------------------------------------------


def test_the_logit_of_one_class_is_scored_by_its_probability():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    found = rise(model, x, 2, masks=20)
    assert found.target == "prob(2)"
    assert "probability was scored" in found.checks["score"]
    assert torch.equal(found.values, rise(model, x, prob(2), masks=20).values)
    as_given = rise(model, x, 2, masks=20, probability=False)
    assert as_given.target == "logit(2)"
    assert "score" not in as_given.checks
    assert_close(as_given.score, model.run(x).output[:, 2])


def test_a_difference_of_classes_is_scored_as_it_is():
    model = tiny_model("conv")
    assert rise(model, inputs_for(model, 1), "logit(1) - logit(0)", masks=20).target == "logit(1) - logit(0)"


def test_all_classes_come_from_one_pass():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    together = rise(model, x, [0, 1, 2], masks=200, agreement=1)
    assert together.provenance.cost.forwards < 2 * 200
    for i in range(3):
        alone = rise(model, x, i, masks=200, agreement=1)
        assert torch.equal(together.values[i], alone.values[0])
    # Probabilities sum to 1 under every mask, so their covariances with any pixel cancel.
    assert_close(together.values.sum(0), torch.zeros_like(x[0, :1]), atol=1e-12, rtol=0)


def test_each_target_stops_as_if_alone():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    together = rise(model, x[[0, 1, 0]], [0, 1, 2])
    for i, (row, target) in enumerate([(0, 0), (1, 1), (0, 2)]):
        assert_close(together.values[i], rise(model, x[row : row + 1], target).values[0], atol=1e-12, rtol=0)


def test_a_black_box_without_gradient_can_be_explained():
    class Estimator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            x = torch.rand(200, 64, generator=generator, dtype=torch.float64)
            self.estimator = LogisticRegression().fit(x.numpy(), (x[:, 10] > 0.5).numpy())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(self.estimator.predict_proba(x.flatten(1).numpy()))

    model = Model(Estimator().double(), images(8, channels=1), scores="probabilities")
    x = torch.full((1, 1, 8, 8), 0.9, dtype=torch.float64)
    found = rise(model, x, 1, masks=1500, agreement=1, cells=8, fill="constant:0.1")
    best = divmod(int(found.values[0, 0].argmax()), 8)
    assert abs(best[0] - 1) <= 1
    assert abs(best[1] - 2) <= 1


# -- when to stop ------------------------------------------------------------------------------------------------------


def test_stops_when_a_repetition_is_expected_to_agree():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    found = rise(model, x, 1, masks=4000, agreement=0.9)
    used = int(found.checks["masks"].value)
    assert 100 <= used < 4000
    assert found.provenance.cost.forwards < used + 20
    halves = found.checks["agreement"].value
    assert 2 * halves / (1 + halves) >= 0.9
    assert found.checks["agreement"].status == "ok"
    before = rise(model, x, 1, masks=used - 50, agreement=1).checks["agreement"].value
    assert 2 * before / (1 + before) < 0.9


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_the_expected_agreement_is_what_other_masks_give(name):
    model = tiny_model(name)
    x = inputs_for(model, 1)
    maps = [rise(model, x, 1, masks=300, agreement=1, seed=s) for s in range(24)]
    halves = torch.tensor([m.checks["agreement"].value for m in maps])
    expected = float((2 * halves / (1 + halves)).mean())
    flat = torch.stack([m.values.flatten() for m in maps])
    found = float(spearman(flat[0::2], flat[1::2]).mean())
    assert found == pytest.approx(expected, abs=0.03)


def test_too_few_masks_are_said_to_be_too_few():
    model = tiny_model("conv")
    found = rise(model, inputs_for(model, 1), 1, masks=12)
    assert found.checks["agreement"].status == "warn"
    assert "noise" in found.checks["agreement"]


def test_a_score_that_no_mask_moves_gives_a_flat_map_and_says_so():
    model = Model(Weighted(torch.zeros(1, 8, 8)), images(8, channels=1), scores="values")
    found = rise(model, torch.ones(1, 1, 8, 8), 0, masks=100)
    assert not found.values.any()
    assert found.checks["agreement"].status == "warn"
    assert "flat" in found.checks["agreement"]


def test_progress_is_told():
    seen: list[Progress] = []
    model = tiny_model("conv")
    with reporting(seen.append):
        rise(model, inputs_for(model, 2), 1, masks=100, agreement=1)
    assert [p.done for p in seen] == [0, 50, 100, 150, 200]


def test_more_masks_than_the_limit_allows_are_refused_before_the_first():
    model = tiny_model("conv")
    with limits(forwards=500), pytest.raises(NotPossible, match="rise with 1000 masks would take about 1,000 forwards"):
        rise(model, inputs_for(model, 1), 1)
    assert not model.spent["forwards"]


def test_the_time_limit_ends_it_with_what_there_is():
    model = tiny_model("conv")
    with limits(seconds=1e-6):
        found = rise(model, inputs_for(model, 2), 1, masks=400, agreement=1)
    assert found.checks["partial"].status == "warn"
    assert "50 of up to 400 masks" in found.checks["partial"]
    assert torch.equal(found.values, rise(model, inputs_for(model, 2), 1, masks=50, agreement=1).values)
    assert "partial" not in rise(model, inputs_for(model, 1), 1, masks=100).checks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 3}, "expected 4 masks or more"),
        ({"agreement": 0}, "agreement above 0, up to 1"),
        ({"agreement": 1.5}, "agreement above 0, up to 1"),
        ({"cells": 0}, "expected 1 cell or more"),
        ({"keep": 1}, "keep as a share between 0 and 1"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    model = tiny_model("conv")
    with pytest.raises(BadOption, match=message):
        rise(model, inputs_for(model, 1), 1, **options)


def test_rows_of_a_table_have_no_masks():
    model = tiny_model("mlp")
    with pytest.raises(NotPossible, match="rise works on images"):
        rise(model, inputs_for(model, 1), 1)


@pytest.mark.slow
def test_the_cat_is_found_in_the_photo():
    import cutaway as ct

    model, x = ct.load("efficientnet-lite0"), ct.data("photos/chelsea").x
    found = rise(model, x, 281, masks=200, agreement=1)
    values = found.values[0, 0]
    face, corner = values[40:170, 60:200].mean(), values[180:, 180:].mean()
    assert face > corner


# -- a captioner -------------------------------------------------------------------------------------------------------


class Captioner(nn.Module):
    """Logits of the next word of a caption, given an image and the words so far, which it holds.

    It says the colour of the left half first and that of the right half second: "red" or "blue".
    """

    WORDS = ("red", "blue", "end")

    def __init__(self, prefix: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.prefix = prefix
        self.sharpness = nn.Parameter(torch.tensor(8.0, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        at = len(self.prefix)
        if at > 1:
            return torch.tensor([[-9.0, -9.0, 9.0]], dtype=x.dtype).expand(len(x), 3)
        half = x[..., :8] if at == 0 else x[..., 8:]
        colours = half.mean((2, 3))[:, [0, 2]]
        return torch.cat([self.sharpness * colours, torch.zeros_like(colours[:, :1])], 1)


def caption_of(x: torch.Tensor, prefix: tuple[str, ...]) -> Model:
    return Model(Captioner(prefix), images(16), classes=Captioner.WORDS)


def test_the_next_word_of_a_captioner_is_explained():
    """As in the paper, section 4.4: the probability of a word, given the words before it, is scored."""
    x = torch.full((1, 3, 16, 16), 0.1, dtype=torch.float64)
    x[:, 0, :, :8] = x[:, 2, :, 8:] = 0.9
    maps = []
    for prefix, word in (((), "red"), (("red",), "blue")):
        found = rise(caption_of(x, prefix), x, word, masks=800, agreement=1, cells=4, fill="zero")
        assert found.target == f'prob("{word}")'
        maps.append(found.values[0, 0])
    left, right = maps
    assert left[:, :6].mean() > 5 * left[:, 10:].mean().abs()
    assert right[:, 10:].mean() > 5 * right[:, :6].mean().abs()
    nothing = rise(caption_of(x, ("red", "blue")), x, "end", masks=100, fill="zero")
    assert nothing.values.abs().max() < 1e-12


def test_a_whole_caption_is_the_product_of_its_words():
    """A network of several outputs, one for each word of a fixed caption: the score is the product of probabilities."""

    class Caption(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.ModuleList([Captioner(), Captioner(("red",))])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = [word(x).softmax(1)[:, k] for word, k in zip(self.words, (0, 1), strict=True)]
            return torch.stack([*found, found[0] * found[1]], 1)

    x = torch.full((1, 3, 16, 16), 0.1, dtype=torch.float64)
    x[:, 0, :, :8] = x[:, 2, :, 8:] = 0.9
    model = Model(Caption(), images(16), classes=("first", "second", "both"), scores="values")
    options = {"masks": 400, "agreement": 1, "cells": 4, "fill": "zero"}
    product = rise(model, x, "logit('first') * logit('second')", **options)
    assert_close(product.values, rise(model, x, "both", **options).values)
    left, right = product.values[..., :8].mean(), product.values[..., 8:].mean()
    assert min(left, right) > 0.3 * max(left, right) > 0
