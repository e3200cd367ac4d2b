"""What coarse maps share: the layer they are made at, its channels on a grid, and the map as a result."""

import math
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch.nn.functional as F
from torch import Tensor

from cutaway.core.batch import Batch, take
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.layers import Layer
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.site import Site
from cutaway.core.target import Target

# Looking for the last layer takes two forwards; once for each model and input size is enough.
_chosen: WeakKeyDictionary[Model, dict[tuple[int, ...], Site]] = WeakKeyDictionary()


def site_of(model: Model, x: Tensor, target: Target, layer: Site | None) -> Site:
    """The layer that was asked for, or the last with positions.

    Raises:
        BadOption: A unit or position of a layer.
        NotPossible: None was named, and there is none with positions.
    """
    if layer is not None and not layer.is_whole:
        raise BadOption(f"expected a whole layer, whose channels are weighted; got {layer}.")
    return layer if layer is not None else _last_grid(model, x, target)


def as_grid(act: Tensor, site: Site) -> Tensor:
    """An activation as (n, c, h, w).

    Raises:
        BadShape: It has no positions.
    """
    height, width = grid_size(tuple(act.shape[1:]))
    if not height:
        raise BadShape(
            "expected a layer with positions, (n, channels, height, width) or (n, tokens, dimensions) with a square of "
            f"tokens; {site} has shape {tuple(act.shape)}."
        )
    return act if act.ndim == 4 else _patches(act).transpose(1, 2).unflatten(2, (height, width))


def grid_size(shape: tuple[int, ...] | None) -> tuple[int, int]:
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


def coarse_map(
    x: Tensor,
    target: Target,
    grid: Tensor,
    site: Site,
    *,
    score: Tensor,
    unit: str,
    checks: dict[str, Check],
    relu: bool,
    upsample: bool,
    extra: Mapping[str, Tensor] | None = None,
) -> Attribution:
    """A map (n, 1, h, w) at a layer's resolution as a result: rectified and enlarged, where that was asked for."""
    grid = grid.clamp(min=0) if relu else grid
    return Attribution(
        values=enlarged(grid, x) if upsample else grid,
        target=str(target),
        wrt="input" if upsample else str(site),
        unit=unit,
        score=score,
        signed=not relu,
        extra={"grid": grid[:, 0], **(extra or {})},
        checks=checks,
    )


def enlarged(grid: Tensor, x: Tensor) -> Tensor:
    """A map at the height and width of the input, linear between the centres of its cells."""
    return F.interpolate(grid, size=x.shape[2:], mode="bilinear", align_corners=False)


def layer_checks(act: Tensor, site: Site, *, chosen: bool) -> dict[str, Check]:
    """Where a map was made, and so how fine it can be."""
    (height, width), channels = grid_size(tuple(act.shape[1:])), act.shape[1] if act.ndim == 4 else act.shape[2]
    why = "chosen as the last with positions" if chosen else "as asked"
    text = f"The map was made at {site} ({why}), so it is no finer than {height} x {width}; {channels} channels."
    checks = {"layer": Check(text, "ok")}
    if act.ndim == 3:
        text = f"The {act.shape[1]} tokens were taken as {height} x {width} patches, row by row"
        more = ", after a class token." if act.shape[1] > height * width else "."
        checks["tokens"] = Check(text + more, "note")
    return checks


def slope_checks(slope: Tensor, grid: Tensor, site: Site, relu: bool) -> dict[str, Check]:
    """Whether the target depends on the layer, and whether anything is left of the map."""
    checks: dict[str, Check] = {}
    dead = int((as_grid(slope, site).flatten(1) == 0).all(1).sum())
    if dead:
        text = f"The target of {dead} of {len(grid)} inputs does not depend on any position at {site}"
        checks["slope"] = Check(f"{text}; choose an earlier layer.", "warn", float(dead))
    return checks | empty_check(grid, site, relu, dead)


def empty_check(grid: Tensor, site: Site, relu: bool, explained: int = 0) -> dict[str, Check]:
    """A warning where a rectified map is 0 everywhere, beyond those that were explained already."""
    empty = int((grid.flatten(1) <= 0).all(1).sum()) - explained
    if not relu or empty <= 0:
        return {}
    text = f"For {empty} of {len(grid)} inputs nothing at {site} speaks for the target, so the map is 0"
    return {"empty": Check(f"{text}; see relu=False.", "warn", float(empty))}


# -- the last layer with positions -------------------------------------------------------------------------------------


def _patches(act: Tensor) -> Tensor:
    """The tokens of the grid, without a class token."""
    height, width = grid_size(tuple(act.shape[1:]))
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
        if layer is not None and min(grid_size(layer.shape)) > 1:
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
