"""What looks at a layer's positions share: the layer, its activations, the photo behind them, and channels' icons."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cutaway.core.batch import Batch
from cutaway.core.errors import BadOption, BadShape
from cutaway.core.layers import last_with_positions
from cutaway.core.model import Model
from cutaway.core.site import Site, unit_axis
from cutaway.core.target import unit
from cutaway.visualization.ascend import ascended

# The contrast that a photo keeps where something else is meant.
_DIM = 0.3
GREY = 0.5


def grid_site(model: Model, x: Batch, layer: Site | None) -> Site:
    """The layer that was asked for, or the last with positions.

    Raises:
        BadOption: A unit or position of a layer.
    """
    if layer is None:
        return last_with_positions(model, model.inputs(x))
    if not layer.is_whole:
        raise BadOption(f"expected a whole layer, such as {layer.whole}; got {layer}.")
    return layer


def grid_of(model: Model, x: Batch, site: Site) -> Tensor:
    """The activations of a layer, (n, channels, height, width).

    Raises:
        BadShape: It has no positions.
    """
    trace = model.run(x, read=[site.whole])
    act = trace[site.whole]
    if act.ndim != 4 or unit_axis(act, trace.module(site)) != 1:
        raise BadShape(
            f"expected a layer with channels and positions, (n, channels, height, width); {site} has shape "
            f"{tuple(act.shape)}. `cutaway layers {model.name}` lists all."
        )
    return act


def photos(model: Model, x: Tensor) -> Tensor:
    """The inputs as pictures in [0, 1], (n, 3, height, width); grey if they do not have three channels."""
    found = ((x.detach().cpu() - model.space.low) / model.space.range).clamp(0, 1)
    return found if found.shape[1] == 3 else found.mean(1, keepdim=True).expand(-1, 3, -1, -1).contiguous()


def resized(pictures: Tensor, height: int, width: int) -> Tensor:
    """Pictures (n, c, h, w) at another size; enlarged as they are, made smaller without aliasing."""
    if tuple(pictures.shape[2:]) == (height, width):
        return pictures
    if height >= pictures.shape[2] and width >= pictures.shape[3]:
        return interpolate(pictures, (height, width), mode="nearest-exact")
    return interpolate(pictures, (height, width), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def lit(photo: Tensor, light: Tensor) -> Tensor:
    """A photo (3, height, width) in full contrast where `light` (h, w) is 1, nearly grey where it is 0, by cells."""
    share = interpolate(light.clamp(0, 1)[None, None].to(photo), tuple(photo.shape[1:]), mode="nearest-exact")[0]
    return GREY + (photo - GREY) * (_DIM + (1 - _DIM) * share)


def icons_of(
    model: Model, site: Site, channels: Sequence[int], icons: int | Tensor, size: int, total: int, seed: int
) -> Tensor | None:
    """Pictures of channels, (len(channels), 3, size, size) in [0, 1]; None if none are wanted.

    Args:
        model: The network.
        site: The layer.
        channels: Which channels.
        icons: Steps of optimisation for each, 0 for none; or pictures of all channels, (channels, 3, h, w) in [0, 1].
        size: Pixels along a side.
        total: Channels of the layer.
        seed: Of the optimisation.

    Raises:
        BadOption: A negative number of steps.
        BadShape: Given pictures that are not one for each channel.
    """
    if isinstance(icons, Tensor):
        if icons.ndim != 4 or icons.shape[:2] != (total, 3):
            raise BadShape(f"expected icons ({total}, 3, height, width), one a channel; got {tuple(icons.shape)}.")
        return resized(icons[list(channels)].detach().cpu().float(), size, size)
    if icons < 0:
        raise BadOption(f"expected icons as a number of steps from 0; got {icons}.")
    if not icons or not channels:
        return None
    aims = [unit(f"{site}:{channel}") for channel in channels]
    return photos(model, ascended(model, aims, size=size, steps=icons, seed=seed, label="icons")).float()


def checked_size(size: int) -> int:
    """A side of at least 8 pixels.

    Raises:
        BadOption: Smaller.
    """
    if size < 8:
        raise BadOption(f"expected pictures of at least 8 pixels along a side; got {size}.")
    return size


def frame(picture: Tensor, row: int, column: int, height: int, width: int) -> Tensor:
    """A picture (3, h, w) in which one cell of a grid is lit and the others are not."""
    light = torch.zeros(height, width)
    light[row, column] = 1
    return lit(picture, light)
