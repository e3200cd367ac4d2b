"""The catalogue of methods, read from their signatures.

A method is a plain typed function under `@method(...)`. Its name, room, options, defaults, help and result type are read from
the function; the decorator adds what cannot be read: the paper, the laws it claims, and what it needs of a model. The
catalogue is found by walking the package, so nobody edits a list.

The decorator also does what every method owes its caller: it checks the input at the door, borrows the model, counts the
cost, writes the provenance, and refuses a result that is not finite.
"""

import functools
import importlib
import inspect
import pkgutil
import platform
import re
import time
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import torch
from torch import Tensor

import cutaway
from cutaway.core.batch import Batch, repeat, size
from cutaway.core.checks import Check
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, BadShape, NotPossible, unknown_name
from cutaway.core.fill import Fill
from cutaway.core.fingerprint import fingerprint
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Cost, Provenance, Result
from cutaway.core.site import Site
from cutaway.core.target import Target, per_row

POSITIONAL = ("model", "x", "target", "data", "attribution", "explain", "a", "b", "groups", "generator")
# Packages that hold no methods. Every other package directly under cutaway is a room.
_NOT_ROOMS = {"cli", "server", "report", "session", "plot", "store", "zoo", "data", "testing", "engine", "core", "maths"}

Explain = Callable[[Model, Batch, Target], Attribution]


@dataclass(frozen=True)
class Option:
    """One keyword of a method.

    Attributes:
        name: As in Python; the command line writes `-` for `_`.
        kind: Its type in words.
        default: The default, as text or number.
        choices: The allowed values, where they are few.
        help: What it does.
    """

    name: str
    kind: str
    default: Any
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Method:
    """An entry of the catalogue.

    Attributes:
        name: What `cutaway.run` takes.
        room: The package it lives in: what kind of question it answers.
        summary: The first line of its docstring.
        positional: What it works on.
        options: Its keywords.
        result: The shape of its answer.
        paper: Key in the bibliography.
        laws: Properties it claims; each is tested.
        needs: What it asks of a model or input: "gradient", "image".
        function: The decorated function.
    """

    name: str
    room: str
    summary: str
    positional: tuple[str, ...]
    options: tuple[Option, ...]
    result: str
    paper: str
    laws: tuple[str, ...]
    needs: tuple[str, ...]
    function: Callable[..., Result]

    def as_json(self) -> dict[str, Any]:
        """The entry as data."""
        names = ("name", "room", "summary", "positional", "result", "paper", "laws", "needs")
        data: dict[str, Any] = {name: getattr(self, name) for name in names}
        data["options"] = [vars(option) | {"default": _text(option.default)} for option in self.options]
        return data


def method(*, paper: str, laws: Sequence[str] | set[str] = (), needs: Sequence[str] | set[str] = ()) -> Callable[..., Any]:
    """Put a function into the catalogue and let it keep the common promises.

    Args:
        paper: Key of the paper in the bibliography.
        laws: Claimed properties, by their name in the law battery.
        needs: What a model or input must have.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        entry = _describe(function, paper, tuple(sorted(laws)), tuple(sorted(needs)))

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Result:
            return _call(wrapper.method, function, args, kwargs)  # type: ignore[attr-defined]  # set two lines below

        wrapper.method = replace(entry, function=wrapper)  # type: ignore[attr-defined]  # a function carries its own entry
        return wrapper

    return decorate


@functools.cache
def catalogue() -> Mapping[str, Method]:
    """All methods by name, found by importing every module of every room."""
    found: dict[str, Method] = {}
    for package in sorted(p.name for p in pkgutil.iter_modules(cutaway.__path__) if p.ispkg and p.name not in _NOT_ROOMS):
        room = importlib.import_module(f"cutaway.{package}")
        for info in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            for value in vars(importlib.import_module(info.name)).values():
                entry = getattr(value, "method", None)
                if isinstance(entry, Method) and value.__module__ == info.name:
                    found[entry.name] = entry
    return types.MappingProxyType(dict(sorted(found.items(), key=lambda item: (item[1].room, item[0]))))


def find(name: str) -> Method:
    """A method by its name; `-` and `_` are the same.

    Raises:
        UnknownName: There is none.
    """
    entry = catalogue().get(name.replace("-", "_"))
    if entry is None:
        raise unknown_name("method", name, catalogue(), "`cutaway methods` lists all.")
    return entry


def explainer_of(attribution: Attribution) -> Explain:
    """The function that made an attribution, with the same options, for other models, inputs and targets.

    Raises:
        NotPossible: The attribution does not come from a method of the catalogue.
    """
    made = attribution.provenance
    if not made.method:
        raise NotPossible("this attribution was made by hand, so it cannot be made again; pass the name of a method instead.")
    entry, options = find(made.method), dict(made.options)
    unknown = [name for name, value in options.items() if isinstance(value, str) and value.startswith("given")]
    if unknown:
        raise NotPossible(f"{made.method} was run with values for {unknown[0]!r} that have no text form; pass a named fill.")

    def explain(model: Model, x: Batch, target: Target) -> Attribution:
        result = entry.function(model, x, target, **options)
        assert isinstance(result, Attribution)
        return result

    return explain


# -- calling -------------------------------------------------------------------------------------------------------------


def _call(entry: Method, function: Callable[..., Result], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Result:
    given = _bound(entry, args, kwargs)
    model = given.get("model")
    if not isinstance(model, Model):
        return function(**given)
    started, spent, training = time.perf_counter(), dict(model.spent), model.module.training
    prepared, about = _prepared(entry, model, given)
    rows = size(prepared["x"]) if "x" in prepared else 1
    if rows == 0:
        return _of_nothing(entry, model, prepared, about)
    with model.borrow():
        steady = "x" not in prepared or model.is_steady(prepared["x"])
        result = function(**prepared)
    cost = Cost(
        forwards=model.spent["forwards"] - spent.get("forwards", 0),
        backwards=model.spent["backwards"] - spent.get("backwards", 0),
        seconds=round(time.perf_counter() - started, 4),
    )
    _refuse_non_finite(entry, model, prepared.get("x"), result)
    checks = _common_checks(model, training, steady)
    result = replace(result, checks={**result.checks, **checks}, provenance=replace(about, cost=cost))
    return _with_input(result, model, prepared["x"]) if isinstance(result, Attribution) else result


def _bound(entry: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, options read from text where they came as text."""
    if len(args) > len(entry.positional):
        raise BadOption(f"{entry.name} takes {', '.join(entry.positional)}; got {len(args)} positional arguments.")
    given = dict(zip(entry.positional, args, strict=False)) | kwargs
    options = {option.name for option in entry.options}
    extra = {"target"} if "attribution" in entry.positional else set()
    for name in given:
        if name not in options and name not in entry.positional and name not in extra:
            raise unknown_name(f"option of {entry.name} called", name, sorted(options), "`cutaway run METHOD --help` lists all.")
    missing = [p for p in entry.positional if p not in given and p not in ("target", "attribution")]
    if missing:
        raise BadOption(f"{entry.name} needs {missing[0]}; call {entry.name}({', '.join(entry.positional)}, ...).")
    hints = typing.get_type_hints(inspect.unwrap(entry.function))
    return {name: _read(entry, name, value, hints.get(name)) if name in options else value for name, value in given.items()}


def _prepared(entry: Method, model: Model, given: dict[str, Any]) -> tuple[dict[str, Any], Provenance]:
    """Positional arguments made ready, and where they came from."""
    prepared = dict(given)
    source = given["x"].source if isinstance(given.get("x"), Examples) else ""
    target = prepared.pop("target", None) if "attribution" in entry.positional else given.get("target")
    if "x" in prepared:
        prepared["x"] = model.inputs(given["x"])
        if target is None and ({"target", "attribution"} & set(entry.positional)) and size(prepared["x"]):
            target = predicted(model, prepared["x"])
    if target is not None:
        target = Target.of(target, model)
    if "target" in entry.positional:
        prepared["x"], prepared["target"] = _matched(prepared["x"], target)
    if "attribution" in entry.positional:
        prepared["attribution"] = attribution = _attribution(model, prepared["x"], target, given.get("attribution"))
        target = Target.of(attribution.target, model) if attribution.target else target
    options = {o.name: _text(given.get(o.name, o.default)) for o in entry.options if o.name != "seed"}
    if "attribution" in prepared:
        options["attribution"] = _named(prepared["attribution"])
    about = Provenance(
        method=entry.name,
        options=options,
        model=model.name,
        model_fingerprint=model.fingerprint,
        input=source,
        input_fingerprint=fingerprint(prepared["x"]) if "x" in prepared else "",
        target=str(target) if target is not None else "",
        seed=given.get("seed", next((o.default for o in entry.options if o.name == "seed"), None)),
        versions={"cutaway": cutaway.__version__, "torch": str(torch.__version__), "python": platform.python_version()},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return prepared, about


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
    if what is not None and not isinstance(what, str):
        raise BadOption(f"expected an Attribution or the name of a method; got {type(what).__name__}.")
    result = find(what or "gradient").function(model, x, target)
    if not isinstance(result, Attribution):
        raise BadOption(f"{what} gives {type(result).__name__}, not an Attribution, so it cannot be examined.")
    return result


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
        return replace(result, input=x)
    ids = x if isinstance(x, Tensor) else x.get("input_ids")
    if ids is None or model.tokenizer is None:
        return result
    return replace(result, tokens=[model.tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()])


def _common_checks(model: Model, training: bool, steady: bool) -> dict[str, Check]:
    checks = {}
    if training:
        checks["mode"] = Check("The model was in training mode; it was run in eval mode and put back.", "note")
    if not steady:
        text = "The model gives different outputs for the same input, so this result is one draw of many. Is something random or stateful in its forward?"
        checks["steady"] = Check(text, "warn")
    for k, note in enumerate(model.notes):
        checks[f"model_{k}" if k else "model"] = Check(note, "note")
    return checks


def _refuse_non_finite(entry: Method, model: Model, x: Batch | None, result: Result) -> None:
    for name, tensor in result.arrays().items():
        # Undefined entries of a table of pairs are data; anywhere else they are a fault.
        if tensor.is_floating_point() and result.__class__.__name__ not in ("Matrix", "Curve", "Scores") and not torch.isfinite(tensor).all():
            raise NotPossible(f"{entry.name} gave values that are not finite in {name!r}: {_first_bad_layer(model, x)}.")


def _first_bad_layer(model: Model, x: Batch | None) -> str:
    """Where in the forward the first inf or nan appears, in words."""
    if x is None or model.is_scripted:
        return "the network overflows"
    with model.borrow():
        for path, module in model.module.named_modules():
            if path and not list(module.children()):
                try:
                    act = model.run(x, read=[path])[path]
                except (BadOption, BadShape, NotPossible):
                    continue
                if not torch.isfinite(act).all():
                    return f"the first layer that overflows is {path!r}; use float32 or smaller weights"
    return "the forward is finite, its gradient is not; try another target, such as the logit"


# -- reading -------------------------------------------------------------------------------------------------------------


def _describe(function: Callable[..., Result], paper: str, laws: tuple[str, ...], needs: tuple[str, ...]) -> Method:
    signature, hints = inspect.signature(function), typing.get_type_hints(function)
    doc = inspect.getdoc(function) or ""
    helps = _argument_help(doc)
    positional = tuple(p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD)
    if set(positional) - set(POSITIONAL):
        raise BadOption(f"{function.__name__}: positional parameters come from {', '.join(POSITIONAL)}; got {positional}.")
    options = tuple(
        Option(p.name, _kind(hints[p.name]), p.default, _choices(hints[p.name]), helps.get(p.name, ""))
        for p in signature.parameters.values()
        if p.kind is p.KEYWORD_ONLY
    )
    return Method(
        name=function.__name__,
        room=function.__module__.split(".")[1],
        summary=doc.split("\n", 1)[0],
        positional=positional,
        options=options,
        result=hints["return"].__name__,
        paper=paper,
        laws=laws,
        needs=needs,
        function=function,
    )


def _argument_help(doc: str) -> dict[str, str]:
    """The `Args:` section of a docstring, by argument."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else []:
        if start := re.match(r" {4}([\w, ]+?): (.*)", line):
            names = [name.strip() for name in start[1].split(",")]
            found |= dict.fromkeys(names, start[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


def _choices(hint: Any) -> tuple[str, ...]:
    return tuple(str(a) for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is Literal for a in typing.get_args(part))


def _kind(hint: Any) -> str:
    if _choices(hint):
        return "choice"
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join("none" if p is type(None) else getattr(p, "__name__", str(p)).lower() for p in parts)


def _read(entry: Method, name: str, value: Any, hint: Any) -> Any:
    """An option's value, read from its text where it came as one."""
    if (choices := _choices(hint)) and str(value) not in choices and value is not None:
        raise BadOption(f"expected {name} of {entry.name} to be one of {', '.join(choices)}; got {value!r}.")
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in parts and (value is None or value == "none"):
        return None
    if Site in parts:
        return Site.of(value)
    if Fill in parts:
        return Fill.of(value)
    for kind in (bool, int, float):
        if kind in parts:
            return _number(entry, name, value, kind, parts)
    if any(typing.get_origin(p) is tuple for p in parts):
        return tuple(value.split(";") if isinstance(value, str) else value)
    return value


def _number(entry: Method, name: str, value: Any, kind: type, parts: Sequence[Any]) -> Any:
    wrong = BadOption(f"expected {name} of {entry.name} as {kind.__name__}; got {value!r}.")
    if kind is bool:
        if str(value).lower() not in ("true", "false"):
            raise wrong
        return str(value).lower() == "true"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        if str in parts or any(not isinstance(p, type) or p not in (int, float, type(None)) for p in parts):
            return value
        raise wrong
    try:
        number = float(value)
    except ValueError:
        raise wrong from None
    if number != number or (int in parts and float not in parts and number != int(number)):
        raise wrong
    return int(number) if int in parts and number == int(number) and float not in parts else number


def _text(value: Any) -> Any:
    """An option as it is written down: text or number, so that it can be read again."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return f"given {fingerprint(value)[:12]}"
    if isinstance(value, tuple | list):
        return [_text(v) for v in value]
    return str(value)


def _named(attribution: Attribution) -> str:
    made = attribution.provenance
    options = ", ".join(f"{k}={v}" for k, v in made.options.items())
    return f"{made.method or 'given'}({options}) {fingerprint(attribution.values)[:12]}"
