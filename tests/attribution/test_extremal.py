"""Extremal perturbation: its parts from their equations, the whole search against a slow one, and planted truth."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.attribution.climb import climb, pull_to_area, with_area
from cutaway.attribution.extremal import _Search, extremal_perturbation
from cutaway.attribution.extremal_channels import extremal_channels
from cutaway.attribution.smooth import SmoothMasks
from cutaway.attribution.veil import Veil, blurring, fading
from cutaway.core.budget import limits
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.fill import Fill, gaussian_blur
from cutaway.core.model import Model
from cutaway.core.progress import Progress, reporting
from cutaway.core.space import images
from cutaway.core.target import Target
from cutaway.testing import nets
from cutaway.testing.models import inputs_for, tiny_model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(size=16, detail=3 / 32):
    return SmoothMasks(size, size, detail, torch.float64, torch.device("cpu"))


def overlap(mask, truth):
    return float(((mask > 0.5) & truth).sum() / ((mask > 0.5) | truth).sum())


# -- the parts ---------------------------------------------------------------------------------------------------------


def slow_cells(heights, inside):
    """Reference: the smooth maximum as it is written, cell by cell, over all bumps at most two radii away."""

    def smax(grid):
        out = torch.zeros(inside, dtype=grid.dtype)
        for y, x in itertools.product(*map(range, inside)):
            values = []
            for v, w in itertools.product(*map(range, grid.shape)):
                z = math.hypot(y + 6 - v, x + 6 - w) / 3
                if z <= 2:
                    values.append(math.exp(-2 * max(0.0, z - 0.5) ** 2) * grid[v, w])
            f = torch.stack(values)
            out[y, x] = (f * torch.exp(20 * f)).sum() / torch.exp(20 * f).sum()
        return out

    wide = F.pad(heights[None, None], [3] * 4, mode="replicate")[0, 0]
    return smax(wide) / smax(torch.ones_like(wide))


def test_masks_are_the_smooth_maximum_of_bumps():
    shape = smooth(6)
    heights = torch.rand(1, 1, *shape.shape, generator=generator(), dtype=torch.float64)
    assert shape.inside == (6, 6)
    assert shape.shape == (12, 12)
    assert_close(shape(heights)[0][0, 0], slow_cells(heights[0, 0], (6, 6)), atol=1e-12, rtol=0)


def test_a_mask_is_smooth_and_may_end_at_the_border():
    shape = smooth(64)
    heights = torch.zeros(1, 1, *shape.shape, dtype=torch.float64)
    heights[..., :4] = 1
    mask = shape(heights)[1][0, 0]
    assert mask[:, 0].min() > 0.99
    assert mask[:, 30:].max() < 1e-3
    assert mask.diff(dim=1).abs().max() < 0.25  # a bump's radius is 6 pixels here


def test_the_pull_is_the_slope_of_the_sorted_distance():
    cells = torch.rand(3, 1, 5, 6, generator=generator(1), dtype=torch.float64).requires_grad_()
    areas = torch.tensor([0.1, 0.5, 0.85], dtype=torch.float64)
    loss = 0.0
    for mask, area in zip(cells, areas, strict=True):
        ones = float(area) * 30
        wanted = torch.zeros(30, dtype=torch.float64)
        wanted[30 - math.floor(ones) :] = 1
        if math.floor(ones) < 30:
            wanted[29 - math.floor(ones)] = ones - math.floor(ones)
        loss = loss + (mask.flatten().sort().values - wanted).square().mean()
    (slow,) = torch.autograd.grad(loss, cells)
    assert_close(pull_to_area(cells.detach(), areas), slow, atol=1e-12, rtol=0)


def test_equal_cells_share_the_pull():
    cells = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64)
    pull = pull_to_area(cells, torch.tensor([0.25], dtype=torch.float64))
    assert_close(pull, torch.full_like(cells, 2 * (0.5 - 0.25) / 16))


def test_a_mask_is_brought_to_its_area_without_a_change_of_order():
    masks = torch.rand(3, 1, 9, 9, generator=generator(2), dtype=torch.float64)
    areas = torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64)
    found = with_area(masks, areas)
    assert_close(found.mean((1, 2, 3)), areas, atol=1e-9, rtol=0)
    assert torch.equal(found.flatten(1).argsort(1), masks.flatten(1).argsort(1))
    zeros = with_area(torch.zeros_like(masks), areas)
    assert not zeros.any()


def test_the_veil_blurs_by_levels():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    veil = blurring(model, x)
    ones = torch.ones(1, 1, 16, 16, dtype=x.dtype)
    strongest = 20 / 224 * 16
    assert torch.equal(veil(ones), x)
    assert_close(veil(0 * ones), gaussian_blur(x, strongest), atol=1e-12, rtol=0)
    third = (gaussian_blur(x, strongest * 2 / 7) + gaussian_blur(x, strongest * 3 / 7)) / 2
    assert_close(veil((1 - 2.5 / 7) * ones), third, atol=1e-12, rtol=0)


def test_the_veil_hands_slopes_back():
    levels = torch.rand(8, 3, 6, 6, generator=generator(3), dtype=torch.float64)
    veil, masks = Veil(levels), torch.rand(2, 1, 6, 6, generator=generator(4), dtype=torch.float64)
    slope = torch.rand(2, 3, 6, 6, generator=generator(5), dtype=torch.float64)
    step = 1e-7
    found = veil.back(masks, slope)
    ahead = ((veil(masks + step) - veil(masks - step)) / (2 * step) * slope).sum(1, keepdim=True)
    assert_close(found, ahead, atol=1e-6, rtol=0)


# -- the search --------------------------------------------------------------------------------------------------------


def slow_wanted(cells, area):
    """Zeros and ones in the order of the cells, with mean `area`; equal cells get the mean of what falls to them."""
    ordered, count = sorted(cells.tolist()), len(cells)
    wanted = [min(1.0, max(0.0, k + 1 - (1 - area) * count)) for k in range(count)]
    groups = [[0]]
    for k in range(1, count):
        if ordered[k] - ordered[k - 1] > 1e-5:
            groups.append([])
        groups[-1].append(k)
    means = [sum(wanted[k] for k in group) / len(group) for group in groups]
    return torch.tensor([m for m, group in zip(means, groups, strict=True) for _ in group], dtype=cells.dtype)


def clipped(t):
    """Between 0 and 1, with the slope of the identity."""
    return t + (t.clamp(0, 1) - t).detach()


def test_is_the_search_written_slowly():
    """Reference: the objective in one graph, with torch's own Adam, for one area and a fill."""
    model = tiny_model("residual")
    x = inputs_for(model, 1)
    shape, area, steps = smooth(16), 0.3, 6
    hidden = torch.zeros_like(x)
    score = lambda pictures: model.module(model.space.normalised(pictures))[:, 1]  # noqa: E731 a name for one line
    full, none = (float(score(p).detach()) for p in (x, hidden))
    span = float(f"{abs(full - none):.3g}")  # a scale, of which three digits are taken
    heights = torch.full((1, 1, *shape.shape), 0.5, dtype=x.dtype).requires_grad_()
    adam = torch.optim.Adam([heights], lr=0.1, betas=(0.8, 0.99), eps=1e-6)
    first = 0.5 / area  # of the area's weight, at least 1; the last is 60
    for step in range(steps):
        cells, mask = (clipped(t) for t in shape(heights))
        ordered = cells.flatten().sort().values
        loss = (
            first
            * (60 / first) ** (step / (steps - 1))
            * (ordered - slow_wanted(cells.flatten().detach(), area)).square().mean()
        )
        loss = loss - score(mask * x + (1 - mask) * hidden)[0] / span
        adam.zero_grad()
        loss.backward()
        adam.step()
        heights.data.clamp_(0, 1)
    expected = with_area(shape(heights.detach())[1].clamp(0, 1), torch.tensor([area], dtype=x.dtype))
    found = extremal_perturbation(model, x, 1, areas=(area,), iterations=steps, fill="zero")
    assert_close(found.values, expected, atol=1e-6, rtol=0)


class Square(nn.Module):
    """The logit of class 1 is the mean brightness of a square, times 8."""

    def __init__(self, where):
        super().__init__()
        self.where, self.factor = where, nn.Parameter(torch.tensor(8.0, dtype=torch.float64))

    def forward(self, x):
        inside = self.factor * x[:, :, *self.where].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(inside), inside], 1)


def bright_square(top=8, left=24, side=16):
    where = (slice(top, top + side), slice(left, left + side))
    truth = torch.zeros(48, 48, dtype=torch.bool)
    truth[where] = True
    x = 0.5 + 0.5 * torch.rand(1, 3, 48, 48, generator=generator(6), dtype=torch.float64)
    return Model(Square(where), images(48)), x, truth


@pytest.mark.parametrize("game", ["preserve", "delete", "dual"])
def test_a_planted_square_is_found_in_every_game(game):
    model, x, truth = bright_square()
    found = extremal_perturbation(model, x, 1, areas=(float(truth.double().mean()),), game=game, fill="zero")
    assert overlap(found.values[0, 0], truth) > 0.7
    assert float(found.values[0, 0][truth].mean()) > 0.85


def test_a_planted_square_at_the_border_is_found():
    model, x, truth = bright_square(top=0, left=32)
    found = extremal_perturbation(model, x, 1, areas=(float(truth.double().mean()),), fill="zero")
    assert overlap(found.values[0, 0], truth) > 0.7


def test_of_a_linear_score_the_best_pixels_are_kept():
    """Weights that fall from left to right: the best mask of each area is the left part."""
    weight = torch.linspace(1, 0, 48, dtype=torch.float64).expand(1, 48, 48) / 48**2
    model = Model(nets.linear(torch.stack([0 * weight, weight])), images(48, channels=1))
    x = torch.ones(1, 1, 48, 48, dtype=torch.float64)
    found = extremal_perturbation(model, x, 1, areas=(0.25, 0.5, 0.75), fill="zero")
    for mask, area in zip(found.extra["masks"][0], (0.25, 0.5, 0.75), strict=True):
        truth = torch.arange(48).expand(48, 48) < 48 * area
        assert overlap(mask, truth) > 0.75
        best = float((weight[0] * truth).sum())
        assert float((weight[0] * mask).sum()) > 0.97 * best


def test_an_input_is_searched_as_if_alone():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    together = extremal_perturbation(model, x, [0, 1], areas=(0.1, 0.3), iterations=3)
    alone = extremal_perturbation(model, x[1:], 1, areas=(0.1, 0.3), iterations=3)
    assert_close(together.extra["masks"][1], alone.extra["masks"][0], atol=1e-9, rtol=0)
    assert_close(together.values[:, 0], together.extra["masks"].mean(1))


def test_several_areas_share_the_steps_of_two_and_a_half():
    model = tiny_model("conv")
    x = inputs_for(model, 1)

    def gradients(*areas):
        return extremal_perturbation(model, x, 1, areas=areas, iterations=40).provenance.cost.backwards

    assert gradients(0.1) == 40
    assert gradients(0.1, 0.2) == 80
    assert gradients(0.05, 0.1, 0.2, 0.4, 0.6, 0.8) <= 2.5 * 40 + 3


def test_searches_that_meet_go_on_from_the_better_place():
    """Two searches for the same place: one is sent to where the other is, and arrives there."""
    truth = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    met = []

    def meet(values):
        met.append(values.clone())
        return values[:1].expand_as(values)

    start = torch.stack([truth, 1 - truth])
    areas = torch.tensor([0.25, 0.25], dtype=torch.float64)
    flat = lambda m: (torch.zeros(len(m)).double(), torch.zeros_like(m))  # noqa: E731 a score without a slope
    found, _ = climb(start, lambda m: (m, m * 1.0), flat, areas, iterations=10, meet=meet)
    assert len(met) == 1
    assert_close(found, truth.expand(2, 4), atol=1e-6, rtol=0)


def test_a_mask_that_does_better_for_the_next_area_is_taken_over():
    """A score that only the right half raises: whoever holds a part of it hands it on, whatever its own size."""
    model, x, _ = bright_square(top=0, left=24, side=24)
    shape = SmoothMasks(48, 48, 3 / 32, torch.float64, torch.device("cpu"))
    areas = [0.1, 0.2]
    search = _Search(
        model, x, Target.of(1, model), fading(model, x, Fill.of("zero")), shape, "preserve", areas, steps=2
    )
    inside, outside = torch.zeros(2, 1, 1, 48, 48, dtype=torch.float64)
    inside[:, :, :24, 24:] = 0.8
    outside[:, :, 24:, :24] = 0.8
    assert search._best(torch.cat([inside, outside])).tolist() == [0, 0]
    assert search._best(torch.cat([outside, inside])).tolist() == [1, 1]
    assert search._best(torch.cat([inside, inside])).tolist() == [0, 1]
    # More ones than the area allows: such a mask cannot shrink, and is not handed on.
    assert search._best(torch.cat([outside, (inside > 0).double()])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "game", "iterations"),
    [("conv", "preserve", 1), ("conv", "delete", 5), ("residual", "dual", 5), ("conv", "preserve", 80)],
)
def test_the_masks_of_a_whole_run_have_the_areas_asked_for(name, game, iterations):
    model, areas = tiny_model(name), (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
    found = extremal_perturbation(model, inputs_for(model, 2), 1, iterations=iterations, areas=areas, game=game)
    realised = found.extra["masks"].mean((2, 3))
    assert_close(realised, torch.tensor([areas] * 2, dtype=torch.float64), atol=0.02, rtol=0)
    assert_close(realised, found.extra["areas"], atol=1e-12, rtol=0)
    assert found.checks["areas"].status == "ok"
    # Six areas share 2.5 times the iterations: 33 steps each at 80.
    assert ("short" in found.checks) == (iterations < 80)


def test_the_scores_are_those_of_the_pictures():
    model, x, _ = bright_square()
    found = extremal_perturbation(model, x, 1, areas=(0.1, 0.4), iterations=20, fill="zero")
    pictures = torch.cat([x * mask for mask in found.extra["masks"][0]])
    assert_close(found.extra["scores"][0], model.run(pictures).output[:, 1])
    deleted = extremal_perturbation(model, x, 1, areas=(0.1, 0.4), iterations=20, fill="zero", game="delete")
    pictures = torch.cat([x * (1 - mask) for mask in deleted.extra["masks"][0]])
    assert_close(deleted.extra["scores"][0], model.run(pictures).output[:, 1])


def test_the_smallest_sufficient_area_is_that_of_what_decides():
    model, x, _ = bright_square()
    x[:, :, :, :20] = 0
    # Bright in one square of 16 x 16, which is 0.11 of the image; a little more covers it with soft edges.
    areas = (0.05, 0.1, 0.25, 0.5)
    deleted = extremal_perturbation(model, x, 1, areas=areas, game="delete", fill="zero")
    assert float(deleted.extra["sufficient"][0]) == pytest.approx(0.1)
    assert "10%" in deleted.checks["sufficient"]
    kept = extremal_perturbation(model, x, 1, areas=(0.05, 0.1), fill="zero")
    assert not kept.extra["sufficient"].any()
    assert "No mask" in kept.checks["sufficient"]


def test_areas_come_as_text_and_progress_is_told():
    model, x, _ = bright_square()
    seen: list[Progress] = []
    with reporting(seen.append):
        found = ct.run("extremal-perturbation", model, x, target=1, areas="0.3;0.1", iterations="2")
    assert found.extra["masks"].shape == (1, 2, 48, 48)
    assert seen[-1].done == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"areas": ()}, "got none"),
        ({"areas": (0.1, 1.0)}, "between 0 and 1"),
        ({"areas": ("a",)}, "between 0 and 1"),
        ({"iterations": 0}, "1 iteration or more"),
        ({"detail": 0.0}, "detail as a share"),
        ({"game": "hide"}, "one of preserve, delete, dual"),
    ],
)
def test_options_outside_their_range_are_refused(options, words):
    model = tiny_model("conv")
    with pytest.raises(BadOption, match=words):
        extremal_perturbation(model, inputs_for(model, 1), 1, **options)


def test_a_search_above_the_limit_is_refused():
    model = tiny_model("conv")
    with limits(forwards=50), pytest.raises(NotPossible, match="extremal_perturbation of . .* would take about"):
        extremal_perturbation(model, inputs_for(model, 1), 1)


def test_rows_have_no_masks():
    model = tiny_model("mlp")
    with pytest.raises(NotPossible, match="works on images"):
        extremal_perturbation(model, inputs_for(model, 1), 1)


def test_shapes_are_kept_and_enough():
    """The masks lie on the shape twice as much as chance would have it, and the score rises with the area."""
    model, data = ct.load("shapes-cnn"), ct.data("shapes/test[0:16]")
    inside, chance = [], []
    for k in range(0, 16, 4):
        options = {"areas": (0.05, 0.1, 0.2, 0.4), "detail": 1 / 16}
        found = extremal_perturbation(model, data.x[k : k + 1], int(data.labels[k]), **options)
        grown = F.max_pool2d(data.masks[k][None, None].float(), 5, stride=1, padding=2)[0, 0]
        inside.append(float((found.values[0, 0] * grown).sum() / found.values.sum()))
        chance.append(float(grown.mean()))
        scores = found.extra["scores"][0]
        # With the area the score rises, at least up to that of the whole image; "search" would say where it does not.
        assert (scores[1:] > scores[:-1].clamp(max=float(found.score)) - 0.05 * scores.max()).all()
        assert "search" not in found.checks
        assert 0 < float(found.extra["sufficient"][0]) < 0.41
    assert sum(inside) > 2 * sum(chance)


# -- channels ----------------------------------------------------------------------------------------------------------


def test_of_a_linear_end_the_channels_that_contribute_most_are_kept():
    """The score is the sum of w_c * mean of A_c: the best mask of 2 channels has the two largest terms."""
    model = tiny_model("gap_linear")
    x = inputs_for(model, 2)
    with torch.no_grad():
        model.module.conv.bias += 1
    act = torch.relu(model.run(x, read=["conv"])["conv"]).mean((2, 3))
    terms = act * model.module.fc.weight[1].detach()
    found = extremal_channels(model, x, 1, layer="conv", areas=(0.4,))
    removed = extremal_channels(model, x, 1, layer="conv", areas=(0.4,), game="delete")
    for i in range(2):
        best = terms[i].topk(2).indices.tolist()
        assert sorted(found.values[i].topk(2).indices.tolist()) == sorted(best)
        assert sorted(removed.values[i].topk(2).indices.tolist()) == sorted(best)
        expected = terms[i, best].sum() + model.module.fc.bias[1].detach()
        assert float(found.extra["scores"][i, 0]) == pytest.approx(float(expected), abs=0.02)


def test_channels_of_tokens_are_dimensions():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.norm(self.embed(x).flatten(2).transpose(1, 2)).mean(1))

    model = Model(nets.seeded(Patches), images(16))
    found = extremal_channels(model, inputs_for(model, 2), 1, layer="norm", areas=(0.25, 0.5), iterations=5)
    assert found.values.shape == (2, 8)
    assert found.wrt == "norm"


def test_the_kept_channels_are_inverted():
    model, data = ct.load("shapes-cnn"), ct.data("shapes/test[2:3]")
    options = {"layer": "relu3", "areas": (0.3,), "iterations": 60}
    found = extremal_channels(model, data.x, int(data.labels[0]), invert=150, **options)
    assert found.extra["kept"].shape == found.extra["whole"].shape == data.x.shape
    act = model.run(torch.cat([data.x, found.extra["whole"]]), read=["relu3"])["relu3"]
    off = float((act[1] - act[0]).norm() / act[0].norm())
    assert off < 0.35
    assert f"{off:.0%}" in found.checks["inversion"]
    again = extremal_channels(model, data.x, int(data.labels[0]), invert=150, **options)
    assert torch.equal(again.extra["kept"], found.extra["kept"])
    assert "kept" not in extremal_channels(model, data.x, 1, **options).extra
