"""The page of `cutaway explain`: predictions, maps one beside the other, the evidence for each, units, limits."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cutaway.core.errors import BadOption
from cutaway.core.result import Result, Table
from cutaway.evaluation.trust_table import COST
from cutaway.plot import attribution, bars, describe, heat
from cutaway.plot.style import number
from cutaway.report import charts, data, files, page, views
from cutaway.report.explanation import Explanation, InputExplanation, Kind, MapExplanation
from cutaway.report.views import View

MOST_PREDICTIONS = 5


class Words(NamedTuple):
    """How a page speaks of a kind of input."""

    noun: str
    did: str
    called: str
    parts: str
    map: str
    heading: str
    intro: str


WORDS: dict[Kind, Words] = {
    "image": Words(
        "photo",
        "saw in",
        "{}",
        "parts of the photo",
        "map",
        "What in the photo mattered",
        "One map per method, each on its own scale: equal colours in two maps are not equal values.",
    ),
    "tokens": Words(
        "text",
        "read in",
        "“{}”",
        "words",
        "map",
        "Which words mattered",
        "The text as it was given, once per method, each on its own scale: equal colours in two of them are not equal "
        "values.",
    ),
    "row": Words(
        "row",
        "made of",
        "{}",
        "columns",
        "list",
        "Which columns mattered",
        "One list per method, the largest first, each on its own scale. Where values add up, they are steps from the "
        "answer on the baseline to the answer on this row, and columns that code one choice are one step.",
    ),
}


def write_explanation(explanation: Explanation, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the page.

    Args:
        explanation: What to show.
        path: The HTML file, or a folder in which `report.html` is made.
        overwrite: Replace files that are there already, also if cutaway did not write them.

    Returns:
        The path of the HTML file.
    """
    if not explanation.inputs:
        raise BadOption("expected at least one explained input for the page; got none.")
    title = explanation.title or _title(explanation)
    content = data.content(title, explanation=explanation)
    html = page.render(
        "explanation.html",
        title=title,
        lang="en",
        page=explanation,
        inputs=[_input(one, explanation.model, i + 1) for i, one in enumerate(explanation.inputs)],
        provenance=[(str(k), str(v)) for k, v in explanation.provenance.items()],
        data=data.inside_html(content),
    )
    return files.write(path, html, data.to_json(content), _pictures(explanation), overwrite=overwrite)


def _title(explanation: Explanation) -> str:
    words = WORDS[explanation.inputs[0].kind]
    names = [one.name for one in explanation.inputs]
    what = words.called.format(names[0]) if len(names) == 1 else f"{len(names)} {words.noun}s"
    return f"What {explanation.model or 'the model'} {words.did} {what}"


def _pictures(explanation: Explanation) -> dict[str, Result]:
    """The maps and units, by the file names of their drawings."""
    found: dict[str, Result] = {}
    for i, one in enumerate(explanation.inputs):
        drawn = [*(m.attribution for m in one.maps), *one.units]
        for j, result in enumerate(drawn):
            found[f"{i + 1:02d}-{j + 1:02d}-{files.slug(_name(result))}"] = result
    return found


def _input(one: InputExplanation, model: str, i: int) -> View:
    maps = [_map(m, one.kind, f"p{i}-m{j + 1}") for j, m in enumerate(one.maps)]
    shown = one.predictions[:MOST_PREDICTIONS]
    return {
        "id": f"input-{i}",
        "kind": one.kind,
        "words": WORDS[one.kind],
        "name": one.name,
        **_subject(one),
        "predictions": [(name, charts.bar(p), f"{100 * p:.1f}\u00a0%") for name, p in shown],
        "target": one.target,
        "subject": heat.subject(one.target),
        "summary": one.summary or _summary(one, model),
        "maps": maps,
        "table": _table(one.trust, {m.attribution.provenance.method: v for m, v in zip(one.maps, maps, strict=True)}),
        "units": [{"title": _name(r), "drawing": views.drawing(r), "checks": views.checks(r)} for r in one.units],
    }


def _subject(one: InputExplanation) -> View:
    """What was explained, as the page shows it first."""
    if one.kind == "tokens":
        return {"text": one.text}
    if one.kind == "row":
        return {"columns": [(name, there) for name, there, _ in bars.choices(*zip(*one.columns, strict=True))]}
    height, width = one.image.shape[-2:]
    return {
        "image": views.photo_uri(one.image),
        "tiny": max(height, width) <= views.TINY,
        "size": f"{width} × {height} pixels, as the model saw it",
    }


def _map(shown: MapExplanation, kind: Kind, id_: str) -> View:
    result = shown.attribution
    if attribution.kind_of(result) != kind:
        what = WORDS[kind].noun
        raise BadOption(f"expected maps over a {what}; {_name(result)} has values {tuple(result.values.shape)}.")
    verdict = getattr(shown.sentence, "status", "")
    return {
        "id": id_,
        "title": _name(result),
        "alt": describe(result),
        **views.one_view(result, kind),
        "sentence": str(shown.sentence),
        "verdict": views.status(verdict) if verdict else None,
        "evidence": [_evidence(name, r) for name, r in shown.evidence.items()],
        "checks": views.checks(result),
        "made": views.made_of(result),
        "python": shown.python or views.python_line(result.provenance),
        "shell": shown.shell or views.shell_line(result.provenance),
    }


def _evidence(name: str, result: Result) -> View:
    return {"title": result.title or _words(name), "drawing": views.drawing(result), "checks": views.checks(result)}


def _summary(one: InputExplanation, model: str) -> str:
    model = model or "The model"
    sentences = []
    if one.predictions:
        (name, p), *others = one.predictions[:2]
        then = f", then {others[0][0]} ({_percent(others[0][1])})" if others else ""
        sentences.append(f"{model} answers {name} with a probability of {_percent(p)}{then}.")
    if one.maps:
        count, plural = len(one.maps), "s" if len(one.maps) > 1 else ""
        words = WORDS[one.kind]
        asked = f"{count} method{plural} asked which {words.parts} mattered for {heat.subject(one.target)}"
        verdicts = [getattr(m.sentence, "status", "") for m in one.maps]
        said = {"ok": "passed every test", "note": "passed with a note", "warn": "call for care", "fail": "failed"}
        parts = [f"{verdicts.count(key)} {text}" for key, text in said.items() if key in verdicts]
        sentences.append(
            f"{asked}; each {words.map} was then tested itself: {', '.join(parts)}." if parts else f"{asked}."
        )
    return " ".join(sentences)


def _percent(p: float) -> str:
    """Two digits; what is not certain is not called 100 %."""
    return "more than 99\u00a0%" if 0.995 <= p < 1 else f"{number(100 * p, 2)}\u00a0%"


def _table(trust: Table | None, maps: Mapping[str, View]) -> View | None:
    """The verdicts: methods by evidence, each number with its interval, and what they cost."""
    if trust is None:
        return None
    rows = []
    for row, low, value, high in zip(trust.rows, *(trust.extra[k] for k in ("low", "value", "high")), strict=True):
        name, verdict, *cells = row[: len(row) - len(COST)]
        cost = dict(zip(COST, row[-len(COST) :], strict=True))
        rows.append(
            {
                "name": _words(name),
                "view": maps.get(name),
                "verdict": verdict,
                "cells": [
                    _cell(*parts) for parts in zip(cells, value.tolist(), low.tolist(), high.tolist(), strict=True)
                ],
                "passes": cost["forwards"] + cost["backwards"],
                "seconds": cost["seconds"],
                "seconds_text": number(cost["seconds"]),
            }
        )
    said = {name: check for name, check in trust.checks.items() if name not in {row[0] for row in trust.rows}}
    heads = [
        dict(zip(("name", "note"), head.partition(", ")[::2], strict=True)) for head in trust.columns[2 : -len(COST)]
    ]
    return {"heads": heads, "rows": rows, "checks": views.checks(replace(trust, checks=said))}


def _cell(text: str, value: float, low: float, high: float) -> View:
    """A number with the mark of its test; without a number, what the table says instead."""
    if math.isnan(value):
        return {"mark": "", "text": text, "sort": "", "beside": ""}
    beside = "" if math.isnan(low) else f"{_two(low)} to {_two(high)}"
    return {"mark": text.partition(" ")[0], "text": _two(value), "sort": value, "beside": beside}


def _two(value: float) -> str:
    """Two digits after the point in every row, so that numbers can be read down a column."""
    return f"{value + 0.0:.2f}".replace("-", "−")


def _name(result: Result) -> str:
    return result.title or _words(result.provenance.method) or type(result).__name__


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
