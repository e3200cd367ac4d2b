"""A text without some of its tokens: masked, hidden as padding, or really deleted."""

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from cutaway.core.batch import Batch, primary
from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.target import Target


def without_tokens(model: Model, row: Batch, how: str) -> Callable[[Bool[Tensor, "m t"], Target], Tensor]:
    """A function from which tokens stay, for m variants of a text, to a target on each.

    Args:
        model, row: One text, as the model takes it.
        how: "mask" (its mask token stands there), "pad" (a padding token that the attention mask hides; for a network
            without such a mask, one that it sees), or "remove" (deleted; what follows moves up). Where nothing is left,
            the last two leave one unknown word.

    Raises:
        NotPossible: The tokenizer has no such token.
    """
    ids = primary(row)
    if ids.is_floating_point():
        raise NotPossible(f"{how!r} needs the tokens of a text; this input is made of embeddings. Use zero or mean.")
    token = 0 if how == "remove" else _token(model, how)

    def score(stay: Tensor, target: Target) -> Tensor:
        stay = stay.to(ids.device)
        if how == "remove":
            return _shortened(model, row, stay, target)
        batch = {name: value.expand(len(stay), *value.shape[1:]) for name, value in _named(row).items()}
        first = next(iter(batch))
        batch[first] = torch.where(stay, batch[first], token)
        if how == "pad":
            here = batch.get("attention_mask", torch.ones_like(batch[first]))
            seen = here * stay
            nothing = ~seen.any(1)
            # A network that sees nothing at all divides by zero.
            batch[first][nothing, 0] = _stand_in(model)
            seen[nothing, 0] = 1
            if "attention_mask" in batch:
                batch["attention_mask"] = seen
        return _run(model, row, batch, target)

    return score


def _token(model: Model, kind: str) -> int:
    token = getattr(model.tokenizer, f"{kind}_token_id", None)
    if token is None and kind == "pad" and model.tokenizer is None:
        return 0
    if token is None:
        raise NotPossible(
            f"{model.name} has no tokenizer with a {kind} token; use another fill: zero, mean"
            f"{', remove, pad' if kind == 'mask' else ''}."
        )
    return int(token)


def _stand_in(model: Model) -> int:
    """The token of a text with nothing in it: the unknown word, or whatever comes nearest to it."""
    names = ("unk_token_id", "mask_token_id", "pad_token_id")
    known = (getattr(model.tokenizer, name, None) for name in names)
    return int(next((token for token in known if token is not None), 0))


def _shortened(model: Model, row: Batch, stay: Tensor, target: Target) -> Tensor:
    """The target on each text with tokens deleted; texts of one length run together, so that none needs padding."""
    here = _named(row).get("attention_mask")
    stay = stay & (here.bool() if here is not None else torch.ones_like(stay))
    lengths = stay.sum(1)
    found = torch.zeros(len(stay), dtype=torch.float64, device=stay.device)
    for length in torch.unique(lengths).tolist():
        which = (lengths == length).nonzero()[:, 0]
        # Nothing is left: one token that means nothing, since a network cannot read no text at all.
        places = stay[which].nonzero()[:, 1].view(len(which), length)
        places = places if length else torch.zeros(len(which), 1, dtype=torch.long, device=stay.device)
        batch = {
            name: value[0][places] if value.shape[1:2] == stay.shape[1:] else value.expand(len(which), *value.shape[1:])
            for name, value in _named(row).items()
        }
        if not length:
            batch[next(iter(batch))] = torch.full_like(places, _stand_in(model))
        if "position_ids" in batch:
            batch["position_ids"] = _named(row)["position_ids"][:, : places.shape[1]].expand(len(which), -1)
        found[which] = _run(model, row, batch, target).double()
    return found


def _named(row: Batch) -> dict[str, Tensor]:
    return {"input_ids": row} if isinstance(row, Tensor) else dict(row)


def _run(model: Model, row: Batch, batch: dict[str, Tensor], target: Target) -> Tensor:
    x: Batch = batch["input_ids"] if isinstance(row, Tensor) else batch
    return target(model.run(x, read=target.sites)).expand(len(primary(x)))
