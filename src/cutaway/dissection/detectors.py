"""Counts of pixels as IoU, and units with a concept that they detect."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.dissection.concepts import Vocabulary

# Above this a unit counts as a detector of its concept (Bau et al. 2017).
DETECTS = 0.04


@dataclass(frozen=True)
class Overlap:
    """Agreement of all units with all concepts.

    Attributes:
        iou: (units, concepts).
        ceiling: The best that masks of these sizes could have, (units, concepts): smaller over larger share.
        chance: The IoU of two sets of these sizes that do not know of each other.
        words: The concepts.
    """

    iou: Tensor
    ceiling: Tensor
    chance: Tensor
    words: Vocabulary

    @classmethod
    def of(cls, both: Tensor, concept: Tensor, unit: Tensor, pixels: Tensor, words: Vocabulary) -> "Overlap":
        """From the counts, see `units.Overlaps`."""
        kinds = torch.tensor([words.categories.index(category) for category, _ in words.all])
        active, total = unit[:, kinds].double(), pixels[kinds].double().clamp_min(1)
        size = concept.double()[None]
        together = both.double()
        union = (active + size - together).clamp_min(1)
        a, b = active / total, size / total
        ceiling = torch.minimum(a, b) / torch.maximum(a, b).clamp_min(1e-300)
        chance = a * b / (a + b - a * b).clamp_min(1e-300)
        return cls(together / union, ceiling, chance, words)

    def best(self, category: str | None = None) -> tuple[Tensor, Tensor]:
        """Each unit's concept of highest IoU, of one category or of all: numbers and values. The first among equals."""
        iou = self.iou
        if category is not None:
            start = self.words.starts[category]
            names = self.words.names[self.words.categories.index(category)]
            part = iou[:, start : start + len(names)]
            return part.argmax(1) + start, part.amax(1)
        return iou.argmax(1), iou.amax(1)


@dataclass(frozen=True)
class Summary:
    """What a table of units comes to.

    Attributes:
        units: How many there are.
        detectors: Those with an IoU above 0.04.
        unique: Different concepts among them.
        by_category: Detectors by category.
    """

    units: int
    detectors: int
    unique: int
    by_category: dict[str, int]

    def __str__(self) -> str:
        """In a sentence."""
        kinds = ", ".join(f"{count} {category}" for category, count in self.by_category.items())
        text = f"{self.detectors} of {self.units} units detect a concept (IoU above {DETECTS}), {self.unique} different"
        return f"{text}: {kinds}." if kinds else f"{text}."


def summary(labels: Sequence[tuple[str, str]], scores: Sequence[float]) -> Summary:
    """Detectors and unique detectors.

    Args:
        labels: Category and name of each unit's best concept.
        scores: Its IoU.
    """
    found = [label for label, score in zip(labels, scores, strict=True) if score > DETECTS]
    kinds = Counter(category for category, _ in found)
    return Summary(len(labels), len(found), len({name for _, name in found}), dict(kinds.most_common()))
