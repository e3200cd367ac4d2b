"""Explain inputs: the maps, the evidence for each, the strongest units of photos, and what none of it can tell."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

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
from cutaway.report.explanation import InputExplanation, Kind, MapExplanation
from cutaway.report.verdict import verdict
from cutaway.session.run import run

METHODS: dict[Kind, tuple[str, ...]] = {
    "image": (
        "gradient",
        "input_x_gradient",
        "smoothgrad",
        "integrated_gradients",
        "guided_backprop",
        "grad_cam",
        "occlusion",
        "rise",
    ),
    "tokens": ("gradient", "input_x_gradient", "integrated_gradients", "occlusion", "kernel_shapley"),
    "row": ("gradient", "input_x_gradient", "integrated_gradients", "occlusion", "kernel_shapley"),
}
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
# The evidence beside each map. Those that repeat the method do so in its quick form.
TESTS = ("completeness", "deletion", "insertion", "parameter_randomization", "stability")
_NOT_FOR: dict[Kind, tuple[str, ...]] = {"tokens": ("stability",)}  # a text cannot be changed by a little noise
_PARTS: dict[Kind, str] = {"image": "regions", "tokens": "words", "row": "columns"}
_REPEATING = ("parameter_randomization", "stability")
UNITS = 6


def chosen(names: Sequence[str] | str | None, kind: Kind = "image") -> list[Method]:
    """The attribution methods of a list of names; the default ones for a kind of input, or `all`."""
    if names in (None, (), []):
        return [find(name) for name in METHODS[kind]]
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names or ())
    if names == ["all"]:
        return [m for m in catalogue().values() if m.result == "Attribution" and "target" in m.positional]
    for method in (found := [find(name) for name in names]):
        if method.result != "Attribution":
            raise BadOption(f"expected methods that explain a prediction; {method.name} gives {method.result}.")
    return found


def kind_of(model: Model) -> Kind:
    """What the model takes, if that can be explained on a page."""
    kind = model.space.kind
    if kind == "latent":
        raise NotPossible(f"{model.name} takes latent vectors, which no page can show; use `cutaway run METHOD`.")
    return kind


def inputs(
    model: Model, examples: Examples, methods: Sequence[Method], *, target: TargetLike | None = None, seed: int = 0
) -> Iterator[tuple[InputExplanation, list[str]]]:
    """Explain one photo, text or row after the other.

    Args:
        model: A classifier.
        examples: What to explain.
        methods: Attribution methods.
        target: What to explain; each input's predicted class if not given.
        seed: For all random choices.

    Yields:
        An explanation, and a note for each method that this model does not allow.
    """
    kind_of(model)
    for example in examples:
        yield one(model, example, methods, target=target, seed=seed)


def one(
    model: Model, example: Examples, methods: Sequence[Method], *, target: TargetLike | None, seed: int
) -> tuple[InputExplanation, list[str]]:
    """Explain one input; see `inputs`."""
    kind, (x,) = kind_of(model), example.x
    if isinstance(x, str):
        example = replace(example, source=f"text:{x}")
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
    page = InputExplanation(
        name=example.names[0],
        image=x if isinstance(x, Tensor) and kind == "image" else torch.empty(0),
        predictions=[(model.class_name(int(i)), float(p)) for p, i in zip(best.values, best.indices, strict=True)],
        target=str(aim),
        maps=maps,
        units=strongest_units(model, example, aim) if kind == "image" else [],
        text=x if isinstance(x, str) else "",
        columns=list(zip(model.space.names, x.tolist(), strict=True))
        if kind == "row" and isinstance(x, Tensor)
        else (),
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
        if name in _NOT_FOR.get(kind_of(model), ()) or (name == "completeness" and "complete" not in method.laws):
            continue
        test, repeats = find(name), name in _REPEATING
        options = {**_seeded(test, seed), **(test.quick if repeats else {})}
        try:
            found = run(name, model, example, rough if repeats else full, **options)
            evidence[name] = _said_quick(found, method) if repeats else found
        except NotPossible as refusal:
            notes.append(f"{method.name}, {name}: {refusal}")
    return MapExplanation(
        attribution=full, sentence=verdict(evidence, _PARTS[kind_of(model)]), evidence=evidence
    ), notes


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
