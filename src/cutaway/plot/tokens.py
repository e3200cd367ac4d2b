"""Attribution of text: each piece on a ground of its colour; a solid line under it supports, a dotted one opposes."""

from typing import Any

from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from cutaway.core.result import Attribution
from cutaway.plot import heat
from cutaway.plot.style import LARGE, MONO, figure, ink_on, label, note, number, theme

STEPS = 10  # colours on each side of 0 in a page
COLUMNS = 78  # characters per line of the figure
LETTER, LINE = 0.0875, 0.30  # inches


def per_token(result: Attribution, i: int) -> Tensor:
    """One number per token of the i-th text: a vector per token is summed, padding is left out."""
    values = result.values[i].detach().cpu().double()
    values = values.flatten(1).sum(1) if values.ndim > 1 else values
    return values[: len(result.tokens[i])]


def css() -> str:
    """The style sheet behind `marked`: a colour and an ink of enough contrast per step."""
    rules = [
        ".ct-tokens{line-height:2.1;white-space:pre-wrap;overflow-wrap:anywhere}",
        ".ct-tokens span{padding:.12em .16em;border-radius:3px;unicode-bidi:isolate;text-underline-offset:.22em}",
        ".ct-tokens .ct-plus{text-decoration:underline solid 2px}",
        ".ct-tokens .ct-minus{text-decoration:underline dotted 2px}",
        ".ct-tokens .ct-special{opacity:.75;font-style:italic}",
    ]
    for step in range(-STEPS, STEPS + 1):
        red, green, blue = (round(255 * c) for c in _step_colour(step, signed=True))
        ink = ink_on(_step_colour(step, signed=True))
        rules.append(f".ct-tokens .{_name(step)}{{background:rgb({red},{green},{blue});color:{ink}}}")
    for step in range(STEPS + 1):
        red, green, blue = (round(255 * c) for c in _step_colour(step, signed=False))
        ink = ink_on(_step_colour(step, signed=False))
        rules.append(f".ct-tokens .ct-u{step}{{background:rgb({red},{green},{blue});color:{ink}}}")
    return "\n".join(rules)


def marked(result: Attribution, i: int, percentile: float = heat.PERCENTILE) -> Markup:
    """The i-th text as HTML with its pieces marked; needs `css`. The exact value is the tool tip."""
    values = per_token(result, i)
    scale = heat.scale_of(values, signed=result.signed, percentile=percentile, unit=result.unit)
    pieces = [
        Markup('<span class="{}" title="{} {}">{}</span>').format(
            _classes(token, value, scale), number(value), result.unit, _shown(token)
        )
        for token, value in zip(result.tokens[i], values.tolist(), strict=False)
    ]
    return Markup('<p class="ct-tokens" dir="auto">{}</p>').format(Markup("").join(pieces))


def legend(result: Attribution) -> Markup:
    """What the underlines mean."""
    upper, lower = heat.ends(result)
    words = Markup('<span class="ct-plus ct-p6">{}</span>').format(upper) if result.signed else escape(upper)
    if lower:
        words += Markup(' <span class="ct-minus ct-m6">{}</span>').format(lower)
    return Markup('<p class="ct-tokens ct-legend">{}</p>').format(words)


def draw(result: Attribution, *, percentile: float, most: int) -> Figure:
    """The marked texts as a figure, in lines of equal letters."""
    shown = min(len(result.tokens), most)
    lines = [_lines(result.tokens[i][: len(per_token(result, i))]) for i in range(shown)]
    height = 0.8 + sum(LINE * (place[-1][0] + 1 if place else 1) + 0.45 for place in lines)
    fig = figure(height, fitted=False)
    note(fig, label(result.title or "Attribution", 70), 0.15, 0.12, fontsize=LARGE, weight="bold", color=theme().ink)
    upper, lower = heat.ends(result)
    words = (
        f"solid line: {label(upper, 50)}; dotted line: {label(lower, 50)}" if lower else f"darker: {label(upper, 60)}"
    )
    note(fig, words, 0.15, 0.42)
    top = 0.75
    for i, places in enumerate(lines):
        values = per_token(result, i)
        scale = heat.scale_of(values, signed=result.signed, percentile=percentile, unit=result.unit)
        for (line, column), token, value in zip(places, result.tokens[i], values.tolist(), strict=False):
            _draw_token(fig, token, value, scale, 0.15 + LETTER * column, top + LINE * line)
        top += LINE * (places[-1][0] + 1 if places else 1)
        note(fig, label(scale.text, 120), 0.15, top + 0.04)
        top += 0.45
    return fig


def _draw_token(fig: Figure, token: str, value: float, scale: heat.Scale, left: float, top: float) -> None:
    w, h = fig.get_size_inches()
    text = _text(token)
    wide, ground = LETTER * len(text.replace("\\$", "$")), heat.colour(value, scale)
    fig.add_artist(Rectangle((left / w, 1 - (top + 0.22) / h), wide / w, 0.22 / h, facecolor=ground, linewidth=0))
    fig.text(left / w, 1 - (top + 0.105) / h, text, family=MONO, fontsize=10.4, color=ink_on(ground), va="center")
    if scale.signed and value:
        style: Any = "solid" if value > 0 else (0, (1, 1.2))
        y = 1 - (top + 0.235) / h
        line = Line2D([left / w, (left + wide) / w], [y, y], color=theme().ink, linewidth=1.4, linestyle=style)
        fig.add_artist(line)


def _lines(tokens: list[str]) -> list[tuple[int, int]]:
    """The line and column where each token begins."""
    places, line, column = [], 0, 0
    for token in tokens:
        wide = len(_text(token).replace("\\$", "$"))
        column += 1 if column and not token.startswith("##") else 0
        if column and column + wide > COLUMNS:
            line, column = line + 1, 0
        places.append((line, column))
        column += wide
    return places


def _text(token: str) -> str:
    return label(_shown(token), COLUMNS) or " "


def _shown(token: str) -> str:
    return token.replace("\n", "↵\n") if token.strip() == "" and "\n" in token else token


def _classes(token: str, value: float, scale: heat.Scale) -> str:
    part = value / scale.limit if scale.limit and value == value else 0.0
    step = round(STEPS * max(-1.0 if scale.signed else 0.0, min(1.0, part)))
    sign = ("ct-plus" if value > 0 else "ct-minus" if value < 0 else "") if scale.signed else ""
    special = "ct-special" if len(token) > 2 and token[0] + token[-1] in ("[]", "<>") else ""
    return " ".join(filter(None, [_name(step) if scale.signed else f"ct-u{step}", sign, special]))


def _name(step: int) -> str:
    return f"ct-{'p' if step >= 0 else 'm'}{abs(step)}"


def _step_colour(step: int, *, signed: bool) -> tuple[float, float, float]:
    scale = heat.Scale(limit=float(STEPS), signed=signed, percentile=100, clipped=0)
    return heat.colour(float(step), scale)
