"""Explain inputs: the maps, the evidence for each, the strongest units of photos, and what none of it can tell."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cutaway.core.catalogue import Method
from cutaway.core.checks import Check
from cutaway.core.dataset import Examples
from cutaway.core.errors import NotPossible
from cutaway.core.layers import Layer
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution, Pictures
from cutaway.core.target import Target, TargetLike
from cutaway.evaluation.trust_cases import Plan, cases_of
from cutaway.evaluation.trust_schedule import examine
from cutaway.evaluation.trust_table import table_of
from cutaway.evaluation.trust_tests import chosen_tests, methods_of
from cutaway.evaluation.trust_words import sentence
from cutaway.plot import attribution, heat
from cutaway.report.explanation import InputExplanation, Kind, MapExplanation
from cutaway.session.run import run

_FOOLED = "A map that passes these tests can still be fooled by an input made to fool it."
LIMITS: dict[Kind, tuple[str, ...]] = {
    "image": (
        "A map shows which pixels this network's answer depends on, by one definition of depending. "
        "It does not show why, nor that the network is right.",
        "Each method asks another question: a slope says what a tiny change would do here, a contribution compares "
        "with a baseline that somebody chose, a perturbation asks about pictures that the network never saw in "
        "training.",
        "There is no neutral picture of 'nothing there'. Black, blur and the mean colour give different answers; "
        "look at several.",
        "Insertion and deletion reward maps that fit the network, also where it uses the background. "
        "They say nothing about what a person would call the reason.",
        "One photo is one photo. That a map looks right here says little about the next one; test many before you rely "
        "on it.",
        _FOOLED,
    ),
    "tokens": (
        "Colours show which words this network's answer depends on, by one definition of depending. "
        "They do not show why, nor that the network is right.",
        "Words act together: 'not' and 'good' have no meaning alone. A number for each word spreads what they do "
        "together over them, and each method spreads it in its own way.",
        "There is no neutral word. A baseline of zero embeddings is a text that nobody wrote, and so is one without a "
        "word; the network never saw such texts in training.",
        "A slope at an embedding says how much a word could matter. No word lies a tiny step away, so it does not say "
        "what another word there would do.",
        "One text is one text. That its colours look right says little about the next one; test many before you rely "
        "on them.",
        _FOOLED,
    ),
    "row": (
        "A list shows which columns this network's answer depends on, by one definition of depending. "
        "It does not show why, nor that the network is right, nor what causes what in the world.",
        "Every contribution compares with a baseline that somebody chose: a row of zeros is a person of age 0. "
        "Compare several, or draw them from the data.",
        "Columns that go together in the data can stand in for each other. A column without weight here may still "
        "decide through another one.",
        "A column that is taken away leaves rows that the network never saw in training.",
        "One row is one row. Test many before you rely on it.",
        _FOOLED,
    ),
}
UNITS = 6


def chosen(names: Sequence[str] | str | None, kind: Kind = "image") -> list[Method]:
    """The attribution methods of a list of names; the usual ones for a kind of input, or `all`."""
    given = names.split(",") if isinstance(names, str) else list(names or ())
    return [method for method in methods_of(given, kind) if isinstance(method, Method)]


def kind_of(model: Model) -> Kind:
    """What the model takes, if that can be explained on a page."""
    kind = model.space.kind
    if kind == "latent":
        raise NotPossible(f"{model.name} takes latent vectors, which no page can show; use `cutaway run METHOD`.")
    return kind


def inputs(
    model: Model,
    examples: Examples,
    methods: Sequence[Method],
    *,
    target: TargetLike | None = None,
    budget: float = math.inf,
    seed: int = 0,
) -> Iterator[tuple[InputExplanation, list[str]]]:
    """Explain one photo, text or row after the other.

    Args:
        model: A classifier.
        examples: What to explain.
        methods: Attribution methods.
        target: What to explain; each input's predicted class if not given.
        budget: Seconds for the maps and tests of all inputs together.
        seed: For all random choices.

    Yields:
        An explanation, and a note for each method that this model does not allow.
    """
    kind_of(model)
    for example in examples:
        yield one(model, example, methods, target=target, budget=budget / max(1, len(examples)), seed=seed)


def one(
    model: Model,
    example: Examples,
    methods: Sequence[Method],
    *,
    target: TargetLike | None,
    budget: float = math.inf,
    seed: int = 0,
) -> tuple[InputExplanation, list[str]]:
    """Explain one input; see `inputs`."""
    kind, (x,) = kind_of(model), example.x
    if isinstance(x, str):
        example = replace(example, source=f"text:{x}")
    probabilities = model.predict(example)[0]
    best = probabilities.topk(min(5, len(probabilities)))
    aim = Target.of(_named(model, int(best.indices[0])) if target is None else target, model)
    cases, tests = cases_of(methods), chosen_tests((), kind)
    examine(model, example, aim, cases, Plan(tests, example.masks, budget, False, seed))
    table = table_of(model, model.inputs(example), cases, tests, budget, 1)
    maps, notes = [], []
    for case in cases:
        if case.map is None:
            notes.append(f"{case.name}: {case.why_none}")
        elif attribution.kind_of(case.map) != kind:
            notes.append(
                f"{case.name}: its map is over {case.map.wrt} and not over the input, so it is not drawn here."
            )
        else:
            maps.append(MapExplanation(case.map, sentence(case, kind), case.evidence))
    notes += [str(table.checks["partial"])] if "partial" in table.checks else []
    page = InputExplanation(
        name=example.names[0],
        image=x if isinstance(x, Tensor) and kind == "image" else torch.empty(0),
        predictions=[(model.class_name(int(i)), float(p)) for p, i in zip(best.values, best.indices, strict=True)],
        target=str(aim),
        maps=maps,
        trust=table,
        units=strongest_units(model, example, aim) if kind == "image" else [],
        text=x if isinstance(x, str) else "",
        columns=list(zip(model.space.names, x.tolist(), strict=True))
        if kind == "row" and isinstance(x, Tensor)
        else (),
    )
    return page, notes


def strongest_units(model: Model, example: Examples, target: Target) -> list[Pictures]:
    """For two layers, the units whose removal lowers the target most, with where they are active in the photo."""
    shown, (photo, *_) = [], example.x
    assert isinstance(photo, Tensor)
    for layer in track(two_layers(model, example), "units"):
        effect = run("occlusion", model, example, target=target, wrt=layer.site)
        assert isinstance(effect, Attribution)
        falls = effect.values[0].flatten(1)[:, 0]
        best = falls.topk(min(UNITS, len(falls)))
        acts = model.run(example, read=[layer.site])[layer.site][0, best.indices]
        scale = heat.scale_of(acts, signed=bool((acts < 0).any()))
        images = [torch.from_numpy(heat.overlay(photo, act, scale).copy()) for act in acts]
        captions = [
            f"unit {int(k)}: without it {'−' if fall >= 0 else '+'}{abs(float(fall)):.2g}"
            for k, fall in zip(best.indices, best.values, strict=True)
        ]
        pictures = torch.stack(images).movedim(-1, 1).float() / 255
        title = f"Strongest units of {layer.site}: what the target loses when each is set to zero"
        scale_note = (
            f"Coloured by activation, on one scale for the layer: 0 is clear, {scale.limit:.2g} the darkest orange"
        )
        checks = {"colours": Check(f"{scale_note}; violet is below 0.", "note")}
        shown.append(
            Pictures(title=title, images=pictures, captions=captions, checks=checks, provenance=effect.provenance)
        )
    return shown


def two_layers(model: Model, example: Examples) -> list[Layer]:
    """A late and a middle place with units over positions: blocks where the network has blocks, else layers."""
    if model.is_scripted:
        return []
    places = [
        p for p in model.layers(example) if p.shape and len(p.shape) == 3 and min(p.shape[1:]) > 1 and p.calls == 1
    ]
    blocks = [p for p in places if list(model.module.get_submodule(p.site).children())]
    places = blocks if len(blocks) > 1 else places
    return [] if not places else list(dict.fromkeys([places[len(places) // 2], places[-1]]))


def provenance(model: Model, seed: int, started: float) -> dict[str, str]:
    """How a page was made, in words."""
    import platform

    import cutaway

    return {
        "cutaway": cutaway.__version__,
        "torch": str(torch.__version__),
        "Python": platform.python_version(),
        "model": f"{model.name}, weights {model.fingerprint[:16]}",
        "seed": str(seed),
        "threads": str(torch.get_num_threads()),
        "time": f"{time.perf_counter() - started:.0f} s",
    }


def _named(model: Model, index: int) -> int | str:
    """A class by its name, which reads better everywhere, unless two classes share it."""
    name = model.class_name(index)
    return name if model.classes is not None and model.classes.count(name) == 1 else index
