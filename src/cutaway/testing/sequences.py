"""Tiny networks over sequences: attention, recurrence, and text with a tokenizer of twenty words."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.testing.nets import CLASSES

WORDS = "[PAD] [UNK] [CLS] a the film plot was is not very good bad great awful dull fine fun and but".split()


class ToyTokenizer:
    """Splits at spaces; an unknown word is [UNK]. Speaks the part of the Hugging Face interface that cutaway uses."""

    pad_token_id = 0
    unk_token_id = 1
    cls_token_id = 2
    mask_token_id = 1
    all_special_ids = (0, 1, 2)
    model_max_length = 12

    def __call__(self, texts: str | Sequence[str], **options: Any) -> dict[str, Tensor]:
        """Token ids and attention mask, padded to the longest text."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        known = {word: i for i, word in enumerate(WORDS)}
        rows = [
            [self.cls_token_id, *(known.get(word, self.unk_token_id) for word in text.lower().split())]
            for text in texts
        ]
        if options.get("truncation"):
            rows = [row[: self.model_max_length] for row in rows]
        width = max(map(len, rows), default=0)
        ids = torch.tensor([row + [self.pad_token_id] * (width - len(row)) for row in rows], dtype=torch.long)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], dtype=torch.long)
        return {"input_ids": ids.view(len(rows), width), "attention_mask": mask.view(len(rows), width)}

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The words behind ids."""
        return [WORDS[i] for i in ids]


class TextClassifier(nn.Module):
    """Embedding, one encoder layer, and a linear end; takes what a tokenizer gives."""

    def __init__(self, *, layer: type[nn.Module] = nn.TransformerEncoderLayer) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 8)
        self.encoder = layer(8, 2, dim_feedforward=12, batch_first=True, activation="gelu", dropout=0.1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(n, t) to (n, classes)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        h = self.encoder(self.embedding(input_ids), src_key_padding_mask=mask == 0)
        weights = mask[..., None].to(h.dtype)
        return self.fc((h * weights).sum(1) / weights.sum(1).clamp(min=1))


class AttentiveText(nn.Module):
    """Embedding, a recurrent layer, and one choice of where to look: the place `attention` has a weight per token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 6)
        self.rnn = nn.GRU(6, 6, batch_first=True)
        self.score = nn.Linear(6, 1)
        self.attention = nn.Softmax(dim=1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(n, t) to (n, classes)."""
        h, _ = self.rnn(self.embedding(input_ids))
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = self.attention(self.score(torch.tanh(h))[..., 0].masked_fill(mask == 0, -torch.inf))
        return self.fc((weights[..., None] * h).sum(1))


class Encoder(nn.Module):
    """A transformer encoder over the rows of an image; `batch_first` either way."""

    def __init__(self, *, batch_first: bool = True, size: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(size, 8)
        self.norm = nn.LayerNorm(8)
        self.layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, activation="gelu", batch_first=batch_first)
        self.fc = nn.Linear(8, CLASSES)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, size, size) to (n, classes)."""
        h = self.norm(self.embed(x.mean(1)))
        h = self.layer(h if self.batch_first else h.transpose(0, 1))
        return self.fc(h.mean(1 if self.batch_first else 0))


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` alone, whose output is a tuple."""

    def __init__(self, *, batch_first: bool = True, size: int = 4) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(size, 2, batch_first=batch_first)
        self.fc = nn.Linear(size, CLASSES)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, t, size) to (n, classes)."""
        h = x.mean(1) if self.batch_first else x.mean(1).transpose(0, 1)
        h, _ = self.attn(h, h, h)
        return self.fc(h.mean(1 if self.batch_first else 0))


class Recurrent(nn.Module):
    """An LSTM or GRU over the rows of an image; `batch_first` either way."""

    def __init__(self, kind: Callable[..., nn.RNNBase] = nn.LSTM, *, batch_first: bool = True, size: int = 16) -> None:
        super().__init__()
        self.rnn = kind(size, 5, num_layers=2, batch_first=batch_first)
        self.fc = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, t, size) to (n, classes)."""
        h = x.mean(1)
        out, _ = self.rnn(h if self.rnn.batch_first else h.transpose(0, 1))
        return self.fc(out[:, -1] if self.rnn.batch_first else out[-1])
