"""What relevance rules know of the tensors of one forward: what their signal means, whether they are gates."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

from torch import Tensor

from cutaway.attribution.relevance.weights import Rule, Weighted
from cutaway.core.operations import Call


class Kept:
    """A tensor as it is now, also after an operation in place overwrites it."""

    def __init__(self, value: Tensor) -> None:
        """The value, not copied yet."""
        self.value = value.detach()


class Keeper:
    """Copies what was kept of a piece of memory just before an operation writes there.

    It does not keep anything alive: values go when the backward pass that needs them is over.
    """

    def __init__(self) -> None:
        """Nothing kept."""
        self._kept: dict[int, WeakSet[Kept]] = defaultdict(WeakSet)

    def keep(self, tensor: Tensor) -> Kept:
        """Keep a tensor's values."""
        kept = Kept(tensor)
        self._kept[tensor.untyped_storage().data_ptr()].add(kept)
        return kept

    def will_be_overwritten(self, tensor: Tensor) -> None:
        """Copy whatever was kept of this memory."""
        for kept in self._kept.pop(tensor.untyped_storage().data_ptr(), ()):
            kept.value = kept.value.clone()


@dataclass
class Made:
    """The operation with weights that made a tensor, so that a batch normalisation can be folded into it.

    Attributes:
        call, op, rule: What it was, and its rule.
        x: Its input.
        versions: Of its input and output, when it ran.
        folded: Set when the normalisation answers for both.
    """

    call: Call
    op: Weighted
    rule: Rule
    x: Tensor
    versions: tuple[int, int]
    folded: bool = False


@dataclass(frozen=True)
class Known:
    """What is known of a tensor that carries a signal.

    Attributes:
        first: Entries have only been moved or scaled since the place of attribution; the signal is relevance itself.
        gate: It says how much of something passes: a sigmoid, softmax weights, one over a norm.
        of_constant: It is a gate times a tensor that does not depend on the input, such as an initial state.
        two_sided: It is between -1 and 1, and becomes a gate when 1 is added.
        made: What made it.
    """

    first: bool = False
    gate: bool = False
    of_constant: bool = False
    two_sided: bool = False
    made: Made | None = None


UNKNOWN = Known()


def known(tensor: Tensor) -> Known:
    """What is known of a tensor; a leaf is the place of attribution."""
    found: Known | None = getattr(tensor, "_relevance", None)
    return found or Known(first=tensor.is_leaf)


def note(tensor: Tensor, facts: Known) -> None:
    """Remember something about a tensor."""
    tensor._relevance = facts  # type: ignore[attr-defined]  # tensors take attributes


def exchanged(call: Call, pairs: Iterable[tuple[Tensor, Tensor]]) -> Call:
    """A call with some of its tensors replaced."""
    new = {id(old): tensor for old, tensor in pairs}

    def walk(value: Any) -> Any:
        if isinstance(value, Tensor):
            return new.get(id(value), value)
        if type(value) in (list, tuple):
            return type(value)(walk(v) for v in value)
        return value

    args = tuple(walk(v) for v in call.args)
    return replace(call, args=args, kwargs={name: walk(v) for name, v in call.kwargs.items()}) if new else call
