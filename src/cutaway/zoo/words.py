"""Our own tokenizer: lower-case words and signs from a fixed list, with their places in the original text.

It is called as Hugging Face's tokenizers are, so `Model(tokenizer=...)` takes either.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway.core.errors import BadOption

PAD, UNKNOWN, MASK = "[PAD]", "[UNK]", "[MASK]"
# A number, a word with the apostrophe before its ending (do n't, it 's), or one sign.
_WORD = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b|\w+?(?=n't\b)|\w+|[^\w\s]", re.IGNORECASE)


class Encoding(dict[str, Any]):
    """What the tokenizer gives: tensors by name; every word is one piece."""

    def word_ids(self, index: int) -> list[int | None]:
        """The word of each piece of a text; None for padding."""
        return [i if here else None for i, here in enumerate(self["attention_mask"][index].tolist())]


class WordTokenizer:
    """Splits text into lower-case words and signs. A word that is not in the list is unknown.

    Args:
        words: The list, most frequent first, without the three special pieces.
        longest: Words of a text; what lies beyond is cut off.
    """

    is_fast = True  # it knows where each piece lies in the text
    pad_token_id, unk_token_id, mask_token_id = range(3)
    all_special_ids = (0, 1, 2)

    def __init__(self, words: Sequence[str], *, longest: int = 256) -> None:
        self.words = (PAD, UNKNOWN, MASK, *words)
        self.model_max_length = longest
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise BadOption("expected a list of different words; one is there twice.")

    def __len__(self) -> int:
        """Words in the list, the special ones included."""
        return len(self.words)

    def __call__(self, texts: str | Sequence[str], **options: Any) -> Encoding:
        """Ids and mask, padded to the longest text; `offset_mapping` too, with `return_offsets_mapping`."""
        found = [split(text) for text in ([texts] if isinstance(texts, str) else texts)]
        found = [pieces[: self.model_max_length] for pieces in found] if options.get("truncation") else found
        width = max(map(len, found), default=0)
        ids, mask = (torch.zeros(len(found), width, dtype=torch.long) for _ in range(2))
        offsets = torch.zeros(len(found), width, 2, dtype=torch.long)
        for i, pieces in enumerate(found):
            ids[i, : len(pieces)] = torch.tensor([self._ids.get(word, self.unk_token_id) for word, _, _ in pieces])
            mask[i, : len(pieces)] = 1
            offsets[i, : len(pieces)] = torch.tensor([place for _, *place in pieces]).view(-1, 2)
        more = {"offset_mapping": offsets} if options.get("return_offsets_mapping") else {}
        return Encoding(input_ids=ids, attention_mask=mask, **more)

    def convert_ids_to_tokens(self, ids: Sequence[int] | Tensor) -> list[str]:
        """The words behind ids."""
        return [self.words[int(i)] for i in ids]

    def save(self, path: str | Path) -> Path:
        """Write the list as JSON."""
        path = Path(path)
        about = {"longest": self.model_max_length, "words": self.words[3:]}
        path.write_text(json.dumps(about, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, text: str) -> "WordTokenizer":
        """The tokenizer from the text of such a JSON file."""
        about = json.loads(text)
        return cls(about["words"], longest=about["longest"])

    @classmethod
    def of(cls, texts: Iterable[str], *, least: int = 2, longest: int = 256) -> "WordTokenizer":
        """A tokenizer of the words that occur at least so many times; the most frequent first, then by the alphabet."""
        counts = Counter(word for text in texts for word, _, _ in split(text))
        words = [word for word, count in counts.items() if count >= least]
        return cls(sorted(words, key=lambda word: (-counts[word], word)), longest=longest)


def split(text: str) -> list[tuple[str, int, int]]:
    """The lower-case words and signs of a text, with where each begins and ends."""
    return [(m[0].lower(), m.start(), m.end()) for m in _WORD.finditer(text.replace("’", "'"))]
