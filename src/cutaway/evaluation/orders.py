"""Maps as one number per pixel, column or token, and the orders that they put these in."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.core.batch import Batch, size
from cutaway.core.call import predicted
from cutaway.core.errors import BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.space import Space
from cutaway.core.target import Target


def condensed(attribution: Attribution) -> Float[Tensor, "n *entries"]:
    """One signed number for each position: the sum over channels, or over the dimensions of a token.

    Slopes of a token's dimensions are not summed: an embedding has no direction that were "more" of a word, so their
    size (the L2 norm) is taken.

    Raises:
        BadShape: A value is not finite, or there is nothing but the batch axis.
    """
    _check(attribution.values)
    values = attribution.values.detach().cpu().double()
    if values.ndim == 4:
        return values.sum(1)
    if values.ndim == 3 and attribution.tokens and "per" in attribution.unit.split():
        return values.norm(dim=-1)
    return values.sum(-1) if values.ndim == 3 else values


def _check(values: Tensor, rows: int | None = None) -> None:
    if values.ndim < 2 or not values.numel():
        raise BadShape(f"expected a map with a batch axis and entries; got shape {tuple(values.shape)}.")
    if rows is not None and len(values) != rows:
        raise BadShape(f"expected a map with a row for each of {rows} inputs; this one has {len(values)}.")
    if not torch.isfinite(values).all():
        raise BadShape("expected a map of finite numbers; this one has nan or inf.")


def over_input(model: Model, x: Batch, attribution: Attribution) -> Float[Tensor, "n *entries"]:
    """One signed number for each pixel, column or token of the input; a coarser map is interpolated.

    Raises:
        NotPossible: The attributed place has no positions in the input.
        BadShape: The map does not fit the input.
    """
    _check(attribution.values, size(x))
    maps = condensed(attribution)
    if model.space.kind == "image":
        picture = x if isinstance(x, Tensor) else next(iter(x.values()))
        if maps.ndim != 3 or attribution.values.ndim != 4:
            raise NotPossible(
                f"the values at {attribution.wrt} are not laid out over the picture, so they cannot rank its pixels."
            )
        return maps if maps.shape[1:] == picture.shape[2:] else resized(maps, picture.shape[2:])
    if attribution.wrt != "input":
        raise NotPossible(f"only values at the input put its entries in an order; these are at {attribution.wrt}.")
    entries = (x if isinstance(x, Tensor) else next(iter(x.values()))).shape[:2]
    if maps.shape != entries:
        raise BadShape(f"expected a map of shape {tuple(entries)}, one number per entry; got {tuple(maps.shape)}.")
    return maps


def resized(maps: Float[Tensor, "n h w"], shape: tuple[int, ...]) -> Float[Tensor, "n H W"]:
    """Maps interpolated linearly to another height and width."""
    return F.interpolate(maps[:, None], size=tuple(shape), mode="bilinear", align_corners=False)[:, 0]


def explained(model: Model, x: Batch, attribution: Attribution) -> Target:
    """What the attribution explains; the predicted class where it does not say.

    Raises:
        BadShape: A map or a target for another number of inputs, or values that are not finite.
    """
    _check(attribution.values, size(x))
    target = Target.of(attribution.target, model) if attribution.target else predicted(model, x)
    if target.rows and len(target.rows) != size(x):
        raise BadShape(f"expected one target for each of {size(x)} inputs; the attribution has {len(target.rows)}.")
    return target


def ranks(scores: Float[Tensor, " k"], generator: torch.Generator) -> Int[Tensor, " k"]:
    """The place of each entry when the highest score comes first: 0 to k - 1. Equal scores are in random order."""
    # Without the shuffle, a constant map would read the picture from the top left corner.
    shuffled = torch.randperm(len(scores), generator=generator).to(scores.device)
    order = shuffled[scores[shuffled].argsort(descending=True, stable=True)]
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places


def random_ranks(count: int, generator: torch.Generator) -> Int[Tensor, " k"]:
    """A random place for each of `count` entries."""
    return torch.randperm(count, generator=generator)


def edges(picture: Float[Tensor, "c h w"]) -> Float[Tensor, "h w"]:
    """How strongly the brightness changes at each pixel: the size of the Sobel gradient. It knows no model."""
    from skimage.filters import sobel

    grey = picture.detach().cpu().double().mean(0).numpy()
    return torch.from_numpy(np.ascontiguousarray(sobel(grey)))


def centre(picture: Float[Tensor, "c h w"]) -> Float[Tensor, "h w"]:
    """Closeness to the middle of the picture, where photographers put what they mean."""
    height, width = picture.shape[1:]
    down = torch.linspace(-1, 1, height, dtype=torch.float64)
    across = torch.linspace(-1, 1, width, dtype=torch.float64)
    return -(down[:, None] ** 2 + across[None, :] ** 2)


def tied(scores: Float[Tensor, " k"]) -> float:
    """The share of entries that have their score in common with another."""
    _, counts = scores.unique(return_counts=True)
    return float(counts[counts > 1].sum()) / len(scores)


# Orders that know the picture and not the model: what a map has to beat.
CONTROLS: dict[str, Callable[[Tensor], Tensor]] = {"edges first": edges, "centre first": centre}


def control_scores(space: Space, x: Tensor) -> dict[str, Tensor]:
    """The controls that fit one input (1, ...), as one number per entry."""
    if space.kind != "image":
        return {}
    return {name: control(x[0]) for name, control in CONTROLS.items()}
