"""How an operation with weights hands relevance down: the rules of LRP, on any operation that is linear in its input.

For y_j = sum_i z_ij + b_j with contributions z_ij = x_i w_ij, a rule is a list of shares. Each share replaces the
operation by another that is linear in x, with value Z, and hands R_j down in proportion to what makes up Z_j:

    R_i = sum over shares, factor * sum_j x_i dZ_j/dx_i * R_j / Z_j

So every rule is written once, for dense layers, convolutions and matrix products alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Weighted:
    """An operation that is linear in one tensor, with its weights.

    Attributes:
        run: Computes it from an input, weights and a bias that may be None.
        weight, bias: Its own.
        axis: Axis of the weights that counts outputs, for a scale that is folded in; None where none fits.
        width: Axes of an output after the one that the bias goes along.
        is_convolution: As against a dense layer or a matrix product.
    """

    run: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor
    bias: Tensor | None
    axis: int | None
    width: int
    is_convolution: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Its output."""
        return self.run(x, self.weight, self.bias)

    def shifted(self, scale: Tensor, shift: Tensor) -> "Weighted":
        """The same operation followed by `y * scale + shift`, one number for each output channel."""
        assert self.axis is not None
        view = [1] * self.weight.ndim
        view[self.axis] = -1
        bias = shift if self.bias is None else self.bias * scale + shift
        return replace(self, weight=self.weight * scale.view(view), bias=bias)


class Share(NamedTuple):
    """One replacement of an operation.

    Attributes:
        value: Z, with a graph back to the input's leaf.
        bias: The part of Z that no input made, for each output channel.
        relevance: What it hands down.
    """

    value: Tensor
    bias: Tensor | None
    relevance: Tensor


# From an operation, its input as a leaf, its output and the relevance there, to shares.
Shares = Callable[[Weighted, Tensor, Tensor, Tensor], Sequence[Share]]


@dataclass(frozen=True)
class Rule:
    """A rule for operations with weights.

    Attributes:
        name: As text.
        shares: What it hands down; None for the epsilon rule, which needs no replacement.
        absolute: True if it hands down relevance itself, also to entries that are 0; otherwise, relevance for each unit
            of the input.
        epsilon: Added to each denominator, with its sign.
    """

    name: str
    shares: Shares | None
    absolute: bool = False
    epsilon: float = 0.0


def epsilon(size: float = 0.0, factor: float = 0.0) -> Rule:
    """R_i = sum_j (z_ij + (size * sign(y_j) + factor * b_j) / N) R_j / (y_j + size * sign(y_j)),  N inputs of j.

    Args:
        size: How far denominators are moved away from 0.
        factor: What part of a bias its inputs share equally, together with `size`; with 0, neither is shared.
    """
    if not factor:
        return Rule(f"epsilon:{size:g}" if size else "epsilon", None, epsilon=size)

    def shares(op: Weighted, x: Tensor, y: Tensor, relevance: Tensor) -> list[Share]:
        ratio, one = relevance / denominator(y, size), _ones(x)
        kept = None if op.bias is None else op.bias * (1 - factor)
        own = op.run(one * x.detach(), op.weight, kept)
        equal = op.run(one, torch.ones_like(op.weight), None)
        rest = denominator(y, size) - own.detach()
        return [Share(own, kept, ratio * own.detach()), Share(equal, None, ratio * rest)]

    return Rule(f"epsilon:{size:g},{factor:g}", shares, absolute=True)


def zplus() -> Rule:
    """R_i = sum_j z_ij⁺ R_j / sum_i z_ij⁺: biases take nothing. For all weights, it is excitation backprop."""
    return Rule("zplus", lambda op, x, y, relevance: [Share(*_signed(replace(op, bias=None), x, 1), relevance)])


def alpha_beta(alpha: float, beta: float) -> Rule:
    """R_i = sum_j (alpha z_ij⁺ / Z_j⁺ - beta z_ij⁻ / Z_j⁻) R_j, with the bias of that sign in each Z."""

    def shares(op: Weighted, x: Tensor, y: Tensor, relevance: Tensor) -> list[Share]:
        parts = ((1, alpha), (-1, -beta))
        return [Share(*_signed(op, x, sign), part * relevance) for sign, part in parts if part]

    return Rule(f"alpha_beta:{alpha:g},{beta:g}", shares)


def gamma(size: float = 0.25) -> Rule:
    """R_i = sum_j (z_ij + size z_ij^s) R_j / (y_j + size Z_j^s), where s is the sign of y_j."""

    def shares(op: Weighted, x: Tensor, y: Tensor, relevance: Tensor) -> list[Share]:
        parts = ((sign, relevance * (y * sign > 0)) for sign in (1, -1))
        return [Share(*_signed(op, x, sign, size), part) for sign, part in parts if bool(part.any())]

    return Rule(f"gamma:{size:g}", shares)


def flat() -> Rule:
    """R_i = sum_j R_j / (number of inputs of j): weights and input play no part."""

    def shares(op: Weighted, x: Tensor, y: Tensor, relevance: Tensor) -> list[Share]:
        return [Share(op.run(_ones(x), torch.ones_like(op.weight), None), None, relevance)]

    return Rule("flat", shares, absolute=True)


def wsquare() -> Rule:
    """R_i = sum_j w_ij² R_j / sum_i w_ij²."""

    def shares(op: Weighted, x: Tensor, y: Tensor, relevance: Tensor) -> list[Share]:
        return [Share(op.run(_ones(x), op.weight**2, None), None, relevance)]

    return Rule("wsquare", shares, absolute=True)


def zbox(low: Tensor, high: Tensor) -> Rule:
    """R_i = sum_j (z_ij - low_i w_ij⁺ - high_i w_ij⁻) R_j / sum_i (the same).

    Args:
        low, high: Bounds of the input as the network sees it, one number or one for each channel.
    """

    def shares(op: Weighted, x: Tensor, y: Tensor, relevance: Tensor) -> list[Share]:
        one, w = _ones(x), op.weight
        value = op.run(one * x.detach(), w, None)
        value = value - op.run(one * low.to(x), w.clamp(min=0), None) - op.run(one * high.to(x), w.clamp(max=0), None)
        return [Share(value, None, relevance)]

    return Rule("zbox", shares, absolute=True)


def _ones(x: Tensor) -> Tensor:
    """Ones in place of x, at which the slope is what an entry receives."""
    return x - x.detach() + 1


def _signed(op: Weighted, x: Tensor, sign: int, size: float | None = None) -> tuple[Tensor, Tensor | None]:
    """The sum of the contributions of one sign, and the bias in it; with `size`, y and that much of this sign more."""
    same = _tilted(op.weight, sign, size)
    bias = None if op.bias is None else _tilted(op.bias, sign, size)
    if not bool((x.detach() < 0).any()):
        return op.run(x, same, bias), bias
    other = _tilted(op.weight, -sign, size)
    return op.run(x.clamp(min=0), same, bias) + op.run(x.clamp(max=0), other, None), bias


def _tilted(weight: Tensor, sign: int, size: float | None) -> Tensor:
    part = weight.clamp(min=0) if sign > 0 else weight.clamp(max=0)
    return part if size is None else torch.add(weight, part, alpha=size)


class HandedDown(NamedTuple):
    """What a rule made of a signal.

    Attributes:
        signal: At the input: relevance for each unit of it, or relevance itself under an absolute rule.
        came: Relevance that came in, summed.
        biases: Relevance that biases took, summed.
        lost: Relevance that went nowhere: into epsilon, or where no contribution had the sign asked for.
    """

    signal: Tensor
    came: float
    biases: float
    lost: float


def hand_down(rule: Rule, op: Weighted, x: Tensor, y: Tensor, relevance: Tensor) -> HandedDown:
    """Apply a rule.

    Args:
        x, y: Input and output of the operation.
        relevance: At the output.
    """
    assert rule.shares is not None
    came, handed, biases = total(relevance), 0.0, 0.0
    values, signals = [], []
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        for share in rule.shares(op, leaf, y, relevance):
            part = share.relevance / denominator(share.value.detach(), rule.epsilon)
            handed += total(part * share.value.detach())
            biases += 0.0 if share.bias is None else total(along(part, op.width) * share.bias)
            values.append(share.value)
            signals.append(part)
        if not values:
            return HandedDown(torch.zeros_like(x), came, 0.0, came)
        (down,) = torch.autograd.grad(values, leaf, signals)
    return HandedDown(down, came, biases, came - handed)


def denominator(value: Tensor, size: float) -> Tensor:
    """The value, moved away from 0 by `size`; infinite where it is 0, so that nothing is handed down there."""
    if not size:
        return value.masked_fill(value == 0, torch.inf)
    return value + torch.where(value < 0, -size, size)


def along(signal: Tensor, width: int) -> Tensor:
    """Sums over all but the axis of the bias, which `width` axes follow."""
    axis = signal.ndim - 1 - width
    return signal.sum([k for k in range(signal.ndim) if k != axis])


def total(values: Tensor) -> float:
    """The sum, added up in double precision."""
    return float(values.sum(dtype=torch.float64))
