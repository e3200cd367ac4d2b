"""What a unit answers to most, cut out where it looks, beside what in the cut-out it answers to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cutaway.core.batch import join
from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.positive import Seen, guided, positive_rules, straight
from cutaway.core.receptive import Field, receptive_field
from cutaway.core.result import Pictures
from cutaway.core.site import Site
from cutaway.core.target import Target, per_row, unit
from cutaway.engine.extremes import Best
from cutaway.engine.job import fold
from cutaway.engine.strongest import Strongest
from cutaway.visualization.places import GREY, checked_size, grid_of, grid_site, photos, resized

# Units shown if none is named, and the quantile of a pattern's sizes that has full brightness.
_FEW, _CLIP = 3, 0.99


@method(paper="zeiler2014", needs={"gradient", "image"}, quick={"k": 1, "units": ("0",), "size": 16})
def top_patches(
    model: Model,
    data: Dataset,
    *,
    layer: Site | None = None,
    units: tuple[str, ...] = (),
    k: int = 9,
    pattern: Literal["deconvnet", "guided", "gradient"] = "deconvnet",
    size: int = 96,
) -> Pictures:
    """The parts of a data set that a unit answers to most, each beside the pattern in it that the unit answers to.

    For unit u: the k examples with the largest max over positions p of a_u(x, p), cut to the receptive field of that p;
    and the backward pass from a_u(x, p) at that single position to the pixels, with the deconvnet's or the guided rule

    The receptive field is told from the operations of one forward, padding included, and each pattern is checked to be
    0 outside it. One forward for each example, then a forward and a backward for each patch.

    Args:
        layer: A place with positions, or one unit of it as `conv3:12`; the last with positions if none is named.
        units: Numbers of units, with `;` between them in a text; the three with the highest peaks if none is named.
        k: Patches for each unit.
        pattern: The backward rule: `deconvnet`, `guided`, or the plain `gradient`.
        size: Pixels along the longer side of a picture; the receptive field is scaled to it.

    Returns:
        For each unit and rank the patch, grey where it reaches over the picture's border, and the pattern, in which
        grey is 0. `extra` has, for each patch, its `units`, `examples`, `positions` (patches, 2), `boxes` (top, left,
        bottom, right) and `activations`.

    Raises:
        BadOption: No patches, or a unit that the layer does not have.
        NotPossible: None of the units is ever above 0, or the layer's positions cannot be traced to places.

    Source: Zeiler and Fergus 2014, section 4 and figure 2; Springenberg et al. 2015 for the guided rule.
    """
    checked_size(size)
    if k < 1:
        raise BadOption(f"expected at least one patch for each unit; got {k}.")
    if layer is not None and layer.position is not None:
        raise BadOption(f"expected a layer or a unit of it; got the position {layer}.")
    row = model.inputs(data[0:1])
    site = grid_site(model, row, None if layer is None else layer.whole)
    total = grid_of(model, row, site).shape[1]
    assert isinstance(row, Tensor)
    field = receptive_field(model, site, row)
    folded = fold(Strongest((str(site),), k), model, data, label="strongest examples")
    best = folded.states[f"maximum {site}"]
    assert isinstance(best, Best)
    wanted = _wanted(layer, units, total, best)
    firing = [u for u in wanted if best.values[u, 0] > 0]
    if not firing:
        raise NotPossible(
            f"units {', '.join(map(str, wanted))} of {site} are never above 0 on {folded.seen} examples, whether "
            "constant or below it, so there is nothing that they answer to; choose other units or other data."
        )
    shown = [_Patch(u, r, best) for u in firing for r in range(int((best.found[u] & (best.values[u] > 0)).sum()))]
    x = _examples(model, data, [p.example for p in shown])
    width = grid_of(model, row, site).shape[3]
    places = [divmod(p.place, width) for p in shown]
    target = per_row([unit(f"{site}:{p.unit}@{y},{c}") for p, (y, c) in zip(shown, places, strict=True)])
    slopes, rectifiers = _slopes(model, x, target, pattern)
    boxes = torch.tensor([field.box(y, c, *x.shape[2:]) for y, c in places])
    outside = max(_outside(s, b) for s, b in zip(slopes, boxes.tolist(), strict=True))
    canvas = field_size(field, *x.shape[2:])
    scene = photos(model, x)
    pictures, captions = [], []
    for i, patch in enumerate(shown):
        at = places[i], boxes[i].tolist()
        drawn = _pattern(slopes[i]).cpu().to(scene)
        pictures += [cut(source, field, *at, canvas) for source in (scene[i], drawn)]
        captions += [f"{patch.unit}: {patch.activation:.3g}", pattern]
    longer = max(canvas)
    images = resized(torch.stack(pictures).float(), *(max(1, round(side * size / longer)) for side in canvas))
    return Pictures(
        title=f"units of {site}: strongest patches, with the {pattern} pattern",
        images=images,
        captions=captions,
        columns=6 if k > 1 else 2,
        extra={
            "units": torch.tensor([p.unit for p in shown]),
            "examples": torch.tensor([p.example for p in shown]),
            "positions": torch.tensor(places),
            "boxes": boxes,
            "activations": torch.tensor([p.activation for p in shown], dtype=torch.float64),
        },
        checks={
            **_checks(field, x, site, outside, float(slopes.abs().max())),
            **_units_checks(site, wanted, firing, total),
            **_rule_checks(pattern, rectifiers, site),
            **_constant_checks(shown, slopes),
            **folded.checks,
        },
    )


@dataclass(frozen=True)
class _Patch:
    """One of the strongest examples of a unit."""

    unit: int
    rank: int
    best: Best

    @property
    def example(self) -> int:
        """Its number in the data set."""
        return int(self.best.ids[self.unit, self.rank])

    @property
    def place(self) -> int:
        """Where in the layer, counted row by row."""
        return int(self.best.places[self.unit, self.rank])

    @property
    def activation(self) -> float:
        """How much the unit answers."""
        return float(self.best.values[self.unit, self.rank])


def _wanted(layer: Site | None, units: tuple[str, ...], total: int, best: Best) -> list[int]:
    """The units to show.

    Raises:
        BadOption: Not numbers of units of the layer.
    """
    named = [*units, *([str(layer.unit)] if layer is not None and layer.unit is not None else [])]
    if not named:
        return best.values[:, 0].sort(descending=True, stable=True).indices[:_FEW].tolist()
    if not all(str(u).strip().isdigit() and int(u) < total for u in named):
        raise BadOption(f"expected units as numbers from 0 to {total - 1}; got {', '.join(map(str, named))}.")
    return list(dict.fromkeys(int(u) for u in named))


def _examples(model: Model, data: Dataset, numbers: list[int]) -> Tensor:
    """Examples by number, once each read."""
    rows = {number: model.inputs(data[number : number + 1]) for number in dict.fromkeys(numbers)}
    if any(isinstance(found, Tensor) and not len(found) for found in rows.values()):
        raise BadShape(f"an example of {data.source or 'the data set'} that was there before cannot be read any more.")
    return join([found for number in numbers if isinstance(found := rows[number], Tensor)])


def _slopes(model: Model, x: Tensor, target: Target, pattern: str) -> tuple[Tensor, int]:
    """The backward pass from one unit at one position of each example, and how many rectifiers it went through."""
    if pattern == "gradient":
        return model.gradient(x, target).slope, 0
    seen = Seen(model)
    rules = positive_rules(guided if pattern == "guided" else straight, seen)
    return model.gradient(x, target, rules=rules).slope, len(seen.treated)


def _outside(slope: Tensor, box: list[int]) -> float:
    """The largest size of a slope outside the receptive field."""
    top, left, bottom, right = box
    rest = slope.abs().clone()
    rest[:, top:bottom, left:right] = 0
    return float(rest.max())


def field_size(field: Field, height: int, width: int) -> tuple[int, int]:
    """Height and width of a patch: the receptive field, no larger than the picture."""
    return min(round(field.y.size), height), min(round(field.x.size), width)


def cut(picture: Tensor, field: Field, place: Sequence[int], box: Sequence[int], canvas: Sequence[int]) -> Tensor:
    """A picture (3, h, w) cut to a box, at its place in the receptive field, grey beyond the border."""
    top, left, bottom, right = box
    whole = torch.full((3, *canvas), GREY, dtype=picture.dtype)
    at = [
        min(max(0, start - round(axis.first + i * axis.step - (axis.size - 1) / 2)), side - (end - start))
        for axis, i, start, end, side in zip(
            (field.y, field.x), place, (top, left), (bottom, right), canvas, strict=True
        )
    ]
    whole[:, at[0] : at[0] + bottom - top, at[1] : at[1] + right - left] = picture[:, top:bottom, left:right]
    return whole


def _pattern(slope: Tensor) -> Tensor:
    """A slope as a picture (3, h, w), grey where it is 0."""
    sizes = slope.abs().flatten()
    # Not the largest: a single pixel would pale the rest.
    top = sizes[sizes > 0].double().quantile(_CLIP).to(slope) if sizes.any() else sizes.new_ones(())
    drawn = (GREY + slope / (2 * top)).clamp(0, 1)
    return drawn if len(drawn) == 3 else drawn.mean(0, keepdim=True).expand(3, -1, -1)


def _checks(field: Field, x: Tensor, site: Site, outside: float, largest: float) -> dict[str, Check]:
    size = f"{field.y.size:g} x {field.x.size:g}"
    if outside:
        share = outside / largest
        text = (
            f"Patterns reach beyond the receptive field of {size} pixels, by up to {share:.1g} of their largest value"
        )
        text += ": something else in the network looks at the whole picture." if field.everywhere else "."
        checks = {"field": Check(text, "warn" if field.everywhere else "fail", share)}
    else:
        text = f"A position of {site} sees {size} pixels; every pattern is 0 outside of that."
        checks = {"field": Check(text, "ok", 0.0)}
    if field.y.size >= x.shape[2] and field.x.size >= x.shape[3]:
        text = (
            f"The receptive field is larger than the pictures ({x.shape[2]} x {x.shape[3]}), so most of each is shown."
        )
        checks["large"] = Check(text, "note")
    return checks


def _units_checks(site: Site, wanted: list[int], firing: list[int], total: int) -> dict[str, Check]:
    checks = {"units": Check(f"{len(firing)} of {total} units of {site} are shown.", "ok", float(len(firing)))}
    if silent := [u for u in wanted if u not in firing]:
        text = f"Units {', '.join(map(str, silent))} are never above 0 on this data, and are left out."
        checks["silent"] = Check(text, "warn", float(len(silent)))
    return checks


def _rule_checks(pattern: str, rectifiers: int, site: Site) -> dict[str, Check]:
    if pattern == "gradient" or rectifiers:
        return {}
    text = f"No rectifier lies before {site}, so the {pattern} pattern is the plain gradient."
    return {"rectifiers": Check(text, "note", 0.0)}


def _constant_checks(shown: list[_Patch], slopes: Tensor) -> dict[str, Check]:
    moved = {patch.unit for patch, slope in zip(shown, slopes, strict=True) if slope.any()}
    if not (still := sorted({patch.unit for patch in shown} - moved)):
        return {}
    text = (
        f"No pixel matters to units {', '.join(map(str, still))} where they are strongest: every pattern is 0, so what"
    )
    text += " they answer to may be nothing in the picture."
    return {"constant": Check(text, "warn", float(len(still)))}
