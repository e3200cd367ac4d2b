"""Attribution: a map over an image, bars for columns, marked text for tokens."""

from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cutaway.core.errors import BadOption
from cutaway.core.result import Attribution
from cutaway.plot import bars, heat, tokens, waterfall
from cutaway.plot.style import LARGE, NORMAL, SMALL, add_axes, figure, label, note, number, theme

Kind = Literal["image", "tokens", "row"]
Form = Literal["auto", "bars", "waterfall"]

PANEL = 2.55  # inches
MOST_ROWS = 8


def draw(
    result: Attribution, *, percentile: float = heat.PERCENTILE, most: int = MOST_ROWS, form: Form = "auto"
) -> Figure:
    """The first `most` explained inputs, one below the other; the scale of each ends at a percentile of its sizes.

    Args:
        result: The attribution.
        percentile: Where the scale ends.
        most: Inputs shown.
        form: For rows of a table, `bars` or `waterfall`; `auto` takes the latter where values add up to the score.
    """
    if form not in ("auto", "bars", "waterfall"):
        raise BadOption(f"expected form as auto, bars or waterfall; got {form!r}.")
    kind = kind_of(result)
    if form == "waterfall" or (form == "auto" and kind == "row" and waterfall.fits(result)):
        return waterfall.draw(result, most=most)
    if kind == "tokens":
        return tokens.draw(result, percentile=percentile, most=most)
    if kind == "row":
        return bars.draw(result, most=most)
    return _draw_images(result, percentile, most)


def describe(result: Attribution) -> str:
    """What is attributed to what, and where the extremes are."""
    of = {"image": "map", "tokens": "marked text", "row": "steps" if waterfall.fits(result) else "bars"}[
        kind_of(result)
    ]
    what = f"{of} of what mattered for {result.target or 'the target'} at {result.wrt}"
    if result.values.numel() == 0:
        return f"{what}; it is empty."
    values = per_place(result, 0)
    place = int(values.nan_to_num(nan=-torch.inf).argmax())
    unit = f" {result.unit}" if result.unit else ""
    more = f", the first of {len(result.values)}" if len(result.values) > 1 else ""
    low, high = number(float(values.min())), number(float(values.max()))
    return f"{what}{more}: values from {low} to {high}{unit}, the largest {_where(result, values, place)}."


def kind_of(result: Attribution) -> Kind:
    """How an attribution is drawn."""
    if bars.units_axis(result) is not None:
        return "row"
    if result.values.ndim == 4 or (result.values.ndim == 3 and result.input.ndim == 4):
        return "image"
    return "tokens" if _over_text(result) else "row"


def _over_text(result: Attribution) -> bool:
    """Whether there is a value, or a vector, for each piece of a text."""
    if not result.tokens or result.values.ndim < 2 or bars.is_row(result):
        return False
    return result.wrt == "input" or result.values.ndim == 3


def per_place(result: Attribution, i: int) -> Tensor:
    """One number per pixel, cell, token or column of the i-th input."""
    kind = kind_of(result)
    if kind == "image":
        return heat.spatial(_of_players(result)[i])
    if kind == "tokens":
        return tokens.per_token(result, i)
    units = bars.of_units(result, i)
    return result.values[i].detach().cpu().double().flatten() if units is None else units


def _of_players(result: Attribution) -> Tensor:
    """The values; where a place has only its share of a player's value, the whole of it, which means something."""
    whole = result.extra.get("whole")
    return whole if result.players and whole is not None and whole.shape == result.values.shape else result.values


def scale_for(result: Attribution, i: int, percentile: float = heat.PERCENTILE) -> heat.Scale:
    """The scale of the i-th input's drawing."""
    if kind_of(result) == "tokens":
        return tokens.scale_of(result, i, percentile)
    return heat.scale_of(per_place(result, i), signed=result.signed, percentile=percentile, unit=result.unit)


def _where(result: Attribution, values: Tensor, place: int) -> str:
    if values.ndim == 2:
        h, w = values.shape
        third = ("upper", "middle", "lower")[place // w * 3 // h], ("left", "centre", "right")[place % w * 3 // w]
        return f"in the {third[0]} {third[1]}"
    if kind_of(result) == "tokens":
        return f"at {tokens.called(result, 0, place)!r}"
    return f"at {bars.names(result, 0)[place]!r}"


def _draw_images(result: Attribution, percentile: float, most: int) -> Figure:
    shown = min(len(result.values), most)
    height, width = (result.input if result.input.ndim == 4 else result.values).shape[-2:]
    tall = min(max(PANEL * height / width, 0.6), 2 * PANEL)
    top, line = 0.75, tall + 0.45
    fig = figure(top + line * shown + 0.1, fitted=False)
    note(fig, label(result.title or "Attribution", 70), 0.15, 0.12, fontsize=LARGE, weight="bold", color=theme().ink)
    what = f"target {label(result.target, 50)}, at {label(result.wrt, 30)}"
    left_out = f"; {shown} of {len(result.values)} inputs shown" if shown < len(result.values) else ""
    note(fig, what + left_out, 0.15, 0.4, fontsize=NORMAL)
    for i in range(shown):
        _draw_row(fig, result, i, percentile, top + line * i, tall)
    return fig


def _draw_row(fig: Figure, result: Attribution, i: int, percentile: float, top: float, tall: float) -> None:
    values, scale = per_place(result, i), scale_for(result, i, percentile)
    has_image = result.input.ndim == 4
    left = 0.15
    if has_image:
        pictures = [heat.photo(result.input[i]), heat.overlay(result.input[i], values, scale)]
    else:
        pictures = [heat.palette(scale.signed)[heat.levels(values, scale)]]
    for picture in pictures:
        ax = add_axes(fig, left, top, PANEL, tall)
        ax.imshow(picture, interpolation="nearest", aspect="auto")
        ax.set_axis_off()
        left += PANEL + 0.12
    colour_bar(fig, result, scale, left, top, tall, i)
    score = f"score {number(float(result.score[i]))}; " if len(result.score) > i else ""
    cells = (
        f"cells {values.shape[0]}×{values.shape[1]}; " if has_image and values.shape != result.input.shape[-2:] else ""
    )
    cells += "each place has the value of its whole part; " if _of_players(result) is not result.values else ""
    note(fig, f"{score}{cells}{label(scale.text, 130)}", 0.15, top + tall + 0.06, fontsize=SMALL)


def colour_bar(
    fig: Figure, result: Attribution, scale: heat.Scale, left: float, top: float, tall: float, i: int | None = None
) -> None:
    """The scale beside a map: numbers with unit, and what the ends mean."""
    ax = add_axes(fig, left, top + 0.1, 0.16, tall - 0.2)
    steps = np.arange(heat.LEVELS, dtype=np.uint8)[::-1, None]
    low = -scale.limit if scale.signed else 0.0
    ax.imshow(heat.palette(scale.signed)[steps], aspect="auto", extent=(0, 1, -1 if scale.signed else 0, 1))
    ax.set_xticks([])
    ax.yaxis.tick_right()
    positions = [-1, 0, 1] if scale.signed else [0, 1]
    values = [low, 0.0, scale.limit] if scale.signed else [low, scale.limit]
    upper, lower = (_broken(text) for text in heat.ends(result, i))
    words = [lower, "", upper] if scale.signed else ["", upper]
    ax.set_yticks(positions, [f"{number(v)}\n{w}" if w else number(v) for v, w in zip(values, words, strict=True)])
    for tick, place in zip(ax.get_yticklabels(), positions, strict=True):
        tick.set(verticalalignment={1: "top", 0: "center", -1: "bottom"}[place])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _broken(text: str) -> str:
    """A legend in lines of at most 20 letters or so."""
    lines = [""]
    for word in label(text, 54).split(" "):
        if lines[-1] and len(lines[-1]) + len(word) > 20:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
