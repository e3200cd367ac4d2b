"""The page of `cutaway explain`: predictions, maps side by side, the evidence for each, units, limits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutaway.core.errors import BadOption
from cutaway.core.result import Curve, Result, Scores
from cutaway.plot import attribution, describe, heat
from cutaway.plot.style import number
from cutaway.report import charts, data, files, page, views
from cutaway.report.explanation import Explanation, MapExplanation, PhotoExplanation
from cutaway.report.views import View

MOST_PREDICTIONS = 5


def write_explanation(explanation: Explanation, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the page.

    Args:
        explanation: What to show.
        path: The HTML file, or a folder in which `report.html` is made.
        overwrite: Replace files that are there already, also if cutaway did not write them.

    Returns:
        The path of the HTML file.
    """
    if not explanation.photos:
        raise BadOption("expected at least one explained photo for the page; got none.")
    title = explanation.title or _title(explanation)
    content = data.content(title, explanation=explanation)
    html = page.render(
        "explanation.html",
        title=title,
        lang="en",
        page=explanation,
        photos=[_photo(photo, explanation.model, i + 1) for i, photo in enumerate(explanation.photos)],
        provenance=[(str(k), str(v)) for k, v in explanation.provenance.items()],
        data=data.inside_html(content),
    )
    return files.write(path, html, data.to_json(content), _pictures(explanation), overwrite=overwrite)


def _title(explanation: Explanation) -> str:
    model = explanation.model or "the model"
    names = [photo.name for photo in explanation.photos]
    return f"What {model} saw in {names[0]}" if len(names) == 1 else f"What {model} saw in {len(names)} photos"


def _pictures(explanation: Explanation) -> dict[str, Result]:
    """The maps and units, by the file names of their drawings."""
    found: dict[str, Result] = {}
    for i, photo in enumerate(explanation.photos):
        drawn = [*(m.attribution for m in photo.maps), *photo.units]
        for j, result in enumerate(drawn):
            found[f"{i + 1:02d}-{j + 1:02d}-{files.slug(_name(result))}"] = result
    return found


def _photo(photo: PhotoExplanation, model: str, i: int) -> View:
    height, width = photo.image.shape[-2:]
    maps = [_map(m, f"p{i}-m{j + 1}") for j, m in enumerate(photo.maps)]
    shown = photo.predictions[:MOST_PREDICTIONS]
    return {
        "id": f"photo-{i}",
        "name": photo.name,
        "image": views.photo_uri(photo.image),
        "tiny": max(height, width) <= views.TINY,
        "size": f"{width} × {height} pixels, as the model saw it",
        "predictions": [(name, charts.bar(p), f"{100 * p:.1f}\u00a0%") for name, p in shown],
        "target": photo.target,
        "subject": heat.subject(photo.target),
        "summary": photo.summary or _summary(photo, model),
        "maps": maps,
        "table": _table(photo.maps, maps),
        "units": [{"title": _name(r), "drawing": views.drawing(r), "checks": views.checks(r)} for r in photo.units],
    }


def _map(shown: MapExplanation, id_: str) -> View:
    result = shown.attribution
    if attribution.kind_of(result) != "image":
        raise BadOption(f"expected maps over a photo; {_name(result)} has values {tuple(result.values.shape)}.")
    verdict = getattr(shown.sentence, "status", "")
    return {
        "id": id_,
        "title": _name(result),
        "alt": describe(result),
        **views.map_view(result),
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


def _summary(photo: PhotoExplanation, model: str) -> str:
    model = model or "The model"
    sentences = []
    if photo.predictions:
        (name, p), *others = photo.predictions[:2]
        then = f", then {others[0][0]} ({number(100 * others[0][1], 2)}\u00a0%)" if others else ""
        sentences.append(f"{model} answers {name} with a probability of {number(100 * p, 2)}\u00a0%{then}.")
    if photo.maps:
        count, plural = len(photo.maps), "s" if len(photo.maps) > 1 else ""
        subject = heat.subject(photo.target)
        asked = f"{count} method{plural} asked which parts of the photo mattered for {subject}"
        verdicts = [getattr(m.sentence, "status", "") for m in photo.maps]
        words = {"ok": "passed every test", "note": "passed with a note", "warn": "call for care", "fail": "failed"}
        parts = [f"{verdicts.count(key)} {text}" for key, text in words.items() if key in verdicts]
        sentences.append(f"{asked}; each map was then tested itself: {', '.join(parts)}." if parts else f"{asked}.")
    return " ".join(sentences)


def _table(given: Sequence[MapExplanation], maps: list[View]) -> View:
    """Methods by evidence: the number that each test gives, and what its best control gives."""
    names = list(dict.fromkeys(name for m in given for name in m.evidence))
    examples = {name: next(m.evidence[name] for m in given if name in m.evidence) for name in names}
    rows = []
    for shown, view in zip(given, maps, strict=True):
        cost = shown.attribution.provenance.cost
        rows.append(
            {
                "view": view,
                "cells": [_figure_of(shown.evidence.get(name)) for name in names],
                "passes": cost.forwards + cost.backwards,
                "seconds": cost.seconds,
                "seconds_text": number(cost.seconds),
            }
        )
    heads = [{"name": _words(name), "note": _unit_of(examples[name])} for name in names]
    return {"heads": heads, "rows": rows}


def _figure_of(result: Result | None) -> View:
    if isinstance(result, Curve) and result.summary:
        own, *controls = result.summary.items()
        beside = [f"{_in_short(name)} {number(value, 2)}" for name, value in controls[:2]]
        return {"text": number(own[1]), "sort": own[1], "beside": beside}
    if isinstance(result, Scores) and len(result.values):
        return {"text": number(float(result.values[0])), "sort": float(result.values[0]), "beside": []}
    return {"text": "–", "sort": "", "beside": []}


def _in_short(name: str) -> str:
    """The name of a control without the words that the column's head already says."""
    return name.partition(",")[0].removesuffix(" order").removesuffix(" first").replace("_", " ")


def _unit_of(result: Any) -> str:
    what = getattr(result, "summary_label", "") or (
        result.names[0] if isinstance(result, Scores) and result.names else ""
    )
    better = getattr(result, "better", "")
    return ", ".join(filter(None, [what.replace("_", " "), f"{better} is better" if better else ""]))


def _name(result: Result) -> str:
    return result.title or _words(result.provenance.method) or type(result).__name__


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
