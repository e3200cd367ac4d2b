"""The decorator that puts a typed function into the catalogue.

A method is a plain function. Its name, room, options, defaults, help and result type are read from its signature and
docstring; the decorator adds what cannot be read: the paper, the laws it claims, and what it needs of a model.
"""

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cutaway.core.batch import Batch
from cutaway.core.call import held, perform, prepare
from cutaway.core.catalogue import Method, Option, catalogue, find
from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Result
from cutaway.core.signature import describe
from cutaway.core.target import Target

__all__ = ["Explain", "Method", "Option", "catalogue", "explainer_of", "find", "method"]

Explain = Callable[[Model, Batch, Target], Attribution]


def method(
    *,
    paper: str,
    laws: Sequence[str] | set[str] = (),
    needs: Sequence[str] | set[str] = (),
    quick: Mapping[str, Any] = types.MappingProxyType({}),
) -> Callable[..., Any]:
    """Put a function into the catalogue and let it keep the common promises.

    Args:
        paper: Key of the paper in the bibliography.
        laws: Claimed properties, by their name in the law battery.
        needs: What a model or input must have.
        quick: Options for a rough answer at a fraction of the cost.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        entry = replace(describe(function, paper, tuple(sorted(laws)), tuple(sorted(needs))), quick=dict(quick))

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Result:
            with held(args, kwargs):
                return perform(prepare(wrapper.method, args, kwargs))  # type: ignore[attr-defined]  # set two lines below

        wrapper.method = replace(entry, function=wrapper)  # type: ignore[attr-defined]  # a function carries its own entry
        return wrapper

    return decorate


def explainer_of(attribution: Attribution) -> Explain:
    """The function that made an attribution, with the same options, for other models, inputs and targets.

    Raises:
        NotPossible: The attribution does not come from a method of the catalogue.
    """
    if attribution.explain is not None:
        return attribution.explain
    made = attribution.provenance
    if not made.method:
        raise NotPossible(
            "this attribution was made by hand, so it cannot be made again; "
            "pass the name of a method, or a function of (model, x, target)."
        )
    entry, options = find(made.method), dict(made.options) | ({} if made.seed is None else {"seed": made.seed})
    unknown = [name for name, value in options.items() if isinstance(value, str) and value.startswith("given")]
    if unknown:
        raise NotPossible(
            f"{made.method} was run with values for {unknown[0]!r} that have no text form; pass a named fill."
        )

    def explain(model: Model, x: Batch, target: Target) -> Attribution:
        result = entry.function(model, x, target, **options)
        assert isinstance(result, Attribution)
        return result

    return explain
