"""Examples with what is known about them."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

from torch import Tensor

from cutaway.core.errors import BadShape
from cutaway.core.fingerprint import fingerprint


@runtime_checkable
class Dataset(Protocol):
    """Many examples, read a slice at a time; `Examples` are one that is in memory."""

    @property
    def source(self) -> str:
        """The text that names the set."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names that labels point into."""

    @property
    def fingerprint(self) -> str:
        """A hash that changes when the examples do."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> "Examples": ...


def first(data: Dataset) -> "Examples":
    """The first example that can be read: files before it may be broken and left out. Empty if there is none."""
    return next((part for i in range(len(data)) if len(part := data[i : i + 1])), data[0:1])


@dataclass(frozen=True)
class Examples:
    """Inputs in memory, with their names, labels and concept masks. Slicing keeps all of them together.

    Attributes:
        x: Inputs, batch axis first, in the units of a `Space`; for text, a list of texts.
        names: One identifier per input: a file name or an index.
        labels: Class indices, (n,); None where unknown.
        classes: Class names that the labels point into.
        masks: Which entries the label is known to depend on, (n, height, width) boolean; None where unknown.
        source: The text that made these examples, as `cutaway.data` takes it.
        notes: What was done to the files on the way in: rotated, converted, left out.
        ids: The number of each in the set that it was read from, where some were left out; None for 0, 1, 2, ...
        concepts: What is where, by category: (n, layers, height, width) whole numbers that point into `concept_names`;
            0 for nothing, -1 throughout an input where the category was not annotated. Layers hold several at once.
            Of texts: (n, layers, 1, words between spaces), 0 beyond the end.
        concept_names: Names by category; the first, of number 0, stands for nothing.
    """

    x: Tensor | list[str]
    names: list[str]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    masks: Tensor | None = None
    source: str = ""
    notes: list[str] = field(default_factory=list)
    ids: Tensor | None = None
    concepts: Mapping[str, Tensor] = field(default_factory=dict)
    concept_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {"names": self.names, "labels": self.labels, "masks": self.masks, "ids": self.ids}
        for what, values in known.items():
            if values is not None and len(values) != len(self.x):
                raise BadShape(f"expected {what} for {len(self.x)} examples; got {len(values)}.")

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.x)

    def __getitem__(self, index: int | slice) -> "Examples":
        """One example (still with a batch axis) or a slice of them."""
        if isinstance(index, int) and not -len(self) <= index < len(self):
            raise BadShape(f"expected an index below {len(self)}; got {index}.")
        part = slice(index, index + 1 or None) if isinstance(index, int) else index
        return replace(
            self,
            x=self.x[part],
            names=self.names[part],
            labels=None if self.labels is None else self.labels[part],
            masks=None if self.masks is None else self.masks[part],
            ids=None if self.ids is None else self.ids[part],
            concepts={category: labels[part] for category, labels in self.concepts.items()},
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of inputs, names, labels and masks."""
        tensors = {"x": self.x, "labels": self.labels, "masks": self.masks, "ids": self.ids, **self.concepts}
        values = fingerprint({name: t for name, t in tensors.items() if isinstance(t, Tensor)})
        words = json.dumps([self.names, self.x if isinstance(self.x, list) else [], self.classes])
        return hashlib.sha256(f"{values}{words}".encode()).hexdigest()

    def __iter__(self) -> Iterator["Examples"]:
        """One example at a time."""
        return (self[i] for i in range(len(self)))
