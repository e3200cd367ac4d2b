"""How changes pass through functions of each entry, products, quotients and softmax."""

from typing import Any

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from cutaway.attribution.differences.multipliers import logarithmic_mean, quotient, ratio, summed_to
from cutaway.attribution.differences.pair import Pair, baseline_of, explained, given, middle, plain, run_both, swapped
from cutaway.core.operations import Call

# Functions of each entry that jump, with a slope of 0 in between.
STEPS = frozenset({"ceil", "floor", "fmod", "frac", "remainder", "round", "sgn", "sign", "trunc"})
# Functions of each entry with corners, whose quotient is exact to the last digit.
_BENT = STEPS | {
    "abs", "absolute", "clamp", "clamp_max", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu",
    "prelu", "relu", "relu6", "rrelu", "softshrink", "threshold",
}  # fmt: skip


def entrywise(pair: Pair, x: Tensor, name: str) -> tuple[Any, Any]:
    """A function of each entry."""
    y, y0 = run_both(pair)
    b = baseline_of(x)
    assert b is not None

    def slope(at: Tensor) -> Tensor:
        return (at > 0).to(at) if name == "relu" else _slope_at(pair.call, x, at)

    m = quotient(x.detach(), b, y, y0, slope, smooth=name not in _BENT)
    return explained(pair, y, y0, lambda g: [summed_to(g * m, x)])


def _slope_at(call: Call, x: Tensor, at: Tensor) -> Tensor:
    """The slope of a function of each entry, where its argument `x` is `at` instead."""
    with torch.enable_grad():
        leaf = at.detach().clone().requires_grad_()
        y = swapped(call, {id(x): leaf}).run()
    if not y.requires_grad:
        return torch.zeros_like(leaf)
    return torch.autograd.grad(y.sum(), leaf)[0]


def multiplied(pair: Pair) -> tuple[Any, Any]:
    """A product of two things that change: each answers for its change times the other's mean."""
    a, b = pair.movers
    y, y0 = run_both(pair)
    mean_a, mean_b = (middle(t) for t in (a, b))
    return explained(pair, y, y0, lambda g: [summed_to(g * mean_b, a), summed_to(g * mean_a, b)])


def halfway(pair: Pair) -> tuple[Any, Any]:
    """Any function of degree 2: its slope half-way explains the change exactly."""
    y, y0 = run_both(pair)
    middles = {id(t): middle(t).requires_grad_() for t in pair.movers}

    def back(g: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            out = swapped(pair.call, middles).run()
        found = dict(zip(middles, torch.autograd.grad(out, list(middles.values()), g), strict=True))
        # A tensor given twice has its whole signal at its first place.
        return [found.pop(id(t)) if id(t) in found else torch.zeros_like(t) for t in pair.movers]

    return explained(pair, y, y0, back)


def many_factors(pair: Pair) -> tuple[Any, Any]:
    """A product of entries along an axis: its mean slope on the straight line from the baseline.

    Of what is linear in each factor, that is each factor's Shapley value, and so the sum is exact. Along the line the
    slope is a polynomial, which Gauss and Legendre integrate exactly from half as many points as there are factors.
    """
    (x,) = pair.movers
    y, y0 = run_both(pair)
    b = baseline_of(x)
    assert b is not None
    points, weights = leggauss((x.shape[given(pair.call, 1, "dim")] + 1) // 2)

    def back(g: Tensor) -> list[Tensor]:
        total = torch.zeros_like(x)
        for at, weight in zip((points + 1) / 2, weights / 2, strict=True):
            with torch.enable_grad():
                leaf = torch.lerp(b, x.detach(), float(at)).requires_grad_()
                out = swapped(pair.call, {id(x): leaf}).run()
            total += float(weight) * torch.autograd.grad(out, leaf, g)[0]
        return [total]

    return explained(pair, y, y0, back)


def divided(pair: Pair) -> tuple[Any, Any]:
    """A quotient whose denominator changes, too."""
    (a, b), (a0, b0) = (_fraction(call) for call in (pair.call, pair.base))
    if not isinstance(b, Tensor) or not b.requires_grad:
        return plain(pair)
    y, y0 = run_both(pair)
    still = [t.detach() if isinstance(t, Tensor) else t for t in (a, a0, b, b0)]
    of_a, of_b = ratio(*still)
    return explained(pair, y, y0, lambda g: [summed_to(g * (of_b if t is b else of_a), t) for t in pair.movers])


def _fraction(call: Call) -> tuple[Any, Any]:
    """Numerator and denominator."""
    first, second = (given(call, k, name) for k, name in enumerate(("input", "other")))
    return (second, first) if call.name.startswith("r") else (first, second)


def softmax(pair: Pair) -> tuple[Any, Any]:
    """Softmax y = exp(z - L), L = log sum exp z, and both of these alone.

    With the logarithmic mean E of y and y0, the change of y is E (dz - dL). Since y always sums to 1, these sum to 0,
    so dL = sum E dz / sum E. No number here is larger than 1, however far z moves.
    """
    (x,) = pair.movers
    y, y0 = run_both(pair)
    axis, name = softmax_axis(pair.call, x), pair.call.name
    b = baseline_of(x)
    assert b is not None
    mean = logarithmic_mean(*(torch.log_softmax(t.to(y.dtype), axis) for t in (x.detach(), b)))
    share = mean / mean.sum(axis, keepdim=True).clamp_min(torch.finfo(y.dtype).tiny)

    def back(g: Tensor) -> list[Tensor]:
        if name == "logsumexp":
            return [(g if g.ndim == x.ndim else g.unsqueeze(axis)) * share]
        if name == "log_softmax":
            return [(g - g.sum(axis, keepdim=True) * share).to(x.dtype)]
        return [(mean * (g - (g * share).sum(axis, keepdim=True))).to(x.dtype)]

    return explained(pair, y, y0, back)


def softmax_axis(call: Call, x: Tensor) -> Any:
    """The axis of a softmax; without one, torch takes the first of 0, 1 or 3 axes and else the second."""
    dim = given(call, 1, "dim")
    if isinstance(dim, tuple | list) and len(dim) == 1:
        return dim[0]
    return dim if dim is not None else (0 if x.ndim in (0, 1, 3) else 1)
