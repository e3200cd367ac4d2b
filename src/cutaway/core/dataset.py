"""Examples with what is known about them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor

from cutaway.core.errors import BadShape


@dataclass(frozen=True)
class Examples:
    """Inputs in memory, with their names, labels and concept masks. Slicing keeps all of them together.

    Attributes:
        x: Inputs, batch axis first, in the units of a `Space`.
        names: One identifier per input: a file name or an index.
        labels: Class indices, (n,); None where unknown.
        classes: Class names that the labels point into.
        masks: Which entries the label is known to depend on, (n, height, width) boolean; None where unknown.
        source: The text that made these examples, as `cutaway.data` takes it.
        notes: What was done to the files on the way in: rotated, converted, left out.
    """

    x: Tensor
    names: list[str]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    masks: Tensor | None = None
    source: str = ""
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for what, values in (("names", self.names), ("labels", self.labels), ("masks", self.masks)):
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
        )

    def __iter__(self) -> Iterator["Examples"]:
        """One example at a time."""
        return (self[i] for i in range(len(self)))
