"""Regions of pictures that a map should point at: masks, or boxes in text."""

import re

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.core.errors import BadOption, BadShape

_FORM = '"x0,y0,x1,y1" in pixels, ";" between the boxes of different inputs and "+" between boxes of one'


def regions(what: Tensor | str | None, count: int, height: int, width: int) -> Bool[Tensor, "n h w"]:
    """Which pixels the map of each input should point at.

    Args:
        what: A mask (n, h, w), or boxes as text; one for all inputs, or one for each.
        count: Number of inputs.
        height, width: Of the pictures.

    Raises:
        BadOption: No region, or a text that is none.
        BadShape: A region that does not fit the pictures, is empty, or is the whole picture.
    """
    if what is None:
        raise BadOption(
            "expected a region to point at: examples that come with masks, region= with a mask (n, height, width), or "
            f"boxes as text: {_FORM}."
        )
    masks = _drawn(what, height, width) if isinstance(what, str) else torch.as_tensor(what).detach().cpu()
    masks = masks[None] if masks.ndim == 2 else masks
    if masks.ndim != 3 or masks.shape[1:] != (height, width) or len(masks) not in (1, count):
        raise BadShape(f"expected a region of shape ({count}, {height}, {width}); got {tuple(masks.shape)}.")
    if not ((masks == 0) | (masks == 1)).all():
        raise BadShape("expected a region of 0 and 1, or False and True; got other numbers. Set a threshold first.")
    masks = masks.bool().expand(count, height, width)
    share = masks.flatten(1).double().mean(1)
    for i in ((share == 0) | (share == 1)).nonzero()[:, 0].tolist():
        extent = "no pixel" if share[i] == 0 else "every pixel"
        raise BadShape(f"expected a region with pixels inside and outside; that of input {i} has {extent}.")
    return masks


def _drawn(text: str, height: int, width: int) -> Bool[Tensor, "n h w"]:
    """Boxes as masks; the right and lower border do not belong to a box."""
    masks = []
    for part in text.split(";"):
        mask = torch.zeros(height, width, dtype=torch.bool)
        for box in part.split("+"):
            if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*){3}", box):
                raise BadOption(f"expected boxes as {_FORM}; got {box.strip()!r}.")
            left, top, right, bottom = map(int, box.split(","))
            if not (left < right <= width and top < bottom <= height):
                raise BadShape(f"expected a box inside {width} x {height} pixels with x0 < x1, y0 < y1; got {box!r}.")
            mask[top:bottom, left:right] = True
        masks.append(mask)
    return torch.stack(masks)


def grown(masks: Bool[Tensor, "n h w"], radius: float) -> Bool[Tensor, "n h w"]:
    """Regions with all pixels that are at most `radius` pixels away from them."""
    from scipy.ndimage import distance_transform_edt

    if radius <= 0:
        return masks
    far = [distance_transform_edt(~mask.numpy()) for mask in masks]
    return torch.from_numpy(np.stack(far) <= radius)


def hit(scores: Float[Tensor, "h w"], region: Bool[Tensor, "h w"]) -> float:
    """The chance that the highest pixel is in the region: of several that are equally high, the share that is."""
    return float(region[scores == scores.max()].double().mean())


def share_inside(scores: Float[Tensor, "h w"], region: Bool[Tensor, "h w"]) -> float:
    """The share of the positive values that is in the region; 0 where nothing is positive."""
    positive = scores.clamp(min=0)
    total = float(positive.sum())
    return float(positive[region].sum()) / total if total > 0 else 0.0


def likeness(scores: Float[Tensor, "h w"], region: Bool[Tensor, "h w"]) -> float:
    """Intersection over union of the region and as many of the highest pixels; equal ones share what is left."""
    size = int(region.sum())
    limit = scores.flatten().topk(size).values[-1]
    over, at = scores > limit, scores == limit
    left = (size - int(over.sum())) / int(at.sum())
    common = float(over[region].sum() + left * at[region].sum())
    return common / (2 * size - common)
