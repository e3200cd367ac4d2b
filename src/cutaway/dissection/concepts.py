"""What is where in a batch of pictures, as numbers that count intersections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.core.dataset import Dataset, Examples, first
from cutaway.core.errors import BadOption, NotPossible
from cutaway.dissection.colours import NAMES as COLOURS
from cutaway.dissection.colours import colours

COLOUR, CLASS = "color", "class"


@dataclass(frozen=True)
class Vocabulary:
    """All concepts of a data set in one row, category after category.

    Attributes:
        categories: In their order.
        names: By category, without "nothing".
    """

    categories: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]

    @property
    def starts(self) -> dict[str, int]:
        """Where each category begins."""
        found, start = {}, 0
        for category, names in zip(self.categories, self.names, strict=True):
            found[category], start = start, start + len(names)
        return found

    def __len__(self) -> int:
        """How many concepts."""
        return sum(map(len, self.names))

    @property
    def all(self) -> list[tuple[str, str]]:
        """Category and name of each concept."""
        return [(c, name) for c, names in zip(self.categories, self.names, strict=True) for name in names]


def vocabulary(data: Dataset, wanted: Sequence[str]) -> Vocabulary:
    """The concepts of a data set.

    Args:
        data: The set.
        wanted: Categories: those that the set is annotated with, `color` for the colours of its pixels, `class` for the
            labels of whole pictures; none for all that it has. What it is annotated with comes before what is
            computed.

    Raises:
        BadOption: A category that this set does not have.
        NotPossible: It has none.
    """
    known: dict[str, Sequence[str]] = {c: names[1:] for c, names in _annotated(data).items()}
    part = first(data)
    if isinstance(part.x, Tensor) and part.x.ndim == 4 and part.x.shape[1] == 3:
        known.setdefault(COLOUR, COLOURS[1:])
    if data.classes and part.labels is not None:
        known.setdefault(CLASS, data.classes)
    for category in wanted:
        if category not in known:
            raise BadOption(f"expected categories out of {', '.join(known) or 'none'}; got {category!r}.")
    chosen = tuple(wanted) or tuple(known)
    if not chosen:
        raise NotPossible(
            f"{data.source or 'this data set'} says nothing about what is where: it needs pictures in colour, labels, "
            "or annotated concepts, such as shapes/test or a folder in Broden's format."
        )
    return Vocabulary(chosen, tuple(tuple(known[c]) for c in chosen))


def _annotated(data: Dataset) -> Mapping[str, tuple[str, ...]]:
    return first(data).concept_names


def labels_of(part: Examples, category: str, height: int, width: int) -> Tensor:
    """What the pixels show, (n, layers, height, width): 0 for nothing, -1 where nobody looked.

    Maps are brought to the size by taking the nearest pixel: the mean of two labels is none.
    """
    if category in part.concepts:
        found = part.concepts[category]
    elif category == COLOUR:
        assert isinstance(part.x, Tensor)
        # Only the pixels that are asked for are named.
        found = colours(_nearest(part.x, height, width))
    else:
        assert part.labels is not None
        found = (part.labels + 1).view(-1, 1, 1, 1)
    found = _nearest(found, height, width)
    for later in range(1, found.shape[1]):
        for earlier in range(later):
            # The same label in two layers is there once.
            twice = (found[:, later] == found[:, earlier]) & (found[:, later] > 0)
            found[:, later] = found[:, later].masked_fill(twice, 0)
    return found


def _nearest(x: Tensor, height: int, width: int) -> Tensor:
    rows, columns = (
        ((torch.arange(n) + 0.5) * size / n).long() for n, size in ((height, x.shape[2]), (width, x.shape[3]))
    )
    return x[:, :, rows][:, :, :, columns]
