"""Attention between all pairs of tokens, as a layer of a transformer has it, seen as attention to each token.

What a token gets is the mean over all tokens that look and over the heads. In the place of a layer's attention another
can be put without touching its code: what the layer hands on is the sum of its values, so weighted.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cutaway.core.batch import Batch, repeat
from cutaway.core.errors import BadOption, CutawayError, NotPossible
from cutaway.core.model import Model
from cutaway.core.site import Site

_ROUNDING = 1e-3


class Pairs(NamedTuple):
    """The attention of one text in one layer, or one head of it.

    Attributes:
        model: The network.
        row: The text.
        site: The layer.
        head: The head; None for all of them together.
        shown: Tokens that the network may look at.
        weights: Who looks at whom, (heads, tokens, tokens), over all tokens.
        values: What is summed, (heads, tokens, size).
    """

    model: Model
    row: Batch
    site: Site
    head: int | None
    shown: Bool[Tensor, " t"]
    weights: Float[Tensor, "heads t t"]
    values: Float[Tensor, "heads t size"]

    @classmethod
    def of(cls, model: Model, row: Batch, site: Site, shown: Bool[Tensor, " t"]) -> "Pairs":
        """The attention of one text.

        Raises:
            NotPossible: The layer's output is not its values, weighted with its attention.
        """
        inner, weighed, looks = Site(f"{site.module}.value"), _part(site, "0"), _part(site, "1")
        found = model.run(row, read=[inner, weighed, looks])
        weights, context = found[looks][0], found[weighed][0]
        heads, tokens = weights.shape[0], len(shown)
        if site.head is not None and site.head >= heads:
            raise BadOption(f"expected a head below {heads} at {site.module}; got {site}.")
        values = found[inner][0].view(tokens, heads, -1).transpose(0, 1)
        again = (weights @ values).transpose(0, 1).reshape(tokens, -1)
        if again.shape != context.shape or not torch.allclose(again, context, rtol=1e-3, atol=1e-4):
            raise NotPossible(f"{site} does not hand on the sum of its values, so its attention cannot be exchanged.")
        return cls(model, row, site, site.head, shown, weights, values)

    @property
    def given(self) -> Float[Tensor, " k"]:
        """What each shown token gets: the mean over those that look, and over the heads."""
        here = self.shown.to(self.weights.device)
        chosen = self.weights if self.head is None else self.weights[self.head : self.head + 1]
        got = chosen[:, here][..., here].double().mean((0, 1)).cpu()
        return got / got.sum()

    def permuted(self, orders: Int[Tensor, "m k"]) -> Float[Tensor, "m classes"]:
        """Log-probabilities of the classes with every token's attention shuffled in the same way."""
        at = self.shown.nonzero()[:, 0]
        changed = self.weights.repeat(len(orders), 1, 1, 1)
        for new, order in zip(changed, orders, strict=True):
            new[..., at] = self.weights[..., at[order]]
        return self._answers(changed)

    def even(self) -> Float[Tensor, "1 classes"]:
        """Log-probabilities with the same attention of every token to every shown one."""
        share = self.shown.to(self.weights) / self.shown.sum()
        return self._answers(share.expand_as(self.weights)[None])

    def _answers(self, weights: Float[Tensor, "m heads t t"]) -> Float[Tensor, "m classes"]:
        if self.head is not None:
            kept = self.weights.expand_as(weights).clone()
            kept[:, self.head] = weights[:, self.head]
            weights = kept
        summed = (weights @ self.values).transpose(1, 2).flatten(2)
        trace = self.model.run(repeat(self.row, len(weights)), edit={_part(self.site, "0"): summed})
        return trace.log_probabilities.double().cpu()


def layers(model: Model) -> list[str]:
    """Modules that look like a layer of attention between all pairs: with a query, a key and a value."""
    parts = ("query", "key", "value")
    found = model.module.named_modules()
    return [name for name, module in found if all(isinstance(getattr(module, p, None), nn.Module) for p in parts)]


def is_layer(model: Model, row: Batch, site: Site) -> bool:
    """Is it a layer that hands out a sum of values and its attention between all pairs of tokens?"""
    module = _at(model, site)
    if module is None or site.part or site.position or not isinstance(getattr(module, "value", None), nn.Module):
        return False
    try:
        weights = model.run(row, read=[_part(site, "1")])[_part(site, "1")]
    except CutawayError:  # it hands out one tensor, or none of that name
        return False
    tokens = weights.shape[-1]
    return weights.ndim == 4 and weights.shape[2] == tokens and bool(((weights.sum(-1) - 1).abs() < _ROUNDING).all())


def _part(site: Site, part: str) -> Site:
    return Site(site.module, site.call, (part,))


def _at(model: Model, site: Site) -> nn.Module | None:
    return dict(model.module.named_modules()).get(site.module)
