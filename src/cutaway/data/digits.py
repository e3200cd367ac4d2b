"""The handwritten digits of scikit-learn: 1,797 pictures of 8 x 8 pixels, one channel, 0 is paper and 1 is ink.

Every fifth picture is a test picture. The writers of both parts are the same people, so test accuracy says little about
others.
"""

from functools import cache, partial

import torch
from torch import Tensor

from cutaway.core.dataset import Examples
from cutaway.core.space import Space
from cutaway.data.sets import DataSet

CLASSES = tuple("zero one two three four five six seven eight nine".split())
COUNT = 1797
SPLITS = {
    "digits": range(COUNT),
    "digits/test": range(0, COUNT, 5),
    "digits/train": tuple(i for i in range(COUNT) if i % 5),
}


def digits(split: str, which: range | None = None, space: Space | None = None) -> Examples:
    """The digits at these positions of a split, all of them by default; `space` changes nothing."""
    x, labels = _all()
    part = SPLITS[split]
    chosen = [part[i] for i in (range(len(part)) if which is None else which)]
    return Examples(
        x=x[chosen], names=[f"digit {i}" for i in chosen], labels=labels[chosen], classes=CLASSES, source=split
    )


@cache
def _all() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.images / 16).float()[:, None], torch.from_numpy(data.target).long()


DATASETS = (
    DataSet("digits", "handwritten digits, 8 x 8, all 1,797 (scikit-learn)", COUNT, partial(digits, "digits")),
    DataSet("digits/test", "every fifth of the digits", len(SPLITS["digits/test"]), partial(digits, "digits/test")),
    DataSet("digits/train", "the other digits", len(SPLITS["digits/train"]), partial(digits, "digits/train")),
)
