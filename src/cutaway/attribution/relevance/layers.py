"""Reading calls: an operation with weights as `Weighted`, a normalisation as a scale or with its spread held."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cutaway.attribution.relevance.tensors import exchanged
from cutaway.attribution.relevance.weights import Weighted
from cutaway.core.operations import Call

_PRODUCTS = ("matmul", "mv", "inner", "einsum", "tensordot", "rmatmul")


def weighted(call: Call, x: Tensor) -> Weighted | None:
    """An operation that is linear in x alone; None where it is something else."""
    if call.name.startswith("conv") or call.name == "linear":
        return _layer(call, x)
    if call.name == "addmm":
        return _added(call, x)
    return _product(call, x) if call.name in _PRODUCTS else None


def _layer(call: Call, x: Tensor) -> Weighted | None:
    names = ("input", "weight", "bias")
    given = {**dict(zip(names, call.args, strict=False)), **{n: call.kwargs[n] for n in names if n in call.kwargs}}
    more = call.args[3:]
    others = {name: value for name, value in call.kwargs.items() if name not in names}
    weight, bias = given["weight"], given.get("bias")
    if given["input"] is not x or weight.requires_grad or (bias is not None and bias.requires_grad):
        return None

    def run(t: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        result: Tensor = call.func(t, w, b, *more, **others)
        return result

    if call.name == "linear":
        return Weighted(run, weight, bias, 0, 0, False)
    transposed = "transpose" in call.name
    groups = more[3] if len(more) > 3 else others.get("groups", 1)
    # Weights of a transposed convolution are (inputs, outputs of a group, ...): no axis counts outputs where it has
    # several groups.
    axis = (1 if groups == 1 else None) if transposed else 0
    return Weighted(run, weight, bias, axis, weight.ndim - 2, True)


def _product(call: Call, x: Tensor) -> Weighted | None:
    """A matrix product with something that does not depend on the input."""
    operands = [t for t in tree_leaves((call.args, dict(call.kwargs))) if isinstance(t, Tensor)]
    others = [t for t in operands if t is not x]
    if len(operands) != 2 or len(others) != 1:
        return None
    (weight,) = others

    def run(t: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        result: Tensor = exchanged(call, [(x, t), (weight, w)]).run()
        return result

    return Weighted(run, weight, None, None, 0, False)


def _added(call: Call, x: Tensor) -> Weighted | None:
    """`addmm(bias, x, weight)`."""
    if call.kwargs or len(call.args) != 3 or call.args[1] is not x or call.args[0].ndim != 1:
        return None
    bias, _, weight = call.args

    def run(t: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        result: Tensor = t @ w if b is None else call.func(b, t, w)
        return result

    return Weighted(run, weight, bias, 1, 0, False)


def uses_the_batch(call: Call) -> bool:
    """Does a batch normalisation take its statistics from the batch?"""
    running = call.argument("running_mean")
    return running is None or bool(call.argument("training", False))


def scale_and_shift(call: Call) -> tuple[Tensor, Tensor]:
    """A batch normalisation as y = x * scale + shift, channel by channel."""
    mean, var = call.argument("running_mean"), call.argument("running_var")
    weight, bias = call.argument("weight"), call.argument("bias")
    scale = torch.rsqrt(var + call.argument("eps", 1e-5))
    scale = scale if weight is None else scale * weight
    return scale, -mean * scale if bias is None else bias - mean * scale


def held_spread(call: Call, x: Tensor) -> tuple[Callable[[Tensor], tuple[Tensor]], Tensor | None]:
    """A normalisation whose divisor is held constant.

    y = (x - mean(x)) / s * w + b  with s held, so  c_x = g - mean(g),  g = c w / s

    Returns:
        Its backward pass, and b spread over the result.
    """
    weight, bias, eps = (
        call.argument(name, default) for name, default in (("weight", None), ("bias", None), ("eps", None))
    )
    view, spread = _grouped(call, x)
    inside = x.detach().reshape(view)
    over = tuple(range(2, len(view)))
    centred = call.name != "rms_norm"
    mean = inside.mean(over, keepdim=True) if centred else torch.zeros(())
    small = torch.finfo(x.dtype).eps if eps is None else eps
    slope = torch.rsqrt((inside - mean).square().mean(over, keepdim=True) + small)

    def back(signal: Tensor) -> tuple[Tensor]:
        g = (signal if weight is None else signal * spread(weight)).reshape(view) * slope
        return ((g - g.mean(over, keepdim=True) if centred else g).reshape(x.shape),)

    return back, None if bias is None else spread(bias)


def _grouped(call: Call, x: Tensor) -> tuple[list[int], Callable[[Any], Tensor]]:
    """A shape whose axes from the third on are normalised together, and how weights spread over x."""
    if call.name in ("layer_norm", "rms_norm", "native_layer_norm"):
        axes = len(call.argument("normalized_shape"))
        outer = x.shape[: x.ndim - axes].numel()
        return [outer, 1, x.shape[x.ndim - axes :].numel()], lambda w: w
    groups = call.argument("num_groups") if call.name == "group_norm" else x.shape[1]
    return [x.shape[0], groups, -1], lambda w: w.view(1, -1, *([1] * (x.ndim - 2)))
