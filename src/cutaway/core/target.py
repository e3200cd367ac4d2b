"""Which scalar is explained: a function from a trace to one number for each input, with a text form and `+ - * /`.

logit(3)                 the output column 3; logit("tabby") by class name
logit(3) - logit(5)      why class 3 rather than 5
prob(3)  logprob(3)      probability and its logarithm; log_odds(3) is log p / (1 - p), which does not saturate
unit("conv3:12")         a unit, averaged over its positions
direction("conv3", v)    the activation along a vector, averaged over positions
direction("conv3", v, 4) the same times the 4th power of its cosine, so that it must point there, too
energy("conv3")          the mean square of an activation: whatever a layer sees, more of it
loss(3)                  cross-entropy with label 3
"""

import ast
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Union

import torch
from torch import Tensor

from cutaway.core.checks import shortest
from cutaway.core.errors import BadOption, BadShape, unknown_name
from cutaway.core.site import OUTPUT, Site, unit_axis
from cutaway.core.trace import Trace

# Below it, a direction with a power of its cosine has still some slope towards it.
_LEAST_COSINE = 0.1

Class = int | str
TargetLike = Union["Target", str, int, Sequence[Union["Target", str, int]], Tensor]


class _Names(Protocol):
    """What of a model a target needs: its classes."""

    @property
    def scores(self) -> str: ...

    def class_index(self, name: Class, width: int | None = None) -> int: ...


@dataclass(frozen=True)
class Target:
    """A named function `Trace -> Tensor[n]`.

    Attributes:
        text: How to write it; `Target.of(text)` gives it back.
        sites: Places that must be read to compute it.
        value: The function.
        classes: Classes it names, to be checked before any work.
        rows: One target per input, where they differ.
    """

    text: str
    sites: tuple[Site, ...]
    value: Callable[[Trace], Tensor]
    classes: tuple[Class, ...] = ()
    rows: tuple["Target", ...] = ()

    @classmethod
    def of(cls, what: TargetLike, model: _Names | None = None) -> "Target":
        """A target from a class, a text, or a list with one of these for each input.

        Args:
            what: An int or class name stands for its logit (its probability where the model gives probabilities).
            model: Checks the class names and numbers against this model's.

        Raises:
            BadOption: A text of another form, a negative or fractional class.
            UnknownName: No such class.
        """
        target = cls._read(what, model)
        for name in target.classes if model is not None else ():
            assert model is not None
            model.class_index(name)
        return target

    @classmethod
    def _read(cls, what: TargetLike, model: _Names | None) -> "Target":
        if isinstance(what, Target):
            return what
        if isinstance(what, Tensor) or hasattr(what, "tolist"):
            what = what.tolist()
        if isinstance(what, bool | float) or what is None:
            raise BadOption(f"expected a class number, a class name or a target such as 'logit(3)'; got {what!r}.")
        if isinstance(what, int):
            return _class_score(what, model)
        if isinstance(what, str):
            return _parse(what, model)
        if not isinstance(what, Sequence) or not len(what):
            raise BadOption(f"expected a class, a target or a list of them; got {what!r}.")
        return per_row([cls._read(w, model) for w in what])

    def __call__(self, trace: Trace) -> Tensor:
        """The value on each input, (n,)."""
        return self.value(trace)

    def __str__(self) -> str:
        """The text form."""
        return self.text

    def row(self, index: int) -> "Target":
        """The target of one input."""
        return self.rows[index] if self.rows else self

    def take(self, rows: slice) -> "Target":
        """The target of some inputs."""
        return per_row(self.rows[rows]) if self.rows else self

    def __add__(self, other: "Target | float") -> "Target":
        """The sum of two targets, or of a target and a number."""
        return _combine(self, other, "+", torch.add)

    def __sub__(self, other: "Target | float") -> "Target":
        """The difference: why this rather than that."""
        return _combine(self, other, "-", torch.sub)

    def __mul__(self, other: "Target | float") -> "Target":
        """The product with a number or another target."""
        return _combine(self, other, "*", torch.mul)

    def __truediv__(self, other: "Target | float") -> "Target":
        """The quotient by a number or another target."""
        return _combine(self, other, "/", torch.div)

    def __radd__(self, other: float) -> "Target":
        """A number plus a target."""
        return _combine(constant(other), self, "+", torch.add)

    def __rsub__(self, other: float) -> "Target":
        """A number minus a target."""
        return _combine(constant(other), self, "-", torch.sub)

    def __rmul__(self, other: float) -> "Target":
        """A number times a target."""
        return _combine(constant(other), self, "*", torch.mul)

    def __rtruediv__(self, other: float) -> "Target":
        """A number divided by a target."""
        return _combine(constant(other), self, "/", torch.div)

    def __neg__(self) -> "Target":
        """The target with its sign changed."""
        return constant(-1) * self


def logit(which: Class) -> Target:
    """The output column of a class, before any softmax. For a regressor, its k-th output."""
    return _of_class("logit", which, lambda trace: trace.scores)


def prob(which: Class) -> Target:
    """The probability of a class. Its gradient vanishes when the model is sure; see `log_odds`."""
    return _of_class("prob", which, lambda trace: trace.probabilities)


def logprob(which: Class) -> Target:
    """The logarithm of a class probability, in nats."""
    return _of_class("logprob", which, lambda trace: trace.log_probabilities)


def log_odds(which: Class) -> Target:
    """The log odds, log p / (1 - p): for logits z, z_k - logsumexp of the others, which does not saturate."""

    def value(log_p: Tensor, k: int) -> Tensor:
        others = torch.cat([log_p[:, :k], log_p[:, k + 1 :]], dim=1)
        return log_p[:, k] - torch.logsumexp(others, dim=1)

    return _of_class("log_odds", which, lambda trace: trace.log_probabilities, value)


def loss(which: Class) -> Target:
    """Cross-entropy with a label, in nats."""
    return _of_class("loss", which, lambda trace: -trace.log_probabilities)


def unit(site: Site | str) -> Target:
    """The activation of a unit, averaged over its positions; at one position with `unit("conv3:12@4,5")`."""
    place = Site.of(site)

    def value(trace: Trace) -> Tensor:
        return trace[place].flatten(1).mean(1) if trace[place].ndim > 1 else trace[place]

    return Target(f'unit("{place}")', (place.whole,), value)


def energy(site: Site | str) -> Target:
    """The mean square of an activation: of a layer, a channel, or a position."""
    place = Site.of(site)

    def value(trace: Trace) -> Tensor:
        square = trace[place].square()
        return square.flatten(1).mean(1) if square.ndim > 1 else square

    return Target(f'energy("{place}")', (place.whole,), value)


def direction(site: Site | str, vector: Sequence[float] | Tensor, power: float = 0) -> Target:
    """The activation along a vector of unit length, averaged over positions: mean of (a . v) / |v|.

    With a power, each position counts by its cosine: mean of (a . v) / |v| * max(0.1, cos(a, v)) ** power.
    """
    place = Site.of(site)
    v = torch.as_tensor(vector)
    if v.ndim != 1 or not v.any():
        raise BadOption(f"expected a direction other than 0, such as [0.5, -1]; got {vector!r}.")
    if isinstance(power, bool) or not isinstance(power, int | float) or not 0 <= power < math.inf:
        raise BadOption(f"expected a power of the cosine from 0; got {power!r}.")
    text = ", ".join(f"{a + 0.0:.9g}" for a in v.tolist())  # + 0.0: no minus zero
    more = f", {shortest(power)}" if power else ""

    def value(trace: Trace) -> Tensor:
        act = trace[place]
        act = act.movedim(unit_axis(act, trace.module(place)), -1)
        if act.shape[-1] != len(v):
            raise BadShape(f"expected a direction of length {act.shape[-1]} at {place}; got {len(v)}.")
        along: Tensor = act @ (v / v.norm()).to(act)
        if power:
            # A square root has no slope at 0, where an activation without entries is.
            length = act.square().sum(-1).clamp(min=torch.finfo(act.dtype).tiny).sqrt()
            along = along * (along / length).clamp(min=_LEAST_COSINE) ** power
        return along.flatten(1).mean(1) if along.ndim > 1 else along

    return Target(f'direction("{place}", [{text}]{more})', (place.whole,), value)


def constant(number: float) -> Target:
    """A number as a target, for the algebra."""
    if isinstance(number, Target):
        return number
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise BadOption(f"expected a number or a target; got {number!r}.")
    # float64: a tensor without axes takes the other operand's type, and must not round before it does.
    return Target(shortest(number), (), lambda trace: torch.tensor(float(number), dtype=torch.float64))


def per_row(targets: Sequence[Target]) -> Target:
    """One target for each input, in order."""
    rows = tuple(targets)
    if any(t.rows for t in rows):
        raise BadOption("expected one target for each input; got a list inside a list.")
    sites = tuple(dict.fromkeys(s for t in rows for s in t.sites))

    def value(trace: Trace) -> Tensor:
        alike = len({t.text for t in rows}) == 1
        parts = [trace] if alike else trace.rows() or [trace] * len(rows)
        # Each on its own row alone: so many targets cost as much as one, forwards and backwards.
        found = rows[0](trace) if alike else torch.cat([t(part).view(1) for t, part in zip(rows, parts, strict=False)])
        given = len(parts) if not alike else len(found) if found.ndim else len(rows)
        if given != len(rows):
            raise BadShape(f"expected one target for each of {given} inputs; got {len(rows)} targets.")
        return found.expand(len(rows))

    text = "[" + ", ".join(t.text for t in rows) + "]"
    return Target(text, sites, value, tuple(c for t in rows for c in t.classes), rows)


def _column(table: Tensor, k: int) -> Tensor:
    return table[:, k]


def _of_class(
    name: str, which: Class, table: Callable[[Trace], Tensor], value: Callable[[Tensor, int], Tensor] = _column
) -> Target:
    """A target that reads one class out of a table (n, classes) of a trace."""
    if isinstance(which, bool) or not isinstance(which, int | str):
        raise BadOption(f"expected a class number or name in {name}(...); got {which!r}.")
    if isinstance(which, int) and which < 0:
        raise BadOption(
            f"expected a class from 0 up in {name}(...); got {which}. Classes are not counted from the end."
        )
    text = f"{name}({which})" if isinstance(which, int) else f"{name}({_quoted(which)})"

    def function(trace: Trace) -> Tensor:
        columns = table(trace)
        return value(columns, trace.class_index(which, columns.shape[1]))

    return Target(text, (OUTPUT,), function, (which,))


def _class_score(which: Class, model: _Names | None) -> Target:
    return prob(which) if model is not None and model.scores == "probabilities" else logit(which)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a Python literal as well


def _combine(a: Target, b: "Target | float", sign: str, operation: Callable[[Tensor, Tensor], Tensor]) -> Target:
    right = constant(b) if not isinstance(b, Target) else b
    if a.rows or right.rows:
        n = max(len(a.rows), len(right.rows))
        if min(len(a.rows), len(right.rows)) not in (0, n):
            raise BadShape(f"expected targets for the same inputs; got {len(a.rows)} and {len(right.rows)}.")
        return per_row([_combine(a.row(i), right.row(i), sign, operation) for i in range(n)])
    left = f"({a.text})" if sign in "*/" and _rank(a.text) == 0 else a.text
    bound = {"+": 0, "-": 1, "*": 1, "/": 2}[sign]
    return Target(
        f"{left} {sign} " + (f"({right.text})" if _rank(right.text) < bound else right.text),
        tuple(dict.fromkeys(a.sites + right.sites)),
        lambda trace: operation(a(trace), right(trace)),
        a.classes + right.classes,
    )


def _rank(text: str) -> int:
    """How tightly a text holds together: 0 for a sum (or a text of a user's own), 1 for a product, 2 for the rest."""
    try:
        body = ast.parse(text, mode="eval").body
    except SyntaxError:
        return 0
    if not isinstance(body, ast.BinOp):
        return 2
    return 1 if isinstance(body.op, ast.Mult | ast.Div) else 0


_WORDS: dict[str, Callable[..., Target]] = {
    f.__name__: f for f in (logit, prob, logprob, log_odds, loss, unit, direction, energy)
}


def _parse(text: str, model: _Names | None) -> Target:
    """Read the text form. A text that is not an expression, or is the name of a class, is a class name."""
    if re.fullmatch(r"\s*-?[0-9]{1,9}\s*", text):
        return _class_score(int(text), model)
    if text in (getattr(model, "classes", None) or ()):
        return _class_score(text, model)
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _class_score(text, model)
    if not any(isinstance(node, ast.Call) for node in ast.walk(body)):
        return _class_score(text, model)
    try:
        built = [_build(item, text) for item in (body.elts if isinstance(body, ast.List) else [body])]
    except (TypeError, RecursionError):
        raise _unreadable(text) from None
    targets = [_class_score(t, model) if isinstance(t, int | str) else t for t in built]
    if not all(isinstance(t, Target) for t in targets):
        raise _unreadable(text)
    return per_row(targets) if isinstance(body, ast.List) else targets[0]


def _unreadable(text: str) -> BadOption:
    shown = text if len(text) < 200 else f"{text[:200]} ..."
    return BadOption(f"expected a target such as logit(3), prob('tabby') or unit('conv3:12'); got {shown!r}.")


def _build(node: ast.expr, text: str) -> Any:
    signs = {ast.Add: Target.__add__, ast.Sub: Target.__sub__, ast.Mult: Target.__mul__, ast.Div: Target.__truediv__}
    if isinstance(node, ast.BinOp) and type(node.op) in signs:
        left, right = _build(node.left, text), _build(node.right, text)
        return signs[type(node.op)](constant(left), right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_build(node.operand, text)
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return node.value
    if isinstance(node, ast.List):
        return [_build(item, text) for item in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in _WORDS:
            raise unknown_name("target", node.func.id, _WORDS, "Example: logit(3) - logit(5).")
        return _WORDS[node.func.id](*(_build(arg, text) for arg in node.args))
    raise _unreadable(text)
