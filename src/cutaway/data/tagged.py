"""Sentences whose words are marked: their parts of speech, and words that praise or blame.

`ud-english` has the sentences of the English Web Treebank, split at spaces, with a universal part of speech for each
word. `sst2-opinions` has the sentences of SST-2. In both, the words of Hu and Liu's opinion lexicon are marked. What is
known of a word stands in `concepts`: (n, layers, 1, words between spaces), 0 for nothing and beyond the end.
"""

import zipfile
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from cutaway.core.dataset import Examples
from cutaway.core.errors import BadShape
from cutaway.core.space import Space
from cutaway.data.fetch import Collection
from cutaway.data.sentences import SIZES as SST2_SIZES
from cutaway.data.sentences import sst2
from cutaway.data.sets import DataSet
from cutaway.data.texts import shortened

SIZES = {"train": 12_543, "dev": 2_002}
TAGS = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
    *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
)
OPINIONS = ("negative word", "positive word")

UD = Collection(
    "ud-english",
    homes=("https://raw.githubusercontent.com/SIDN-IAP/global-model-repr/master/probing/data/",),
    sums={
        "en-ud-dev.pos": "f8b69e283dec5b1e0e4e8cf1e4daa93b7c91790d1be6f5abbd2c4e58e4235965",
        "en-ud-dev.txt": "16838877a376e5137c2b8c720b1940ac624d5d61685d479cd8a19e943d0f3061",
        "en-ud-train.pos": "c49e6936b44261ac3f0d49c9b1c749756f3d8dfa1d549b72bd37f8f7739a129d",
        "en-ud-train.txt": "9a6e789b434c83f44b408105e06ee1fea66d44470c25deeab054450d5ed6a98f",
    },
)
LEXICON = Collection(
    "nltk",
    homes=("https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/",),
    sums={"opinion_lexicon.zip": "7a5da68d53016c5d1fca38f7dd81844cff73466371f90968d1ef15c85b873193"},
)


def treebank(part: str, which: range | None = None, space: Space | None = None) -> Examples:
    """The sentences at these positions of `train` or `dev`, all by default; `space` changes nothing."""
    rows = _treebank(part)
    chosen = [rows[i] for i in (range(len(rows)) if which is None else which)]
    texts = [text for text, _ in chosen]
    numbers = [[[TAGS.index(tag) + 1 for tag in tags]] for _, tags in chosen]
    return Examples(
        x=texts,
        names=[shortened(text) for text in texts],
        source=f"ud-english/{part}",
        concepts={"speech": _padded(numbers), "opinion": _opinions(texts)},
        concept_names={"speech": ("", *TAGS), "opinion": ("", *OPINIONS)},
    )


def opinions(part: str, which: range | None = None, space: Space | None = None) -> Examples:
    """Sentences of SST-2 with their opinion words marked; `space` changes nothing."""
    found = sst2(part, which)
    texts = [str(text) for text in found.x]
    names = {"opinion": ("", *OPINIONS)}
    source = f"sst2-opinions/{part}"
    return replace(found, source=source, concepts={"opinion": _opinions(texts)}, concept_names=names)


@cache
def _treebank(part: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    texts, tags = (_lines(UD.path(f"en-ud-{part}.{ending}")) for ending in ("txt", "pos"))
    rows = tuple((text, tuple(line.split())) for text, line in zip(texts, tags, strict=True))
    bad = next((i for i, (text, line) in enumerate(rows) if len(text.split()) != len(line)), None)
    if len(rows) != SIZES[part] or bad is not None:
        raise BadShape(f"en-ud-{part}: expected {SIZES[part]:,} sentences with a tag for each word.")
    return rows


@cache
def _lexicon() -> tuple[frozenset[str], frozenset[str]]:
    """Words of blame, and words of praise."""
    path = LEXICON.path("opinion_lexicon.zip")
    try:
        with zipfile.ZipFile(path) as archive:
            files = [
                archive.read(f"opinion_lexicon/{name}-words.txt").decode("latin-1") for name in ("negative", "positive")
            ]
    except (OSError, KeyError, zipfile.BadZipFile) as fault:
        raise BadShape(f"{path.name}: not the lists of words that were expected ({fault}).") from fault
    blame, praise = (
        frozenset(line.strip().lower() for line in file.splitlines() if line.strip() and not line.startswith(";"))
        for file in files
    )
    return blame, praise


def _opinions(texts: list[str]) -> Tensor:
    """Blame in one layer, praise in the other: three words are in both lists."""
    lists = _lexicon()
    return _padded(
        [[[k * (word in words) for word in text.lower().split()] for k, words in enumerate(lists, 1)] for text in texts]
    )


def _padded(rows: list[list[list[int]]]) -> Tensor:
    longest = max((len(row[0]) for row in rows), default=0)
    found = torch.zeros(len(rows), len(rows[0]) if rows else 1, 1, longest, dtype=torch.int16)
    for i, row in enumerate(rows):
        for k, values in enumerate(row):
            found[i, k, 0, : len(values)] = torch.tensor(values, dtype=torch.int16)
    return found


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


DATASETS = (
    *(
        DataSet(
            f"ud-english/{part}",
            f"English sentences with parts of speech, {part} part (fetched)",
            size,
            partial(treebank, part),
        )
        for part, size in SIZES.items()
    ),
    *(
        DataSet(
            f"sst2-opinions/{part}",
            f"sst2/{part} with words of praise and blame marked (fetched)",
            size,
            partial(opinions, part),
        )
        for part, size in SST2_SIZES.items()
    ),
)
