"""The layer that is looked at if none is named, and its units at real places of the input."""

import torch
from torch import Tensor

from cutaway.core.batch import Batch, primary
from cutaway.core.errors import BadOption, BadShape
from cutaway.core.layers import last_with_positions
from cutaway.core.model import Model
from cutaway.core.site import Site


def last_inner(model: Model, row: Batch) -> Site:
    """The last layer with positions; for texts, with a row for each piece; for tables, the last one before the answer.

    A network with one layer has only its answer.

    Raises:
        BadShape: There is no layer with units.
    """
    if model.space.kind == "tokens":
        return last_over_words(model, row)
    layers = [layer for layer in model.layers(row) if layer.shape is not None and layer.calls == 1 and layer.site]
    if any(len(layer.shape or ()) == 3 and min((layer.shape or ())[1:]) > 1 for layer in layers):
        return last_with_positions(model, row)
    answer = model.run(row).output.shape[1:]
    flat = [layer for layer in layers if len(layer.shape or ()) == 1]
    inner = flat[:-1] if len(flat) > 1 and flat[-1].shape == tuple(answer) else flat
    if not inner:
        raise BadShape(f"{model.name} has no layer with units, (n, units) or (n, units, height, width).")
    return Site.of(inner[-1].site)


def last_over_words(model: Model, row: Batch) -> Site:
    """The last layer in the order of the modules with a row of at least two units for each piece.

    Raises:
        BadShape: There is none.
    """
    pieces = primary(row).shape[1]
    for layer in reversed(model.layers(row)):
        shape = layer.shape or ()
        if layer.site and layer.calls == 1 and len(shape) == 2 and shape[0] == pieces and shape[1] > 1:
            return Site.of(layer.site)
    raise BadShape(f"{model.name} has no layer with a row of units for each piece of a text; name one with site=.")


def real_positions(model: Model, x: Batch, act: Tensor, site: Site) -> Tensor:
    """Which positions of a layer are of the input and not padding, (n, positions).

    Args:
        model, x: The network and the batch.
        act: Its units at a layer, (n, units, positions).
        site: The layer.

    Raises:
        BadShape: A layer over a text with other positions than its pieces.
    """
    real = torch.ones(len(act), act.shape[2], dtype=torch.bool)
    if model.space.kind != "tokens" or act.shape[2] == 1:
        return real
    if act.shape[2] != primary(x).shape[1]:
        raise BadShape(
            f"expected a layer with one row for each text, or one for each of {primary(x).shape[1]} pieces; {site} has "
            f"{act.shape[2]} rows."
        )
    mask = x.get("attention_mask") if isinstance(x, dict) else None
    return real if mask is None else mask.bool().cpu()


def unit_numbers(units: tuple[str, ...], count: int, site: Site) -> tuple[int, ...]:
    """Numbers of units from their text; all if none is named.

    Raises:
        BadOption: No number, one that is there twice, or no unit of the layer.
    """
    try:
        chosen = tuple(int(unit) for unit in units) or tuple(range(count))
    except ValueError:
        raise BadOption(f"expected units as whole numbers with ; between them; got {'; '.join(units)}.") from None
    if wrong := [unit for unit in chosen if not 0 <= unit < count]:
        raise BadOption(f"expected units from 0 to {count - 1} of {site}; got {wrong[0]}.")
    if len(set(chosen)) < len(chosen):
        raise BadOption(f"expected different units; got {'; '.join(units)}.")
    return chosen
