"""How a map changes with its input: second derivatives of the network, or differences where there are none."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.batch import repeat
from cutaway.core.fill import Fill
from cutaway.core.method import Explain
from cutaway.core.model import Model
from cutaway.core.operations import Call, Rule
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT
from cutaway.core.target import Target
from cutaway.core.trace import Trace

# Of a map that is a mean: points of the path, or noisy copies. Far fewer than the map has: the attack has many steps.
_POINTS = 10
# Maps with exact slopes, and one whose slopes are taken from a map that it is close to: DeepLIFT's multipliers are mean
# slopes between baseline and input, too, unit by unit and not along one path (Ancona et al. 2018, section 2.3).
_KINDS = {name: name for name in ("gradient", "smoothgrad", "input_x_gradient", "integrated_gradients")}
_KINDS |= {"deeplift": "integrated_gradients"}
_SMOOTH = "second derivatives with softplus in place of rectifiers"
# Of the estimate by differences: pairs of inputs, and how far apart as a share of the ball.
_PAIRS, _APART = 8, 0.1

Loss = Callable[[Tensor], Tensor]


class Smooth(Mapping[str, Rule]):
    """Rules that replace rectifiers by softplus, whose slope changes everywhere: relu(z) by log(1 + exp(b z)) / b."""

    def __init__(self, sharpness: float) -> None:
        """Softplus of that sharpness b, in inverse units of what is rectified."""
        self._sharpness = sharpness
        self._bounds: dict[str, Callable[[Call], tuple[float | None, float | None] | None]] = {
            "relu": lambda call: (0.0, None),
            "relu6": lambda call: (0.0, 6.0),
            "hardtanh": lambda call: (call.argument("min_val", -1.0), call.argument("max_val", 1.0)),
            "clamp": _clamped,
        }

    def __getitem__(self, name: str) -> Rule:
        """The rule of an operation."""
        bounds = self._bounds[name]

        def rule(call: Call) -> Tensor:
            found = bounds(call)
            return call.deliver(self._smoothed(call.args[0], *found)) if found is not None else NotImplemented

        return rule

    def __iter__(self) -> Iterator[str]:
        """Names of operations with a rule."""
        return iter(self._bounds)

    def __len__(self) -> int:
        """How many have one."""
        return len(self._bounds)

    def _smoothed(self, z: Tensor, low: float | None, high: float | None) -> Tensor:
        found = z if low is None else low + F.softplus(z - low, self._sharpness)
        return found if high is None else high - F.softplus(high - found, self._sharpness)


def _clamped(call: Call) -> tuple[float | None, float | None] | None:
    """The bounds of a clamp by numbers; None for bounds that are tensors."""
    given = dict(enumerate(call.args))
    low, high = given.get(1, call.kwargs.get("min")), given.get(2, call.kwargs.get("max"))
    if any(isinstance(bound, Tensor) for bound in (low, high)):
        return None
    return low, high


class Second(NamedTuple):
    """Exact on the smooth network, for maps made of gradients.

    R = (x - b) * mean over k of g(b + a_k (x - b)), or R = mean over k of g(x + e_k), with g the gradient. So the slope
    of a loss needs products of a vector and a second derivative only, each one more pass.

    Attributes:
        model, target, rules: What is explained, and how it is made smooth.
        kind: The method.
        base: The baseline b of the first form, (1, ...).
        around: The steps e_k of the second form, (k, ...); zero for the plain gradient.
        how, weak: What to say of it.
    """

    model: Model
    target: Target
    rules: Smooth
    kind: str
    base: Tensor
    around: Tensor
    how: str = _SMOOTH
    weak: bool = False

    def __call__(self, x: Tensor, loss: Loss) -> Tensor:
        """The slope, (1, ...)."""
        if self.kind in ("gradient", "smoothgrad"):
            near = x + self.around
            mean = self._gradients(near).mean(0, keepdim=True)
            return self._curved(near, _slope_of(loss, mean)).mean(0, keepdim=True)
        points = [1.0] if self.kind == "input_x_gradient" else [(k + 0.5) / _POINTS for k in range(_POINTS)]
        at = torch.tensor(points).to(x).view(-1, *[1] * (x.ndim - 1))
        path, apart = torch.lerp(self.base, x, at), x - self.base
        mean = self._gradients(path).mean(0, keepdim=True)
        wanted = _slope_of(loss, apart * mean)
        return wanted * mean + (at * self._curved(path, wanted * apart)).mean(0, keepdim=True)

    def _gradients(self, points: Tensor) -> Tensor:
        return self._run(points, self.target)

    def _curved(self, points: Tensor, vector: Tensor) -> Tensor:
        """The slope of <vector, gradient> at each of the points; one vector for all, (1, ...)."""

        def value(trace: Trace) -> Tensor:
            x = trace[INPUT]
            (slope,) = torch.autograd.grad(self.target(trace).sum(), x, create_graph=True)
            along = (slope * vector).flatten(1).sum(1)
            return along + 0 * x.flatten(1).sum(1)  # a linear network has no second derivative: zero, and no error

        sites = tuple(dict.fromkeys((INPUT, *self.target.sites)))
        return self._run(points, Target("change of the map", sites, value))

    def _run(self, points: Tensor, target: Target) -> Tensor:
        # As an edit: noisy copies may lie outside the bounds of an input.
        rows = repeat(self.base, len(points))
        return self.model.gradient(rows, target, edit={INPUT: points}, rules=self.rules).slope


class Differences(NamedTuple):
    """An estimate for any map: its change between pairs of inputs in random directions.

    slope = mean over random signs s of s (loss(x + c s) - loss(x - c s)) / (2 c)
    """

    maps: Callable[[Tensor], Tensor]
    apart: Tensor
    generator: torch.Generator
    how: str = f"differences along {_PAIRS} random directions in each step"
    weak: bool = True

    def __call__(self, x: Tensor, loss: Loss) -> Tensor:
        """The slope, (1, ...)."""
        draws = torch.randint(2, (_PAIRS, *x.shape[1:]), generator=self.generator)
        signs = (2 * draws - 1).to(x)
        steps = _APART * self.apart * signs
        values = loss(self.maps(torch.cat([x + steps, x - steps])))
        change = (values[:_PAIRS] - values[_PAIRS:]).to(x).view(-1, *[1] * (x.ndim - 1))
        return (change / (2 * steps)).mean(0, keepdim=True)


# The slope of a loss of the map of one input (1, ...), by the entries of that input.
Slopes = Second | Differences


def slopes_for(
    model: Model, target: Target, attribution: Attribution, explain: Explain, x: Tensor, radius: Tensor,
    sharpness: float, generator: torch.Generator,
) -> Slopes:  # fmt: skip
    """Exact slopes where the map is made of gradients, else an estimate.

    Args:
        model: The network.
        target: Of this input.
        attribution: The map and how it was made.
        explain: Makes it again.
        x: The input, (1, ...).
        radius: How far an entry may move.
        sharpness: Of the softplus.
        generator: For the estimate.
    """
    made = attribution.provenance
    base, kind = str(made.options.get("baseline", "zero")), _KINDS.get(made.method)
    fixed = not base.startswith(("given", "sample")) and not Fill.of(base).random
    noise = float(made.options["noise"]) * model.space.range if kind == "smoothgrad" else 0.0
    # In a row, the noise of SmoothGrad depends on the row itself.
    if kind is None or not fixed or (noise and model.space.kind != "image"):
        low, high = model.space.low, model.space.high
        return Differences(lambda rows: explain(model, rows.clamp(low, high), target).values, radius, generator)
    own = kind == made.method
    how = _SMOOTH if own else f"{_SMOOTH}, of {kind.replace('_', ' ')}, to which this map is close"
    steps = torch.randn(_POINTS if noise else 1, *x.shape[1:], generator=generator, dtype=torch.float64)
    return Second(
        model, target, Smooth(sharpness), kind, Fill.of(base)(x, model.space), (noise * steps).to(x), how, not own
    )


def _slope_of(loss: Loss, maps: Tensor) -> Tensor:
    leaf = maps.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    return slope
