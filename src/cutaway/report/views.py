"""What the templates show of a result: for each shape one small dictionary with a `kind`."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cutaway.core.result import Attribution, Curve, Matrix, Pictures, Points, Ranking, Result, Scores, Table, Tree
from cutaway.plot import attribution, bars, describe, heat, png_bytes, scores, table, tokens, waterfall
from cutaway.plot.notebook import STATUS, data_uri
from cutaway.plot.style import number
from cutaway.report import charts
from cutaway.report.lines import python_line, shell_line

View = dict[str, Any]

MOST_PIXELS = 448
TINY = 64  # a picture of at most so many pixels is shown with sharp pixels
MOST_INPUTS = 8
MOST_ROWS = 500
MOST_BARS = 20


def section(result: Result, number_: int = 0) -> View:
    """A whole result: drawing, checks, provenance and the lines that make it."""
    made = result.provenance
    return {
        "id": f"result-{number_}",
        "title": result.title or made.method.replace("_", " ") or type(result).__name__,
        "shape": type(result).__name__,
        "drawing": drawing(result),
        "checks": checks(result),
        "made": made_of(result),
        "python": python_line(made),
        "shell": shell_line(made),
    }


def drawing(result: Result) -> View:
    """The drawing of a result of any shape; one without a view of its own is shown as matplotlib draws it."""
    for shape in type(result).__mro__:
        if shape in _VIEWS:
            view = _VIEWS[shape](result)
            break
    else:
        view = _figure(result)
    return {"alt": describe(result), **view}


def checks(result: Result) -> list[View]:
    """Checks with an icon and a word for their status."""
    return [{"name": name.replace("_", " "), "text": str(c), **status(c.status)} for name, c in result.checks.items()]


def status(name: str) -> View:
    """Icon, word and style of a status."""
    icon, word = STATUS.get(name, ("•", name))
    return {"icon": icon, "word": word, "status": name}


def made_of(result: Result) -> list[tuple[str, str]]:
    """Provenance as pairs of a name and a value; what is unknown is left out."""
    made = result.provenance
    rows: list[tuple[str, Any]] = [
        ("method", made.method),
        ("options", ", ".join(f"{k}={v}" for k, v in made.options.items())),
        ("model", made.model),
        ("weights (SHA-256)", made.model_fingerprint),
        ("input", made.input),
        ("input (SHA-256)", made.input_fingerprint),
        ("target", made.target),
        ("seed", "" if made.seed is None else made.seed),
        ("cost", cost_of(result)),
        ("versions", ", ".join(f"{k} {v}" for k, v in made.versions.items())),
        ("made at", made.created),
    ]
    return [(name, str(value)) for name, value in rows if str(value)]


def cost_of(result: Result) -> str:
    """Passes and seconds in words."""
    cost = result.provenance.cost
    if not (cost.forwards or cost.backwards or cost.seconds):
        return ""
    return f"{cost.forwards:,} forward and {cost.backwards:,} backward passes of one example, {number(cost.seconds)} s"


def map_view(result: Attribution, i: int = 0) -> View:
    """One map: the film of colours, the grey photo under it, and its scale in numbers and words."""
    values, scale = attribution.per_place(result, i), attribution.scale_for(result, i)
    shown, block = heat.smaller(values[None], MOST_PIXELS)
    film = heat.indexed_png(heat.levels(shown[0], scale), scale.signed)
    has_photo = result.input.ndim == 4
    cells = has_photo and values.shape != result.input.shape[-2:]
    notes = [scale.text]
    notes += [f"cells {values.shape[0]} × {values.shape[1]} at {result.wrt}"] if cells else []
    notes += [f"shown as means of {block} × {block} pixels"] if block > 1 else []
    upper, lower = heat.ends(result, i)
    return {
        "film": data_uri(film),
        "ground": photo_uri(result.input[i], grey=True) if has_photo else "",
        "photo": photo_uri(result.input[i]) if has_photo else "",
        "tiny": has_photo and max(result.input.shape[-2:]) <= TINY,
        "upper": upper,
        "lower": lower,
        "signed": scale.signed,
        "low": number(-scale.limit) if scale.signed else "0",
        "high": number(scale.limit),
        "unit": scale.unit,
        "note": "; ".join(notes),
        "score": number(float(result.score[i])) if len(result.score) > i else "",
    }


def one_view(result: Attribution, kind: str) -> View:
    """What the page shows of the first input of an attribution: a map, a marked text, or bars."""
    if kind == "image":
        return {"kind": kind, **map_view(result)}
    if kind == "tokens":
        return {"kind": kind, **text_view(result)}
    upper, lower = heat.ends(result)
    return {"kind": kind, **row_view(result), "upper": upper, "lower": lower, "unit": result.unit, "note": ""}


def text_view(result: Attribution, i: int = 0) -> View:
    """One marked text, with its scale in numbers and words."""
    _, signed = tokens.sized(result, i)
    scale = tokens.scale_of(result, i)
    upper, lower = heat.ends(replace(result, signed=signed), i)
    return {
        "text": tokens.marked(result, i),
        "upper": upper,
        "lower": lower,
        "signed": scale.signed,
        "low": number(-scale.limit) if scale.signed else "0",
        "high": number(scale.limit),
        "note": "; ".join([scale.text, *(["size of the slope over each piece's embedding"] if not signed else [])]),
        "score": number(float(result.score[i])) if len(result.score) > i else "",
    }


def row_view(result: Attribution, i: int = 0) -> View:
    """Bars of one row: steps from the baseline to the score where values add up, else from 0, the largest first."""
    if waterfall.fits(result):
        steps = waterfall.steps(result, i)
        base, score = float(bars.base(result, i) or 0.0), float(result.score[i])
        ends = [base, score, *(step.end for step in steps)]
        rows = [("on the baseline", charts.step(base, base, ends), number(base))]
        rows += [(s.name, charts.step(s.start, s.end, ends), f"{'+' * (s.value > 0)}{number(s.value)}") for s in steps]
        rows += [("on this row", charts.step(score, score, ends), number(score))]
        return {"rows": rows, "left_out": 0, "steps": True}
    every = bars.columns(result, i)
    order = sorted(every, key=lambda bar: -abs(bar.value))[:MOST_BARS]
    most = max((abs(bar.value) for bar in order), default=1.0) or 1.0
    rows = [(bar.name, charts.two_sided_bar(bar.value / most), number(bar.value)) for bar in order]
    return {"rows": rows, "left_out": len(every) - len(rows), "steps": False}


def photo_uri(image: Tensor, *, grey: bool = False) -> str:
    """A picture as a data address: JPEG for photos, PNG for tiny pictures whose pixels should stay exact."""
    pixels = heat.photo(image)
    picture = Image.fromarray(heat.grey(pixels) if grey else pixels)
    if max(picture.size) > MOST_PIXELS:
        picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    tiny = max(picture.size) <= TINY
    with io.BytesIO() as file:
        picture.save(file, "PNG" if tiny else "JPEG", **({} if tiny else {"quality": 85}))
        return data_uri(file.getvalue(), "image/png" if tiny else "image/jpeg")


def curve_view(result: Curve) -> View:
    """A chart and its legend with the summaries."""
    better = f"{result.better} is better" if result.better else ""
    legend = [
        {
            "swatch": charts.swatch(i),
            "name": name.replace("_", " "),
            "value": number(result.summary[name]) if name in result.summary else "",
        }
        for i, name in enumerate(result.y)
    ]
    title = ", ".join(filter(None, [result.summary_label, better]))
    svg = charts.curve(result, describe(result))
    return {"kind": "curve", "svg": svg, "legend": legend, "legend_title": title, "y_label": result.y_label}


def _attribution(result: Attribution) -> View:
    kind = attribution.kind_of(result)
    if kind == "image":
        return {"kind": "maps", "maps": [map_view(result, i) for i in range(min(len(result.values), MOST_INPUTS))]}
    shown = range(min(len(result.values), MOST_INPUTS))
    if kind == "tokens":
        return {"kind": "tokens", "texts": [text_view(result, i) for i in shown], "values": _token_table(result)}
    upper, lower = heat.ends(result)
    groups = [row_view(result, i) for i in shown]
    return {"kind": "bars", "groups": groups, "unit": result.unit, "upper": upper, "lower": lower}


def _token_table(result: Attribution) -> View:
    rows = [
        [i + 1, j + 1, token, float(value)]
        for i in range(min(len(result.tokens), MOST_INPUTS))
        for j, (token, value) in enumerate(zip(result.tokens[i], tokens.sized(result, i)[0].tolist(), strict=False))
    ]
    return table_view(Table(columns=["text", "place", "token", f"value ({result.unit})"], rows=rows))


def table_view(result: Table) -> View:
    """Cells as text with the value that they sort by."""
    numeric = [all(_is_number(row[j]) for row in result.rows) for j in range(len(result.columns))]
    rows = [[_cell(value, right) for value, right in zip(row, numeric, strict=True)] for row in result.rows[:MOST_ROWS]]
    most = max(result.tally.values(), default=0) or 1
    tally = [(name, charts.bar(value / most), str(value)) for name, value in result.tally.items()]
    view = {"kind": "table", "columns": result.columns, "rows": rows, "left_out": len(result.rows) - len(rows)}
    return {**view, "tally": tally, "tally_label": result.tally_label}


def _cell(value: Any, right: bool) -> View:
    return {"text": table.cell(value), "right": right, "sort": value if right and value is not None else ""}


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _scores(result: Scores) -> View:
    values = result.values.detach().cpu().double()
    every = torch.cat([values, result.low.double().flatten(), result.high.double().flatten()])
    every = every[every.isfinite()]
    ends = (min(float(every.min()), 0.0), float(every.max())) if len(every) else (0.0, 1.0)
    known = len(result.low) == len(values) == len(result.high)
    rows = []
    for i, name in enumerate(result.names):
        value = float(values[i])
        low, high = (float(result.low[i]), float(result.high[i])) if known else (value, value)
        drawn = charts.interval(value, low, high, ends)
        rows.append((name.replace("_", " "), drawn, scores.text_of(result, i)))
    better = f"{result.better} is better" if result.better else ""
    return {"kind": "scores", "rows": rows, "note": ", ".join(filter(None, [result.unit, better]))}


def _ranking(result: Ranking) -> View:
    values = result.values.detach().cpu().double()[:MOST_BARS]
    most = float(values.abs().max()) or 1.0 if len(values) else 1.0
    pairs = zip(result.names, values.tolist(), strict=False)
    rows = [(name, charts.bar(abs(value) / most), number(value)) for name, value in pairs]
    note = ", ".join(filter(None, [result.unit, f"at {result.site}" if result.site else ""]))
    return {"kind": "ranking", "rows": rows, "note": note, "left_out": len(result.names) - len(rows)}


def _pictures(result: Pictures) -> View:
    shown = list(zip(result.images, result.captions, strict=True))
    tiny = max(result.images.shape[-2:], default=0) <= TINY
    pictures = [(photo_uri(image), text) for image, text in shown]
    groups = [("", pictures)]
    if result.headings and result.columns:
        starts = range(0, len(pictures), result.columns)
        groups = [(head, pictures[i : i + result.columns]) for head, i in zip(result.headings, starts, strict=False)]
    return {"kind": "pictures", "groups": groups, "tiny": tiny}


def _figure(result: Result) -> View:
    return {"kind": "figure", "light": _small_png(result, "light"), "dark": _small_png(result, "dark")}


def _small_png(result: Result, theme: str) -> str:
    with Image.open(io.BytesIO(png_bytes(result, theme=theme))) as picture, io.BytesIO() as file:
        picture.convert("RGB").quantize(192, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        return data_uri(file.getvalue())


_VIEWS: dict[type, Callable[[Any], View]] = {
    Attribution: _attribution,
    Curve: curve_view,
    Table: table_view,
    Scores: _scores,
    Ranking: _ranking,
    Pictures: _pictures,
    Matrix: _figure,
    Points: _figure,
    Tree: _figure,
}
