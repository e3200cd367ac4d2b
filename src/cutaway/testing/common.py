"""Laws that every method must keep."""

import inspect
import json
import random
import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.core.bibliography import paper
from cutaway.core.errors import BadShape, CutawayError
from cutaway.core.result import Attribution, Result
from cutaway.testing.compare import GATES, close, same_result
from cutaway.testing.state import differences, state_of
from cutaway.testing.subjects import Law, Trial


class Tripped(Exception):
    """Raised inside a forward on purpose."""


def restores(trial: Trial) -> None:
    """Weights, buffers, modes, gradients, hooks, attributes, random states and the input are what they were."""
    _restored(trial, None)


def restores_after_an_error(trial: Trial) -> None:
    """The same if a forward raises: the first, one in the middle, the last."""
    _restored(trial, Tripped("tripped on purpose"))


def restores_after_an_interrupt(trial: Trial) -> None:
    """The same if the user interrupts."""
    _restored(trial, KeyboardInterrupt())


def _restored(trial: Trial, error: BaseException | None) -> None:
    model, wire = trial.wrapped()
    x = model.inputs(trial.inputs(model, 2))
    before = state_of(wire, x)
    trial(model, x, [0, 1])
    _unchanged(before, state_of(wire, x))
    total = len(wire.tally)
    assert total, f"{trial.method.name} never ran the model"
    if error is None:
        return
    for at in sorted({1, (total + 1) // 2, total}):
        model, wire = trial.wrapped()
        wire.plan.at, wire.plan.error, raised = at, error, False
        before = state_of(wire, x)
        try:
            trial(model, x, [0, 1])
        except type(error):
            raised = True
        assert raised, f"{type(error).__name__} in forward {at} of {total} was swallowed"
        _unchanged(before, state_of(wire, x))


def _unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = differences(before, after)
    assert not changed, f"changed and not put back: {', '.join(changed[:5])}"


def seeded(trial: Trial) -> None:
    """The same call gives the same bits, whatever the global random states are."""
    model = trial.model()
    x = trial.inputs(model, 2)
    found: list[Result] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 methods must not draw from it
        random.seed(seed)
        found.append(trial(model, x))
    same_result(found[0], found[1])


def batch_independent(trial: Trial) -> None:
    """An input explained alone and among others gets the same values."""
    for name in trial.names if trial.explains else ():
        model = trial.model(name)
        x = trial.inputs(model, 3)
        together = trial(model, x, [0, 1, 2])
        for k in range(3):
            alone = trial(model, trial.row(model, x, k), k)
            for what, tensor in _rowwise(together, 3).items():
                close(alone.arrays()[what], tensor[k : k + 1], GATES[trial.dtype], f"row {k} of {what} on {name}")


def _rowwise(result: Result, count: int) -> dict[str, Tensor]:
    return {k: t for k, t in result.arrays().items() if t.ndim and len(t) == count and k != "input"}


def chunk_independent(trial: Trial) -> None:
    """How many inputs fit into one forward does not matter."""
    for name in trial.names:
        whole = trial.model(name, batch_size=64)
        x = trial.inputs(whole, 3)
        expected = trial(whole, x, [0, 1, 2])
        for size in (1, 2):
            same_result(trial(trial.model(name, batch_size=size), x, [0, 1, 2]), expected, GATES[trial.dtype])


def keeps_dtype(trial: Trial) -> None:
    """A network in float32 is explained in float32, one in float64 in float64."""
    for name in trial.names if trial.explains else ():
        model = trial.model(name)
        result = trial(model, trial.inputs(model, 1))
        assert isinstance(result, Attribution)
        assert result.values.dtype == trial.dtype, f"values are {result.values.dtype} on a {trial.dtype} model"
        assert not any(t.requires_grad for t in result.arrays().values()), "a result holds on to a graph"


def same_in_both_precisions(trial: Trial) -> None:
    """In float32 and float64, the values agree to single precision."""
    if not trial.explains or any(option.name == "seed" for option in trial.method.options):
        return  # random numbers differ between the types
    for name in trial.names:
        double, single = trial.typed(torch.float64), trial.typed(torch.float32)
        x = trial.inputs(double.model(name), 2)
        a, b = double(double.model(name), x), single(single.model(name), x)
        close(b.arrays()["values"].double(), a.arrays()["values"], 1e-3, f"float32 and float64 on {name}")


def refuses_nan(trial: Trial) -> None:
    """An input that is not finite is refused, and the place named."""
    model = trial.model()
    if model.space.kind == "tokens":
        return
    x = trial.inputs(model, 2)
    place = [len(x) - 1, *[0] * (x.ndim - 1)]
    x[tuple(place)] = torch.nan
    try:
        trial(model, x)
    except BadShape as error:
        said = str(error)
    else:
        raise AssertionError("a NaN in the input was taken")
    assert str(place) in said, f"the place is not named: {said}"


def finite_or_refused(trial: Trial) -> None:
    """A network that overflows gives a refusal by name, or numbers that are finite."""
    model, x = trial.overflowing()
    try:
        result = trial(model, x)
    except CutawayError:
        return
    for name, tensor in result.arrays().items():
        assert not tensor.is_floating_point() or torch.isfinite(tensor).all(), f"{name} is not finite"


def explains_nothing_for_nothing(trial: Trial) -> None:
    """An empty batch gives an empty attribution; other shapes refuse it in words."""
    model = trial.model()
    if model.space.kind == "tokens":
        return
    x = trial.inputs(model, 2)[:0]
    if not trial.explains:
        try:
            trial(model, x, None)  # type: ignore[arg-type]  # no target: the predicted one
        except BadShape:
            return
        raise AssertionError("an empty batch was examined")
    result = trial(model, x, None)  # type: ignore[arg-type]  # no target: the predicted one
    assert isinstance(result, Attribution)
    assert len(result.values) == 0, f"values of {len(result.values)} inputs for none"


def survives_json(trial: Trial) -> None:
    """The result is plain data and tensors, and comes back equal."""
    result = _sample(trial)
    text = json.dumps(result.as_json(), allow_nan=True)
    same_result(Result.from_parts(json.loads(text), result.arrays()), result)


def survives_storage(trial: Trial) -> None:
    """A study gives back what it was given."""
    from cutaway.store import Study

    result = _sample(trial)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(f"{folder}/study")
        same_result(study.get(study.put(result)), result)


def draws(trial: Trial) -> None:
    """The result has a drawing, and a description in words."""
    from cutaway.plot.drawing import describe, png_bytes

    result = _sample(trial)
    assert png_bytes(result).startswith(b"\x89PNG"), "the drawing is no PNG"
    assert describe(result).strip(), "the drawing has no description"


def says_how_it_was_made(trial: Trial) -> None:
    """The provenance repeats the call: method, options, target, seed, model, input, cost; the checks are sentences."""
    result = _sample(trial)
    made = result.provenance
    assert made.method == trial.method.name
    assert {o.name for o in trial.method.options} - {"seed"} <= set(made.options)
    assert (made.seed is None) == ("seed" not in {o.name for o in trial.method.options})
    assert made.target or not {"target", "attribution"} & set(trial.method.positional)
    assert made.model_fingerprint
    assert made.input_fingerprint
    assert made.cost.forwards > 0
    for name, check in result.checks.items():
        assert check.strip().endswith((".", "?")), f"check {name!r} is no sentence: {check}"
        assert check.status in ("ok", "note", "warn", "fail")


def documented(trial: Trial) -> None:
    """A summary, a definition, every option, the returned thing with its unit, and the paper."""
    entry, doc = trial.method, inspect.getdoc(trial.method.function) or ""
    assert entry.summary.endswith("."), f"the summary is no sentence: {entry.summary!r}"
    body = doc.split("\n\n")
    sections = ("Args:", "Returns:", "Source:", "Raises:")
    assert any(part.strip() and not part.startswith(sections) for part in body[1:]), "no definition after the summary"
    for option in entry.options:
        assert option.help, f"option {option.name} is not described under Args:"
    assert "\nReturns:\n" in doc, "no Returns: section"
    assert "\nSource: " in doc, "no Source: line"
    assert paper(entry.paper).title


def _sample(trial: Trial) -> Result:
    model = trial.model()
    return trial(model, trial.inputs(model, 2), [0, 1])


ONCE: tuple[Law, ...] = (
    restores,
    restores_after_an_error,
    restores_after_an_interrupt,
    seeded,
    same_in_both_precisions,
    refuses_nan,
    finite_or_refused,
    explains_nothing_for_nothing,
    survives_json,
    survives_storage,
    draws,
    says_how_it_was_made,
    documented,
)
IN_BOTH_PRECISIONS: tuple[Law, ...] = (batch_independent, chunk_independent, keeps_dtype)
