"""Text as an input: the pieces that a network sees, where each lies in the original, and which make up a word.

A batch of texts that came through the door is an `Encoded`: the tensors that the network takes, and beside them a
`Pieces` for each text. Slices and repeats keep both together; a batch of bare ids gets its pieces from `pieces_of`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cutaway.core.checks import Check
from cutaway.core.errors import BadShape

# How tokenizers mark a piece that continues a word, and one that begins a word.
_CONTINUES, _BEGINS = ("##",), ("Ġ", "▁", "Ċ")


@dataclass(frozen=True)
class Pieces:
    """The pieces of one text, padding included.

    Attributes:
        tokens: What the tokenizer calls each piece.
        words: The word that each piece belongs to, 0 to k - 1; -1 for special pieces and padding.
        text: The original; empty where only ids were given.
        offsets: Where each piece begins and ends in the original; (0, 0) for special pieces, and for all where unknown.
        marked: False where the tokenizer tells neither words nor offsets, so that each piece is taken for a word.
        unknown: Pieces that stand for a word which the tokenizer does not know.
        padding: How many of the last pieces are padding.
    """

    tokens: tuple[str, ...]
    words: tuple[int, ...]
    text: str = ""
    offsets: tuple[tuple[int, int], ...] = ()
    marked: bool = True
    unknown: tuple[int, ...] = ()
    padding: int = 0

    def __len__(self) -> int:
        """Pieces without padding."""
        return len(self.tokens) - self.padding

    @property
    def names(self) -> tuple[str, ...]:
        """The words as they stand in the original; put together from their pieces where that is not known."""
        at: dict[int, list[int]] = {}
        for i, word in enumerate(self.words):
            at.setdefault(word, []).append(i)
        found: list[str] = []
        for word in range(max(self.words, default=-1) + 1):
            if self.text and self.offsets:
                found.append(self.text[self.offsets[at[word][0]][0] : self.offsets[at[word][-1]][1]])
            else:
                found.append("".join(_bare(self.tokens[i]) for i in at[word]))
        return tuple(found)


class Encoded(dict[str, Tensor]):
    """The tensors of a batch of texts, with the `Pieces` of each text."""

    def __init__(self, tensors: dict[str, Tensor], pieces: Sequence[Pieces]) -> None:
        super().__init__(tensors)
        self.pieces = tuple(pieces)

    def rows(self, rows: slice | Tensor) -> "Encoded":
        """Some of the texts, by a slice, a mask or positions."""
        pieces = self.pieces
        if not isinstance(rows, slice):
            at = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
            return Encoded({k: v[rows.to(v.device)] for k, v in self.items()}, [pieces[i] for i in at.tolist()])
        return Encoded({k: v[rows] for k, v in self.items()}, pieces[rows])


def encoded(texts: Sequence[str], tokenizer: Any) -> Encoded:
    """Texts as the network takes them.

    Args:
        texts: At least one.
        tokenizer: Called as those of Hugging Face are.

    Raises:
        BadShape: A text without a single word.
    """
    fast = bool(getattr(tokenizer, "is_fast", False))
    more = {"return_offsets_mapping": True} if fast else {}
    taken = tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, **more)
    tensors = {name: value for name, value in taken.items() if name != "offset_mapping"}
    ids, mask = next(iter(tensors.values())), tensors.get("attention_mask")
    offsets = taken["offset_mapping"].tolist() if fast else [None] * len(texts)
    pieces = [
        _pieces(
            tokenizer, ids[i], None if mask is None else mask[i], text, offsets[i], taken.word_ids(i) if fast else None
        )
        for i, text in enumerate(texts)
    ]
    for i, found in enumerate(pieces):
        if max(found.words, default=-1) < 0:
            raise BadShape(f"expected text in every input; number {i} has no word: {texts[i][:40]!r}.")
    return Encoded(tensors, pieces)


def pieces_of(x: Any, tokenizer: Any) -> list[Pieces]:
    """The pieces of each input of a batch; none without a tokenizer, or for a batch of embeddings."""
    if isinstance(x, Encoded):
        return list(x.pieces)
    ids = x if isinstance(x, Tensor) else x.get("input_ids")
    if tokenizer is None or ids is None or ids.is_floating_point():
        return []
    mask = None if isinstance(x, Tensor) else x.get("attention_mask")
    return [_pieces(tokenizer, row, None if mask is None else mask[i]) for i, row in enumerate(ids)]


def notes_on(pieces: Sequence[Pieces]) -> dict[str, Check]:
    """What a reader should know of the pieces: words that the model does not know, words that could not be told."""
    checks = {}
    unknown = [_shown(p, i) for p in pieces for i in p.unknown]
    if unknown:
        few = ", ".join(map(repr, list(dict.fromkeys(unknown))[:5]))
        total = sum(max(p.words) + 1 for p in pieces)
        text = f"Unknown to the model, which sees the same for all such words: {len(unknown)} of {total} words ({few})."
        checks["unknown"] = Check(text, "warn" if 2 * len(unknown) > total else "note", len(unknown))
    if not all(p.marked for p in pieces):
        text = "The tokenizer tells neither words nor where a piece lies in the text: each piece is taken for a word."
        checks["pieces"] = Check(text, "note")
    return checks


def _pieces(
    tokenizer: Any,
    ids: Tensor,
    mask: Tensor | None,
    text: str = "",
    offsets: list[list[int]] | None = None,
    word_ids: list[int | None] | None = None,
) -> Pieces:
    row = ids.tolist()
    tokens = tuple(str(token) for token in tokenizer.convert_ids_to_tokens(row))
    special, unk = set(getattr(tokenizer, "all_special_ids", ())), getattr(tokenizer, "unk_token_id", None)
    pad = getattr(tokenizer, "pad_token_id", None)
    kept = [i != pad for i in row] if mask is None else mask.bool().tolist()
    real = [here and (i == unk or i not in special) for i, here in zip(row, kept, strict=True)]
    marked = bool(getattr(tokenizer, "is_fast", False)) or any(t.startswith(_CONTINUES + _BEGINS) for t in tokens)
    if word_ids is None:
        word_ids = _words_by_marks(tokens, real)
    return Pieces(
        tokens=tokens,
        words=_dense(word_ids, real),
        text=text,
        offsets=tuple((a, b) if here else (0, 0) for (a, b), here in zip(offsets or (), real, strict=False)),
        marked=marked,
        unknown=tuple(i for i, here in enumerate(real) if here and row[i] == unk),
        padding=kept[::-1].index(True) if any(kept) else len(kept),
    )


def _words_by_marks(tokens: Sequence[str], real: Sequence[bool]) -> list[int | None]:
    """Word numbers from how pieces are marked: those that begin words, or those that continue them."""
    begins = any(t.startswith(_BEGINS) for t in tokens)
    words: list[int | None] = []
    count = -1
    for token, here in zip(tokens, real, strict=True):
        same = not token.startswith(_BEGINS) if begins else token.startswith(_CONTINUES)
        count += 0 if here and same and words and words[-1] is not None else 1
        words.append(count if here else None)
    return words


def _dense(words: Sequence[int | None], real: Sequence[bool]) -> tuple[int, ...]:
    """Word numbers without gaps, in the order of the text; -1 where there is no word."""
    seen: dict[int, int] = {}
    return tuple(
        seen.setdefault(word, len(seen)) if here and word is not None else -1
        for word, here in zip(words, real, strict=True)
    )


def _shown(pieces: Pieces, i: int) -> str:
    if pieces.text and pieces.offsets:
        begin, end = pieces.offsets[i]
        return pieces.text[begin:end]
    return pieces.tokens[i]


def _bare(token: str) -> str:
    for mark in _CONTINUES + _BEGINS:
        token = token.removeprefix(mark)
    return token
