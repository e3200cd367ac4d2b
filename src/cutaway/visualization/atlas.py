"""A map of everything that a layer of images' network tells apart: alike activations side by side, as pictures."""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from cutaway.core import atomic
from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset
from cutaway.core.errors import BadOption
from cutaway.core.layers import last_with_positions
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import report
from cutaway.core.result import Pictures
from cutaway.core.site import Site
from cutaway.core.target import Target, direction
from cutaway.engine.execution import execution
from cutaway.engine.extremes import Highest, Sample
from cutaway.engine.job import Folded, fold
from cutaway.visualization.ascend import ascended
from cutaway.visualization.atlas_layout import FEW, Cells, Layout, in_cells, laid_out, whitened
from cutaway.visualization.atlas_positions import Scattered, Speaking
from cutaway.visualization.places import GREY, checked_size, photos

# The power of the cosine in an icon's objective.
_POWER = 4
# Icons that are optimised, and kept where jobs are kept, together.
_TOGETHER = 25
# An icon's side as a share of its cell: at least this, where the cell has few activations.
_SMALLEST = 0.4
# Classes of each picture whose attributions are looked at.
_CLASSES = 3


@method(
    paper="carter2019",
    needs={"gradient", "image"},
    quick={"steps": 2, "size": 8, "cells": 2, "least": 1, "levels": 1, "layout": "pca", "positions": 2},
)
def activation_atlas(
    model: Model,
    data: Dataset,
    *,
    layer: Site | None = None,
    positions: int = 20,
    activations: int = 100_000,
    cells: int = 10,
    levels: int = 2,
    least: int = 10,
    size: int = 64,
    steps: int = 256,
    layout: Layout = "umap",
    seed: int = 0,
) -> Pictures:
    """What a layer tells apart in a data set, as a map of pictures: near each other what it takes for alike.

    icon = argmax over p of (a(p) . v) / |v| * max(0.1, cos(a(p), v))^4,   v = (E[a a'])^-1 mean activation of the cell

    One forward and three gradients for each example; then `steps` forwards and backwards at the icons' size for each
    cell. Icons are made in batches and kept where jobs are kept, so that an atlas that was stopped goes on.

    Args:
        layer: A layer with positions; the last one if none is named.
        positions: Random positions of each picture, none at the border.
        activations: In all, at most: a fair sample if there are more.
        cells: Along a side at the first level; each further level has twice as many.
        levels: Of zoom.
        least: Activations that a cell must have to be shown.
        size: Pixels along an icon's side.
        steps: Of each icon.
        layout: `umap` (extra `atlas`), or the two first principal components of the directions.
        seed: Of the positions, the layout and the icons.

    Returns:
        One picture for each level, (levels, 3, h, w). An icon is larger the more activations its cell has. In `extra`:
        `icons`, (cells, 3, size, size); `cells`, (cells, 4): level, row, column and count; `classes` and
        `attributions`, (cells, 3): the classes to which the cell's activations add most, on average over all of them,
        and how much of a logit; `layout`, (activations, 2), and `activations`.

    Raises:
        BadOption: Options out of range.
        BadShape: A layer without positions, or hardly any activations.
        NotPossible: UMAP is not installed.

    Source: Carter, Armstrong, Schubert, Johnson and Olah 2019. Differs: attributions are to the three likeliest classes
    of each picture; the objective is averaged over all positions of an icon; small ridge in the second moment.
    """
    _check(cells, levels, least, steps, positions, activations)
    site, classes = _site(model, data, layer), min(_CLASSES, int(model.run(model.inputs(data[0:1])).output.shape[1]))
    work = Scattered(str(site), activations, positions, classes, seed)
    folded = fold(work, model, data, label="activations")
    sample = folded.states["sample"]
    assert isinstance(sample, Sample)
    rows = sample.rows[sample.ids != torch.iinfo(sample.ids.dtype).max]
    points, numbers, parts = rows.split([rows.shape[1] - 2 * classes, classes, classes], 1)
    shares = _Shares(numbers.long(), parts)
    return _drawn(
        model, site, points, shares, folded, cells=cells, levels=levels, least=least, size=size, steps=steps,
        layout=layout, seed=seed,
    )  # fmt: skip


@method(
    paper="carter2019",
    needs={"gradient", "image"},
    quick={"steps": 2, "size": 8, "cells": 2, "least": 1, "levels": 1, "layout": "pca", "activations": 60},
)
def class_atlas(
    model: Model,
    data: Dataset,
    *,
    classes: tuple[str, ...] = (),
    layer: Site | None = None,
    activations: int = 3000,
    cells: int = 10,
    levels: int = 1,
    least: int = 4,
    size: int = 64,
    steps: int = 256,
    layout: Layout = "umap",
    seed: int = 0,
) -> Pictures:
    """What a network sees that speaks for one class, or for each of two, as a map of pictures.

    Of all positions of all pictures, those with the largest   sum over channels of a * d logit / d a

    One forward and one gradient for each example and class; icons as in `activation_atlas`.

    Args:
        classes: One class, or two to compare; the class that the first example is taken for if none is named.
        layer: A layer with positions; the last one if none is named.
        activations: Of each class.
        cells: Along a side at the first level; each further level has twice as many.
        levels: Of zoom.
        least: Activations that a cell must have to be shown.
        size: Pixels along an icon's side.
        steps: Of each icon.
        layout: `umap` (extra `atlas`), or the two first principal components of the directions.
        seed: Of the layout and the icons.

    Returns:
        As `activation_atlas`; `attributions` are those to each of the classes. A cell that adds much to a class that it
        has nothing to do with is worth a try with `patch_probe`.

    Raises:
        BadOption, UnknownName: Options out of range, more than two classes, or one that the network does not have.
        BadShape: A layer without positions, or hardly any activations.
        NotPossible: UMAP is not installed.

    Source: Carter, Armstrong, Schubert, Johnson and Olah 2019, "focusing on a single classification". Differs:
    chosen by attribution alone, not by the rank of the class.
    """
    _check(cells, levels, least, steps, 1, activations)
    first = model.inputs(data[0:1])
    width = int(model.run(first).output.shape[1])
    named = [int(k) if k.lstrip("-").isdigit() else k for k in classes] or [int(model.run(first).output.argmax())]
    aims = tuple(dict.fromkeys(model.class_index(k, width) for k in named))
    if len(aims) > 2:
        raise BadOption(f"expected one class, or two to compare; got {len(aims)}.")
    site = _site(model, data, layer)
    folded = fold(Speaking(str(site), activations, aims), model, data, label="activations")
    tables, ids = [], []
    for k in aims:
        state = folded.states[str(k)]
        assert isinstance(state, Highest)
        tables.append(state.rows[: state.found])
        ids.append(state.ids[: state.found])
    # A position may speak for both.
    _, order = torch.unique(torch.cat(ids), return_inverse=True)
    fresh = torch.stack([(order == k).nonzero()[0, 0] for k in range(int(order.max()) + 1)])
    rows = torch.cat(tables)[fresh]
    points, parts = rows.split([rows.shape[1] - len(aims), len(aims)], 1)
    shares = _Shares(torch.tensor(aims).expand(len(rows), -1), parts)
    return _drawn(
        model, site, points, shares, folded, cells=cells, levels=levels, least=least, size=size, steps=steps,
        layout=layout, seed=seed,
    )  # fmt: skip


class _Shares(NamedTuple):
    """What each activation adds to some classes: their numbers (n, k), and attributions (n, k)."""

    classes: Tensor
    parts: Tensor

    def take(self, keep: Tensor) -> "_Shares":
        return _Shares(self.classes[keep], self.parts[keep])

    def of_cells(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """The classes that each cell adds most to, (cells, k), and the mean over all its activations."""
        known, columns = torch.unique(self.classes, return_inverse=True)
        table = torch.zeros(len(self.parts), len(known)).scatter_add(1, columns, self.parts)
        mean, order = cells.mean(table).sort(dim=1, descending=True, stable=True)
        count = self.parts.shape[1]
        return known[order[:, :count]], mean[:, :count]


def _check(cells: int, levels: int, least: int, steps: int, positions: int, activations: int) -> None:
    given = {"cells": cells, "levels": levels, "least": least, "positions": positions, "activations": activations}
    for name, value in given.items():
        if value < 1:
            raise BadOption(f"expected {name} of 1 or more; got {value}.")
    if steps < 0:
        raise BadOption(f"expected 0 steps or more; got {steps}.")
    if cells * 2 ** (levels - 1) > 128:
        raise BadOption(f"expected at most 128 cells along a side; got {cells} at {levels} levels.")


def _site(model: Model, data: Dataset, layer: Site | None) -> Site:
    if layer is None:
        return last_with_positions(model, model.inputs(data[0:1]))
    if not layer.is_whole:
        raise BadOption(f"expected a whole layer, such as {layer.whole}; got {layer}.")
    return layer


def _drawn(
    model: Model,
    site: Site,
    points: Float[Tensor, "n channels"],
    shares: _Shares,
    folded: Folded,
    *,
    cells: int,
    levels: int,
    least: int,
    size: int,
    steps: int,
    layout: Layout,
    seed: int,
) -> Pictures:
    """The map of some activations."""
    size = checked_size(size)
    awake = points.abs().amax(1) > 0
    total, points, shares = len(points), points[awake], shares.take(awake)
    places = laid_out(points, layout, seed)
    grids = [in_cells(places, cells * 2**level, least) for level in range(levels)]
    inverse, rank = whitened(points)
    means = torch.cat([grid.mean(points) for grid in grids])
    if not len(means):
        raise BadOption(
            f"no cell has {least} of the {len(points)} activations; look at more examples, or choose fewer cells or a "
            "smaller least."
        )
    aims = [direction(site, row @ inverse, _POWER) for row in means]
    icons = _icons(model, aims, size, steps, seed)
    classes, parts = (torch.cat(found) for found in zip(*(shares.of_cells(g) for g in grids), strict=True))
    about = torch.cat(
        [
            torch.cat([torch.full((len(g.counts), 1), level), g.places, g.counts[:, None]], 1)
            for level, g in enumerate(grids)
        ]
    )
    captions = [
        f"level {level + 1}: {g.side} x {g.side} cells, {len(g.counts)} with {least} activations or more"
        for level, g in enumerate(grids)
    ]
    checks = _checks(model, site, points, total, rank, grids, layout, folded)
    checks["classes"] = _named(model, about, classes, parts)
    return Pictures(
        images=torch.stack(
            [_mosaic(icons[about[:, 0] == level], g, size * grids[-1].side) for level, g in enumerate(grids)]
        ),
        captions=captions,
        columns=1,
        extra={
            "icons": icons,
            "cells": about,
            "classes": classes,
            "attributions": parts,
            "layout": places,
            "activations": points,
        },
        checks=checks,
    )


def _icons(model: Model, aims: Sequence[Target], size: int, steps: int, seed: int) -> Float[Tensor, "k 3 size size"]:
    """One picture for each direction, some at a time; kept in the folder of jobs, where there is one."""
    folder, found = execution().folder, []
    for start in range(0, len(aims), _TOGETHER):
        report("icons", start, len(aims))
        some = aims[start : start + _TOGETHER]
        about = "\n".join([model.fingerprint, repr(model.space), f"{size} {steps} {seed}", *map(str, some)])
        name = f"icons-{hashlib.sha256(about.encode()).hexdigest()[:32]}.safetensors"
        if folder is not None and (folder / name).is_file():
            try:
                found.append(safetensors.torch.load_file(folder / name)["icons"])
            except (safetensors.SafetensorError, KeyError, OSError):
                pass  # damaged: made anew
            else:
                continue
        made = photos(model, ascended(model, some, size=size, steps=steps, seed=seed, label="icons")).float()
        if folder is not None:
            atomic.make_folder(folder)
            atomic.write_bytes(folder / name, safetensors.torch.save({"icons": made.contiguous()}), overwrite=True)
        found.append(made)
    report("icons", len(aims), len(aims))
    return torch.cat(found)


def _mosaic(icons: Tensor, grid: Cells, side: int) -> Float[Tensor, "3 side side"]:
    """The map of one level on grey: each icon in its cell, with an area that follows its count."""
    step = side // grid.side
    picture = torch.full((3, side, side), GREY)
    most = float(grid.counts.max()) if len(grid.counts) else 1.0
    for icon, (row, column), count in zip(icons, grid.places.tolist(), grid.counts.tolist(), strict=True):
        width = max(1, round(step * max(_SMALLEST, math.sqrt(count / most))))
        small = interpolate(icon[None], (width, width), mode="bilinear", antialias=True, align_corners=False)[0]
        top, left = row * step + (step - width) // 2, column * step + (step - width) // 2
        picture[:, top : top + width, left : left + width] = small.clamp(0, 1)
    return picture


def _checks(
    model: Model,
    site: Site,
    points: Tensor,
    total: int,
    rank: int,
    grids: Sequence[Cells],
    layout: Layout,
    folded: Folded,
) -> dict[str, Check]:
    shown = sum(int(g.counts.sum()) for g in grids[:1]) / len(points)
    text = f"{len(points)} activations of {site} from {folded.seen} examples; {shown:.0%} lie in cells that are shown."
    checks = {**folded.checks, "activations": Check(text, "ok" if shown > 0.5 else "note", float(len(points)))}
    if total > len(points):
        text = f"{total - len(points)} activations are 0 throughout, have no direction, and were left out."
        checks["silent"] = Check(text, "note", float(total - len(points)))
    if rank < points.shape[1]:
        text = (
            f"The activations span {rank} of {points.shape[1]} dimensions; along the others the icons' directions rest "
            "on the ridge alone. More examples would help."
        )
        checks["rank"] = Check(text, "warn", float(rank))
    if layout == "umap" and len(points) < FEW:
        text = f"{len(points)} activations are too few for UMAP; they were laid out by two principal components."
        checks["layout"] = Check(text, "note")
    else:
        text = "Neighbours on the map are alike for the layer; distances between far cells and directions mean nothing."
        checks["layout"] = Check(text, "note")
    return checks


def _named(model: Model, about: Tensor, classes: Tensor, parts: Tensor) -> Check:
    """The cells of the first level that add most to a class, in words."""
    first = (about[:, 0] == 0).nonzero()[:, 0]
    order = first[parts[first, 0].sort(descending=True, stable=True).indices][:5]

    def name(k: int) -> str:
        return model.classes[k].split(",")[0] if model.classes else f"class {k}"

    rows = [(about[c, 1:3] + 1).tolist() for c in order.tolist()]
    adds = [f"{name(int(classes[c, 0]))} {float(parts[c, 0]):+.2g}" for c in order.tolist()]
    told = "; ".join(f"row {r}, column {c}: {add}" for (r, c), add in zip(rows, adds, strict=True))
    return Check(f"Cells that add most to a logit, on average over their activations: {told}.", "note")
