"""Operations as a run meets them: names, places, and rules that change how they differentiate.

A `TorchFunctionMode` around the run sees `F.relu`, `x.clamp(min=0)`, reused modules and `x @ w` alike, on networks that
were never written for it. A rule is a function that computes an operation's output with a backward pass of its own.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from cutaway.core.unrolled import UNROLLED

# One name for each operation. `r` forms with swapped operands (1 - x, 1 / x) keep names of their own.
_SPELLINGS = {
    "iadd": "add",
    "radd": "add",
    "isub": "sub",
    "imul": "mul",
    "rmul": "mul",
    "multiply": "mul",
    "truediv": "div",
    "itruediv": "div",
    "mm": "matmul",
    "bmm": "matmul",
    "clip": "clamp",
    "clamp_min": "clamp",
    "subtract": "sub",
    "T": "t",
    "H": "adjoint",
    "mH": "adjoint",
    "data": "detach",
}
_VIEWS = {"T", "H", "mT", "mH", "data"}
# Calls that ask about a tensor or rearrange it without arithmetic on its values.
_METADATA = {
    "get",
    "set",
    "size",
    "dim",
    "stride",
    "is_floating_point",
    "is_complex",
    "numel",
    "element_size",
    "data_ptr",
}


@dataclass(frozen=True)
class Operation:
    """One operation met in a run.

    Attributes:
        name: Canonical name: `relu` for `F.relu`, `torch.relu_` and `nn.ReLU`; `add` for `+`, `+=` and `torch.add`.
        site: Path of the module in whose forward it was met; empty at the top.
    """

    name: str
    site: str


@dataclass(frozen=True)
class Call:
    """An operation about to run, as a rule sees it.

    Attributes:
        name: Canonical name.
        site: Path of the innermost module around it.
        func: The torch function.
        args, kwargs: Its arguments.
    """

    name: str
    site: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def run(self) -> Any:
        """The operation's ordinary result, never written over an argument."""
        if not self.in_place:
            return self.func(*self.args, **self.kwargs)
        return self.func(self.args[0].clone(), *self.args[1:], **self.kwargs)

    def deliver(self, result: Tensor) -> Tensor:
        """Hand over a rule's result; where the caller asked for it in place, in the argument itself."""
        return self.args[0].copy_(result) if self.in_place else result

    @property
    def in_place(self) -> bool:
        """True if the operation writes its result over its first argument."""
        plain = self.func.__name__
        if plain.startswith("__"):
            return plain.startswith("__i") and plain.strip("_") in _SPELLINGS
        return plain.endswith("_") or bool(self.argument("inplace", False))

    def argument(self, name: str, default: Any = None) -> Any:
        """An argument by name, however it was passed; `default` where the signature is unknown."""
        if name in self.kwargs:
            return self.kwargs[name]
        names = _parameters(self.func)
        place = names.index(name) if name in names else len(self.args)
        return self.args[place] if place < len(self.args) else default


Rule = Callable[[Call], Any]
Rules = Mapping[str, Rule]


@functools.cache
def _parameters(func: Callable[..., Any]) -> tuple[str, ...]:
    """Names of a function's parameters in order; none where it does not tell."""
    try:
        return tuple(inspect.signature(func).parameters)
    except (TypeError, ValueError):
        return ()


@functools.cache
def operation_name(func: Callable[..., Any]) -> str:
    """The canonical name of a torch function; empty for questions about shape, type or device."""
    name = getattr(func, "__name__", "").strip("_")
    if name == "get":  # an attribute: x.T computes a tensor, x.shape tells of one
        name = getattr(getattr(func, "__self__", None), "__name__", "")
        return _SPELLINGS.get(name, name) if name in _VIEWS else ""
    return "" if name in _METADATA else _SPELLINGS.get(name, name)


class Places:
    """Where a run is: the path of the module whose forward is running, told from the call stack.

    Every call of a module goes through `nn.Module.__call__`, so nothing need be registered on the network, and a run
    that nobody asks costs nothing.
    """

    def __init__(self, module: nn.Module) -> None:
        """Name the modules inside `module`."""
        self._paths = {id(m): path for path, m in module.named_modules()}

    @property
    def now(self) -> str:
        """The innermost module's path; empty at the top."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code is _CALL_OF_A_MODULE and id(frame.f_locals["self"]) in self._paths:
                return str(self._paths[id(frame.f_locals["self"])])
            frame = frame.f_back
        return ""


_CALL_OF_A_MODULE = nn.Module._wrapped_call_impl.__code__


class Census(TorchFunctionMode):
    """Write down every operation that computes tensors, in the order met."""

    def __init__(self, places: Places) -> None:
        """A census that asks `places` where it is."""
        super().__init__()
        self.places = places
        self.met: list[Operation] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note it."""
        result = func(*args, **(kwargs or {}))
        name = operation_name(func)
        if name and any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self.met.append(Operation(name, self.places.now))
        return result


class UnderRules(TorchFunctionMode):
    """Run operations that have a rule through it; a rule that returns NotImplemented leaves the operation alone.

    A call that hides many operations, such as an LSTM, is met as those, unless a rule takes the whole of it. A rule set
    with an attribute `parts`, which maps names to functions, has more calls taken apart.
    """

    def __init__(self, rules: Rules, places: Places) -> None:
        """Rules by canonical name."""
        super().__init__()
        self.rules = rules
        self.places = places
        self.parts: Mapping[str, Callable[..., Any]] = {**UNROLLED, **getattr(rules, "parts", {})}
        self.used: list[Operation] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        kwargs = kwargs or {}
        name = operation_name(func)
        rule = self.rules.get(name)
        if not name or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if rule is not None:
            call = Call(name, self.places.now, func, args, kwargs)
            result = rule(call)
            if result is not NotImplemented:
                self.used.append(Operation(name, call.site))
                return result
        if name in self.parts and any(isinstance(t, Tensor) and t.requires_grad for t in tree_leaves((args, kwargs))):
            with self:  # a mode does not see what is called while it answers
                return self.parts[name](*args, **kwargs)
        return func(*args, **kwargs)
