"""sentiment-lstm, -cnn and -average: small networks that tell whether a sentence of a film review is for or against.

All read words of one list (`sentiment.json`, the words that SST-2's training sentences have at least twice) and take a
word out where the attention mask is 0, wherever it stands: what is left moves together, as if the word had never been
written. So padding changes nothing, and an answer does not depend on the other texts of a batch.
"""

from functools import cache, partial
from importlib.resources import files

import torch
from torch import Tensor, nn

from cutaway.core.dataset import Examples
from cutaway.core.recipe import Recipe
from cutaway.core.space import tokens
from cutaway.data.sentences import CLASSES, sst2
from cutaway.zoo.entries import Entry
from cutaway.zoo.train import trained
from cutaway.zoo.words import WordTokenizer

EMBEDDING, HIDDEN, FILTERS, WINDOWS = 64, 64, 64, (3, 4, 5)
UNSEEN = 0.1  # share of words that training hides, so that the network learns what an unknown word means


@cache
def tokenizer() -> WordTokenizer:
    """The tokenizer of these networks."""
    return WordTokenizer.read((files("cutaway.zoo") / "weights" / "sentiment.json").read_text(encoding="utf-8"))


class SentimentLSTM(nn.Module):
    """Embedding, an LSTM from either end, additive attention over the words, a linear end.

    The place `attention` holds the weight of each word, (n, words); the sum of the states, so weighted, is what the
    last layer sees.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(tokenizer()), EMBEDDING, padding_idx=tokenizer().pad_token_id)
        self.dropout = nn.Dropout(0.5)
        self.forwards = nn.LSTM(EMBEDDING, HIDDEN, batch_first=True)
        self.backwards = nn.LSTM(EMBEDDING, HIDDEN, batch_first=True)
        self.attention = AdditiveAttention(2 * HIDDEN)
        self.fc = nn.Linear(2 * HIDDEN, len(CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits, (n, 2), from ids and mask, each (n, words)."""
        mask = _mask(input_ids, attention_mask)
        words, mask = together(self.dropout(self.embedding(input_ids)), mask)
        # From the end of each text, not of the batch: padding would be read first.
        back = torch.where(
            mask, mask.sum(1, keepdim=True) - mask.cumsum(1), torch.arange(mask.shape[1], device=mask.device)
        )
        left, _ = self.forwards(words)
        right, _ = self.backwards(_at(words, back))
        states = torch.cat([left, _at(right, back)], 2)
        weights = self.attention(states, mask)
        return self.fc(self.dropout((weights[..., None] * states).sum(1)))


class AdditiveAttention(nn.Module):
    """A weight for each word: softmax over the words of v' tanh(W h)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, size)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Weights (n, words) that sum to 1 in each text, from states (n, words, size)."""
        scores = self.score(torch.tanh(self.hidden(states)))[..., 0]
        return scores.masked_fill(~mask, -torch.inf).softmax(1)


class SentimentAverage(nn.Module):
    """Embedding, a projection of each word alone, additive attention over the words, a linear end.

    Nothing mixes the words before the place `attention`: what a state holds is its own word's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(tokenizer()), EMBEDDING, padding_idx=tokenizer().pad_token_id)
        self.dropout = nn.Dropout(0.5)
        self.encoder = nn.Linear(EMBEDDING, HIDDEN)
        self.attention = AdditiveAttention(HIDDEN)
        self.fc = nn.Linear(HIDDEN, len(CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits, (n, 2), from ids and mask, each (n, words)."""
        mask = _mask(input_ids, attention_mask)
        words, mask = together(self.dropout(self.embedding(input_ids)), mask)
        states = torch.tanh(self.encoder(words))
        weights = self.attention(states, mask)
        return self.fc(self.dropout((weights[..., None] * states).sum(1)))


class SentimentCNN(nn.Module):
    """Embedding, filters over three, four and five words, the highest answer of each filter, a linear end."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(tokenizer()), EMBEDDING, padding_idx=tokenizer().pad_token_id)
        self.dropout = nn.Dropout(0.5)
        self.convs = nn.ModuleList(nn.Conv1d(EMBEDDING, FILTERS, k, padding=k - 1) for k in WINDOWS)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(len(WINDOWS) * FILTERS, len(CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits, (n, 2), from ids and mask, each (n, words)."""
        words, mask = together(self.embedding(input_ids), _mask(input_ids, attention_mask))
        words = self.dropout(words * mask[..., None]).transpose(1, 2)
        length = mask.sum(1)
        highest = []
        for conv, window in zip(self.convs, WINDOWS, strict=True):
            found = self.relu(conv(words))
            # A window counts if it holds a word at all: a short text has as many windows in any batch.
            beyond = torch.arange(found.shape[2]).to(length) >= (length + window - 1)[:, None]
            highest.append(found.masked_fill(beyond[:, None], 0.0).amax(2))
        return self.fc(self.dropout(torch.cat(highest, 1)))


def together(words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The words that are there, moved to the front in their order, and the mask that then holds."""
    order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return _at(words, order), mask.gather(1, order)


def _at(values: Tensor, places: Tensor) -> Tensor:
    """Values (n, words, size) at places (n, words)."""
    return values.gather(1, places.long()[..., None].expand(-1, -1, values.shape[2]))


def _mask(ids: Tensor, mask: Tensor | None) -> Tensor:
    return ids != tokenizer().pad_token_id if mask is None else mask.bool()


def hidden(ids: Tensor, generator: torch.Generator) -> Tensor:
    """Some words made unknown, and padding beyond the longest text cut off."""
    ids = ids[:, : int((ids != tokenizer().pad_token_id).sum(1).max())]
    lost = torch.rand(ids.shape, generator=generator) < UNSEEN
    return torch.where(lost & (ids != tokenizer().pad_token_id), tokenizer().unk_token_id, ids)


def _data(part: str) -> Examples:
    sentences = sst2(part)
    ids = tokenizer()(list(map(str, sentences.x)))["input_ids"]
    return Examples(x=ids, names=sentences.names, labels=sentences.labels, classes=sentences.classes)


def _recipe(name: str, build: type[nn.Module], epochs: int, rate: float) -> Recipe:
    return Recipe(
        name=name,
        build=build,
        train=partial(_data, "train"),
        test=partial(_data, "test"),
        space=tokens(),
        classes=CLASSES,
        epochs=epochs,
        rate=rate,
        varied=hidden,
        tokenizer=tokenizer,
        embedding="embedding",
    )


LSTM = _recipe("sentiment-lstm", SentimentLSTM, epochs=10, rate=0.004)
CNN = _recipe("sentiment-cnn", SentimentCNN, epochs=20, rate=0.004)
AVERAGE = _recipe("sentiment-average", SentimentAverage, epochs=10, rate=0.01)

MODELS = (
    Entry("sentiment-lstm", "bi-LSTM with attention, opinions of film reviews (SST-2)", partial(trained, LSTM), LSTM),
    Entry(
        "sentiment-average",
        "words alone with attention, opinions of film reviews (SST-2)",
        partial(trained, AVERAGE),
        AVERAGE,
    ),
    Entry("sentiment-cnn", "conv net over words, opinions of film reviews (SST-2)", partial(trained, CNN), CNN),
)
