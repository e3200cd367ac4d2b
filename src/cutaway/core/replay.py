"""The part of a forward before a place, computed once and played back.

When only a late activation changes, all operations before it give what they gave before. One run records their results;
later runs return the recorded tensors, repeated for the batch, until the changed place is reached, and compute from
there. This knows nothing of architectures, only the order of operations, so that order is compared call by call, and
the first use is checked against the recorded output: if either differs, the caller runs the whole network instead.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

# These read values out of tensors and may steer the forward; while replaying, tensors are stand-ins, so the recorded
# answer counts.
_READS_VALUES = {"item", "bool", "tolist", "float", "int", "index", "numpy", "equal", "allclose", "contains", "len"}


class Diverged(Exception):
    """A replayed run met other operations than the recorded one."""


@dataclass
class Recorded:
    """One call of the recorded run: the function, what it returned, and whether that depends on the input."""

    func: Callable[..., Any]
    result: Any
    depends: bool
    needed: bool = False


class Recorder(TorchFunctionMode):
    """Record the calls before a place, and which of their results are used after it."""

    def __init__(self, inputs: list[Tensor]) -> None:
        """Record a run whose input is `inputs`."""
        super().__init__()
        self.calls: list[Recorded] = []
        self._depends = {id(t) for t in inputs}
        self._makers: dict[int, list[int]] = defaultdict(list)
        self._versions: list[tuple[Tensor, int]] = []
        self._cut = False

    def cut(self) -> None:
        """The place is reached: from here on, only note what is used."""
        self._cut = True
        # Outside the mode: asking for a version is an operation too, and would make every result one that is used
        # later.
        with torch._C.DisableTorchFunction():
            self._versions = [(t, t._version) for call in self.calls for t in _tensors(call.result) if call.depends]

    @property
    def overwritten(self) -> bool:
        """True if a recorded result was changed in place after the cut, so that its value before is lost."""
        return any(t._version != version for t, version in self._versions)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and record it."""
        kwargs = kwargs or {}
        used = {id(t) for t in _tensors((args, kwargs))}
        result = func(*args, **kwargs)
        if self._cut:
            for maker in (m for t in used for m in self._makers.get(t, ())):
                self.calls[maker].needed = True
            return result
        depends = bool(used & self._depends)
        for t in _tensors(result):
            self._makers[id(t)].append(len(self.calls))
            if depends:
                self._depends.add(id(t))
        self.calls.append(Recorded(func, result, depends))
        return result

    def recording(self) -> list[Recorded]:
        """The calls, with results that nobody needs later reduced to stand-ins that only have a shape."""
        for call in self.calls:
            if call.depends and not call.needed:
                call.result = tree_map(_stand_in, call.result)
        return self.calls


class Replayer(TorchFunctionMode):
    """Play recorded calls back for a batch of `rows`, until `go_live`."""

    def __init__(self, calls: list[Recorded], rows: int) -> None:
        """Replay a recording."""
        super().__init__()
        self._calls = calls
        self._rows = rows
        self._next = 0
        self._live = False

    def go_live(self) -> None:
        """The place is reached: compute from here on.

        Raises:
            Diverged: Fewer operations were met than recorded.
        """
        if self._next != len(self._calls):
            raise Diverged
        self._live = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer one operation."""
        if self._live:
            return func(*args, **(kwargs or {}))
        if self._next >= len(self._calls) or self._calls[self._next].func != func:
            raise Diverged
        call = self._calls[self._next]
        self._next += 1
        if call.depends and _tensors(call.result):
            return tree_map(lambda leaf: self._repeated(leaf, call.needed), call.result)
        if call.depends and getattr(func, "__name__", "").strip("_") in _READS_VALUES:
            return call.result
        return func(*args, **(kwargs or {}))

    def _repeated(self, leaf: Any, needed: bool) -> Any:
        if not isinstance(leaf, Tensor) or leaf.ndim == 0 or leaf.shape[0] != 1:
            return leaf
        many = leaf.expand(self._rows, *leaf.shape[1:])
        return many.clone() if needed else many


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _stand_in(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.zeros((), dtype=leaf.dtype, device=leaf.device).expand(leaf.shape)
