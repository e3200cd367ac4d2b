"""One text and the attention that a network pays to its tokens, ready to be exchanged.

The place of attention is any module whose output is one number for each token, none negative, with the sum 1. Whatever
computed them, other numbers can stand there; only what comes after that place runs again.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.core.batch import Batch, primary, repeat, size, take
from cutaway.core.checks import Check
from cutaway.core.errors import BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.site import Site
from cutaway.core.text import Pieces, pieces_of
from cutaway.evaluation.attention_pairs import Pairs, is_layer, layers
from cutaway.evaluation.paired import ENOUGH
from cutaway.maths.statistics import bootstrap_interval

PEAKED = 0.5  # attention of one token from which a text's attention is called peaked
_ROUNDING = 1e-3  # how far a sum of weights may be from 1, which half precision needs


class Subject(NamedTuple):
    """One text and its attention.

    Attributes:
        model: The network.
        number: Of the text in the batch.
        row: The text as the network takes it, without padding at its end.
        name: The text, or its pieces.
        tokens: What each shown token is called.
        site: The place of attention.
        shape: Of one text's attention there.
        shown: Tokens that the network may look at; padding is not among them.
        words: Those of the shown tokens that stand for text, not special ones.
        weights: The attention of each shown token.
        probabilities: Of the classes.
        pairs: Who looks at whom, where the place is a layer of a transformer; `weights` are then means of that.
    """

    model: Model
    number: int
    row: Batch
    name: str
    tokens: list[str]
    site: Site
    shape: tuple[int, ...]
    shown: Bool[Tensor, " t"]
    words: Bool[Tensor, " k"]
    weights: Float[Tensor, " k"]
    probabilities: Float[Tensor, " classes"]
    pairs: Pairs | None = None

    @property
    def decision(self) -> str:
        """The name of the predicted class."""
        return self.model.class_name(int(self.probabilities.argmax()))

    @property
    def whose(self) -> str:
        """Whose attention it is, for a sentence: nothing to add where the network has one, else the layer or head."""
        return f" at {self.site}" if self.pairs else ""

    @property
    def held(self) -> dict[Site, Tensor]:
        """The edit that holds attention as it is; a layer of a transformer is left to itself."""
        return {} if self.pairs else {self.site: self.laid_out(self.weights[None])}

    def permuted(self, orders: Int[Tensor, "m k"]) -> Float[Tensor, "m classes"]:
        """Log-probabilities of the classes with the attention shuffled."""
        return self.pairs.permuted(orders) if self.pairs else self.answers(self.weights[orders])

    def even(self) -> Float[Tensor, " classes"]:
        """Log-probabilities of the classes with the same attention for all shown tokens."""
        if self.pairs:
            return self.pairs.even()[0]
        return self.answers(torch.full((1, len(self.weights)), 1 / len(self.weights), dtype=torch.float64))[0]

    def laid_out(self, weights: Float[Tensor, "m k"]) -> Tensor:
        """Attention over the shown tokens in the shape and type of its place."""
        whole = torch.zeros(len(weights), len(self.shown), dtype=self.model.dtype, device=self.model.device)
        whole[:, self.shown.to(whole.device)] = weights.to(whole)
        return whole.view(-1, *self.shape)

    def answers(self, weights: Float[Tensor, "m k"]) -> Float[Tensor, "m classes"]:
        """Log-probabilities of the classes with each of these attentions in place of the own one, in one batch."""
        prefix = self.model.prefix(self.row, self.site)
        trace = self.model.run(None, prefix=prefix, edit={self.site: self.laid_out(weights)})
        return trace.log_probabilities.double().cpu()


def change(a: Float[Tensor, "*#n classes"], b: Float[Tensor, "*#n classes"]) -> Float[Tensor, "..."]:
    """Total variation distance: half of the sum of |a - b|, from 0 to 1."""
    return (a - b).abs().sum(-1) / 2


def divergence(a: Float[Tensor, "*#n k"], b: Float[Tensor, "*#n k"]) -> Float[Tensor, "..."]:
    """Jensen-Shannon divergence in nats, from 0 to ln 2 = 0.693."""
    middle = (a + b) / 2
    ahead, behind = ((torch.xlogy(p, p) - torch.xlogy(p, middle)).sum(-1) for p in (a, b))
    return ((ahead + behind) / 2).clamp(0, math.log(2))


def subjects(model: Model, x: Batch, attention: Site | None, what: str, *, pairs: bool = False) -> Iterator[Subject]:
    """Each text that has a choice of where to look: at least two tokens.

    Args:
        model: The network.
        x: The texts.
        attention: The place; the only one that looks like it, if not given.
        what: Who asks.
        pairs: A layer of a transformer, or a head of it, will do as well.

    Raises:
        NotPossible: No attention, no class probabilities, or no text with two tokens.
    """
    if model.scores == "values":
        raise NotPossible(f"{what} compares class probabilities; {model.name} gives values.")
    if primary(x).is_floating_point():
        raise NotPossible(f"{what} needs the tokens of a text; this input is made of embeddings.")
    texts = [_text(model, x, i) for i in range(size(x))]
    kept = [(i, *text) for i, text in enumerate(texts) if int(text[1].sum()) > 1]
    if not kept:
        raise NotPossible(f"{what} needs a text of two tokens or more: over one token, attention can only be 1.")
    longest = max((row for _, row, *_ in kept), key=lambda row: primary(row).shape[1])
    if attention is not None and is_layer(model, longest, attention):
        if not pairs:
            raise NotPossible(
                f"at {attention} every token has an attention of its own, and {what} needs one for the text: another "
                "one that all tokens share would change the output by being shared. attention_correlation, "
                "attention_permutation and attention_uniform take such a layer."
            )
        for text in track(kept, what.replace("_", " ")):
            yield _layer(model, attention, *text)
        return
    site = place(model, longest, attention)
    _refuse_copies(model, [row for _, row, *_ in kept], site)
    for text in track(kept, what.replace("_", " ")):
        yield _subject(model, site, *text)


def over_texts(values: Float[Tensor, "n *rest"]) -> tuple[Tensor, Tensor] | None:
    """The 95 % bootstrap interval of the mean over texts; None over so few that it would hold far less."""
    if len(values) < ENOUGH:
        return None
    return bootstrap_interval(values, generator=torch.Generator().manual_seed(0))


def few(count: int) -> dict[str, Check]:
    """Why there is no interval."""
    text = f"{count} text{'s are' if count > 1 else ' is'} too few for an interval; give {ENOUGH} or more."
    return {"few": Check(text, "note", count)} if count < ENOUGH else {}


def left_out(x: Batch, found: int) -> dict[str, Check]:
    """How many texts had a single token."""
    missing = size(x) - found
    text = f"{missing} of {size(x)} texts have a single token, which gets all attention; they were left out."
    return {"left_out": Check(text, "note", missing)} if missing else {}


def place(model: Model, row: Batch, attention: Site | None) -> Site:
    """The place of attention: the one that is named, or the only one that looks like it on this text.

    Raises:
        NotPossible: There is none, or several that differ.
        BadShape: The named one is not attention.
    """
    if attention is not None:
        weights = model.run(row, read=[attention])[attention.whole]
        if not attention.is_whole or not _is_attention(weights, primary(row).shape[1]):
            raise BadShape(
                f"expected attention at {attention}: a number for each of {primary(row).shape[1]} tokens, none "
                f"negative, with the sum 1; it has shape {tuple(weights.shape[1:])}. Attention between all pairs of "
                "tokens, as transformers have it, is named by its module (encoder.layer.5.attention.self, or one head "
                "of it: ...self:h3), which hands out its result and its attention and has a module `value`."
            )
        return attention
    found = _candidates(model, row)
    if not found:
        raise NotPossible(
            f"{model.name} has no place with one weight for each token, none negative, that sum to 1. Attention "
            f"between all pairs of tokens, as transformers have it, must be named: attention={_named(model)}. "
            "Attention that is computed without a module cannot be reached: put its softmax into one of its own."
        )
    first = next(iter(found.values()))
    others = [name for name, weights in found.items() if not torch.allclose(weights, first, atol=1e-5)]
    if others:
        raise NotPossible(f"{model.name} has attention at several places; choose one: attention={', '.join(found)}.")
    return Site.of(next(iter(found)))


def _named(model: Model) -> str:
    """The layers that may be meant."""
    found = layers(model)
    return f"{found[0]} to {found[-1]}" if len(found) > 1 else next(iter(found), "MODULE of one layer")


def _refuse_copies(model: Model, rows: Sequence[Batch], site: Site) -> None:
    """Weights that are handed out beside the way from input to output can be exchanged without any effect."""
    if not any(_moves(model, row, site) for row in rows):
        raise NotPossible(
            f"whatever the attention at {site}, the output of {model.name} is the same: all tokens of the text are "
            "alike, or that place is a copy beside the way from input to output. Choose the module whose output is "
            "multiplied with the states: attention=..."
        )


def _moves(model: Model, row: Batch, site: Site) -> bool:
    """Does the output depend on which single token has all attention?"""
    tokens = primary(row).shape[1]
    shape = model.run(row, read=[site])[site].shape[1:]
    singles = torch.eye(tokens, dtype=model.dtype, device=model.device).view(tokens, *shape)
    output = model.run(repeat(row, tokens), edit={site: singles}).output
    return not torch.equal(output, output[:1].expand_as(output))


def _candidates(model: Model, row: Batch) -> dict[str, Tensor]:
    """Places that look like attention, also on the text without its last token: three classes are not three words."""
    tokens = primary(row).shape[1]
    sites = [layer.site for layer in model.layers(row) if _fits(layer.shape, tokens) and layer.calls == 1]
    found: dict[str, Tensor] = {}
    shorter = _cut(row, tokens - 1) if model.space.shape[0] is None and tokens > 2 else None
    for text, length in ((row, tokens), (shorter, tokens - 1)):
        if text is not None and sites:
            trace = model.run(text, read=sites)
            sites = [site for site in sites if _is_attention(trace[site], length)]
            found = found or {site: trace[site].flatten() for site in sites}
    return {site: found[site] for site in sites}


def _fits(shape: tuple[int, ...] | None, tokens: int) -> bool:
    """One axis of tokens, and others of one entry only."""
    return shape is not None and [n for n in shape if n != 1] == [tokens]


def _is_attention(weights: Tensor, tokens: int) -> bool:
    if not _fits(tuple(weights.shape[1:]), tokens) or not weights.is_floating_point():
        return False
    total = weights.double().flatten(1).sum(1)
    return bool((weights >= 0).all()) and bool(((total - 1).abs() < _ROUNDING).all())


def _text(model: Model, x: Batch, i: int) -> tuple[Batch, Tensor, Tensor, str, list[str]]:
    """One text without the padding at its end; its shown tokens, those that are words, its name and theirs."""
    row = take(x, slice(i, i + 1))
    ids = primary(row)[0].cpu()
    pieces = pieces_of(row, model.tokenizer)
    mask = row.get("attention_mask") if isinstance(row, dict) else None
    shown = _shown(model, ids) if mask is None else mask[0].bool().cpu()
    words = torch.tensor([word >= 0 for word in pieces[0].words]) if pieces else shown
    last = int(shown.nonzero()[-1]) + 1 if shown.any() else 0
    if model.space.shape[0] is None and last:
        row, shown, words = _cut(row, last), shown[:last], words[:last]
    called = pieces[0].tokens if pieces else [f"token {k}" for k in range(len(ids))]
    tokens = [called[k] for k in shown.nonzero()[:, 0].tolist()]
    return row, shown, words[shown], _name(pieces[0], i) if pieces else f"text {i}", tokens


def _shown(model: Model, ids: Tensor) -> Tensor:
    pad = getattr(model.tokenizer, "pad_token_id", None)
    return torch.ones_like(ids, dtype=torch.bool) if pad is None else ids != pad


def _name(pieces: Pieces, i: int) -> str:
    return pieces.text or " ".join(pieces.names) or f"text {i}"


def _cut(row: Batch, tokens: int) -> Batch:
    if isinstance(row, Tensor):
        return row[:, :tokens]
    width = primary(row).shape[1]
    return {name: value[:, :tokens] if value.shape[1:2] == (width,) else value for name, value in row.items()}


def _layer(
    model: Model, site: Site, number: int, row: Batch, shown: Tensor, words: Tensor, name: str, tokens: list[str]
) -> Subject:
    pairs = Pairs.of(model, row, site, shown)
    answer = model.predict(row)[0].double().cpu()
    return Subject(model, number, row, name, tokens, site, (), shown, words, pairs.given, answer, pairs)


def _subject(
    model: Model, site: Site, number: int, row: Batch, shown: Tensor, words: Tensor, name: str, tokens: list[str]
) -> Subject:
    trace = model.run(row, read=[site, "output"])
    weights = trace[site].double().cpu()
    flat = weights.flatten()
    if not torch.isfinite(trace.probabilities).all():
        raise NotPossible(f"{model.name} gives probabilities that are not finite for {name[:40]!r}.")
    if not _is_attention(weights, len(shown)) or float(flat[~shown].sum()) > _ROUNDING:
        raise BadShape(
            f"expected all of the attention at {site} on the {int(shown.sum())} tokens of {name[:40]!r}; "
            f"{float(flat[~shown].sum()):.0%} of it is on padding. Put padding at the end, and let the network mask it."
        )
    inside = flat[shown] / flat[shown].sum()
    shape = tuple(weights.shape[1:])
    return Subject(
        model, number, row, name, tokens, site, shape, shown, words, inside, trace.probabilities[0].double().cpu()
    )
