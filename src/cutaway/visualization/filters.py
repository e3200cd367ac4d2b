"""The filters of a layer as pictures, and the wavelets that they are like."""

import math
from dataclasses import astuple, replace
from typing import Literal

import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.kernels import Kernel, kernels
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Pictures
from cutaway.core.site import Site
from cutaway.maths.gabor import PARAMETERS, Wavelet, nearest_wavelet
from cutaway.visualization.places import checked_size, resized

# A wavelet has 8 numbers: it is fitted to filters of at least three times as many pixels.
_LEAST_PIXELS = 3 * PARAMETERS


@method(paper="krizhevsky2012", needs={"image"}, quick={"units": 2, "size": 12})
def filters(
    model: Model,
    x: Batch,
    *,
    layer: Site | None = None,
    units: int = 64,
    slices: int = 8,
    scale: Literal["joint", "each"] = "joint",
    wavelets: bool = True,
    size: int = 48,
) -> Pictures:
    """The filters of a convolution: of the first as tiles in colour, of a deeper one as grey slices.

    tile_u = 1/2 + w_u / (2 max |w|),   the maximum over all filters ("joint") or over that one ("each")

    So middle grey is a weight of 0. A wavelet (a wave under a bell) is fitted to each filter of the first layer that
    has 5 x 5 pixels or more; to a colour filter, in the one mixture of colours that holds most of it. Weights are as
    the network has them, behind its own normalisation. One forward finds the weights in whatever module they are.

    Args:
        layer: A convolution; the first that runs if none is named. Also a linear layer that sees the whole picture.
        units: Filters shown, from the first on.
        slices: Input channels shown for each filter of a deeper layer, those with the longest weights first.
        scale: What is one unit of brightness: the largest weight of all filters, or of each by itself.
        wavelets: Fit wavelets.
        size: Pixels along a tile's longer side; tiles are enlarged without smoothing.

    Returns:
        A picture for each filter, or for each filter and slice. `extra["weights"]` has the weights shown, (filters or
        slices, channels, height, width), and `extra["wavelets"]` (filters, 9) the amplitude, x, y, angle, frequency,
        phase, width, aspect and fit of each wavelet.

    Raises:
        BadOption: No filters or slices.
        NotPossible: There is no such convolution, or its filters are single pixels.

    Source: Krizhevsky, Sutskever and Hinton 2012, figure 3; Jones and Palmer 1987 for the wavelets.
    """
    assert isinstance(x, Tensor)
    checked_size(size)
    if units < 1 or slices < 1:
        raise BadOption(f"expected at least one filter and one slice; got {units} and {slices}.")
    found = _weights(model, x, layer)
    shown = found.weight[:units].double()
    captions = [str(unit) for unit in range(len(shown))]
    first = shown.shape[1] in (1, 3)
    fits = _fits(shown) if wavelets and first and _is_wide(shown) else []
    if fits:
        captions = [f"{c}: {_told(fit)}" for c, fit in zip(captions, fits, strict=True)]
    if not first:
        shown, captions = _slices(shown, slices)
    top = (
        shown.abs().amax((1, 2, 3), keepdim=True) if scale == "each" else shown.abs().max().expand(len(shown), 1, 1, 1)
    )
    tiles = (0.5 + shown / (2 * top.clamp(min=torch.finfo(torch.float64).tiny))).clamp(0, 1)
    tiles = tiles if tiles.shape[1] == 3 else tiles.expand(-1, 3, -1, -1)
    longer = max(tiles.shape[2:])
    images = resized(tiles.float(), *(max(1, round(side * size / longer)) for side in tiles.shape[2:]))
    extra = {"weights": shown.to(found.weight.dtype)}
    if fits:
        extra["wavelets"] = torch.tensor([astuple(fit) for fit in fits], dtype=torch.float64)
    return Pictures(
        title=f"filters of {found.site}, {found.weight.shape[2]} × {found.weight.shape[3]} pixels",
        images=images,
        captions=captions,
        columns=min(8, slices if not first else 4 if fits else 8),
        extra=extra,
        checks=_checks(found, len(shown), units, scale, fits, wavelets and first, shown),
    )


def _weights(model: Model, x: Tensor, layer: Site | None) -> Kernel:
    """The weights of the first convolution of a layer, or of the network, as (filters, channels, height, width).

    Raises:
        NotPossible: There is no convolution, none at that place, or its filters are single pixels.
    """
    if layer is not None and not layer.is_whole:
        raise BadOption(f"expected a whole layer, whose filters are shown; got {layer}.")
    if layer is not None:
        model.run(x[:1], read=[layer])  # so that a wrong name is answered with near ones
    usable = [found for kernel in kernels(model, x) if (found := _as_filters(kernel, x)) is not None]
    place = "" if layer is None else layer.module
    inside = [k for k in usable if layer is None or f"{k.site}.".startswith(f"{place}.")]
    if not inside or max(inside[0].weight.shape[2:]) == 1:
        known = ", ".join(dict.fromkeys(k.site or "the top" for k in usable if max(k.weight.shape[2:]) > 1)) or "none"
        why = f"has no convolution {f'at {layer}' if layer else 'that sees pictures'}"
        why = f"{why}, or one of single pixels, which make no picture" if inside else why
        raise NotPossible(f"{model.name} {why}; there are filters of more than a pixel at: {known}.")
    return inside[0]


def _as_filters(kernel: Kernel, x: Tensor) -> Kernel | None:
    """Weights (filters, channels, height, width); those of a linear layer only if it sees the picture itself."""
    if kernel.operation == "conv2d":
        return kernel
    if kernel.weight.ndim == 2 and kernel.weight.shape[1] == math.prod(x.shape[1:]):
        return kernel._replace(weight=kernel.weight.view(-1, *x.shape[1:]))
    return None


def _is_wide(weights: Tensor) -> bool:
    return weights.shape[2] * weights.shape[3] >= _LEAST_PIXELS


def _slices(weights: Tensor, slices: int) -> tuple[Tensor, list[str]]:
    """The strongest input channels of each filter, (filters * slices, 1, h, w), and their captions."""
    many = min(slices, weights.shape[1])
    lengths = weights.flatten(2).norm(dim=2)
    order = lengths.sort(dim=1, descending=True, stable=True).indices[:, :many]
    picked = weights.gather(1, order[:, :, None, None].expand(-1, -1, *weights.shape[2:]))
    captions = [f"{unit} from {source}" for unit, row in enumerate(order.tolist()) for source in row]
    return picked.flatten(0, 1)[:, None], captions


def _fits(weights: Tensor) -> list[Wavelet]:
    """The wavelet nearest to each filter, in the mixture of colours that holds most of it."""
    found = []
    for weight in track(weights, "wavelets"):
        flat = weight.flatten(1).cpu()
        if not flat.any():
            found.append(Wavelet(0, 0, 0, 0, 0, 0, 1, 1, 0))
            continue
        left, size, right = torch.linalg.svd(flat, full_matrices=False)
        # The sign of a mixture is free: bright is what most of its colours call bright.
        sign = 1.0 if float(left[:, 0].sum()) >= 0 else -1.0
        plane = (sign * size[0] * right[0]).view(weight.shape[1:]).numpy()
        fit = nearest_wavelet(plane)
        found.append(replace(fit, fit=fit.fit * float(size[0] ** 2 / (size**2).sum())))
    return found


def _told(fit: Wavelet) -> str:
    return f"{fit.angle:.0f}°, {fit.frequency:.2f} /px, fit {fit.fit:.0%}"


def _checks(
    found: Kernel, shown: int, units: int, scale: str, fits: list[Wavelet], asked: bool, weights: Tensor
) -> dict[str, Check]:
    total = len(found.weight)
    text = f"{min(units, total)} of {total} filters of {found.site or 'the network'} are shown, each of "
    text += f"{found.weight.shape[1]} channels; middle grey is 0, and full brightness "
    text += "the largest weight of all." if scale == "joint" else "the largest weight of each picture."
    checks = {"scale": Check(text, "ok", float(weights.abs().max()))}
    dead = int((~weights.flatten(1).any(1)).sum())
    if dead:
        checks["dead"] = Check(f"{dead} of the {shown} pictures are of weights that are all 0.", "warn", float(dead))
    if fits:
        good = sum(fit.fit > 0.8 for fit in fits)
        text = f"A wavelet explains more than 80% of the squares of {good} of {len(fits)} filters."
        checks["wavelets"] = Check(text, "ok" if good else "note", good / len(fits))
    elif asked:
        height, width = found.weight.shape[2:]
        text = f"Filters of {height} x {width} have too few pixels for a wavelet, which has {PARAMETERS} numbers."
        checks["wavelets"] = Check(text, "note")
    return checks
