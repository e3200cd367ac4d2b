"""Does the map point at what is known to matter? Against masks and boxes, beside chance, edges and the centre."""

from collections.abc import Callable, Collection

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.core.batch import Batch, primary
from cutaway.core.checks import Check, Status
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Scores
from cutaway.evaluation.orders import CONTROLS, over_input
from cutaway.evaluation.paired import CHANCE, ENOUGH, interval, standing
from cutaway.evaluation.regions import grown, hit, likeness, regions, share_inside
from cutaway.maths.proportions import wilson

_Measure = Callable[[Tensor, Tensor], float]


@method(paper="zhang2018", laws={"oracle_beats_random"}, needs={"image"})
def pointing_game(
    model: Model, x: Batch, attribution: Attribution, *, region: Tensor | str | None = None, tolerance: float = 0.04
) -> Scores:
    """Look whether the map's highest pixel is on the thing that the picture is known to show.

    hits = mean over inputs of [distance(argmax of the map, region) <= tolerance * shorter side]

    Of several highest pixels, the share that hits is counted, so that a constant map scores exactly what chance does.
    No forward passes beyond those of the map.

    Args:
        region: What should be pointed at: a mask (n, height, width), or boxes "x0,y0,x1,y1" in pixels, with ";"
            between inputs and "+" between boxes of one. None takes the masks of the examples.
        tolerance: How far beside it still counts, as a share of the picture's shorter side.

    Returns:
        Share of hits from 0 to 1; then of a random pixel, of the strongest edge, and of the centre of the picture. Over
        five pictures or more, with 95 % intervals: Wilson's of shares, of the random pixel by bootstrap.

    Raises:
        BadOption: There is no region, or a negative tolerance.
        BadShape: A region that does not fit the pictures, is empty, or is everything.

    Source: Zhang et al. 2018, section 4.1. Differs: the tolerance is relative (their 15 pixels are 4 % of the usual 375
    of a VOC picture); the mean is over inputs and not over classes; ties; controls.
    """
    maps, masks, near = _readied(model, x, attribution, region, tolerance)
    found = _over_inputs(hit, maps, near)
    controls = {CHANCE: near.flatten(1).double().mean(1)} | _controls(hit, x, near)
    place = standing(found, controls)
    many = f" of {len(found)} pictures" if len(found) > 1 else ""
    text = (
        f"The map's highest pixel is on the region, or at most {tolerance * min(masks.shape[1:]):.2g} pixels beside "
        f"it, in {float(found.mean()):.0%}{many}: {place.sentence('more', '.0%')}."
    )
    verdict = Check(text, _status(place.status, maps), float(found.mean()))
    return _scores("Pointing game", {"hits": found} | controls, verdict, maps, shares=("hits", *CONTROLS))


@method(paper="wang2020", laws={"oracle_beats_random"}, needs={"image"})
def energy_in_region(
    model: Model, x: Batch, attribution: Attribution, *, region: Tensor | str | None = None, tolerance: float = 0.0
) -> Scores:
    """Measure the share of the map's positive values on the thing that the picture is known to show.

    energy = mean over inputs of sum over the region of max(m, 0) / sum of max(m, 0),   m the map, channels added up

    A second number needs no sizes: the overlap |A and B| / |A or B| of the region A with as many of the highest pixels
    B. No forward passes beyond those of the map.

    Args:
        region: What should be pointed at: a mask (n, height, width), or boxes "x0,y0,x1,y1" in pixels, with ";"
            between inputs and "+" between boxes of one. None takes the masks of the examples.
        tolerance: By how much the region is made wider, as a share of the picture's shorter side.

    Returns:
        The share from 0 to 1; then the share of a map that is the same everywhere, of edges, and of closeness to the
        centre; last the overlap of the highest pixels, and that of random pixels. Over five pictures or more, with 95 %
        bootstrap intervals.

    Raises:
        BadOption: There is no region, or a negative tolerance.
        BadShape: A region that does not fit the pictures, is empty, or is everything.

    Source: Wang et al. 2020 (Score-CAM), section 4.3, with boxes. Differs: masks as well; controls; overlap.
    """
    maps, _, near = _readied(model, x, attribution, region, tolerance)
    found, overlap = _over_inputs(share_inside, maps, near), _over_inputs(likeness, maps, near)
    area = near.flatten(1).double().mean(1)
    controls = {CHANCE: area} | _controls(share_inside, x, near)
    place = standing(found, controls)
    over = f", on average over {len(found)} pictures" if len(found) > 1 else ""
    text = (
        f"{float(found.mean()):.0%} of the map's positive values are inside the region{over}: "
        f"{place.sentence('more', '.0%')}. Of as many highest pixels as the region has, the overlap with it is "
        f"{float(overlap.mean()):.2f}."
    )
    numbers = {"energy": found, **controls, "overlap": overlap, "overlap of random pixels": area / (2 - area)}
    verdict = Check(text, _status(place.status, maps), float(found.mean()))
    result = _scores("Energy in the region", numbers, verdict, maps)
    without = int((maps <= 0).flatten(1).all(1).sum())
    if not without:
        return result
    text = f"{without} of {len(maps)} maps have no positive value; they count as 0."
    return result.with_checks(positive=Check(text, "warn", without))


def _readied(
    model: Model, x: Batch, attribution: Attribution, region: Tensor | str | None, tolerance: float
) -> tuple[Float[Tensor, "n h w"], Bool[Tensor, "n h w"], Bool[Tensor, "n h w"]]:
    """The maps over the pictures, the regions, and those made wider by the tolerance."""
    if not 0 <= tolerance < 1:
        raise BadOption(f"expected tolerance as a share from 0 to 1 of the shorter side; got {tolerance:g}.")
    maps = over_input(model, x, attribution)
    masks = regions(region, *maps.shape)
    near = grown(masks, tolerance * min(masks.shape[1:]))
    if near.flatten(1).all(1).any():
        raise BadOption(f"with a tolerance of {tolerance:g} a region is the whole picture; expected less.")
    return maps, masks, near


def _over_inputs(measure: _Measure, maps: Tensor, masks: Tensor) -> Float[Tensor, " n"]:
    return torch.tensor([measure(m, region) for m, region in zip(maps, masks, strict=True)], dtype=torch.float64)


def _controls(measure: _Measure, x: Batch, masks: Tensor) -> dict[str, Float[Tensor, " n"]]:
    """The same number for maps that know the picture and not the model; they start at 0."""
    found = {}
    for name, control in CONTROLS.items():
        maps = [control(picture) for picture in primary(x)]
        found[name] = _over_inputs(measure, torch.stack([m - m.min() for m in maps]), masks)
    return found


def _status(status: Status, maps: Tensor) -> Status:
    """Maps that point nowhere do not pass; and a few pictures are not enough to refuse a map for good."""
    if status == "fail" and len(maps) < ENOUGH:
        return "warn"
    return "warn" if status in ("ok", "note") and _flat(maps) else status


def _flat(maps: Tensor) -> int:
    flat = maps.flatten(1)
    return int((flat == flat[:, :1]).all(1).sum())


def _scores(
    title: str, numbers: dict[str, Tensor], verdict: Check, maps: Tensor, *, shares: Collection[str] = ()
) -> Scores:
    rows = torch.stack(list(numbers.values()), dim=1)
    low, high = _intervals(numbers, shares) if len(rows) >= ENOUGH else (torch.empty(0), torch.empty(0))
    checks = {"verdict": verdict}
    if flat := _flat(maps):
        text = f"{flat} of {len(maps)} maps have one value everywhere: they point nowhere, and score what chance does."
        checks["ties"] = Check(text, "warn", flat)
    if len(maps) < ENOUGH:
        number = "1 picture is" if len(maps) == 1 else f"{len(maps)} pictures are"
        text = f"{number} too few for an interval, or to refuse a map for good; the verdict compares means."
        checks["few"] = Check(text, "note", len(maps))
    return Scores(
        title=title,
        names=list(numbers),
        values=rows.mean(0),
        low=low,
        high=high,
        unit="of 1",
        better="higher",
        checks=checks,
    )


def _intervals(numbers: dict[str, Tensor], shares: Collection[str]) -> tuple[Tensor, Tensor]:
    """Over pictures. Hits that are all alike would have no spread to draw from: theirs is the interval of a share."""
    found = [
        wilson(values.sum(), values.new_tensor(len(values))) if name in shares else interval(values)
        for name, values in numbers.items()
    ]
    low, high = (torch.stack(side) for side in zip(*found, strict=True))
    return low, high
