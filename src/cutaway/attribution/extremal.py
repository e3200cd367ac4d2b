"""The part of an image of a given size that serves the score best: masks of fixed area, smooth, one for each area."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cutaway.attribution.climb import checked_areas, climb, power_for, smallest_enough, with_area
from cutaway.attribution.smooth import SmoothMasks
from cutaway.attribution.veil import Veil, blurring, fading, relative
from cutaway.core.batch import Batch, repeat
from cutaway.core.budget import afford, cut_short, fair_share
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.fill import Fill
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT
from cutaway.core.target import Target

Game = Literal["preserve", "delete", "dual"]
# Weight of the area: at the first step half of one over the area, at least 1, since a small mask
# starts far above its size; and at the last step. A mask is brought to its area in the end, so that more is not needed.
_FIRST_WEIGHT, _LAST_WEIGHT = 0.5, 60.0
# All areas together may take so many times the steps of one: they help each other.
_TOGETHER = 2.5
# How far from its area a mask may be to be taken over, as a share of the image.
_FITS = 1e-4


@method(
    paper="fong2019",
    laws={"batch_independent", "same_for_equivalent_nets"},
    needs={"gradient", "image"},
    quick={"iterations": 4, "areas": (0.1, 0.3)},
)
def extremal_perturbation(
    model: Model,
    x: Batch,
    target: Target,
    *,
    areas: tuple[float | str, ...] = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8),
    game: Game = "preserve",
    iterations: int = 100,
    detail: float = 3 / 32,
    fill: Fill | None = None,
) -> Attribution:
    """Which part of the image, of a given size, is enough for the score, everything else being blurred.

    mask = argmax over smooth masks with that area of target(x where the mask is 1, blurred where it is 0)

    One mask for each area, all in one batch. On the way, and at the end, an area takes over the mask of the next
    smaller or larger one if that, brought to its size, does better. Each step costs a forward and a backward for each
    area (two of each for `dual`).

    Args:
        areas: Shares of the image; each gets a mask of its own.
        game: `preserve` keeps the mask and raises the score; `delete` hides it and lowers the score; `dual` does both
            with one mask.
        iterations: Steps of the search for one area, or for two. More areas share 2.5 times as many.
        detail: Radius of the finest detail of a mask, as a share of the image's shorter side; 21 of 224 pixels.
        fill: What hidden pixels fade to; if none, they are blurred, up to a Gaussian of 20 of 224 pixels.

    Returns:
        The mean of the masks, (n, 1, h, w): the share of the areas whose mask has this pixel. `extra` has the `masks`
        (n, areas, h, w), their `areas` and the `scores` of the pictures they leave, (n, areas), and `sufficient`, (n,):
        the smallest area that is enough, or 0 if none is.

    Source: Fong, Patrick and Vedaldi 2019, eq. 2 to 6. Differs: the score counts from the hidden image (0) to the whole
    one (1), so that the weight of the area, which grows from 10 to 60, means the same for every network; Adam; the area
    is counted inside the image; a mask is brought to exactly its area at the end.
    """
    assert isinstance(x, Tensor)
    wanted = checked_areas(areas)
    if iterations < 1:
        raise BadOption(f"expected 1 iteration or more; got {iterations}.")
    if not 0 < detail <= 0.5:
        raise BadOption(f"expected detail as a share of the shorter side above 0 and up to 0.5; got {detail:g}.")
    steps = _steps(iterations, len(wanted))
    passes = len(x) * steps * len(wanted) * (2 if game == "dual" else 1)
    afford(passes, f"extremal_perturbation of {len(wanted)} areas", backwards=passes, stops=True)
    shape = SmoothMasks(x.shape[2], x.shape[3], detail, x.dtype, x.device)
    found = []
    for i in range(len(x)):
        row = x[i : i + 1]
        veil = blurring(model, row) if fill is None else fading(model, row, fill)
        with fair_share(len(x) - i):
            found.append(_Search(model, row, target.row(i), veil, shape, game, wanted, steps).result())
    masks, scores, realised, sufficient, full = (
        torch.stack([getattr(f, name) for f in found]) for name in ("masks", "scores", "areas", "sufficient", "full")
    )
    return Attribution(
        values=masks.mean(1, keepdim=True),
        target=str(target),
        unit="share of the masks",
        score=full,
        signed=False,
        extra={"masks": masks, "areas": realised, "scores": scores, "sufficient": sufficient},
        checks=_checks(found, wanted, game, steps)
        | cut_short([f.steps for f in found], steps, "steps", "Each mask was brought to its area from where it was."),
    )


class _Found(NamedTuple):
    """One input's masks (areas, h, w), what they score (areas,), and what to say of them."""

    masks: Tensor
    scores: Tensor
    areas: Tensor
    sufficient: Tensor
    full: Tensor
    none: float
    off: float
    taken: int
    steps: int


def _steps(iterations: int, areas: int) -> int:
    """Steps for each of several areas."""
    return min(iterations, max(1, round(_TOGETHER * iterations / areas)))


class _Search:
    """The search for one input's masks."""

    def __init__(
        self,
        model: Model,
        row: Tensor,
        target: Target,
        veil: Veil,
        shape: SmoothMasks,
        game: Game,
        areas: list[float],
        steps: int,
    ) -> None:
        self._model, self._row, self._target, self._veil, self._shape = model, row, target, veil, shape
        self._game, self._steps = game, steps
        self._areas = torch.tensor(areas, dtype=row.dtype, device=row.device)
        ends = target(model.run(torch.cat([row, veil.hidden]), read=target.sites)).expand(2)
        self._full, self._none = ends[0], float(ends[1])
        span = max(abs(float(self._full) - self._none), 1e-3 * abs(float(self._full)), 1e-6)
        self._span = float(f"{span:.3g}")  # only a scale: so that a rounding error in it does not lead elsewhere

    def result(self) -> _Found:
        """Masks for all areas."""
        start = torch.full((len(self._areas), 1, *self._shape.shape), 0.5).to(self._row)
        heights, steps = climb(
            start,
            self._shape,
            self._reward,
            self._areas,
            iterations=self._steps,
            weights=((_FIRST_WEIGHT / self._areas).clamp(min=1), _LAST_WEIGHT),
            meet=self._met if len(start) > 1 else None,
            label="extremal_perturbation",
        )
        masks = self._shape(heights)[1].clamp(0, 1)
        off = float((masks.mean((1, 2, 3)) - self._areas).abs().max())
        chosen = self._best(masks)
        masks = with_area(masks[chosen], self._areas)
        scores = self._scores(masks)
        enough = smallest_enough(self._areas, scores, float(self._full), self._none, delete=self._game == "delete")
        taken = int((chosen != torch.arange(len(chosen))).sum())
        return _Found(masks[:, 0], scores, masks.mean((1, 2, 3)), enough, self._full, self._none, off, taken, steps)

    def _met(self, heights: Tensor) -> Tensor:
        """Where to go on from: for each area, the heights of its own mask or of a neighbour's, brought to its size."""
        masks = self._shape(heights)[1].clamp(0, 1)
        chosen = self._best(masks)
        stays = (chosen == torch.arange(len(chosen))).to(masks.device).view(-1, 1, 1, 1)
        return torch.where(stays, heights, heights[chosen] ** power_for(masks[chosen], self._areas))

    def _best(self, masks: Tensor) -> Tensor:
        """For each area, whose mask does best there: its own, the next smaller or the next larger one's."""
        count = len(masks)
        whose, area = torch.tensor([(j, i) for i in range(count) for j in range(count) if abs(i - j) <= 1]).T
        gains = torch.full((count, count), -torch.inf, dtype=torch.float64)
        if count > 1:
            sized = with_area(masks[whose], self._areas[area])
            # A mask with more ones than an area allows cannot shrink to it.
            fits = (sized.mean((1, 2, 3)) - self._areas[area]).abs() < _FITS
            gain = torch.where(fits | (whose == area).to(fits.device), self._gain(sized), -torch.inf)
            gains[area, whose] = gain.double().cpu()
        own = gains.diagonal().clone()
        best = gains.argmax(1)
        # Another's mask has to be better by a hundredth: between equals, rounding would choose.
        slack = 1e-2 * self._span
        return torch.where(gains.amax(1) > own + slack, best, torch.arange(count))

    def _gain(self, masks: Tensor) -> Tensor:
        """What is raised, for masks with exactly their area."""
        if self._game != "dual":
            return -self._scores(masks) if self._game == "delete" else self._scores(masks)
        return self._seen(masks) - self._seen(1 - masks)

    def _reward(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """What is raised, in units of the span between hidden and whole, and its slope."""
        gain, slope = torch.zeros(len(masks), dtype=masks.dtype, device=masks.device), torch.zeros_like(masks)
        if self._game != "delete":
            score, up = self._slope(masks)
            gain, slope = gain + score, slope + up
        if self._game != "preserve":
            score, up = self._slope(1 - masks)
            gain, slope = gain - score, slope + up
        return gain / self._span, slope / self._span

    def _slope(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        many = repeat(self._row, len(masks))
        found = self._model.gradient(many, self._target, edit={INPUT: self._veil(masks)})
        return found.score, self._veil.back(masks, found.slope)

    def _scores(self, masks: Tensor) -> Tensor:
        """The target on the pictures that the masks leave: of the deleted image for `delete`, else of the kept part."""
        return self._seen(1 - masks if self._game == "delete" else masks)

    def _seen(self, masks: Tensor) -> Tensor:
        """The target on the pictures under some masks."""
        many = repeat(self._row, len(masks))
        found = self._model.run(many, read=self._target.sites, edit={INPUT: self._veil(masks)})
        return self._target(found).expand(len(masks))


def _checks(found: list[_Found], areas: list[float], game: Game, steps: int) -> dict[str, Check]:
    """Areas, scores, the smallest sufficient area, and the search; in full for the first input."""
    one, more = found[0], "" if len(found) == 1 else f" (the first of {len(found)} inputs)"
    missed = max(float((f.areas - torch.tensor(areas).to(f.areas)).abs().max()) for f in found)
    text = (
        f"The masks have the areas asked for within {missed:.1%} of the image; the search itself came within "
        f"{max(f.off for f in found):.1%}."
    )
    checks = {"areas": Check(text, "ok" if missed < 0.02 else "warn", missed)}
    what = "Hiding" if game == "delete" else "Keeping"
    by_area = ", ".join(f"{a:g}: {float(s):.3g}" for a, s in zip(areas, one.scores, strict=True))
    ends = f"the whole image {float(one.full):.3g}, hidden {one.none:.3g}{more}"
    checks["scores"] = Check(f"{what} the masks gives, by area, {by_area}; {ends}.", "note")
    checks["sufficient"] = _sufficient_check(one, game, more)
    shares = [relative(float(s), float(one.full), one.none) for s in one.scores]
    if game != "delete" and max(shares) > 1.05:
        text = f"Hiding parts of the image raises the target to {max(shares):.0%} of that of the whole image{more}."
        checks["higher"] = Check(text, "note", max(shares))
    if taken := sum(f.taken for f in found):
        text = f"{taken} of {len(found) * len(areas)} masks did worse in the end than that of the next area"
        checks["taken"] = Check(f"{text}, brought to their size, and were replaced by it.", "note", float(taken))
    falls = sum(_falls(f, game) for f in found)
    if falls:
        text = f"Of {len(found) * len(areas)} masks, {falls} did worse than a smaller one or none, so better ones exist"
        checks["search"] = Check(f"{text}; more iterations may.", "warn", float(falls))
    if steps < 30:
        text = f"{steps} steps for each area are few; masks settle in about 40 where several are searched together."
        checks["short"] = Check(text, "warn", float(steps))
    return checks


def _falls(found: _Found, game: Game) -> int:
    """How many masks do clearly worse than a smaller one, or none at all, and than the largest of all would."""
    if game == "dual":
        return 0
    full, sign = float(found.full), -1.0 if game == "delete" else 1.0
    start, end = (full, found.none) if game == "delete" else (found.none, full)
    gains, end = sign * torch.cat([found.scores.new_tensor([start]), found.scores]), sign * end
    slack = 0.05 * max(abs(full - found.none), 1e-12)
    return int((gains[1:] < gains[:-1].clamp(max=end) - slack).sum())


def _sufficient_check(one: _Found, game: Game, more: str) -> Check:
    area = float(one.sufficient)
    if game == "delete":
        told = f"Hiding {area:.0%} of the image takes away half of the target{more}"
        none = f"No mask takes away half of the target{more}"
    else:
        told = f"The smallest sufficient area is {area:.0%} of the image: kept alone, it has the whole target{more}"
        none = f"No mask keeps the whole target{more}: no area that was tried is sufficient"
    return Check(f"{told if area else none}.", "note", area or None)
