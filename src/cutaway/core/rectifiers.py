"""Which operations rectify: ReLU in all its spellings, and its bounded, leaky and smooth kin."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.core.operations import Call

SMOOTH = frozenset({"celu", "elu", "gelu", "hardswish", "mish", "selu", "silu", "softplus"})
_ALWAYS = frozenset({"leaky_relu", "prelu", "relu", "relu6", "rrelu"}) | SMOOTH


class Rectified(NamedTuple):
    """A rectifier about to run: its name, what goes in, and how to compute what comes out, never in place."""

    name: str
    x: Tensor
    run: Callable[[], Tensor]


def rectified(call: Call) -> Rectified | None:
    """The rectifier that an operation is; None if it is none, as with `clamp(min=-1)` or a product of two signals."""
    if call.name in _ALWAYS:
        x = call.args[0] if call.args else call.kwargs.get("input")
        return Rectified(call.name, x, call.run) if isinstance(x, Tensor) else None
    if call.name in ("clamp", "hardtanh"):
        return _bounded(call)
    x = _SPELLINGS[call.name](call)
    # The same ReLU for each spelling: so they also agree at exactly 0, where torch gives them different slopes.
    return None if x is None else Rectified(call.name, x, lambda: torch.relu(x))


def _bounded(call: Call) -> Rectified | None:
    x, low, high = (
        _given(call, k, names) for k, names in enumerate((("input", "self"), ("min", "min_val"), ("max", "max_val")))
    )
    if not isinstance(x, Tensor) or not _is_zero(low):
        return None
    if high is None:
        return Rectified(call.name, x, lambda: torch.relu(x))
    # nn.ReLU6 arrives as the hardtanh that it is built on.
    return Rectified("relu6" if high == 6 else call.name, x, call.run)


def _threshold(call: Call) -> Tensor | None:
    x, edge, value = (_given(call, k, (name,)) for k, name in enumerate(("input", "threshold", "value")))
    return x if isinstance(x, Tensor) and _is_zero(edge) and _is_zero(value) else None


def _product(call: Call) -> Tensor | None:
    """The product of x and (x > 0), in either order."""
    a, b = (_given(call, k, (name,)) for k, name in enumerate(("input", "other")))
    for x, mask in ((a, b), (b, a)):
        if isinstance(x, Tensor) and isinstance(mask, Tensor) and x.is_floating_point() and _is_switch(mask, x):
            return x
    return None


def _maximum(call: Call) -> Tensor | None:
    """The larger of x and 0, in either order."""
    a, b = (_given(call, k, names) for k, names in enumerate((("input",), ("other", "dim"))))
    for x, other in ((a, b), (b, a)):
        # Not a number: torch.max(x, 0) is the maximum along axis 0.
        if isinstance(x, Tensor) and isinstance(other, Tensor) and not other.requires_grad and _is_zero(other):
            return x
    return None


def _where(call: Call) -> Tensor | None:
    """The choice where(x > 0, x, 0), or the other way round; as a function or as a method of x."""
    is_method = bool(call.args) and isinstance(call.args[0], Tensor) and call.args[0].is_floating_point()
    order = (1, 0, 2) if is_method else (0, 1, 2)
    names = (("condition",), ("input", "self"), ("other",))
    condition, a, b = (_given(call, k, name) for k, name in zip(order, names, strict=True))
    if not isinstance(condition, Tensor) or condition.dtype != torch.bool:
        return None
    for x, other, switch in ((a, b, condition), (b, a, ~condition)):
        if isinstance(x, Tensor) and _is_zero(other) and _is_switch(switch, x):
            return x
    return None


def _masked_fill(call: Call) -> Tensor | None:
    x, mask, value = (_given(call, k, (name,)) for k, name in enumerate(("input", "mask", "value")))
    if isinstance(x, Tensor) and isinstance(mask, Tensor) and _is_zero(value) and _is_switch(~mask, x):
        return x
    return None


_SPELLINGS: dict[str, Callable[[Call], Tensor | None]] = {
    "threshold": _threshold,
    "mul": _product,
    "max": _maximum,
    "maximum": _maximum,
    "fmax": _maximum,
    "where": _where,
    "masked_fill": _masked_fill,
}
# Whether the name alone says that an operation rectifies.
FAMILY: dict[str, bool] = dict.fromkeys([*_ALWAYS, "clamp", "hardtanh", "threshold"], True) | {
    name: False for name in _SPELLINGS if name != "threshold"
}


def _given(call: Call, position: int, names: tuple[str, ...]) -> object:
    """An argument by position or by one of its names; functions in C have no signature to ask."""
    if len(call.args) > position:
        return call.args[position]
    return next((call.kwargs[name] for name in names if name in call.kwargs), None)


def _is_zero(value: object) -> bool:
    if isinstance(value, Tensor):
        return not value.requires_grad and not bool(value.any())
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def _is_switch(mask: Tensor, x: Tensor) -> bool:
    """True if the mask is 1 where x is positive and 0 where it is negative."""
    if mask.shape != x.shape or mask.requires_grad:
        return False
    x = x.detach()
    return bool((mask == (x > 0)).all()) or bool((mask == (x >= 0)).all())
