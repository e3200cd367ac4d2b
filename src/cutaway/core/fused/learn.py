"""Which convolutions of a network are followed by something that they could do themselves, seen in one forward."""

import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cutaway.core.fused.chain import Chain, Norm, convolution, step
from cutaway.core.fused.tensors import Noted, is_question, tensors_in
from cutaway.core.operations import Call, Places, operation_name


@dataclass
class _Seen:
    """One convolution of the forward: what followed so far, and whether more may."""

    chain: Chain
    open: bool = True
    wanted: bool = True


class Learner(TorchFunctionMode):
    """Watch a forward, and note the convolutions whose result goes to a normalisation or an activation and no further.

    Use as a context around one forward; `chains()` tells afterwards, when the forward's own variables are gone.
    """

    def __init__(self, module: nn.Module) -> None:
        """Watch a forward of `module`; weights that it computes on the way are not its own."""
        super().__init__()
        self._own = {id(t) for t in (*module.parameters(), *module.buffers())}
        self._places = Places(module)
        self._seen: list[_Seen] = []
        self._made: Noted[tuple[_Seen, int]] = Noted()
        self._passed: list[tuple[weakref.ref[Tensor], _Seen]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and look at what it took."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if is_question(func):
            return result
        call = Call(operation_name(func), "", func, args, kwargs)
        for tensor in tensors_in((*args, *kwargs.values())):
            found = self._made.get(tensor)
            if found is not None:
                self._follow(call, tensor, result, *found)
        if call.name == "conv2d" and (how := convolution(call)) is not None:
            seen = _Seen(Chain(how.weight, how.bias, places=[[self._places.now]]))
            self._seen.append(seen)
            self._made.note(result, (seen, 0))
        return result

    def _follow(self, call: Call, tensor: Tensor, result: Any, seen: _Seen, steps: int) -> None:
        """An operation took what a convolution gave, `steps` steps later."""
        if steps < len(seen.chain.steps):
            seen.wanted = False  # a value before a step is used beside it
            return
        then = step(call) if seen.open and call.args and call.args[0] is tensor else None
        ends = seen.chain.activation is not None or (isinstance(then, Norm) and seen.chain.norm is not None)
        if then is None or ends:
            seen.open = False
            return
        seen.chain.steps.append(then)
        seen.chain.places[0].append(self._places.now)
        if result is not tensor:
            self._passed.append((weakref.ref(tensor), seen))
        self._made.note(result, (seen, steps + 1))

    def chains(self) -> dict[int, Chain]:
        """By the identity of the weight: what always follows it."""
        for tensor, seen in self._passed:
            seen.wanted = seen.wanted and tensor() is None  # somebody kept a value from before a step
        found: dict[int, Chain] = {}
        unwanted = {id(seen.chain.weight) for seen in self._seen if not self._can_fuse(seen)}
        for seen in self._seen:
            first = found.setdefault(id(seen.chain.weight), seen.chain)
            if not first.fits(seen.chain):
                unwanted.add(id(seen.chain.weight))
            elif first is not seen.chain:
                first.places += seen.chain.places
        return {weight: chain for weight, chain in found.items() if weight not in unwanted}

    def _can_fuse(self, seen: _Seen) -> bool:
        return seen.wanted and bool(seen.chain.steps) and all(id(t) in self._own for t in seen.chain.tensors())
