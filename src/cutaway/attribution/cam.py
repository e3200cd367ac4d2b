"""Coarse maps from a late layer: its channels, weighted by how much the target rises with each."""

import math
from weakref import WeakKeyDictionary

import torch.nn.functional as F
from torch import Tensor

from cutaway.core.batch import Batch, take
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.layers import Layer
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.site import Site
from cutaway.core.target import Target

# Looking for the last layer takes two forwards; once for each model and input size is enough.
_chosen: WeakKeyDictionary[Model, dict[tuple[int, ...], Site]] = WeakKeyDictionary()


@method(paper="selvaraju2017", laws={"batch_independent"}, needs={"gradient", "image"})
def grad_cam(
    model: Model, x: Batch, target: Target, *, layer: Site | None = None, relu: bool = True, upsample: bool = True
) -> Attribution:
    """Where a layer's channels that speak for the target are active.

    map_p = max(0, sum over c of w_c A_cp),   w_c = mean over positions p of d target / d A_cp

    One forward, and a backward that ends at the layer.

    Args:
        layer: A place with channels and positions, or with the tokens of a square grid of patches. If none is named,
        the
            last place with at least 2 x 2 positions before any pooling.
        relu: Keep only what speaks for the target. Without it the map has a sign.
        upsample: Bilinear, to the height and width of the input. Otherwise the map stays at the layer's resolution.

    Returns:
        One value per position, (n, 1, height, width). `extra["grid"]` is the map at the layer's resolution.

    Source: Selvaraju et al. 2017, eq. 1 and 2. Differs: also for the token grids of vision transformers.
    """
    assert isinstance(x, Tensor)
    if layer is not None and not layer.is_whole:
        raise BadOption(f"expected a whole layer, whose channels are weighted; got {layer}.")
    site = layer if layer is not None else _last_grid(model, x, target)
    score, act, slope = model.gradient(x, target, wrt=site)
    grid = _weighted(_as_grid(act, site), _as_grid(slope, site))
    checks = _checks(act, slope, grid, site, relu, "chosen as the last with positions" if layer is None else "as asked")
    grid = grid.clamp(min=0) if relu else grid
    values = F.interpolate(grid, size=x.shape[2:], mode="bilinear", align_corners=False) if upsample else grid
    return Attribution(
        values=values,
        target=str(target),
        wrt="input" if upsample else str(site),
        unit="activation times slope",
        score=score,
        signed=not relu,
        extra={"grid": grid[:, 0]},
        checks=checks,
    )


def _weighted(act: Tensor, slope: Tensor) -> Tensor:
    """Channels weighted by their mean slope, and added: (n, 1, h, w)."""
    weights = slope.mean((2, 3), keepdim=True)
    return (weights * act).sum(1, keepdim=True)


def _grid_size(shape: tuple[int, ...] | None) -> tuple[int, int]:
    """Height and width of an activation (c, h, w), or of the square grid behind tokens (t, d); (0, 0) if it has none.

    One token more than a square is a class token, which comes first.
    """
    if shape is not None and len(shape) == 3:
        return shape[1], shape[2]
    if shape is not None and len(shape) == 2:
        for patches in (shape[0], shape[0] - 1):
            side = math.isqrt(max(patches, 0))
            if side > 1 and side * side == patches:
                return side, side
    return 0, 0


def _as_grid(act: Tensor, site: Site) -> Tensor:
    """An activation as (n, c, h, w).

    Raises:
        BadShape: It has no positions.
    """
    height, width = _grid_size(tuple(act.shape[1:]))
    if not height:
        raise BadShape(
            "expected a layer with positions, (n, channels, height, width) or (n, tokens, dimensions) with a square of "
            f"tokens; {site} has shape {tuple(act.shape)}."
        )
    return act if act.ndim == 4 else _patches(act).transpose(1, 2).unflatten(2, (height, width))


def _patches(act: Tensor) -> Tensor:
    """The tokens of the grid, without a class token."""
    height, width = _grid_size(tuple(act.shape[1:]))
    return act[:, act.shape[1] - height * width :]


def _last_grid(model: Model, x: Tensor, target: Target) -> Site:
    """The last place with at least 2 x 2 positions before any pooling; of token grids, the last that the target uses.

    Raises:
        NotPossible: There is none.
    """
    known = _chosen.setdefault(model, {})
    key = tuple(x.shape[1:])
    if key not in known:
        row = take(x, slice(0, 1))
        known[key] = _last_used(model, row, target.row(0), _places(model, row))
    return known[key]


def _places(model: Model, row: Batch) -> list[Layer]:
    """The places with positions, the one that is computed last first."""
    layers = {layer.site: layer for layer in model.layers(row)}
    found: list[Layer] = []
    later: list[str] = []
    for operation in reversed(model.census(row)):
        layer = layers.get(operation.site)
        if "pool" in operation.name or operation.site in later:
            continue
        if layer is not None and min(_grid_size(layer.shape)) > 1:
            found.append(_outermost(layer, layers, later))
        later.append(operation.site)
    return list(dict.fromkeys(found))


def _outermost(layer: Layer, layers: dict[str, Layer], later: list[str]) -> Layer:
    """The block that ends with this layer, if its shape is the same. So a sum with a skip is inside."""
    while (parent := layers.get(layer.site.rpartition(".")[0])) is not None and parent.shape == layer.shape:
        if any(f"{site}.".startswith(f"{parent.site}.") for site in later):
            break
        layer = parent
    return layer


def _site(layer: Layer) -> Site:
    return Site.of(layer.site if layer.calls == 1 else f"{layer.site}#{layer.calls - 1}")


def _last_used(model: Model, row: Batch, target: Target, places: list[Layer]) -> Site:
    """After the last attention only the class token matters, so patches have no slope there: look further back."""
    width = places[0].shape[-1] if places and places[0].shape is not None else 0
    for layer in places:
        site, shape = _site(layer), layer.shape or ()
        if len(shape) == 3:
            return site
        # Of the residual stream's width: queries, keys and hidden layers of an MLP are not what a patch is.
        if shape[1] == width and _patches(model.gradient(row, target, wrt=site).slope).any():
            return site
    raise NotPossible(
        f"{model.name} has no place with at least 2 x 2 positions that {target} depends on, so there is no map. "
        "Name a layer, or use integrated_gradients."
    )


def _checks(act: Tensor, slope: Tensor, grid: Tensor, site: Site, relu: bool, why: str) -> dict[str, Check]:
    height, width = grid.shape[2:]
    channels = act.shape[1] if act.ndim == 4 else act.shape[2]
    text = f"The map was made at {site} ({why}), so it is no finer than {height} x {width}; {channels} channels."
    checks = {"layer": Check(text, "ok")}
    if act.ndim == 3:
        text = f"The {act.shape[1]} tokens were taken as {height} x {width} patches, row by row"
        more = ", after a class token." if act.shape[1] > height * width else "."
        checks["tokens"] = Check(text + more, "note")
    dead = int((_as_grid(slope, site).flatten(1) == 0).all(1).sum())
    if dead:
        text = f"The target of {dead} of {len(grid)} inputs does not depend on any position at {site}"
        checks["slope"] = Check(f"{text}; choose an earlier layer.", "warn", float(dead))
    empty = int((grid.flatten(1) <= 0).all(1).sum()) - dead
    if relu and empty > 0:
        text = f"For {empty} of {len(grid)} inputs nothing at {site} speaks for the target, so the map is 0"
        checks["empty"] = Check(f"{text}; see relu=False.", "warn", float(empty))
    return checks
