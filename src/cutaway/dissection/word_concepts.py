"""What is true of each word of a text, as numbers: its place, the word itself, and what a data set says about it."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.dataset import Dataset, Examples, first
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.text import Pieces, pieces_of
from cutaway.dissection.concepts import CLASS, Vocabulary

POSITION, WORD = "position", "word"
_PLACES = ("first", "second", "third", "last")
# So many of the most common words are concepts of their own.
COMMON = 100
_AT_ONCE = 256
_WORD = re.compile(r"\S+")


def word_vocabulary(model: Model, data: Dataset, wanted: Sequence[str]) -> tuple[Vocabulary, int]:
    """The concepts of a set of texts, and the pieces of the longest one.

    Args:
        model: Its tokenizer tells the words.
        data: The texts.
        wanted: Categories: `position`, `word`, `class` for the label of a whole text, and those that the set is
            annotated with; none for all that it has.

    Raises:
        BadOption: A category that this set does not have.
    """
    counts, longest = Counter[str](), 0
    for start in track(range(0, len(data), _AT_ONCE), "reading texts"):
        part = data[start : start + _AT_ONCE]
        for pieces in pieces_of_batch(model, model.inputs(part)):
            counts.update(name.lower() for name in pieces.names)
            longest = max(longest, len(pieces.tokens))
    common = sorted(counts, key=lambda word: (-counts[word], word))[:COMMON]
    part = first(data)
    known: dict[str, Sequence[str]] = {c: names[1:] for c, names in part.concept_names.items()}
    known |= {POSITION: _PLACES, WORD: [f"“{word}”" for word in common]}
    if data.classes and part.labels is not None:
        known[CLASS] = data.classes
    for category in wanted:
        if category not in known:
            raise BadOption(f"expected categories out of {', '.join(known)}; got {category!r}.")
    chosen = tuple(wanted) or tuple(known)
    return Vocabulary(chosen, tuple(tuple(known[c]) for c in chosen)), longest


def labels_of_words(part: Examples, pieces: Sequence[Pieces], category: str, words: Vocabulary, width: int) -> Tensor:
    """What the pieces of some texts are, (n, layers, width): 0 for nothing, -1 where nobody looked."""
    if category == CLASS:
        assert part.labels is not None
        return (part.labels + 1).view(-1, 1, 1).expand(-1, 1, width)
    if category == POSITION:
        return _filled([_place(p) for p in pieces], 2, width)
    if category == WORD:
        numbers = {name[1:-1]: k for k, name in enumerate(words.names[words.categories.index(WORD)], start=1)}
        return _filled([[[numbers.get(name.lower(), 0) for name in _words(p)]] for p in pieces], 1, width)
    given = part.concepts[category][:, :, 0]
    places = [_written(p) for p in pieces]
    return _filled(
        [[[int(layer[k]) if k >= 0 else 0 for k in row] for layer in given[i]] for i, row in enumerate(places)],
        given.shape[1],
        width,
    )


def pieces_of_batch(model: Model, x: Batch) -> list[Pieces]:
    """The pieces of each text.

    Raises:
        NotPossible: The model has no tokenizer, so nobody knows the words.
    """
    pieces = pieces_of(x, model.tokenizer)
    if not pieces:
        raise NotPossible(f"{model.name} has no tokenizer, so nobody knows its words; pass tokenizer=... to Model.")
    return pieces


def _words(pieces: Pieces) -> list[str]:
    """The word that each piece belongs to; empty for special pieces."""
    names = pieces.names
    return [names[k] if k >= 0 else "" for k in pieces.words]


def _place(pieces: Pieces) -> list[list[int]]:
    """First, second or third word in one layer, last word in the other."""
    last = max(pieces.words, default=-1)
    return [
        [k + 1 if 0 <= k < 3 else 0 for k in pieces.words],
        [len(_PLACES) if k == last and k >= 0 else 0 for k in pieces.words],
    ]


def _written(pieces: Pieces) -> list[int]:
    """Which of the words between spaces each piece lies in, -1 for special pieces.

    Raises:
        NotPossible: Nobody knows where the pieces lie in the text.
    """
    if not pieces.text or not pieces.offsets:
        raise NotPossible(
            "this tokenizer does not tell where its pieces lie in the text, so what is known about the words of a data "
            "set cannot be brought to them; take the categories position, word or class."
        )
    starts = [m.start() for m in _WORD.finditer(pieces.text)]
    return [
        bisect_right(starts, begin) - 1 if k >= 0 else -1
        for k, (begin, _) in zip(pieces.words, pieces.offsets, strict=True)
    ]


def _filled(rows: Sequence[Sequence[Sequence[int]]], layers: int, width: int) -> Tensor:
    found = torch.zeros(len(rows), layers, width, dtype=torch.long)
    for i, row in enumerate(rows):
        for k, values in enumerate(row):
            found[i, k, : min(len(values), width)] = torch.tensor(values[:width], dtype=torch.long)
    return found
