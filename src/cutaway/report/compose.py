"""Explain photos: the maps, the evidence for each, the strongest units, and what none of it can tell."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from cutaway.core.catalogue import Method, catalogue, find
from cutaway.core.checks import Check
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.layers import Layer
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution, Pictures, Result
from cutaway.core.target import Target, TargetLike
from cutaway.plot import heat
from cutaway.report.explanation import MapExplanation, PhotoExplanation
from cutaway.report.verdict import verdict
from cutaway.session.run import run

METHODS = (
    "gradient",
    "input_x_gradient",
    "smoothgrad",
    "integrated_gradients",
    "guided_backprop",
    "grad_cam",
    "occlusion",
    "rise",
)
LIMITS = (
    "A map shows which pixels this network's answer depends on, by one definition of depending. "
    "It does not show why, nor that the network is right.",
    "Each method asks another question: a slope says what a tiny change would do here, a contribution compares "
    "with a baseline that somebody chose, a perturbation asks about pictures that the network never saw in training.",
    "There is no neutral picture of 'nothing there'. Black, blur and the mean colour give different answers; "
    "look at several.",
    "Insertion and deletion reward maps that fit the network, also where it uses the background. "
    "They say nothing about what a person would call the reason.",
    "One photo is one photo. That a map looks right here says little about the next one; test many before you rely "
    "on it.",
    "A map that passes these tests can still be fooled by a photo made to fool it.",
)
# The evidence beside each map. Those that repeat the method do so in its quick form.
TESTS = ("completeness", "deletion", "insertion", "parameter_randomization", "stability")
_REPEATING = ("parameter_randomization", "stability")
UNITS = 6


def chosen(names: Sequence[str] | str | None) -> list[Method]:
    """The attribution methods of a list of names; the default ones, or `all`."""
    if names in (None, (), []):
        return [find(name) for name in METHODS]
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names or ())
    if names == ["all"]:
        return [m for m in catalogue().values() if m.result == "Attribution" and "target" in m.positional]
    for method in (found := [find(name) for name in names]):
        if method.result != "Attribution":
            raise BadOption(f"expected methods that explain a prediction; {method.name} gives {method.result}.")
    return found


def photos(
    model: Model, examples: Examples, methods: Sequence[Method], *, target: TargetLike | None = None, seed: int = 0
) -> Iterator[tuple[PhotoExplanation, list[str]]]:
    """Explain one photo after the other.

    Args:
        model: An image classifier.
        examples: The photos.
        methods: Attribution methods.
        target: What to explain; each photo's predicted class if not given.
        seed: For all random choices.

    Yields:
        An explanation, and a note for each method that this model does not allow.
    """
    if model.space.kind != "image":
        raise NotPossible(f"{model.name} does not take images; use `cutaway run METHOD` for {model.space.kind} inputs.")
    for example in examples:
        yield photo(model, example, methods, target=target, seed=seed)


def photo(
    model: Model, example: Examples, methods: Sequence[Method], *, target: TargetLike | None, seed: int
) -> tuple[PhotoExplanation, list[str]]:
    """Explain one photo; see `photos`."""
    probabilities = model.predict(example)[0]
    best = probabilities.topk(min(5, len(probabilities)))
    aim = Target.of(_named(model, int(best.indices[0])) if target is None else target, model)
    maps, notes = [], []
    for method in track(methods, f"explaining {example.names[0]}"):
        try:
            shown, refused = tested(model, example, method, aim, seed)
            maps.append(shown)
            notes += refused
        except NotPossible as refusal:
            notes.append(f"{method.name}: {refusal}")
    page = PhotoExplanation(
        name=example.names[0],
        image=example.x[0],
        predictions=[(model.class_name(int(i)), float(p)) for p, i in zip(best.values, best.indices, strict=True)],
        target=str(aim),
        maps=maps,
        units=strongest_units(model, example, aim),
    )
    return page, notes


def tested(
    model: Model, example: Examples, method: Method, target: Target, seed: int
) -> tuple[MapExplanation, list[str]]:
    """One method's map with its evidence. Tests that repeat the method do so with its `quick` options, and say so."""

    def attribution(**options: Any) -> Attribution:
        made = run(method.name, model, example, target=target, **_seeded(method, seed), **options)
        assert isinstance(made, Attribution)
        return made

    full = attribution()
    rough = attribution(**method.quick) if method.quick else full
    evidence: dict[str, Result] = {}
    notes: list[str] = []
    for name in TESTS:
        if name == "completeness" and "complete" not in method.laws:
            continue
        test, repeats = find(name), name in _REPEATING
        options = {**_seeded(test, seed), **(test.quick if repeats else {})}
        try:
            found = run(name, model, example, rough if repeats else full, **options)
            evidence[name] = _said_quick(found, method) if repeats else found
        except NotPossible as refusal:
            notes.append(f"{method.name}, {name}: {refusal}")
    return MapExplanation(attribution=full, sentence=verdict(evidence), evidence=evidence), notes


def strongest_units(model: Model, example: Examples, target: Target) -> list[Pictures]:
    """For two layers, the units whose removal lowers the target most, with where they are active in the photo."""
    shown = []
    for layer in track(two_layers(model, example), "units"):
        effect = run("occlusion", model, example, target=target, wrt=layer.site)
        assert isinstance(effect, Attribution)
        falls = effect.values[0].flatten(1)[:, 0]
        best = falls.topk(min(UNITS, len(falls)))
        acts = model.run(example, read=[layer.site])[layer.site][0, best.indices]
        scale = heat.scale_of(acts, signed=bool((acts < 0).any()))
        images = [torch.from_numpy(heat.overlay(example.x[0], act, scale).copy()) for act in acts]
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


def _seeded(method: Method, seed: int) -> dict[str, Any]:
    return {"seed": seed} if any(option.name == "seed" for option in method.options) else {}


def _said_quick(result: Result, method: Method) -> Result:
    if not method.quick:
        return result
    options = ", ".join(f"{name}={value}" for name, value in method.quick.items())
    note = Check(
        f"The method was repeated in its quick form ({options}), also for the map it is compared with.", "note"
    )
    return replace(result, checks={**result.checks, "quick": note})


def _named(model: Model, index: int) -> int | str:
    """A class by its name, which reads better everywhere, unless two classes share it."""
    name = model.class_name(index)
    return name if model.classes is not None and model.classes.count(name) == 1 else index
