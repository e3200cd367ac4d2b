"""A convolution with what follows it, as one operation.

In eval mode batch normalisation is a scale and a shift for each channel, which the kernel and the bias can carry:

    a(s (W x + c - m) + t) = a((s W) x + s (c - m) + t),   s = weight / sqrt(running_var + eps)

and the activation `a` is done by the convolution while its result is in the cache. Run one by one, each of the two
reads and writes the whole activation, which costs about as much as the convolution.
"""

import functools
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.operations import Call

_CONVOLUTION = "input weight bias stride padding dilation groups".split()
_NORM = "input running_mean running_var weight bias training momentum eps".split()
# Sums of a convolution below this cannot overflow single precision.
_LARGEST = 1e37


class Activation(NamedTuple):
    """An activation by the name and the numbers that the kernel knows it by."""

    name: str
    limits: tuple[float, ...] = ()

    def reach(self, given: float) -> float:
        """The largest magnitude that comes out when `given` is the largest that goes in."""
        return max(map(abs, self.limits)) if self.limits else given


class Norm(NamedTuple):
    """Batch normalisation by running statistics: its tensors, each as the network holds it, and epsilon."""

    mean: Tensor
    variance: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def same(self, other: "Norm") -> bool:
        """The same tensors, not equal ones."""
        return self.eps == other.eps and all(map(operator.is_, self[:4], other[:4]))


class Convolution(NamedTuple):
    """How a convolution was called: with which tensors, and how its kernel slides."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


Step = Norm | Activation


def convolution(call: Call) -> Convolution | None:
    """A call of `conv2d` on a batch of images, if it is one that the fused kernel takes."""
    given = _given(_CONVOLUTION, call)
    x, weight, padding = given["input"], given["weight"], given.get("padding", 0)
    if type(x) is not Tensor or x.ndim != 4 or x.dtype != torch.float or isinstance(padding, str):
        return None
    slides = (_pair(given.get("stride", 1)), _pair(padding), _pair(given.get("dilation", 1)))
    return Convolution(x, weight, given.get("bias"), *slides, given.get("groups", 1))


def step(call: Call) -> Step | None:
    """What a call does to its first argument, if a convolution can do it on the way."""
    if call.name == "batch_norm":
        given = _given(_NORM, call)
        steady = call.func is F.batch_norm and not given.get("training") and isinstance(given["running_mean"], Tensor)
        tensors = (given["running_mean"], given["running_var"], given.get("weight"), given.get("bias"))
        return Norm(*tensors, given.get("eps", 1e-5)) if steady else None
    if call.name == "relu":
        return Activation("relu")
    if call.name == "relu6":
        return Activation("hardtanh", (0.0, 6.0))
    if call.name == "hardtanh":
        return Activation("hardtanh", (float(call.argument("min_val", -1.0)), float(call.argument("max_val", 1.0))))
    return Activation("swish") if call.name == "silu" else None


@dataclass(eq=False)
class Chain:
    """A convolution of a network and the steps that follow it.

    Attributes:
        weight, bias: The convolution's own.
        steps: What follows, in order: normalisation, activation, or both.
        places: For each time that it ran: the module around the convolution, and around each step.
        kernel, offset: Weight and bias with the normalisation folded in.
        packed: The kernel in the order in which the processor reads it, from the first call on.
        gain, shift: The largest sum of magnitudes of one output's weights, and the largest magnitude of an offset.
    """

    weight: Tensor
    bias: Tensor | None
    steps: list[Step] = field(default_factory=list)
    places: list[list[str]] = field(default_factory=list)
    kernel: Tensor = field(init=False)
    offset: Tensor | None = field(init=False)
    packed: Tensor | None = field(init=False)
    gain: float = field(init=False)
    shift: float = field(init=False)

    @property
    def norm(self) -> Norm | None:
        """The normalisation, if there is one."""
        return next((s for s in self.steps if isinstance(s, Norm)), None)

    @property
    def activation(self) -> Activation | None:
        """The activation, if there is one."""
        return next((s for s in self.steps if isinstance(s, Activation)), None)

    def tensors(self) -> Iterator[Tensor]:
        """All tensors of the network that this depends on."""
        norm = self.norm
        yield from (t for t in (self.weight, self.bias, *(norm[:4] if norm else ())) if t is not None)

    def fits(self, other: "Chain") -> bool:
        """The same tensors with the same steps."""
        if len(self.steps) != len(other.steps) or self.bias is not other.bias:
            return False
        return all(same_step(a, b) for a, b in zip(self.steps, other.steps, strict=True))

    def leaves(self, module: str) -> bool:
        """May a value from before the last step be what this module gives?"""
        return any(
            not _is_in(places[-1], module) and any(_is_in(place, module) for place in places[:-1])
            for places in self.places
        )

    def enters(self, module: str) -> bool:
        """May such a value be what this module is given?"""
        return any(
            not _is_in(places[0], module) and any(_is_in(place, module) for place in places[1:])
            for places in self.places
        )

    @torch.no_grad()
    def fold(self, layout: torch.memory_format) -> None:
        """Compute kernel and offset from what the network holds now."""
        kernel, offset, norm = self.weight.double(), self.bias, self.norm
        if norm is not None:
            scale = (norm.variance.double() + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.double())
            kernel = kernel * scale.view(-1, 1, 1, 1)
            offset = scale * ((0.0 if offset is None else offset.double()) - norm.mean.double())
            offset = offset if norm.bias is None else offset + norm.bias.double()
        self.kernel, self.packed = kernel.float().contiguous(memory_format=layout), None
        self.offset = None if offset is None else offset.float()
        self.gain = float(kernel.abs().flatten(1).sum(1).max())
        self.shift = 0.0 if self.offset is None else float(self.offset.abs().max())

    def reach(self, given: float) -> float:
        """The largest magnitude before the activation when `given` is the largest of the input."""
        return self.gain * given + self.shift

    def is_safe(self, given: float) -> bool:
        """No sum can overflow. The kernel's activation turns what is not a number into one, which would hide it."""
        return self.reach(given) < _LARGEST

    def __call__(self, how: Convolution) -> Tensor:
        """Convolution, normalisation and activation of an input."""
        name, limits = self.activation or ("none", ())
        slides = (how.padding, how.stride, how.dilation, how.groups)
        if self.packed is None:
            # As for one row, so that the answer does not depend on how many came first.
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(self.kernel, *slides, (1, *how.input.shape[1:]))
        result: Tensor = _fused()(how.input, self.packed, self.offset, *slides, name, limits, "")
        return result


@functools.cache
def _fused() -> Any:
    return torch.ops.mkldnn._convolution_pointwise.default


def same_step(a: Step, b: Step | None) -> bool:
    """Normalisation by the same tensors, or the same activation."""
    if isinstance(a, Norm):
        return isinstance(b, Norm) and a.same(b)
    return isinstance(b, Activation) and a == b


def _is_in(place: str, module: str) -> bool:
    return f"{place}.".startswith(f"{module}.")


def _given(names: list[str], call: Call) -> dict[str, Any]:
    given = dict(zip(names, call.args, strict=False))
    return {**given, **call.kwargs} if call.kwargs else given


def _pair(value: Any) -> list[int]:
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * 2 if len(numbers) == 1 else numbers
