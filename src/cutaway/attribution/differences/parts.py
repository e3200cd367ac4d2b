"""Normalisation as the elementary operations that it is made of, each with a change to explain.

`core.unrolled` does the same for recurrent networks and attention, for every rule set.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.attribution.differences.pair import given
from cutaway.core.operations import Call


def _softmin(input: Tensor, dim: int | None = None, *more: Any, **named: Any) -> Tensor:
    return F.softmax(-input, dim, *more, **named)


def _standardised(x: Tensor, dims: Any, eps: float) -> Tensor:
    apart = x - x.mean(dims, keepdim=True)
    return apart * torch.rsqrt(torch.square(apart).mean(dims, keepdim=True) + eps)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    return _scaled(_standardised(input, _last(normalized_shape), eps), weight, bias)


def _rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    size = torch.square(input).mean(_last(normalized_shape), keepdim=True)
    return _scaled(input * torch.rsqrt(size + eps), weight, None)


def _last(shape: Any) -> list[int]:
    return list(range(-(1 if isinstance(shape, int) else len(shape)), 0))


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    groups = input.reshape(input.shape[0], num_groups, -1)
    return _by_channel(_standardised(groups, -1, eps).reshape(input.shape), weight, bias)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    if use_input_stats or running_mean is None or running_var is None:
        return _by_channel(_standardised(input, list(range(2, input.ndim)), eps), weight, bias)
    shape = (-1, *[1] * (input.ndim - 2))
    steady = (input - running_mean.view(shape)) * torch.rsqrt(running_var.view(shape) + eps)
    return _by_channel(steady, weight, bias)


def _by_channel(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (-1, *[1] * (x.ndim - 2))
    return _scaled(x, None if weight is None else weight.view(shape), None if bias is None else bias.view(shape))


def _normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    return input / _norm(input, p, dim, keepdim=True).clamp_min(eps)


def _norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, *_: Any, **more: Any) -> Tensor:
    dim = list(range(input.ndim)) if dim is None else dim
    if p == 1:
        return input.abs().sum(dim, keepdim=keepdim)
    return torch.sqrt(torch.square(input).sum(dim, keepdim=keepdim))


def _vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **more: Any) -> Tensor:
    return _norm(x, ord, dim, keepdim)


def _var(input: Tensor, *given: Any, **named: Any) -> Tensor:
    """Every spelling: (dim, unbiased, keepdim), or (unbiased), or by name with a correction."""
    given = (None, *given) if given and isinstance(given[0], bool) else given
    named = dict(zip(("dim", "unbiased", "keepdim"), given, strict=False)) | named
    dim, keepdim = named.get("dim"), named.get("keepdim", False)
    fewer = named.get("correction")
    fewer = (1 if named.get("unbiased", True) else 0) if fewer is None else fewer
    axes = list(range(input.ndim)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    apart = input - input.mean(axes, keepdim=True)
    count = math.prod(input.shape[a] for a in axes)
    return torch.square(apart).sum(axes, keepdim=keepdim) / max(0, count - fewer)


def _std(input: Tensor, *given: Any, **named: Any) -> Tensor:
    return torch.sqrt(_var(input, *given, **named))


PARTS: dict[str, Callable[..., Any]] = {
    "softmin": _softmin,
    "var": _var,
    "std": _std,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "normalize": _normalize,
    "norm": _norm,
    "linalg_vector_norm": _vector_norm,
}


def has_parts(call: Call) -> bool:
    """Can this call be taken apart with the arguments that it has?"""
    if call.name not in PARTS:
        return False
    if call.name in ("norm", "normalize", "linalg_vector_norm"):
        order = given(call, 1, "ord" if call.name.startswith("linalg") else "p", 2)
        return order in (1, 2, "fro", None)
    return True
