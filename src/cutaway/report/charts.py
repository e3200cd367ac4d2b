"""Small charts as SVG inside the page: they follow its colours, scale with it, and their text can be read out."""

import itertools
import math

import torch
from markupsafe import Markup, escape
from torch import Tensor

from cutaway.core.result import Curve
from cutaway.plot.style import number

WIDTH, HEIGHT = 270, 180
LEFT, RIGHT, TOP, BOTTOM = 38, 8, 8, 38
SERIES = 4  # strokes in the style sheet
MOST_DOTS, MOST_SHOWN = 60, 14  # points with a tool tip, and with a dot that is always seen


def curve(result: Curve, alt: str) -> Markup:
    """Lines with bands over common axes: as many series as there are strokes to tell them apart, the first ones."""
    drawn = dict(itertools.islice(result.y.items(), SERIES))
    x = result.x.detach().cpu().double()
    x = torch.arange(len(x), dtype=torch.float64) if result.x_names else x
    across = _Axis.over([x], LEFT, WIDTH - RIGHT, grow=False)
    bands = [ends[name] for ends in (result.low, result.high) for name in drawn if name in ends]
    upright = _Axis.over([*drawn.values(), *bands], HEIGHT - BOTTOM, TOP, grow=True)
    parts = [*_grid(upright), *(_x_names(result, across) if result.x_names else _x_numbers(across))]
    # The method's own series comes first and is drawn last, on top of its controls.
    for i, (name, values) in reversed(list(enumerate(drawn.items()))):
        if name in result.low and name in result.high:
            parts.append(_band(x, result.low[name], result.high[name], across, upright, i))
        parts.append(_line(x, values, across, upright, i))
        if i == 0 and len(x) <= MOST_DOTS:
            parts += _dots(result, name, x, values, across, upright)
    parts.append(_text(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 4, _short(result.x_label, 44), "middle", "axis"))
    opening = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, alt)
    return opening + Markup("").join(parts) + Markup("</svg>")


def swatch(i: int) -> Markup:
    """A piece of the i-th series' line, for the legend; empty where the chart does not draw the series."""
    if i >= SERIES:
        return Markup('<span class="swatch"></span>')
    return Markup(
        '<svg class="swatch" viewBox="0 0 26 8" aria-hidden="true"><path class="line s{}" d="M1 4H25"/></svg>'
    ).format(i)


def bar(share: float) -> Markup:
    """A bar of that share of its box; below 0 it grows to the left of the middle, and the box has two halves."""
    share = max(-1.0, min(1.0, share)) if math.isfinite(share) else 0.0
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="10"/><rect class="fill" width="{:.2f}" height="10"/></svg>'
    ).format(100 * abs(share))


def two_sided_bar(share: float) -> Markup:
    """A bar that starts in the middle: to the right above 0, to the left below it."""
    share = max(-1.0, min(1.0, share)) if math.isfinite(share) else 0.0
    start, kind = (50 + 50 * min(share, 0), "plus" if share >= 0 else "minus")
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="10"/><rect class="{}" x="{:.2f}" width="{:.2f}" height="10"/>'
        '<path class="middle" d="M50 0V10"/></svg>'
    ).format(kind, start, 50 * abs(share))


def step(start: float, end: float, every: list[float]) -> Markup:
    """A bar from one number to another, on an axis that holds them all; one number alone is a mark."""
    low, high = min(every), max(every)
    a, b = (100 * (v - low) / (high - low) if high > low else 50.0 for v in (start, end))
    if start == end:
        at = min(max(a, 0.6), 99.4)
        shape = Markup('<path class="mark" d="M{:.2f} 0V10"/>').format(at)
    else:
        kind, left, wide = ("plus" if b > a else "minus"), min(a, b), max(abs(b - a), 0.6)
        shape = Markup('<rect class="{}" x="{:.2f}" width="{:.2f}" height="10"/>').format(kind, left, wide)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="10"/>{}</svg>'
    ).format(shape)


def interval(value: float, low: float, high: float, ends: tuple[float, float]) -> Markup:
    """A dot, and a line from `low` to `high`, on an axis from the first to the second of `ends`."""
    a, b = ends
    place = [100 * (v - a) / (b - a) if b > a and math.isfinite(v) else 50.0 for v in (value, low, high)]
    zero = 100 * -a / (b - a) if a < 0 < b else -1.0
    middle = Markup('<path class="middle" d="M{:.2f} 0V12"/>').format(zero) if zero >= 0 else Markup("")
    return Markup(
        '<svg class="interval" viewBox="-4 0 108 12" preserveAspectRatio="none" aria-hidden="true">{}'
        '<path class="rail" d="M0 6H100"/><path class="span" d="M{:.2f} 6H{:.2f}"/>'
        '<path class="dot" d="M{:.2f} 6h0.01"/></svg>'
    ).format(middle, place[1], place[2], place[0])


class _Axis:
    """Where a number lies on the page, with round numbers to mark."""

    def __init__(self, low: float, high: float, start: float, end: float, *, grow: bool) -> None:
        if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
            low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
        step = _round_step((high - low) / (4 if grow else 3))
        if grow:
            low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
        first = math.ceil(low / step - 1e-9)
        self.marks = [step * k for k in range(first, math.floor(high / step + 1e-9) + 1)]
        self.low, self.high, self.start, self.end = low, high, start, end

    @classmethod
    def over(cls, values: list[Tensor], start: float, end: float, *, grow: bool) -> "_Axis":
        every = torch.cat([v.detach().cpu().double().flatten() for v in values]) if values else torch.empty(0)
        every = every[every.isfinite()]
        low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
        if grow and 0 < low < 0.5 * high:
            low = 0.0
        return cls(low, high, start, end, grow=grow)

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= step * 0.999)


def _grid(axis: _Axis) -> list[Markup]:
    parts = []
    for mark in axis.marks:
        y = axis(mark)
        kind = "zero" if mark == 0 else "grid"
        parts.append(Markup('<path class="{}" d="M{} {:.1f}H{}"/>').format(kind, LEFT, y, WIDTH - RIGHT))
        parts.append(_text(LEFT - 6, y + 3.5, number(mark, 3), "end"))
    return parts


def _x_numbers(axis: _Axis) -> list[Markup]:
    return [_text(axis(mark), HEIGHT - BOTTOM + 14, number(mark, 3), "middle") for mark in axis.marks]


def _x_names(result: Curve, axis: _Axis) -> list[Markup]:
    """The first and the last name; all of them are in the dots' tool tips."""
    names, y = result.x_names, HEIGHT - BOTTOM + 14
    if len(names) == 1:
        return [_text(axis(0), y, _short(names[0], 30), "middle")]
    last = len(names) - 1
    return [_text(axis(0), y, _short(names[0], 18), "start"), _text(axis(last), y, _short(names[last], 18), "end")]


def _line(x: Tensor, y: Tensor, across: _Axis, upright: _Axis, i: int) -> Markup:
    path, lifted = [], True
    for a, b in zip(x.tolist(), y.detach().cpu().double().tolist(), strict=True):
        if math.isfinite(b):
            path.append(f"{'M' if lifted else 'L'}{across(a):.1f} {upright(b):.1f}")
        lifted = not math.isfinite(b)
    return Markup('<path class="line s{}" d="{}"/>').format(i % SERIES, "".join(path))


def _band(x: Tensor, low: Tensor, high: Tensor, across: _Axis, upright: _Axis, i: int) -> Markup:
    there = list(zip(x.tolist(), low.double().tolist(), strict=True))
    back = list(zip(x.tolist(), high.double().tolist(), strict=True))[::-1]
    points = [f"{across(a):.1f},{upright(b):.1f}" for a, b in there + back if math.isfinite(b)]
    return Markup('<polygon class="band s{}" points="{}"/>').format(i % SERIES, " ".join(points))


def _dots(result: Curve, name: str, x: Tensor, y: Tensor, across: _Axis, upright: _Axis) -> list[Markup]:
    dots = []
    for k, (a, b) in enumerate(zip(x.tolist(), y.double().tolist(), strict=True)):
        if math.isfinite(b):
            at = result.x_names[k] if k < len(result.x_names) else number(a)
            kind, radius = ("dot", 2.2) if len(x) <= MOST_SHOWN else ("dot hidden", 4)
            shape = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}: {} {}</title></circle>')
            dots.append(shape.format(kind, across(a), upright(b), radius, at, name, number(b)))
    return dots


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        kind, x, y, anchor, escape(text)
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
