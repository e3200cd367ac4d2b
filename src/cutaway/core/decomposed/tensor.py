"""Activations as sums of two parts: what comes from a group of the input's entries, and everything else.

A `Decomposed` tensor travels through a network that was never written for it. It holds the part that comes from a
group, the rest, and the ordinary value beside them; each operation has a rule that says how the parts go through it so
that they still sum to the value (`core.decomposed.rules`). An operation without a rule is refused by name and place.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cutaway.core.errors import BadShape, NotPossible
from cutaway.core.operations import Call, Places, operation_name

# Questions about shape and type, which the wrapper answers itself.
_ABOUT = set(
    "__len__ size dim ndimension stride numel nelement element_size is_floating_point is_complex is_contiguous "
    "get_device is_inference __hash__ has_names storage_offset".split()
)
# Properties that are operations: x.T, x.data.
_PROPERTIES = {"T": "t", "H": "t", "mT": "mt", "mH": "mt", "data": "detach"}


@dataclass
class Gap:
    """How far the parts are from summing to the value.

    Attributes:
        size: The largest difference, as a share of the largest value there.
        name, site: The operation, and the path of the module around it.
        values: How many numbers were compared.
    """

    size: float = 0.0
    name: str = ""
    site: str = ""
    values: int = 0


@dataclass(frozen=True)
class How:
    """Choices between published rules.

    Attributes:
        shares_bias: True to share a bias between the parts in proportion to their sizes; False to leave it to the rest.
        averages: True to give the part of a rectifier the mean of its effect alone and beside the rest; False for its
            effect alone.
    """

    shares_bias: bool = True
    averages: bool = True


@dataclass
class Book:
    """What the rules of one run are told, and what they write down.

    Attributes:
        answer: The rules: from a call to its result.
        places: Where the run is.
        how: Choices between published rules.
        gap: The worst place.
    """

    answer: Callable[[Call, "Book"], Any]
    places: Places
    how: How = How()
    gap: Gap = field(default_factory=Gap)

    def compare(self, parts: "Decomposed", call: Call) -> None:
        """Note how well the parts sum to the value after an operation."""
        if not parts.part.numel():
            return
        miss, scale = (parts.part + parts.rest).sub_(parts.whole), parts.row()
        size = _largest(miss) / max(_largest(scale), torch.finfo(miss.dtype).tiny)
        if not math.isfinite(size):  # a mask of -inf in the value is no miss
            miss, scale = miss[miss.isfinite()], scale[scale.isfinite()]
            size = _largest(miss) / (_largest(scale) or 1.0)
        self.gap.values += parts.part.numel()
        if size > self.gap.size or not self.gap.name:
            self.gap.size, self.gap.name, self.gap.site = size, call.name, call.site


class Decomposed(Tensor):
    """A batch of one activation, with the part of it that comes from a group of entries, another group in each row.

    Attributes:
        part: What comes from the group.
        rest: Everything else; part + rest is the value.
        whole: The value, as the network computes it. All rows are alike, and often held once (stride 0).
        book: Of the run.
    """

    part: Tensor
    rest: Tensor
    whole: Tensor
    book: Book

    @staticmethod
    def __new__(cls, part: Tensor, rest: Tensor, whole: Tensor, book: Book) -> "Decomposed":
        """Two parts of a value."""
        self = torch.Tensor._make_wrapper_subclass(cls, part.shape, dtype=part.dtype, device=part.device)
        self.part, self.rest, self.whole, self.book = part, rest, whole.expand(part.shape), book
        return self

    def row(self) -> Tensor:
        """The value once, if it is held once; else all rows."""
        if not self.is_held_once:
            return self.whole
        one = self.whole[:1]
        return one.as_strided(one.shape, (one.numel(), *one.stride()[1:]))  # with step 0, its layout could not be told

    @property
    def is_held_once(self) -> bool:
        """True while one row of memory stands for the value in all rows."""
        return bool(self.whole.ndim > 1 and self.whole.stride(0) == 0)

    def write(self, new: "Decomposed") -> "Decomposed":
        """Take other values, in the same memory: views of this tensor see them too."""
        self.part.copy_(new.part)
        self.rest.copy_(new.rest)
        once = tuple(slice(0, 1) if step == 0 else slice(None) for step in self.whole.stride())
        self.whole[once].copy_(new.whole.expand_as(self.whole)[once])
        return self

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]  # torch's has contents to format
        """The shape; the parts are tensors of their own."""
        return f"Decomposed{tuple(self.part.shape)}"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation by its rule."""
        kwargs = kwargs or {}
        plain = getattr(func, "__name__", "")
        name = operation_name(func)
        if plain == "__get__":
            attribute = getattr(getattr(func, "__self__", None), "__name__", "")
            name = _PROPERTIES.get(attribute, "")
        if plain in _ABOUT or (plain == "__get__" and not name):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        book = next(decomposed((args, kwargs))).book
        return book.answer(Call(name, book.places.now, func, args, kwargs), book)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]  # declared without cls
        """Refuse what comes past the rules: the wrapper itself holds no values."""
        raise NotPossible(f"contextual decomposition cannot follow {func}, which works on raw memory.")


def of_groups(value: Tensor, masks: Tensor, book: Book) -> Decomposed:
    """One input, repeated for each mask: what the mask shows is the part.

    Raises:
        BadShape: Masks of another shape.
    """
    fits = masks.ndim == value.ndim and all(m in (1, v) for m, v in zip(masks.shape, value.shape, strict=True))
    if not fits or masks.dtype != torch.bool:
        raise BadShape(
            f"expected masks as booleans that fit {tuple(value.shape)}; got {masks.dtype} of {tuple(masks.shape)}."
        )
    nothing = torch.zeros_like(value)
    return Decomposed(torch.where(masks, value, nothing), torch.where(masks, nothing, value), value[:1], book)


def decomposed(value: Any) -> Iterator[Decomposed]:
    """The decomposed tensors among nested arguments."""
    if isinstance(value, Decomposed):
        yield value
        return
    items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    for item in items:
        yield from decomposed(item)


def exchanged(value: Any, how: Callable[[Any], Any]) -> Any:
    """Nested arguments with every tensor exchanged."""
    if isinstance(value, Tensor):
        return how(value)
    if isinstance(value, dict):
        return {name: exchanged(v, how) for name, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(exchanged(v, how) for v in value))
    return type(value)(exchanged(v, how) for v in value) if isinstance(value, tuple | list) else value


def _largest(t: Tensor) -> float:
    """The largest size of a number in it."""
    if not t.numel():
        return 0.0
    # In the order of memory, so that it is not copied.
    low, high = torch.aminmax(t.movedim(1, -1) if t.ndim == 4 else t)
    return max(-float(low), float(high))
