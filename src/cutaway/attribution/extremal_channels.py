"""Which channels of a layer, so many of them, serve the score best, and what they alone say of the image."""

from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.attribution.climb import checked_areas, climb, smallest_enough, with_area
from cutaway.attribution.coarse import site_of
from cutaway.attribution.extremal import Game
from cutaway.attribution.inversion import inverted
from cutaway.core.batch import Batch
from cutaway.core.budget import afford, cut_short, fair_share
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.runner import Prefix
from cutaway.core.site import Site, unit_axis
from cutaway.core.target import Target


@method(
    paper="fong2019",
    laws={"batch_independent"},
    needs={"gradient", "image"},
    quick={"iterations": 4, "areas": (0.2, 0.5)},
)
def extremal_channels(
    model: Model,
    x: Batch,
    target: Target,
    *,
    layer: Site | None = None,
    areas: tuple[float | str, ...] = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8),
    game: Game = "preserve",
    iterations: int = 100,
    invert: int = 0,
    seed: int = 0,
) -> Attribution:
    """Which share of a layer's channels, the others being 0, is enough for the score.

    mask = argmax over masks of the channels with that area of target(activation * mask)

    One mask for each share, all in one batch. A step costs what comes after the layer, forwards and backwards.

    Args:
        layer: A place with channels; the last with positions if none is named.
        areas: Shares of the channels; each gets a mask of its own.
        game: `preserve` keeps the masked channels and raises the score; `delete` removes them and lowers the score;
            `dual` does both at once.
        iterations: Steps of the search for each share.
        invert: Steps of a search for an image with the same activation: once in all channels, and once in those kept by
            the smallest sufficient mask (the largest, if none is), whatever the others do. 0 leaves that out.
        seed: Of the inversion's starting image and its moves.

    Returns:
        The mean of the masks, (n, channels). `extra` has the `masks` (n, areas, channels), their `areas` and `scores`
        (n, areas), `sufficient` (n,), and with `invert` the images `kept` and `whole`, shaped like x.

    Source: Fong, Patrick and Vedaldi 2019, section 4. Differs: as `extremal_perturbation` does.
    """
    assert isinstance(x, Tensor)
    wanted = checked_areas(areas)
    if iterations < 1 or invert < 0:
        raise BadOption(f"expected 1 iteration or more, and invert from 0; got {iterations} and {invert}.")
    passes = len(x) * (iterations * len(wanted) * (2 if game == "dual" else 1) + 2 * invert)
    afford(passes, f"extremal_channels of {len(wanted)} areas", backwards=passes, stops=True)
    site = site_of(model, x, target, layer)
    found = []
    for i in range(len(x)):
        with fair_share(len(x) - i):
            search = _Search(model, x[i : i + 1], target.row(i), site, game, iterations)
            found.append(search.result(wanted, invert, seed))
    names = ("masks", "areas", "scores", "sufficient") + (("kept", "whole") if invert else ())
    extra = {name: torch.stack([getattr(f, name) for f in found]) for name in names}
    return Attribution(
        values=extra["masks"].mean(1),
        target=str(target),
        wrt=str(site),
        unit="share of the masks",
        score=torch.stack([f.full for f in found]),
        signed=False,
        extra=extra,
        checks=_checks(found, wanted, site, game, layer is None)
        | cut_short(
            [f.steps for f in found],
            iterations + invert,
            "steps",
            "Each mask was brought to its area from where it was" + (", and so were the images." if invert else "."),
        ),
    )


class _Found(NamedTuple):
    """One input's masks (areas, channels), what they score, and images with the activation they keep."""

    masks: Tensor
    areas: Tensor
    scores: Tensor
    sufficient: Tensor
    full: Tensor
    none: float
    kept: Tensor
    whole: Tensor
    off: tuple[float, ...]
    steps: int


class _Search:
    """The search for one input's channels."""

    def __init__(self, model: Model, row: Tensor, target: Target, site: Site, game: Game, iterations: int) -> None:
        self._model, self._row, self._target, self._site = model, row, target, site
        self._game, self._iterations = game, iterations
        trace = model.run(row, read=[site])
        self._axis = unit_axis(trace[site], trace.module(site))
        self._prefix: Prefix = model.prefix(row, site)
        self._act = self._prefix.value
        ends = self._scores(torch.tensor([[1.0], [0.0]]).to(row).expand(2, self._act.shape[self._axis]))
        self._full, self._none = ends[0], float(ends[1])
        self._span = max(abs(float(self._full) - self._none), 1e-3 * abs(float(self._full)), 1e-6)

    def result(self, areas: list[float], invert: int, seed: int) -> _Found:
        """Masks for all areas."""
        shares = torch.tensor(areas).to(self._row)
        start = torch.full((len(areas), self._act.shape[self._axis]), 0.5).to(self._row)
        masks, steps = climb(
            start, lambda m: (m, m * 1.0), self._reward, shares, iterations=self._iterations, label="extremal_channels"
        )
        masks = with_area(masks, shares)
        scores = self._scores(1 - masks if self._game == "delete" else masks)
        enough = smallest_enough(shares, scores, float(self._full), self._none, delete=self._game == "delete")
        images, off, more = self._row.repeat(2, 1, 1, 1), tuple[float, ...](), 0
        if invert:
            images, off, more = self._images(masks, shares, enough, invert, seed)
        ends = (scores, enough, self._full, self._none)
        return _Found(masks, masks.mean(1), *ends, images[0], images[1], off, steps + more)

    def _images(
        self, masks: Tensor, shares: Tensor, enough: Tensor, steps: int, seed: int
    ) -> tuple[Tensor, tuple[float, ...], int]:
        """Images with the activation of the kept channels, and of all; how far they are from it; steps taken."""
        mask = masks[int((shares == enough).nonzero()[0])] if enough > 0 else masks[-1]
        mask = 1 - mask if self._game == "delete" else mask
        both = self._wide(torch.stack([mask, torch.ones_like(mask)]))
        return inverted(self._model, self._site, self._act, both, self._row.shape, steps, seed)

    def _wide(self, masks: Tensor) -> Tensor:
        """Masks of channels, so that they can be multiplied with the activation."""
        shape = [1] * self._act.ndim
        shape[0], shape[self._axis] = masks.shape
        return masks.view(shape)

    def _reward(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """What is raised, in units of the span between no channel and all, and its slope."""
        gain, slope = torch.zeros(len(masks)).to(masks), torch.zeros_like(masks)
        if self._game != "delete":
            score, up = self._slope(masks)
            gain, slope = gain + score, slope + up
        if self._game != "preserve":
            score, up = self._slope(1 - masks)
            gain, slope = gain - score, slope + up
        return gain / self._span, slope / self._span

    def _slope(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        found = self._model.gradient(
            None, self._target, wrt=self._site, edit={self._site: self._act * self._wide(masks)}, prefix=self._prefix
        )
        others = [a for a in range(1, self._act.ndim) if a != self._axis]
        along = found.slope * self._act
        return found.score, along.sum(others) if others else along

    def _scores(self, masks: Tensor) -> Tensor:
        trace = self._model.run(
            None, read=self._target.sites, edit={self._site: self._act * self._wide(masks)}, prefix=self._prefix
        )
        return self._target(trace).expand(len(masks))


def _checks(found: list[_Found], areas: list[float], site: Site, game: Game, chosen: bool) -> dict[str, Check]:
    one, more = found[0], "" if len(found) == 1 else f" (the first of {len(found)} inputs)"
    count = one.masks.shape[1]
    why = "chosen as the last with positions" if chosen else "as asked"
    checks = {"layer": Check(f"The {count} channels of {site} ({why}) were searched; those left out are 0.", "ok")}
    missed = max(float((f.areas - torch.tensor(areas).to(f.areas)).abs().max()) for f in found)
    grey = max(float((f.masks * (1 - f.masks)).mean()) for f in found)
    text = f"The masks have the areas asked for within {missed:.1%} of the channels"
    checks["areas"] = Check(
        f"{text}; they are {1 - 4 * grey:.0%} black and white.", "ok" if missed < 0.02 else "warn", missed
    )
    what = "Removing" if game == "delete" else "Keeping"
    steps = ", ".join(f"{a:g}: {float(s):.3g}" for a, s in zip(areas, one.scores, strict=True))
    ends = f"all channels {float(one.full):.3g}, none {one.none:.3g}"
    checks["scores"] = Check(f"{what} the masks gives, by share of the channels, {steps}; {ends}{more}.", "note")
    area = float(one.sufficient)
    did = "takes away half of the target" if game == "delete" else "has the whole target"
    told = f"{what} {area:.0%} of the channels {did}{more}." if area else f"No mask {did}{more}."
    checks["sufficient"] = Check(told, "note", area or None)
    if one.off:
        text = (
            f"The images found have the wanted activation up to {one.off[0]:.0%} (kept channels) and {one.off[1]:.0%} "
            f"(all channels) of its length{more}."
        )
        checks["inversion"] = Check(text, "note" if max(one.off) < 0.5 else "warn", max(one.off))
    return checks
