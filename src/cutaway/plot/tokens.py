"""Attribution of text: the original with its pieces on grounds of their colours, each where it stands.

A solid line under a piece supports, a dotted one opposes. Spaces and line breaks are those of the original; what the
model never saw is pale. Special pieces, which stand nowhere in the text, follow on a line of their own.
"""

from dataclasses import replace
from typing import Any, NamedTuple

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
ASIDE = "special pieces: "
WORDS = ("[UNK]", "[MASK]", "<unk>", "<mask>")  # special to a tokenizer; in a text, they stand for a word


class Run(NamedTuple):
    """A stretch of text with its value; None where no piece lies. Special pieces stand nowhere in the original."""

    text: str
    value: float | None
    special: bool = False


def per_token(result: Attribution, i: int) -> Tensor:
    """One number per token of the i-th text, without padding; see `sized`."""
    return sized(result, i)[0]


def sized(result: Attribution, i: int) -> tuple[Tensor, bool]:
    """One number per token, and whether its sign has a meaning.

    Contributions of a token's dimensions are summed. Slopes are not: an embedding has no direction that were "more" of
    a word, so its size (the L2 norm) says how much the word could matter, and nothing says which way.
    """
    values = result.values[i].detach().cpu().double()[: len(result.tokens[i])]
    if values.ndim == 1:
        return values, result.signed
    slopes = "per" in result.unit.split()
    return (values.flatten(1).norm(dim=1), False) if slopes else (values.flatten(1).sum(1), result.signed)


def called(result: Attribution, i: int, place: int) -> str:
    """A piece as it stands in the original, or as the tokenizer calls it."""
    if len(result.texts) > i and len(result.offsets) > i and len(set(result.offsets[i][place])) > 1:
        begin, end = result.offsets[i][place]
        return result.texts[i][begin:end]
    return result.tokens[i][place]


def runs(result: Attribution, i: int) -> list[Run]:
    """The i-th text from its beginning to its end, and then its special pieces."""
    values = per_token(result, i).tolist()
    if len(result.texts) > i and len(result.offsets) > i:
        return _in_place(result.texts[i], result.offsets[i], result.tokens[i], values)
    found: list[Run] = []
    for token, value in zip(result.tokens[i], values, strict=False):
        special = len(token) > 2 and token[0] + token[-1] in ("[]", "<>") and token not in WORDS
        if found and not special and not token.startswith("##"):
            found.append(Run(" ", None))
        found.append(Run(token, value, special))
    return sorted(found, key=lambda run: run.special)


def _in_place(text: str, offsets: list[list[int]], tokens: list[str], values: list[float]) -> list[Run]:
    found: list[Run] = []
    special = [Run(t, v, True) for t, v, (a, b) in zip(tokens, values, offsets, strict=False) if a == b]
    at = 0
    for value, (begin, end) in zip(values, offsets, strict=False):
        if begin == end:
            continue
        if begin < at and found and found[-1].value is not None:
            # Pieces that share a letter (its bytes) are shown as one.
            before = found.pop()
            begin, value = at - len(before.text), value + (before.value or 0.0)
            end = max(end, at)
        elif begin > at:
            found.append(Run(text[at:begin], None))
        found.append(Run(text[begin:end], value))
        at = end
    return [*found, *([Run(text[at:], None)] if at < len(text) else []), *special]


def css() -> str:
    """The style sheet behind `marked`: a colour and an ink of enough contrast per step."""
    rules = [
        ".ct-tokens{line-height:2.1;white-space:pre-wrap;overflow-wrap:anywhere;margin:.4rem 0}",
        ".ct-tokens span{padding:.16em 0;border-radius:2px;text-underline-offset:.22em}",
        ".ct-tokens .ct-plus{text-decoration:underline solid 2px}",
        ".ct-tokens .ct-minus{text-decoration:underline dotted 2px}",
        ".ct-tokens .ct-unseen{opacity:.5}",
        ".ct-aside{font-size:.85em}",
        ".ct-tokens .ct-special{font-style:italic}",
        ".ct-aside span,.ct-legend span{padding:.12em .3em;margin-right:.3em}",
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
    scale = scale_of(result, i, percentile)
    every = runs(result, i)
    text = Markup("").join(_html(run, scale) for run in every if not run.special)
    special = Markup("").join(_html(run, scale) for run in every if run.special)
    aside = Markup('<p class="ct-tokens ct-aside">{}{}</p>').format(ASIDE, special) if special else Markup("")
    return Markup('<p class="ct-tokens" dir="auto">{}</p>').format(text) + aside


def scale_of(result: Attribution, i: int, percentile: float = heat.PERCENTILE) -> heat.Scale:
    """The scale of the i-th text."""
    values, signed = sized(result, i)
    return heat.scale_of(values, signed=signed, percentile=percentile, unit=result.unit)


def legend(result: Attribution) -> Markup:
    """What the underlines mean."""
    signed = len(result.values) == 0 or sized(result, 0)[1]
    upper, lower = heat.ends(replace(result, signed=signed))
    words = Markup('<span class="ct-plus ct-p6">{}</span>').format(upper) if signed else escape(upper)
    if lower:
        words += Markup(' <span class="ct-minus ct-m6">{}</span>').format(lower)
    return Markup('<p class="ct-tokens ct-legend">{}</p>').format(words)


def _html(run: Run, scale: heat.Scale) -> Markup:
    if run.value is None:
        return Markup('<span class="ct-unseen">{}</span>').format(run.text) if run.text.strip() else escape(run.text)
    tip = f"{number(run.value)} {scale.unit}".strip()
    classes = _classes(run.value, scale) + (" ct-special" if run.special else "")
    return Markup('<span class="{}" title="{}">{}</span>').format(classes, tip, _shown(run.text))


def draw(result: Attribution, *, percentile: float, most: int) -> Figure:
    """The marked texts as a figure, in lines of equal letters."""
    shown = min(len(result.tokens), most)
    texts = [_laid_out(runs(result, i)) for i in range(shown)]
    height = 0.8 + sum(LINE * _lines(text) + 0.45 for text in texts)
    fig = figure(height, fitted=False)
    note(fig, label(result.title or "Attribution", 70), 0.15, 0.12, fontsize=LARGE, weight="bold", color=theme().ink)
    upper, lower = heat.ends(replace(result, signed=all(sized(result, i)[1] for i in range(shown))))
    words = (
        f"solid line: {label(upper, 50)}; dotted line: {label(lower, 50)}" if lower else f"darker: {label(upper, 60)}"
    )
    note(fig, words, 0.15, 0.42)
    top = 0.75
    for i, text in enumerate(texts):
        scale = scale_of(result, i, percentile)
        for line, column, run in text:
            _draw_run(fig, run, scale, 0.15 + LETTER * column, top + LINE * line)
        top += LINE * _lines(text)
        note(fig, label(scale.text, 120), 0.15, top + 0.04)
        top += 0.45
    return fig


Placed = list[tuple[int, int, Run]]


def _lines(text: Placed) -> int:
    return text[-1][0] + 1 if text else 1


def _laid_out(every: list[Run]) -> Placed:
    """Line and column of each piece. A piece that does not fit goes on the next line, with what it hangs on."""
    placed: Placed = []
    line = column = 0
    for k, run in enumerate(every):
        if run.special and not every[k - 1].special:
            line, column = line + (1 if placed else 0), 0
            placed.append((line, 0, Run(ASIDE, None)))
            column = len(ASIDE)
        wide = len(_text(run.text))
        if run.value is None and "\n" in run.text:
            line, column = line + 1, 0
            continue
        if run.value is not None and column and column + wide + _hanging(every, k) > COLUMNS:
            line, column = line + 1, 0
        if run.text.strip() or (run.value is not None):
            placed.append((line, column, run))
        column += wide + (1 if run.special else 0) if column or run.value is not None or run.text.strip() else 0
    return placed


def _hanging(every: list[Run], k: int) -> int:
    """Letters that follow a piece without a space: the rest of its word."""
    if k and every[k - 1].value is not None:
        return 0
    more = 0
    for run in every[k + 1 :]:
        if run.value is None or run.special or more > COLUMNS // 2:
            break
        more += len(_text(run.text))
    return more


def _draw_run(fig: Figure, run: Run, scale: heat.Scale, left: float, top: float) -> None:
    w, h = fig.get_size_inches()
    text = _text(run.text)
    wide = LETTER * len(text)
    drawn: dict[str, Any] = {"family": MONO, "fontsize": 10.4, "va": "center"}
    if run.value is None:
        fig.text(left / w, 1 - (top + 0.105) / h, text.replace("$", r"\$"), **drawn, color=theme().muted)
        return
    ground = heat.colour(run.value, scale)
    fig.add_artist(Rectangle((left / w, 1 - (top + 0.22) / h), wide / w, 0.22 / h, facecolor=ground, linewidth=0))
    fig.text(left / w, 1 - (top + 0.105) / h, text.replace("$", r"\$"), **drawn, color=ink_on(ground))
    if scale.signed and run.value:
        style: Any = "solid" if run.value > 0 else (0, (1, 1.2))
        y = 1 - (top + 0.235) / h
        line = Line2D([left / w, (left + wide) / w], [y, y], color=theme().ink, linewidth=1.4, linestyle=style)
        fig.add_artist(line)


def _text(text: str) -> str:
    """What the figure shows of a piece, letter by letter."""
    return label(_shown(text), COLUMNS).replace(r"\$", "$") or " "


def _shown(text: str) -> str:
    return text.replace("\n", "↵\n") if text.strip() == "" and "\n" in text else text


def _classes(value: float, scale: heat.Scale) -> str:
    part = value / scale.limit if scale.limit and value == value else 0.0
    step = round(STEPS * max(-1.0 if scale.signed else 0.0, min(1.0, part)))
    sign = ("ct-plus" if value > 0 else "ct-minus" if value < 0 else "") if scale.signed else ""
    return " ".join(filter(None, [_name(step) if scale.signed else f"ct-u{step}", sign]))


def _name(step: int) -> str:
    return f"ct-{'p' if step >= 0 else 'm'}{abs(step)}"


def _step_colour(step: int, *, signed: bool) -> tuple[float, float, float]:
    scale = heat.Scale(limit=float(STEPS), signed=signed, percentile=100, clipped=0)
    return heat.colour(float(step), scale)
