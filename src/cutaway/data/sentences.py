"""Sentences of film reviews with the opinion that they express: two classes of the Stanford treebank, and an older set.

`sst2` has sentences in lower case with spaces between words and signs, in the usual three parts. `sentence-polarity`
has 5,331 sentences of each class, here taken in turn. Part of them are in `sst2` as well: train on one, and do not test
on the other.
"""

import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch

from cutaway.core.dataset import Examples
from cutaway.core.errors import BadShape
from cutaway.core.space import Space
from cutaway.data.fetch import Collection
from cutaway.data.sets import DataSet
from cutaway.data.texts import shortened

CLASSES = ("negative", "positive")
SIZES = {"train": 6920, "dev": 872, "test": 1821}
POLARITY = 10_662

SST2 = Collection(
    "sst2",
    homes=("https://raw.githubusercontent.com/clairett/pytorch-sentiment-classification/master/data/SST2/",),
    sums={
        "train.tsv": "ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920",
        "dev.tsv": "eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359",
        "test.tsv": "831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7",
    },
)
NLTK = Collection(
    "nltk",
    homes=("https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/",),
    sums={"sentence_polarity.zip": "6e1ed4405b65c7eabf1d199a7f7c437091ac21da0ea7467b410a74062574566b"},
)
Labelled = tuple[tuple[str, int], ...]


def sst2(part: str, which: range | None = None, space: Space | None = None) -> Examples:
    """The sentences at these positions of `train`, `dev` or `test`, all by default; `space` changes nothing."""
    return _examples(f"sst2/{part}", _sst2(part), which)


def polarity(which: range | None = None, space: Space | None = None) -> Examples:
    """The sentences of sentence-polarity at these positions, a negative and a positive one in turn."""
    return _examples("sentence-polarity", _polarity(), which)


@cache
def _sst2(part: str) -> Labelled:
    return _read(SST2.path(f"{part}.tsv"), SIZES[part], _tabbed)


@cache
def _polarity() -> Labelled:
    return _read(NLTK.path("sentence_polarity.zip"), POLARITY, _zipped)


def _read(path: Path, size: int, reader: Callable[[Path], list[tuple[str, int]]]) -> Labelled:
    try:
        found = reader(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as fault:
        raise BadShape(f"{path.name}: not the sentences that were expected ({fault}).") from fault
    if len(found) != size:
        raise BadShape(f"{path.name}: expected {size:,} sentences; got {len(found):,}.")
    return tuple(found)


def _tabbed(path: Path) -> list[tuple[str, int]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    pairs = [line.rsplit("\t", 1) for line in lines if line]
    return [(text, ("0", "1").index(label)) for text, label in pairs]


def _zipped(path: Path) -> list[tuple[str, int]]:
    with zipfile.ZipFile(path) as archive:
        files = [archive.read(f"sentence_polarity/rt-polarity.{end}").decode("latin-1") for end in ("neg", "pos")]
    negative, positive = ([line.strip() for line in file.split("\n") if line.strip()] for file in files)
    return [pair for texts in zip(negative, positive, strict=True) for pair in zip(texts, (0, 1), strict=True)]


def _examples(name: str, rows: Labelled, which: range | None) -> Examples:
    chosen = list(range(len(rows)) if which is None else which)
    return Examples(
        x=[rows[i][0] for i in chosen],
        names=[f"{name} {i}: {shortened(rows[i][0])}" for i in chosen],
        labels=torch.tensor([rows[i][1] for i in chosen]),
        classes=CLASSES,
        source=name,
    )


DATASETS = (
    *(
        DataSet(f"sst2/{part}", f"sentences of film reviews, {part} part of SST-2 (fetched)", size, partial(sst2, part))
        for part, size in SIZES.items()
    ),
    DataSet("sentence-polarity", "sentences of film reviews, half of them negative (fetched)", POLARITY, polarity),
)
