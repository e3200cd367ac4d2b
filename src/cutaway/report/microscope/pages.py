"""The pages of a site, from what is kept of its units."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from cutaway.plot.style import number
from cutaway.report import charts, data
from cutaway.report.microscope.units import EXAMPLES, Layer, Record, Wishes
from cutaway.report.page import render
from cutaway.report.views import TINY, View

# What a place sees is cut out if it is at most this share of a picture; units of a layer on the first page.
_PART, _FEW = 0.8, 8


def file_of(unit: int) -> str:
    """The page of a unit."""
    return f"{unit:05d}.html"


def about_pictures(wishes: Wishes) -> str:
    """How pictures were made, in a few words."""
    if not wishes.steps:
        return "none"
    return f"{wishes.steps} steps, {wishes.size} x {wishes.size} pixels, seed {wishes.seed}"


def first_page(model: str, layers: list[View], about: list[tuple[str, str]], shell: str) -> str:
    """The layers, with a few of the units of each, and how they were made."""
    return _page("microscope.html", f"Units of {model}", {}, layers=layers, about=about, shell=shell)


def layer_card(layer: Layer, found: Mapping[int, Record], wishes: Wishes) -> View:
    """A layer as the first page shows it: units spread over the whole of it."""
    step = max(1, len(found) // _FEW)
    few = list(found.values())[::step][:_FEW]
    return {
        "name": layer.name,
        "folder": layer.slug,
        "total": layer.total,
        "done": len(found),
        "silent": sum(map(_is_silent, found.values())),
        "units": [_thumbnail(layer, record, wishes, f"{layer.slug}/", "") for record in few],
    }


def layer_page(layer: Layer, found: Mapping[int, Record], wishes: Wishes) -> str:
    """All units of a layer."""
    units = [_thumbnail(layer, record, wishes, "", "../") for record in found.values()]
    content = {"layer": layer.name, "done": len(found), "total": layer.total, "silent": sum(u["silent"] for u in units)}
    return _page("microscope_layer.html", f"Units of {layer.name}", {}, units=units, **content)


def unit_page(layer: Layer, record: Record, near: tuple[int | None, int | None], wishes: Wishes) -> str:
    """One unit, with links to those before and after it."""
    before, after = ("" if u is None else file_of(u) for u in near)
    examples = [_example(layer, example, "../") for example in record.get("examples", [])]
    return _page(
        "microscope_unit.html",
        f"Unit {record['unit']} of {layer.name}",
        {"unit": record},
        layer=layer.name,
        before=before,
        after=after,
        picture=_picture(record, wishes, ""),
        range=[number(record[end]) for end in ("lowest", "highest")] if "highest" in record else [],
        examples=examples,
        sight=_sight(layer, examples),
        classes=_classes(record),
        effects=_effects(record),
        tiny=max(layer.picture) <= TINY,
    )


def _page(template: str, title: str, known: Record, **content: Any) -> str:
    inside = data.inside_html(data.content(title, **known))
    return render(template, beside=True, title=title, lang="en", data=inside, **content)


def _thumbnail(layer: Layer, record: Record, wishes: Wishes, down: str, up: str) -> View:
    """A unit as the page of its layer shows it: its picture, or else the strongest example."""
    examples = record.get("examples", [])
    commonest = _repeated(_tally(record, "label") or _tally(record, "predicted"))[:1]
    return {
        "number": record["unit"],
        "href": down + file_of(record["unit"]),
        "picture": _picture(record, wishes, down),
        "example": _example(layer, examples[0], up) if examples else None,
        "highest": number(record["highest"]) if "highest" in record else "",
        "silent": _is_silent(record),
        "named": commonest[0][0] if commonest else "",
        "tiny": max(layer.picture) <= TINY,
    }


def _picture(record: Record, wishes: Wishes, down: str) -> View | None:
    if not wishes.steps:
        return None
    raised = record["picture"]
    return {
        "file": f"{down}{record['unit']:05d}.png",
        "size": wishes.size,
        "raised": number(raised),
        "works": raised > 0,
        "beaten": "highest" in record and record["highest"] >= raised,
    }


def _example(layer: Layer, example: Record, up: str) -> View:
    """An example: its picture, the part of it that was seen, and a mark where the unit is strongest."""
    height, width = layer.picture
    left, top, wide, high = example.get("sees", (0.0, 0.0, 0.0, 0.0))
    return {
        "file": f"{up}{EXAMPLES}/{example['file']}",
        "name": example["name"],
        "activation": number(example["activation"]),
        "label": example["label"],
        "predicted": example.get("predicted", ""),
        "width": width,
        "height": height,
        "box": tuple(f"{v:g}" for v in (left - 0.5, top - 0.5, wide, high)) if "sees" in example else None,
        "centre": tuple(f"{v:g}" for v in (left + wide / 2, top + high / 2)) if "sees" in example else None,
        "is_part": "sees" in example and wide * high <= _PART * width * height,
    }


def _sight(layer: Layer, examples: list[View]) -> str:
    """What a reader has to know of the marks on the examples."""
    if layer.field is None or not examples:
        return "The unit has no places in the picture that could be marked." if examples else ""
    sees = f"{layer.field.y.size:g} x {layer.field.x.size:g} pixels"
    if any(e["is_part"] for e in examples):
        text = f"At each place the unit sees {sees}: the frame, cut out on the left."
    else:
        text = (
            f"At each place the unit sees {sees}, the whole picture or nearly; the ring is the middle of what it sees."
        )
    return text + (" Through a gate it also depends on the rest." if layer.field.everywhere else "")


def _tally(record: Record, key: str) -> Counter[str]:
    return Counter(e[key] for e in record.get("examples", []) if e.get(key))


def _repeated(tally: Counter[str]) -> list[tuple[str, int]]:
    """What comes more than once, the commonest first."""
    return [(name, count) for name, count in tally.most_common() if count > 1]


def _classes(record: Record) -> list[View]:
    """The classes of the examples: of their labels, and as the network sees them, once if these are the same."""
    labels, predicted = _tally(record, "label"), _tally(record, "predicted")
    both = [("The network takes its examples for", predicted)]
    if labels == predicted:
        both = [("Its examples are labelled, and taken for", labels)]
    elif labels:
        both.insert(0, ("Its examples are labelled", labels))
    return [{"title": title, "classes": _repeated(t), "rest": _rest(t)} for title, t in both if t]


def _rest(tally: Counter[str]) -> str:
    """How many classes come once, in words."""
    once = sum(count == 1 for count in tally.values())
    if once == len(tally) > 1:
        return f"{once} classes, each once"
    if not once:
        return ""
    return next(iter(tally)) if len(tally) == 1 else f"and {once} other{'s' * (once > 1)} once"


def _effects(record: Record) -> list[tuple[str, Any, str]]:
    """Bars of what the unit adds to classes."""
    effects = sorted(record.get("effects", []), key=lambda effect: -effect[1])
    most = max((abs(value) for _, value in effects), default=1.0)
    return [
        (name, charts.two_sided_bar(value / most), f"{'+' * (value > 0)}{number(value)}") for name, value in effects
    ]


def _is_silent(record: Record) -> bool:
    """Whether no example raises the unit above 0."""
    return "highest" in record and record["highest"] <= 0
