"""What a position of a layer says, in the layer's own words: its channels in order, each with a picture."""

import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Pictures
from cutaway.core.site import Site
from cutaway.visualization.places import checked_size, frame, grid_of, grid_site, icons_of, lit, photos, resized


@method(paper="olah2018", needs={"image"}, quick={"places": 2, "channels": 2, "size": 16})
def semantic_dictionary(
    model: Model,
    x: Batch,
    *,
    layer: Site | None = None,
    places: int = 4,
    channels: int = 5,
    icons: int | Tensor = 0,
    size: int = 96,
    seed: int = 0,
) -> Pictures:
    """The channels that answer most at a position of a layer, in falling order, each with a picture and its value.

    At position p:   the channels c in falling order of a_c(p)

    One forward for each input. With icons, a forward and a backward for each different channel and step.

    Args:
        layer: A place with positions, or one position of it as `mixed4d@1,0`; the last with positions if none is named.
        places: Positions of each input, those with the longest vectors first; one if the layer names it.
        channels: Channels of each position.
        icons: Steps of the optimisation that makes a channel's picture. With 0, the picture is the input, lit where the
            channel is active. In Python also pictures of your own, (channels of the layer, 3, height, width) in [0, 1].
        size: Pixels along a picture's side.
        seed: Of the icons.

    Returns:
        For each position a picture of the input with the position lit, then one for each channel with its number and
        activation. `extra` has the numbers: `values` and `channels` (n, places, channels), `positions` (n, places, 2).

    Raises:
        BadOption: No positions or no channels asked for.

    Source: Olah et al. 2018 (semantic dictionaries).
    """
    assert isinstance(x, Tensor)
    if places < 1 or channels < 1:
        raise BadOption(f"expected at least one position and one channel; got {places} and {channels}.")
    if layer is not None and layer.unit is not None:
        raise BadOption(f"expected a layer or a position of it, such as {layer.whole}@0,0; got the unit {layer}.")
    checked_size(size)
    site = grid_site(model, x, None if layer is None else layer.whole)
    act = grid_of(model, x, site).cpu()
    positions = _positions(act, layer, places)
    vectors = torch.stack([act[i, :, at[:, 0], at[:, 1]].T for i, at in enumerate(positions)])
    values, order = vectors.sort(dim=2, descending=True, stable=True)
    values, order = values[..., :channels].contiguous(), order[..., :channels].contiguous()
    wanted = order.unique().tolist()
    made = icons_of(model, site, wanted, icons, size, act.shape[1], seed)
    background = resized(photos(model, x).float(), size, size)
    pictures, captions = [], []
    for i, at in enumerate(positions.tolist()):
        for k, (row, column) in enumerate(at):
            pictures.append(frame(background[i], row, column, *act.shape[2:]))
            captions.append(_place(row, column, i if len(x) > 1 else None))
            for value, channel in zip(values[i, k].tolist(), order[i, k].tolist(), strict=True):
                shown = made[wanted.index(channel)] if made is not None else _active(background[i], act[i, channel])
                pictures.append(shown)
                captions.append(f"{channel}: {value:.4g}")
    return Pictures(
        title=f"{site}: the strongest channels of {_counted(positions.shape[1])}",
        images=torch.stack(pictures),
        captions=captions,
        columns=1 + values.shape[2],
        extra={"values": values, "channels": order, "positions": positions},
        checks=_checks(vectors, values, made is not None, site),
    )


def _positions(act: Tensor, layer: Site | None, places: int) -> Tensor:
    """Rows and columns, (n, places, 2): the one that was named, or those with the longest vectors, strongest first."""
    if layer is not None and layer.position is not None:
        layer.index(act)
        return torch.tensor(layer.position).expand(len(act), 1, 2).contiguous()
    norms = act.double().norm(dim=1).flatten(1)
    order = norms.sort(dim=1, descending=True, stable=True).indices[:, :places]
    return torch.stack([order // act.shape[3], order % act.shape[3]], 2)


def _place(row: int, column: int, number: int | None) -> str:
    return f"at {row},{column}" if number is None else f"#{number} at {row},{column}"


def _counted(positions: int) -> str:
    return "one position" if positions == 1 else f"{positions} positions"


def _active(photo: Tensor, values: Tensor) -> Tensor:
    """The input, lit where a channel is active."""
    top = values.clamp(min=0).max()
    return lit(photo, values.clamp(min=0) / top if top > 0 else torch.zeros_like(values))


def _checks(vectors: Tensor, values: Tensor, made: bool, site: Site) -> dict[str, Check]:
    above = vectors.double().clamp(min=0).sum(2)
    lasting = above > 0
    share = float((values.double().clamp(min=0).sum(2)[lasting] / above[lasting]).mean()) if lasting.any() else 0.0
    text = f"The channels shown hold {share:.0%} of what is above 0 at these positions of {site}."
    checks = {"share": Check(text, "ok", share)}
    if not lasting.all():
        count = int((~lasting).sum())
        text = f"At {count} positions no channel is above 0: their lists are in order, but nothing answers there."
        checks["silent"] = Check(text, "warn", float(count))
    if not made:
        checks["pictures"] = Check("A channel's picture is the input, lit where it is active; see icons=256.", "note")
    return checks
