"""One forward with its chains fused, which looks at each operation whether it is the one that was foreseen."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cutaway.core.fused.chain import Chain, Convolution, convolution, same_step, step
from cutaway.core.fused.tensors import Noted, is_question, tensors_in
from cutaway.core.operations import Call, operation_name

# Operations that give no larger magnitudes than they are given.
_NO_LARGER = set("pad max_pool2d adaptive_avg_pool2d contiguous cat flatten relu".split())


class Hooked(NamedTuple):
    """Modules with hooks that are shown what they give, and what they are given."""

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]


class Misfit(BaseException):
    """The network used a value that fusing skipped. Not an Exception: a network that catches those must let it go."""

    def __init__(self, hooked: Hooked) -> None:
        """With hooks at these modules."""
        super().__init__(hooked)
        self.hooked = hooked


class _Ahead(NamedTuple):
    """What a tensor really is: the result of a chain, of which the network knows the first `done` steps.

    Attributes:
        reach: The largest magnitude that it may have.
    """

    chain: Chain
    done: int
    reach: float


class Run(TorchFunctionMode):
    """Answer each convolution with what the steps after it would give, and those steps with what they are given.

    A tensor whose value is ahead of what the network takes it for must go to the foreseen step, once, and nowhere else;
    otherwise, and if one is still alive at the end, so that it might be read later, this is a `Misfit`.

    Use as a context around the forward.

    Raises:
        Misfit: The results of this forward are not those of the network.
    """

    def __init__(self, chains: dict[int, Chain], hooked: Hooked) -> None:
        """Fuse these chains, by the identity of their weights, with hooks at these modules."""
        super().__init__()
        self._hooked = hooked
        self._chains = chains
        self._ahead: Noted[_Ahead] = Noted()
        self._reach: Noted[tuple[int, float]] = Noted()

    def __exit__(self, *exception: Any) -> None:
        """See that nobody kept a tensor that is not what it seems."""
        super().__exit__(*exception)  # type: ignore[no-untyped-call]  # torch has no annotation here
        if exception[0] is None and self._ahead.living():
            raise Misfit(self._hooked)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run or skip one operation."""
        kwargs = kwargs or {}
        if is_question(func):
            return func(*args, **kwargs)
        taken, name = tensors_in((*args, *kwargs.values()) if kwargs else args), operation_name(func)
        for tensor in taken:
            if (ahead := self._ahead.get(tensor)) is not None:
                return self._skipped(Call(name, "", func, args, kwargs), ahead)
        if name == "conv2d" and len(args) > 1 and (chain := self._chains.get(id(args[1]))) is not None:
            how = convolution(Call(name, "", func, args, kwargs))
            if how is not None and how.bias is chain.bias and not _has_graph(how) and self._is_safe(chain, how.input):
                return self._begun(chain, how)
        result = func(*args, **kwargs)
        if name in _NO_LARGER or name == "add":
            self._spread(Call(name, "", func, args, kwargs), taken, result)
        return result

    def _begun(self, chain: Chain, how: Convolution) -> Tensor:
        result, reach = chain(how), chain.reach(self._reach_of(how.input))
        self._ahead.note(result, _Ahead(chain, 0, reach if chain.activation is None else chain.activation.reach(reach)))
        return result

    def _skipped(self, call: Call, ahead: _Ahead) -> Tensor:
        """A step that the convolution has done already."""
        chain, done, reach = ahead
        if done == len(chain.steps) or not same_step(chain.steps[done], step(call)):
            raise Misfit(self._hooked)
        tensor: Tensor = call.args[0]
        # Once passed, a tensor must not be met again, except as what a step in place made of it.
        self._ahead.note(tensor, _Ahead(chain, len(chain.steps), reach))
        result = tensor if call.in_place else tensor.detach()
        if done + 1 < len(chain.steps):
            self._ahead.note(result, _Ahead(chain, done + 1, reach))
        else:
            self._ahead.forget(result)
            self._note_reach(result, reach)
        return result

    # -- how large values may be, so that a sum that overflows is not hidden -------------------------------------------

    def _is_safe(self, chain: Chain, x: Tensor) -> bool:
        if not chain.is_safe(self._reach_of(x)):
            self._note_reach(x, _bound(x))
        return chain.is_safe(self._reach_of(x))

    def _reach_of(self, x: Tensor) -> float:
        version, reach = self._reach.get(x) or (None, math.inf)
        return reach if version == _version(x) else math.inf

    def _note_reach(self, x: Tensor, reach: float) -> None:
        if (version := _version(x)) is not None:
            self._reach.note(x, (version, reach))

    def _spread(self, call: Call, taken: list[Tensor], result: Any) -> None:
        """An operation whose result is bounded by what it took."""
        plain = not call.kwargs and all(isinstance(a, Tensor) for a in call.args)
        if call.name == "pad":
            plain = call.argument("mode", "constant") == "constant" and not call.argument("value")
        if isinstance(result, Tensor) and (plain or call.name not in ("pad", "add")):
            reach = [self._reach_of(t) for t in taken] if not call.in_place else [math.inf]
            self._note_reach(result, sum(reach) if call.name == "add" else max(reach))


def _has_graph(how: Convolution) -> bool:
    return torch.is_grad_enabled() and (how.input.requires_grad or how.weight.requires_grad)


def _bound(x: Tensor) -> float:
    """No entry is larger than the square root of the sum of all squares, which is quick; infinity if that is none."""
    found = float(torch.linalg.vector_norm(x))
    return math.inf if math.isnan(found) else found


def _version(x: Tensor) -> int | None:
    return None if type(x) is not Tensor or x.is_inference() else x._version
