"""Calling a method: what every method owes its caller.

The input is checked at the door, the model is borrowed, the cost is counted, the provenance is written, and a result
that is not finite is refused with the first layer that overflows.
"""

import contextlib
import functools
import inspect
import platform
import time
import typing
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

import torch
from torch import Tensor

import cutaway
from cutaway.core.batch import Batch, repeat, size
from cutaway.core.catalogue import Method, find
from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset, Examples
from cutaway.core.door import is_finite
from cutaway.core.errors import BadOption, BadShape, NotPossible, unknown_name
from cutaway.core.fingerprint import as_text, fingerprint
from cutaway.core.model import Model
from cutaway.core.overflow import first_overflow
from cutaway.core.result import Attribution, Cost, Provenance, Result
from cutaway.core.signature import read_option
from cutaway.core.site import Site
from cutaway.core.target import Target, per_row
from cutaway.core.text import Encoded, notes_on, pieces_of


@dataclass(frozen=True)
class Prepared:
    """A method and its arguments, checked and ready to run.

    Attributes:
        entry: The method.
        arguments: What its function is called with.
        about: The provenance of the result, with the cost of preparing it.
        notes: What was converted at the door.
    """

    entry: Method
    arguments: dict[str, Any]
    about: Provenance
    notes: dict[str, Check]


def held(args: tuple[Any, ...], kwargs: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
    """Borrow the model among the arguments once for the whole call; see `Model.borrow`."""
    model = next((value for value in (*args, *kwargs.values()) if isinstance(value, Model)), None)
    return model.borrow() if model is not None else contextlib.nullcontext()


def prepare(entry: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Prepared:
    """Check a call at the door, before any work that could be wasted.

    Raises:
        BadOption, BadShape, UnknownName: What came does not fit the method or the model.
    """
    given = _bound(entry, args, kwargs)
    model = given.get("model")
    if model is not None and not isinstance(model, Model):
        raise BadOption(
            "expected a Model, which knows what an input is, such as Model(net, space=images(224)); "
            f"got {type(model).__name__}."
        )
    if model is not None:
        _refuse_other_kinds(entry, model)
    with _Meter(model) as meter:
        arguments, target = _readied(entry, model, given)
        about = _provenance(entry, model, given, arguments, target)
    return Prepared(
        entry, arguments, replace(about, cost=meter.cost), _conversions(model, *_before_and_after(given, arguments))
    )


def perform(call: Prepared) -> Result:
    """Run a prepared call: borrow the model, count the cost, keep the common promises.

    Raises:
        NotPossible: The result is not finite.
    """
    entry, arguments = call.entry, call.arguments
    model, x = arguments.get("model"), arguments.get("x")
    function = inspect.unwrap(entry.function)
    if model is not None and x is not None and size(x) == 0:
        return _of_nothing(entry, model, arguments, call.about)
    with _Meter(model) as meter:
        if model is not None and x is None and len(arguments.get("data", ())):
            x = model.inputs(arguments["data"][0:1])
        steady = model is None or x is None or model.is_steady(x)
        result: Result = function(**arguments)
    about = replace(call.about, cost=_sum(call.about.cost, meter.cost))
    title = result.title or entry.name.replace("_", " ")
    if model is None:
        return replace(result, title=title, provenance=about)
    _refuse_non_finite(entry, model, x, result)
    checks = {**_idle(result), **result.checks, **call.notes, **_common_checks(model, steady)}
    result = replace(result, title=title, checks=checks, provenance=about)
    return _with_input(result, model, x) if isinstance(result, Attribution) and x is not None else result


class _Meter:
    """Holds the model and counts what is spent meanwhile, so that another thread's passes are not counted."""

    def __init__(self, model: Model | None) -> None:
        self._model = model
        self._held = model.borrow() if model is not None else contextlib.nullcontext()
        self.cost = Cost()

    def __enter__(self) -> "_Meter":
        self._held.__enter__()
        self._before = Counter(self._model.spent) if self._model is not None else Counter()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *exception: Any) -> None:
        spent = Counter(self._model.spent) - self._before if self._model is not None else Counter()
        seconds = round(time.perf_counter() - self._started, 4)
        self.cost = Cost(forwards=spent["forwards"], backwards=spent["backwards"], seconds=seconds)
        self._held.__exit__(*exception)


def _sum(a: Cost, b: Cost) -> Cost:
    return Cost(a.forwards + b.forwards, a.backwards + b.backwards, round(a.seconds + b.seconds, 4))


def _refuse_other_kinds(entry: Method, model: Model) -> None:
    """A method for images cannot take rows: say so before anything is tried."""
    wanted = {"image": "images", "tokens": "text", "row": "rows of a table"}
    kinds = [need for need in entry.needs if need in wanted]
    if kinds and model.space.kind not in kinds:
        fitting = " or ".join(wanted[kind] for kind in kinds)
        raise NotPossible(f"{entry.name} works on {fitting}; {model.name} takes {model.space.describe()}.")


def _before_and_after(given: dict[str, Any], arguments: dict[str, Any]) -> tuple[Any, Any]:
    """The input as it came and as it is used."""
    if "data" in arguments:
        return given["data"], getattr(arguments["data"], "x", None)
    return given.get("x"), arguments.get("x")


def _conversions(model: Model | None, given: Any, taken: Batch | None) -> dict[str, Check]:
    """What the door changed about the input, as a check."""
    given = given.x if isinstance(given, Examples) else given
    if isinstance(taken, dict) and isinstance(given, str | list | tuple) and model is not None:
        longest, width = getattr(model.tokenizer, "model_max_length", None), next(iter(taken.values())).shape[-1]
        text = f"A text has the {width} tokens that the model takes; what lies beyond them was cut off."
        cut = {"cut": Check(text, "warn", width)} if width == longest else {}
        return cut | (notes_on(taken.pieces) if isinstance(taken, Encoded) else {})
    before = str(getattr(given, "dtype", "")).removeprefix("torch.")
    if not isinstance(taken, Tensor) or not before or not taken.is_floating_point():
        return {}
    after = str(taken.dtype).removeprefix("torch.")
    text = f"The input was converted from {before} to {after}, the model's type."
    return {} if before == after else {"dtype": Check(text, "note")}


def _bound(entry: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, options read from text where they came as text."""
    if len(args) > len(entry.positional):
        raise BadOption(f"{entry.name} takes {', '.join(entry.positional)}; got {len(args)} positional arguments.")
    given = dict(zip(entry.positional, args, strict=False)) | kwargs
    given = {name: value for name, value in given.items() if value is not None or name not in entry.optional}
    options = {option.name for option in entry.options}
    extra = {"target"} if "attribution" in entry.positional else set()
    for name in given:
        if name not in options and name not in entry.positional and name not in extra:
            raise unknown_name(
                f"option of {entry.name} called", name, sorted(options), "`cutaway run METHOD --help` lists all."
            )
    dispensable = ("target", "attribution", *entry.optional)
    missing = [p for p in entry.positional if p not in given and p not in dispensable]
    if missing:
        raise BadOption(f"{entry.name} needs {missing[0]}; call {entry.name}({', '.join(entry.positional)}, ...).")
    if "region" in options and isinstance(given.get("x"), Examples) and given["x"].masks is not None:
        # Examples know their regions; a method that asks for one gets theirs unless it was given another.
        given.setdefault("region", given["x"].masks)
    if "labels" in options and isinstance(given.get("x"), Examples) and given["x"].labels is not None:
        given.setdefault("labels", given["x"].labels)
    hints = _hints(inspect.unwrap(entry.function))
    return {
        name: read_option(entry, name, value, hints.get(name)) if name in options else value
        for name, value in given.items()
    }


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(function)


def _readied(entry: Method, model: Model | None, given: dict[str, Any]) -> tuple[dict[str, Any], Target | None]:
    """Arguments as the function wants them, and the target that is explained or examined."""
    arguments, target = dict(given), given.get("target")
    if "data" in arguments:
        arguments["data"] = _whole_set(entry, model, arguments["data"])
    if model is None:
        return arguments, None
    examines, explains = "attribution" in entry.positional, "target" in entry.positional
    if "x" in arguments:
        arguments["x"] = model.inputs(given["x"])
        given_one = isinstance(given.get("attribution"), Attribution)
        if target is None and (explains or examines) and not given_one and size(arguments["x"]):
            target = predicted(model, arguments["x"])
    target = None if target is None else Target.of(target, model)
    if explains:
        arguments["x"], arguments["target"] = _matched(arguments["x"], target)
    if examines:
        arguments.pop("target", None)
        arguments["attribution"] = made = _attribution(model, arguments["x"], target, given.get("attribution"))
        target = Target.of(made.target, model) if made.target else target
    return arguments, target


def _whole_set(entry: Method, model: Model | None, data: Any) -> Dataset:
    """A data set, from what can be cut into slices of examples; a batch is one, once it has come through the door."""
    if isinstance(data, list | tuple) and data and all(isinstance(text, str) for text in data):
        data = Examples(x=list(data), names=[str(i) for i in range(len(data))])
    if model is not None and not isinstance(data, str) and not hasattr(data, "fingerprint"):
        x = model.inputs(data)
        data = Examples(x=x, names=[str(i) for i in range(len(x))]) if isinstance(x, Tensor) else data
    if isinstance(data, str) or not all(hasattr(data, part) for part in ("__len__", "__getitem__", "fingerprint")):
        raise BadOption(
            f"expected a data set for {entry.name}: cutaway.data(...), or cutaway.data.lazy.opened(NAME) for one that "
            f"is read as it is needed; got {type(data).__name__}. cutaway.run takes names."
        )
    if not len(data):
        raise BadShape(f"expected at least one input for {entry.name}; got none.")
    return cast(Dataset, data)


def _provenance(
    entry: Method, model: Model | None, given: dict[str, Any], arguments: dict[str, Any], target: Target | None
) -> Provenance:
    """Everything that is known about a result before it is made."""
    options = {o.name: as_text(given.get(o.name, o.default)) for o in entry.options if o.name != "seed"}
    if "attribution" in arguments:
        options["attribution"] = _named(arguments["attribution"])
    return Provenance(
        method=entry.name,
        options=options,
        model=model.name if model is not None else "",
        model_fingerprint=model.fingerprint if model is not None else "",
        model_source={k: as_text(v) for k, v in model.source.items()} if model is not None else {},
        input=str(getattr(given.get("x", given.get("data")), "source", "")),
        input_fingerprint=_fingerprint(arguments),
        target=str(target) if target is not None else "",
        seed=given.get("seed", next((o.default for o in entry.options if o.name == "seed"), None)),
        versions={"cutaway": cutaway.__version__, "torch": str(torch.__version__), "python": platform.python_version()},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _fingerprint(arguments: dict[str, Any]) -> str:
    if "data" in arguments:
        return str(arguments["data"].fingerprint)
    return fingerprint(arguments["x"]) if "x" in arguments else ""


def predicted(model: Model, x: Batch) -> Target:
    """The class that the model gives each input."""
    scores = model.run(x).scores
    rows = [Target.of(k, model) for k in scores.argmax(1).tolist()]
    return rows[0] if len({t.text for t in rows}) == 1 else per_row(rows)


def _matched(x: Batch, target: Target | None) -> tuple[Batch, Target | None]:
    """One input and several targets make one map per target."""
    if target is None or not target.rows or size(x) == len(target.rows):
        return x, target
    if size(x) != 1:
        raise BadShape(f"expected one target, or one for each of {size(x)} inputs; got {len(target.rows)} targets.")
    return repeat(x, len(target.rows)), target


def _attribution(model: Model, x: Batch, target: Target | None, what: Any) -> Attribution:
    """The attribution to examine: given, or made by the method of that name (the plain gradient if none is named)."""
    if isinstance(what, Attribution):
        if len(what.values) != size(x):
            raise BadShape(f"expected an attribution of these {size(x)} inputs; got one of {len(what.values)}.")
        return what
    if callable(what):
        return made_by(what, model, x, target)
    if what is not None and not isinstance(what, str):
        raise BadOption(
            "expected an Attribution, the name of a method, or a function of (model, x, target); "
            f"got {type(what).__name__}."
        )
    result = find(what or "gradient").function(model, x, target)
    if not isinstance(result, Attribution):
        raise BadOption(f"{what} gives {type(result).__name__}, not an Attribution, so it cannot be examined.")
    return result


def made_by(function: Callable[..., Any], model: Model, x: Batch, target: Target | None) -> Attribution:
    """An attribution by a user's own function, which goes with it so that it can be made again."""

    def explain(model: Model, x: Batch, target: Target | None) -> Attribution:
        values = function(model, x, target)
        if isinstance(values, Attribution):
            return values
        if not isinstance(values, Tensor) or len(values) != size(x):
            came = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise BadShape(f"expected an Attribution or a tensor with a row for each of {size(x)} inputs; got {came}.")
        return Attribution(values=values, target=str(target))

    made = replace(explain(model, x, target))  # a new object: what the function returned is its own
    object.__setattr__(made, "explain", explain)
    return made


def _of_nothing(entry: Method, model: Model, prepared: dict[str, Any], about: Provenance) -> Result:
    """The answer for an empty batch."""
    if entry.result != "Attribution":
        raise BadShape(f"expected at least one input for {entry.name}; got none.")
    site = Site.of(prepared.get("wrt", prepared.get("layer", "input")) or "input")
    x = prepared["x"]
    values = x if site == Site("input") and isinstance(x, Tensor) else model.run(x, read=[site.whole])[site.whole]
    note = Check("There were no inputs, so there is nothing to explain.", "note")
    return Attribution(values=values, target=about.target, wrt=str(site), checks={"empty": note}, provenance=about)


def _with_input(result: Attribution, model: Model, x: Batch) -> Attribution:
    """The attribution together with what it explains, so that it can be drawn."""
    if isinstance(x, Tensor) and model.space.kind != "tokens":
        names = [list(model.space.names)] * len(x) if model.space.names else []
        return replace(result, input=x, tokens=names)
    pieces = pieces_of(x, model.tokenizer)
    placed = [p for p in pieces if p.offsets]
    return replace(
        result,
        tokens=[list(p.tokens[: len(p)]) for p in pieces],
        texts=[p.text for p in placed],
        offsets=[[list(place) for place in p.offsets[: len(p)]] for p in placed],
    )


def _idle(result: Result) -> dict[str, Check]:
    """A map of nothing but zeros is drawn like any other, so it must be said; a method may have said why itself."""
    if not isinstance(result, Attribution) or not len(result.values):
        return {}
    empty = int((~result.values.reshape(len(result.values), -1).any(1)).sum())
    if not empty:
        return {}
    which = "The map is" if len(result.values) == 1 else f"{empty} of {len(result.values)} maps are"
    text = (
        f"{which} 0 everywhere: by this method nothing there matters to {result.target}. So it is where the model is "
        "constant, a unit is not active, the target is saturated, or the input is the baseline."
    )
    return {"idle": Check(text, "warn", float(empty))}


def _common_checks(model: Model, steady: bool) -> dict[str, Check]:
    checks = {}
    if model.was_training:
        checks["mode"] = Check("The model was in training mode; it was run in eval mode and put back.", "note")
    if not steady:
        text = (
            "The model gives different outputs for the same input, so this result is one draw of many. "
            "Is something random or stateful in its forward?"
        )
        checks["steady"] = Check(text, "warn")
    for k, note in enumerate(model.notes):
        checks[f"model_{k}" if k else "model"] = Check(note, "note")
    return checks


def _refuse_non_finite(entry: Method, model: Model, x: Batch | None, result: Result) -> None:
    for name, tensor in result.arrays().items():
        # Undefined entries of tables, curves and scores are data; anywhere else they are a fault.
        if (
            tensor.is_floating_point()
            and result.__class__.__name__ not in ("Matrix", "Curve", "Scores", "Table")
            and not is_finite(tensor)
        ):
            raise NotPossible(f"{entry.name} gave values that are not finite in {name!r}: {first_overflow(model, x)}.")


def _named(attribution: Attribution) -> str:
    made = attribution.provenance
    options = ", ".join(f"{k}={v}" for k, v in made.options.items())
    return f"{made.method or 'given'}({options}) {fingerprint(attribution.values)[:12]}"
