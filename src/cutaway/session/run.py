"""Run any method of the catalogue by name."""

import warnings
from pathlib import Path
from typing import Any

from torch import nn

from cutaway.core.call import held, perform, prepare
from cutaway.core.errors import BadOption
from cutaway.core.method import Method, catalogue, find
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Result, Table
from cutaway.core.target import TargetLike
from cutaway.data import is_name
from cutaway.data import load as load_data
from cutaway.data.lazy import opened as open_data
from cutaway.data.texts import written
from cutaway.plot import png_bytes
from cutaway.plot.live import in_notebook
from cutaway.session.jobs import jobs_run
from cutaway.store import DamagedResult, Study
from cutaway.zoo import load as load_model


def run(
    name: str,
    model: Model | str,
    x: Any = None,
    attribution: Attribution | str | None = None,
    *,
    target: TargetLike | None = None,
    study: Study | str | Path | None = None,
    workers: int | str = 0,
    partial: bool = False,
    **options: Any,
) -> Result:
    """Run a method by its name.

    Args:
        name: As `cutaway methods` lists it; `-` and `_` are the same.
        model: A `Model`, or what `cutaway.load` takes.
        x: Inputs, or what `cutaway.data` takes; some methods can do without.
        attribution: For methods that examine an explanation: that one, or the name of the method that makes it.
        target: What to explain: a class number or name, a target such as "logit(3) - logit(5)", or one for each input.
            The predicted class if not given.
        study: Keep the result in this folder, and take it from there if it is there already.
        workers: For methods that look at a whole data set: how many processes share the work (0: this one), `ray` for
            a Ray cluster on this machine, `ray:HOST:PORT` for another.
        partial: For those: answer from what an interrupted job in the study has finished.
        options: The method's own options, as values or text; for a method of inputs and a data set, also `data`.

    Returns:
        The method's result.

    Raises:
        UnknownName: No such method, model, data set, class or option.
        BadOption: An option out of range.
    """
    entry, model = find(name), opened(model)
    if attribution is not None and "attribution" not in entry.positional:
        raise BadOption(
            f"{entry.name} makes an explanation and does not examine one; expected {', '.join(entry.positional)}."
        )
    given = (
        {"model": model}
        | _material(entry, model, x)
        | {k: v for k, v in (("attribution", attribution), ("target", target)) if v is not None}
    )
    if isinstance(options.get("data"), str) and "data" in entry.positional:  # beside x
        options["data"] = open_data(options["data"], space=model.space)
    kept = study if isinstance(study, Study) or study is None else Study(study, draw=png_bytes)
    job = {"method": name, "options": options, "source": model.source}
    with in_notebook(), jobs_run(kept, workers, partial, job):
        if kept is None:
            return entry.function(**given, **options)
        with held((), given):
            call = prepare(entry, (), given | options)
            found = None if partial else _kept(kept, kept.key_of(call.about))
            if found is not None:
                return found
            result = perform(call)
    if "coverage" not in result.checks:
        kept.put(result)
    return result


def _material(entry: Method, model: Model, x: Any) -> dict[str, Any]:
    """What the method works on beside the model."""
    if x is None:
        return {}
    whole = "data" in entry.positional and "x" not in entry.positional
    return {"data": open_data(x, space=model.space)} if whole else {"x": inputs(x, model)}


def _kept(study: Study, key: str) -> Result | None:
    """A result from the study, if it is whole: one that a time limit cut short is made again.

    A damaged one has been set aside. It is made again, too, and that is said once.
    """
    try:
        found = study.get(key) if study.has(key) else None
        return None if found is None or "partial" in found.checks else found
    except DamagedResult as damage:
        warnings.warn(f"{damage} It is made again.", stacklevel=3)
        return None


def opened(model: Model | str) -> Model:
    """A model, loaded if it came as a name."""
    if isinstance(model, nn.Module):
        raise BadOption(
            "expected a Model, which also knows what an input is: cutaway.Model(net, space=cutaway.images(224))."
        )
    return model if isinstance(model, Model) else load_model(str(model))


def inputs(x: Any, model: Model) -> Any:
    """Inputs for a model, read if they came as a name; for a model that reads text, any other string is the text."""
    if not isinstance(x, str | Path):
        return x
    if model.space.kind == "tokens" and isinstance(x, str) and not is_name(x):
        return written(x)
    return load_data(str(x), space=model.space)


def methods(*, room: str | None = None) -> Table:
    """The catalogue as a table.

    Args:
        room: Only methods of this room: "attribution", "evaluation".
    """
    entries = [m for m in catalogue().values() if room in (None, m.room)]
    if not entries:
        raise BadOption(
            f"expected a room out of {', '.join(sorted({m.room for m in catalogue().values()}))}; got {room!r}."
        )
    rows = [[m.name, m.room, m.summary, m.result, m.paper] for m in entries]
    return Table(title="methods", columns=["method", "room", "what it answers", "result", "paper"], rows=rows)
