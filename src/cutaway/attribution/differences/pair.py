"""An operation at the input together with the same at the baseline. A tensor carries along what it is there."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from cutaway.core.operations import Call
from cutaway.core.rules import with_backward


class Pair(NamedTuple):
    """A call at the input, the same at the baseline, and those of its arguments that want multipliers."""

    call: Call
    base: Call
    movers: list[Tensor]


# From a pair to the results of both calls, the first with a backward pass that explains the change.
Both = Callable[[Pair], tuple[Any, Any]]


def baseline_of(tensor: Tensor) -> Tensor | None:
    """The value that a tensor has at the baseline; None where it is the same there, as for a weight."""
    found: Tensor | None = getattr(tensor, "_at_baseline", None)
    return found


def carry_one(tensor: Tensor, base: Tensor) -> None:
    """Let a tensor carry along what it is at the baseline."""
    tensor._at_baseline = base  # type: ignore[attr-defined]  # a tensor takes attributes


def carry(result: Any, base: Any) -> None:
    """The same for all tensors of a result."""
    for tensor, other in zip(tree_leaves(result), tree_leaves(base), strict=True):
        if isinstance(tensor, Tensor):
            carry_one(tensor, other)


def forget(tensor: Tensor) -> None:
    """Take away what a tensor carries."""
    del tensor._at_baseline  # type: ignore[attr-defined]  # a tensor takes attributes


def at_baseline(call: Call) -> Call:
    """The same call with each argument as it is at the baseline."""

    def there(leaf: Any) -> Any:
        found = baseline_of(leaf) if isinstance(leaf, Tensor) else None
        return leaf if found is None else found

    args, kwargs = tree_map(there, (call.args, dict(call.kwargs)))
    return Call(call.name, call.site, call.func, args, kwargs)


def given(call: Call, place: int, name: str, default: Any = None) -> Any:
    """An argument by position or by name; functions in C have no signature to ask."""
    return call.args[place] if len(call.args) > place else call.kwargs.get(name, default)


def plain(pair: Pair) -> tuple[Any, Any]:
    """The operation's own slope is right."""
    with torch.no_grad():
        base = pair.base.func(*pair.base.args, **pair.base.kwargs)
    return pair.call.func(*pair.call.args, **pair.call.kwargs), base


def explained(pair: Pair, y: Tensor, y0: Tensor, back: Callable[[Tensor], Sequence[Tensor]]) -> tuple[Any, Any]:
    """Results with a backward pass of their own, in place where that was asked for."""
    result = with_backward(lambda: y, back, *pair.movers)
    with torch.no_grad():
        base = pair.base.deliver(y0)
    return pair.call.deliver(result), base


def run_both(pair: Pair) -> tuple[Tensor, Tensor]:
    """Both results without a graph, and never in place."""
    with torch.no_grad():
        return pair.call.run(), pair.base.run()


def middle(t: Tensor) -> Tensor:
    """Half-way between the input and the baseline."""
    base = baseline_of(t)
    assert base is not None
    return (t.detach() + base) / 2


def swapped(call: Call, new: dict[int, Tensor]) -> Call:
    """A call with other tensors in place of those with these ids."""
    args, kwargs = tree_map(lambda leaf: new.get(id(leaf), leaf), (call.args, dict(call.kwargs)))
    return Call(call.name, call.site, call.func, args, kwargs)
