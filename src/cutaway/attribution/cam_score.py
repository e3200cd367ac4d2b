"""A coarse map without gradients: each channel is weighed by the score of the image seen through it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.attribution.coarse import as_grid, coarse_map, empty_check, enlarged, layer_checks, site_of
from cutaway.attribution.masks import equal_rows
from cutaway.attribution.occlusion import admitted
from cutaway.core.batch import Batch, repeat
from cutaway.core.budget import afford, at_once, cut_short, fair_share, in_time
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.fill import Fill, neutral
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target

_NEUTRAL = neutral()
# Masked images in memory at once.
_TOGETHER = 32


@method(paper="wang2020", laws={"batch_independent"}, needs={"image"}, quick={"most": 4})
def score_cam(
    model: Model,
    x: Batch,
    target: Target,
    *,
    layer: Site | None = None,
    most: int | None = None,
    fill: Fill = _NEUTRAL,
    relu: bool = True,
    upsample: bool = True,
    seed: int = 0,
) -> Attribution:
    """Show the image through each channel of a layer in turn, and add up the channels that kept the score high.

    map_p = max(0, sum over c of w_c A_cp),   w = softmax over c of target(x seen through A_c)

    Seen through a channel: the channel is enlarged to the image, scaled to lie between 0 and 1, and what it leaves out
    fades to the fill. One forward for each channel; channels that are the same everywhere share one. No gradient.

    Args:
        layer: As in `grad_cam`.
        most: Use only so many channels, those with the most activation; all if not given. The check `channels` says
            what share of the activation is left out.
        fill: What is not seen fades to this; `neutral` is what the network sees as 0.
        relu: Keep only what speaks for the target. Without it the map has a sign.
        upsample: Bilinear, to the height and width of the input. Otherwise the map stays at the layer's resolution.
        seed: Draws a random fill; the same for each input.

    Returns:
        One value per position, (n, 1, height, width), in units of the activation. Of the weights, which sum to 1,
        `extra["weights"]` has one for each channel.

    Source: Wang et al. 2020, algorithm 1. Differs: the score of a fully hidden image, the same for every channel, drops
    out of the softmax. Several targets for one image share its forwards.
    """
    assert isinstance(x, Tensor)
    if most is not None and most < 1:
        raise BadOption(f"expected 1 channel or more; got {most}.")
    site = site_of(model, x, target, layer)
    act = model.run(x, read=[site])[site]
    grid = as_grid(act, site)
    weights, found = torch.zeros(grid.shape[:2], dtype=torch.float64), []
    groups = equal_rows(x)
    afford(len(groups) * (most or grid.shape[1]), f"score_cam of {grid.shape[1]} channels", stops=True)
    for k, same in enumerate(track(groups, "score_cam")):
        row = x[same[0] : same[0] + 1]
        hidden = admitted(model, row, fill(row, model.space, torch.Generator().manual_seed(seed)))
        masks = _masks(grid[same[0]], most)
        with fair_share(len(groups) - k):
            scores = _scores(model, row, hidden, masks, [target.row(i) for i in same])
        seen = ~scores[0].isnan()
        for i, score in zip(same, scores, strict=True):
            weights[i, masks.used[seen]] = torch.softmax(score[seen], 0)
        found.append(_Seen(int(seen.sum()), len(seen), masks.left_out(seen)))
    weighted = torch.einsum("nc,nchw->nhw", weights.to(grid), grid)[:, None]
    checks = layer_checks(act, site, chosen=layer is None) | empty_check(weighted, site, relu)
    return coarse_map(
        x,
        target,
        weighted,
        site,
        score=target(model.run(x, read=target.sites)).expand(len(x)),
        unit="activation",
        checks=checks | _checks(found, weights),
        relu=relu,
        upsample=upsample,
        extra={"weights": weights.to(grid)},
    )


class _Masks(NamedTuple):
    """The channels of one input through which it is shown.

    Attributes:
        used: Which, those with the most activation first.
        grids: Each scaled to [0, 1], (k, 1, h, w); one that is the same everywhere is 0.
        size: The activation of every channel.
    """

    used: Tensor
    grids: Tensor
    size: Tensor

    def left_out(self, seen: Tensor) -> float:
        """Share of the activation in the channels that were not seen."""
        return max(0.0, 1 - float(self.size[self.used[seen]].sum() / self.size.sum())) if self.size.any() else 0.0


class _Seen(NamedTuple):
    """How many channels one input was seen through, of how many, and the share of the activation in the others."""

    channels: int
    wanted: int
    left_out: float


def _masks(act: Tensor, most: int | None) -> _Masks:
    size = act.abs().flatten(1).double().sum(1).cpu()
    used = size.argsort(descending=True, stable=True)[:most]
    kept = act[used.to(act.device)]
    low, high = kept.flatten(1).amin(1), kept.flatten(1).amax(1)
    width = (high - low)[:, None, None]
    scaled = torch.where(width > 0, (kept - low[:, None, None]) / width.clamp(min=torch.finfo(act.dtype).tiny), 0)
    return _Masks(used, scaled[:, None], size)


def _scores(model: Model, row: Tensor, hidden: Tensor, masks: _Masks, targets: list[Target]) -> Tensor:
    """Each target on the image seen through each channel, (k,) in float64; nan where there was no time.

    Masks that are 0 are run once, and first.
    """
    flat = ~masks.grids.flatten(1).any(1)
    shown = torch.cat([masks.grids[flat][:1], masks.grids[~flat]])
    sites = list(dict.fromkeys(site for t in targets for site in t.sites))
    found = torch.full((len(targets), len(shown)), torch.nan, dtype=torch.float64)
    pieces = torch.arange(len(shown)).split(at_once(_TOGETHER))
    for some in track(in_time(pieces), "score_cam, channels", len(pieces)):
        # Scaled again: between cells, an enlarged channel may miss its own extremes.
        wide = _unit(enlarged(shown[some], row))
        trace = model.run(repeat(row, len(wide)), read=sites, edit={INPUT: torch.lerp(hidden, row, wide)})
        for k, target in enumerate(targets):
            found[k, some] = target(trace).expand(len(wide)).double().cpu()
    where = torch.zeros(len(flat), dtype=torch.long)
    where[~flat.cpu()] = torch.arange(int(flat.any()), len(shown))
    return found[:, where]


def _unit(masks: Tensor) -> Tensor:
    low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
    return torch.where(high > low, (masks - low) / (high - low).clamp(min=torch.finfo(masks.dtype).tiny), 0)


def _checks(found: list[_Seen], weights: Tensor) -> dict[str, Check]:
    """What was left out, and how many channels really count."""
    used, left_out = min(seen.channels for seen in found), max(seen.left_out for seen in found)
    text = f"The image was seen through {used} of {weights.shape[1]} channels"
    if left_out > 0:
        text += f"; those left out have up to {left_out:.1%} of the activation"
    checks = {"channels": Check(f"{text}.", "warn" if left_out > 0.1 else "note", left_out)}
    entropy = -torch.special.xlogy(weights, weights).sum(1)
    effective = float(entropy.exp().min())
    text = f"The weights are those of {effective:.1f} channels out of {used}, by their entropy"
    if used > 1 and effective < math.sqrt(used) / 2:
        checks["weights"] = Check(f"{text}: a few decide the map.", "warn", effective)
    elif used > 1 and effective > 0.98 * used:
        checks["weights"] = Check(f"{text}: the target hardly tells them apart.", "warn", effective)
    else:
        checks["weights"] = Check(f"{text}.", "note", effective)
    then = "Those with the most activation came first."
    return checks | cut_short([seen.channels for seen in found], [seen.wanted for seen in found], "channels", then)
