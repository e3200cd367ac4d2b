"""What the units of a layer answer to, in pictures: the places above a unit's threshold, outlined."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset, Examples, first
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.receptive import Field
from cutaway.core.result import Pictures
from cutaway.core.site import Site
from cutaway.dissection.anchors import anchors
from cutaway.dissection.concepts import vocabulary
from cutaway.dissection.detectors import Overlap
from cutaway.dissection.dissect import overlaps, site_of, thresholds_of
from cutaway.dissection.units import activations, spread
from cutaway.engine.extremes import Best
from cutaway.engine.job import fold
from cutaway.engine.strongest import Strongest

# Units that are shown if none is named; pictures are enlarged to at least so many pixels, so that outlines are thin.
_UNITS, _SIDE = 8, 192
_DIM, _OUTLINE = 0.3, (1.0, 0.85, 0.0)


@method(paper="bau2017", needs={"image"}, quick={"k": 2, "resolution": 16})
def unit_pictures(
    model: Model,
    data: Dataset,
    *,
    site: Site | None = None,
    units: tuple[str, ...] = (),
    k: int = 5,
    categories: tuple[str, ...] = (),
    quantile: float = 0.995,
    resolution: int = 112,
) -> Pictures:
    """The pictures that a unit answers most to, with the places above its threshold outlined and the rest dimmed.

    For unit u: the k pictures with the largest max a_u, outlined where enlarged a_u > T_u, P(a_u > T_u) = 1 - quantile

    Maps are enlarged to the picture's pixels, linearly and anchored at the centres of receptive fields. Three forwards
    for each picture of the data set (thresholds, strongest examples, overlaps with concepts), and one for each picture
    shown; in a study, those that `dissect` and `dataset_examples` have done already are not done again.

    Args:
        site: The layer; the last with positions if none is named.
        units: Numbers of units, with `;` between them in a text; those that agree best with a concept if none is named,
            or the first ones where the data set says nothing about concepts.
        k: Pictures for each unit.
        categories: As in `dissect`.
        quantile: Where each unit is cut.
        resolution: As in `dissect`.

    Returns:
        A line of pictures for each unit. Its heading has the best concept, the IoU, and the best IoU that sets of
        these sizes could have.

    Raises:
        BadOption: A unit that the layer does not have, fewer than one picture, or a quantile outside 0 to 1.

    Source: Bau et al. 2017, figure 1 (the outlined pictures).
    """
    if k < 1:
        raise BadOption(f"expected at least one picture for each unit; got {k}.")
    site = site_of(model, data, site, quantile)
    thresholds = thresholds_of(model, data, site, quantile)
    chosen = _numbers(units, len(thresholds), site)
    strongest = fold(Strongest((str(site),), min(k, len(data))), model, data, label="strongest examples")
    best = strongest.states[f"maximum {site}"]
    assert isinstance(best, Best)
    overlap, checks = _overlap(model, data, site, thresholds, categories, resolution)
    shown = chosen or _leading(overlap, len(thresholds))
    row = model.inputs(first(data))
    assert isinstance(row, Tensor)
    lasso = Lasso(model, site, thresholds, anchors(model, site, row)[0])
    images, captions = [], []
    for unit in shown:
        for rank in range(best.values.shape[1]):
            image, caption = lasso.around(data, unit, int(best.ids[unit, rank]), bool(best.found[unit, rank]))
            images.append(image)
            captions.append(caption)
    headings = [_heading(unit, float(thresholds[unit]), overlap) for unit in shown]
    checks = {**checks, **strongest.checks}
    return Pictures(
        images=torch.stack(images), captions=captions, columns=best.values.shape[1], headings=headings, checks=checks
    )


@dataclass(frozen=True)
class Lasso:
    """Draws the places where a unit is above its threshold.

    Attributes:
        model, site: Where to look.
        thresholds: Of the units.
        field: Where the layer's positions are centred.
    """

    model: Model
    site: Site
    thresholds: Tensor
    field: Field

    def around(self, data: Dataset, unit: int, number: int, found: bool) -> tuple[Tensor, str]:
        """An example with its outline, and a caption; nothing where there is no such example."""
        part = _example(data, number) if found else first(data)
        x = self.model.inputs(part)
        assert isinstance(x, Tensor)
        picture = _photo(x[0].detach().cpu().float(), self.model)
        if not found:
            return torch.zeros_like(picture), "–"
        act, (height, width) = activations(self.model, x, str(self.site))[0, unit], x.shape[2:]
        down = spread(self.field.y, act.shape[0], picture.shape[1], height).to(act)
        across = spread(self.field.x, act.shape[1], picture.shape[2], width).to(act)
        over = down @ act @ across.T > self.thresholds[unit]
        nowhere = "" if bool(over.any()) else ", nowhere above the threshold"
        return outlined(picture, over), f"{part.names[0]}: {float(act.max()):.3g}{nowhere}"


def outlined(picture: Tensor, over: Tensor) -> Tensor:
    """A picture (3, height, width) dimmed where a mask (height, width) is not, with a line along its edge."""
    reach = max(1, min(over.shape) // 112)

    def grown(mask: Tensor) -> Tensor:
        return max_pool2d(mask.float()[None], 2 * reach + 1, 1, reach)[0] > 0

    shown = torch.where(over, picture, _DIM * picture)
    # A dark line outside of a bright one is seen on any ground.
    shown[:, grown(over) & ~over] = 0.0
    shown[:, over & grown(~over)] = torch.tensor(_OUTLINE)[:, None]
    return shown


def _numbers(units: tuple[str, ...], count: int, site: Site) -> tuple[int, ...]:
    wrong = [unit for unit in units if not str(unit).isdecimal() or int(unit) >= count]
    if wrong:
        raise BadOption(f"expected units from 0 to {count - 1} of {site}; got {wrong[0]}.")
    return tuple(map(int, units))


def _photo(x: Tensor, model: Model) -> Tensor:
    """In [0, 1], with three channels, and large enough to draw on."""
    space = model.space
    picture = ((x - space.low) / space.range).clamp(0, 1).expand(3, -1, -1)
    return interpolate(picture[None], scale_factor=max(1, -(-_SIDE // max(picture.shape[1:]))))[0]


def _example(data: Dataset, number: int) -> Examples:
    """The example with this number; in memory, numbers may have gaps."""
    if isinstance(data, Examples) and data.ids is not None:
        number = int((data.ids == number).nonzero()[0])
    return data[number : number + 1]


def _overlap(
    model: Model, data: Dataset, site: Site, thresholds: Tensor, categories: tuple[str, ...], resolution: int
) -> tuple[Overlap | None, dict[str, Check]]:
    try:
        words = vocabulary(data, categories)
    except NotPossible as fault:
        return None, {"concepts": Check(f"Units are shown without concepts: {fault}", "note")}
    overlap, _, checks = overlaps(model, data, site, words, thresholds, resolution)
    return overlap, checks


def _leading(overlap: Overlap | None, units: int) -> tuple[int, ...]:
    if overlap is None:
        return tuple(range(min(units, _UNITS)))
    return tuple(overlap.best()[1].sort(descending=True, stable=True).indices[:_UNITS].tolist())


def _heading(unit: int, threshold: float, overlap: Overlap | None) -> str:
    if overlap is None:
        return f"unit {unit}, threshold {threshold:.3g}"
    which, scores = overlap.best()
    concept = int(which[unit])
    category, name = overlap.words.all[concept]
    return (
        f"unit {unit}: {name} ({category}), IoU {float(scores[unit]):.3f} of at most "
        f"{float(overlap.ceiling[unit, concept]):.2g}, chance {float(overlap.chance[unit, concept]):.2g}"
    )
