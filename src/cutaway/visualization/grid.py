"""All positions of a layer at once: each as a picture of its whole activation vector, or one picture of them all."""

from collections.abc import Callable

import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.door import is_finite
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Pictures
from cutaway.core.site import Site
from cutaway.core.target import Target, direction, per_row
from cutaway.visualization.ascend import ascended, shown, sized_for, units
from cutaway.visualization.canvas import easel
from cutaway.visualization.places import GREY, checked_size, grid_of, grid_site, photos, resized
from cutaway.visualization.views import drawn
from cutaway.visualization.wake import WAKING

# How much the cosine with a position's vector counts: the direction matters, the length is shown in another way.
_POWER = 2
# The rim that a cell of the grid shares with its neighbours on each side, as a share of its own side.
_RIM = 0.25
_RATE, _TINY, _WAKING = 0.05, 1e-12, 16

Cells = Callable[[Site, Tensor], Tensor]
Placed = Callable[[Tensor, float], Tensor]


@method(paper="olah2018", needs={"image", "gradient"}, quick={"steps": 1, "size": 8})
def spatial_activations(
    model: Model, x: Batch, *, layer: Site | None = None, steps: int = 64, size: int = 48, seed: int = 0
) -> Pictures:
    """What each position of a layer found: a picture made to point where its activation vector points.

    picture_p = argmax over pictures of the mean over positions q of a(q) . v * max(0.1, cos(a(q), v)) ^ 2,
    with v = a(p) / |a(p)| of the input

    Each position has a picture of its own, dimmed towards grey by the length of its vector. A forward and a backward,
    both ending at the layer, for each position and step; all positions of an input together.

    Args:
        layer: A place with positions; the last if none is named.
        steps: Of the search for the pictures.
        size: Pixels along a position's side.
        seed: Of the start and the random views.

    Returns:
        For each input the input itself, and the pictures of its positions in place. `extra["norms"]` (n, height, width)
        has the lengths of the vectors.

    Raises:
        BadOption: A size below 8, or less than one step.

    Source: Olah et al. 2018 (spatial activations).
    """

    def cells(site: Site, vectors: Tensor) -> Tensor:
        found = torch.full((*vectors.shape[:2], 3, size, size), GREY)
        alive = vectors.flatten(2).any(2).nonzero().tolist()
        if alive:
            aims = [direction(site, vectors[row, column], _POWER) for row, column in alive]
            made = photos(model, ascended(model, aims, size=size, steps=steps, seed=seed, label="positions"))
            for (row, column), picture in zip(alive, made, strict=True):
                found[row, column] = picture
        return found

    return _of_positions(model, x, layer, steps, size, cells, _dimmed)


@method(paper="olah2018", needs={"image", "gradient"}, quick={"steps": 1, "size": 8})
def activation_grid(
    model: Model, x: Batch, *, layer: Site | None = None, steps: int = 128, size: int = 32, seed: int = 0
) -> Pictures:
    """What a whole layer found: one picture for all its positions, in which a position is larger the more it says.

    picture = argmax over pictures of the sum over positions p of the mean over q of
    a_p(q) . v_p * max(0.1, cos(a_p(q), v_p)) ^ 2

    with v_p = a(p) / |a(p)| of the input, and a_p the layer's answer to the part of the picture around p. The parts
    overlap, so neighbours are made together and agree where they meet. Then each cell is drawn with an area in
    proportion to |a(p)|. A forward and a backward, both ending at the layer, for each position and step.

    Args:
        layer: A place with positions; the last if none is named.
        steps: Of the search for the picture.
        size: Pixels along a cell's side.
        seed: Of the start and the random views.

    Returns:
        For each input the input itself, and the grid. `extra["norms"]` (n, height, width) has the lengths of the
        vectors.

    Raises:
        BadOption: A size below 8, or less than one step.

    Source: Olah et al. 2018 (activation grids). Differs: the overlap of the parts is a quarter of a cell on each side.
    """

    def cells(site: Site, vectors: Tensor) -> Tensor:
        return _Mosaic(model, site, vectors, size, seed).made(steps)

    return _of_positions(model, x, layer, steps, size, cells, _shrunk)


def _of_positions(
    model: Model, x: Batch, layer: Site | None, steps: int, size: int, cells: Cells, placed: Placed
) -> Pictures:
    """A picture of all positions for each input.

    Args:
        model, x, layer, steps, size: As in the methods.
        cells: From the layer and its vectors (h, w, channels) to pictures of the positions, (h, w, 3, size, size).
        placed: How one of them is drawn, given the length of its vector as a share of the longest.
    """
    assert isinstance(x, Tensor)
    checked_size(size)
    if steps < 1:
        raise BadOption(f"expected at least one step; got {steps}.")
    site = grid_site(model, x, layer)
    act = grid_of(model, x, site)
    norms = act.double().norm(dim=1).cpu()
    height, width = act.shape[2:]
    pictures, captions = [], []
    for i, photo in enumerate(photos(model, x)):
        made = cells(site, act[i].movedim(0, 2))
        share = norms[i] / norms[i].max().clamp(min=torch.finfo(torch.float64).tiny)
        drawn_cells = torch.stack(
            [
                torch.stack([placed(c, float(s)) for c, s in zip(*row, strict=True)])
                for row in zip(made, share, strict=True)
            ]
        )
        pictures += [resized(photo[None], height * size, width * size)[0].float(), _joined(drawn_cells)]
        captions += [
            f"input {i}" if len(x) > 1 else "input",
            f"{site}: {height} × {width}, longest {norms[i].max():.4g}",
        ]
    return Pictures(
        title=f"what {site} found at each of its positions",
        images=torch.stack(pictures),
        captions=captions,
        columns=2,
        extra={"norms": norms.to(act.dtype)},
        checks=_checks(norms, site),
    )


def _checks(norms: Tensor, site: Site) -> dict[str, Check]:
    silent = int((norms == 0).sum())
    text = f"Vectors at {site} are {norms.min():.3g} to {norms.max():.3g} long."
    checks = {"norms": Check(text, "ok", float(norms.max()))}
    if silent:
        text = f"At {silent} of {norms.numel()} positions nothing is active; they stay grey."
        checks["silent"] = Check(text, "warn" if silent == norms.numel() else "note", float(silent))
    text = "A picture shows what would make the layer answer so; the input's own detail there may be another."
    return checks | {"pictures": Check(text, "note")}


def _joined(cells: Tensor) -> Tensor:
    """Cells (h, w, 3, size, size) side by side, (3, h * size, w * size)."""
    return cells.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def _dimmed(cell: Tensor, share: float) -> Tensor:
    """A cell that fades to grey as its vector is short."""
    return GREY + (cell - GREY) * share


def _shrunk(cell: Tensor, share: float) -> Tensor:
    """A cell with that share of its area, on grey."""
    size = cell.shape[-1]
    side = round(size * share**0.5)
    whole = torch.full_like(cell, GREY)
    if side:
        at = (size - side) // 2
        whole[:, at : at + side, at : at + side] = resized(cell[None], side, side)[0]
    return whole


class _Mosaic:
    """One picture whose parts answer to all positions: the search for it."""

    def __init__(self, model: Model, site: Site, vectors: Tensor, size: int, seed: int) -> None:
        self._model, self._size, self._rim = model, size, round(_RIM * size)
        self._generator = torch.Generator().manual_seed(seed)
        self._height, self._width = vectors.shape[:2]
        self._alive = vectors.flatten(2).any(2).nonzero().tolist()
        self._aims = [direction(site, vectors[row, column], _POWER) for row, column in self._alive]
        shape = self._height * size + 2 * self._rim, self._width * size + 2 * self._rim
        # In half precision there is no Fourier transform.
        like = torch.empty(0, dtype=torch.promote_types(model.dtype, torch.float32), device=model.device)
        channels = int(model.space.shape[0] or 3)
        self._easel = easel("fourier", 1, 1, (channels, *shape), self._generator, like)

    def made(self, steps: int) -> Tensor:
        """The cells, (height, width, 3, size, size) in [0, 1]."""
        parameters = [p.detach().clone().requires_grad_() for p in self._easel.parameters]
        if self._aims:
            with shown(self._model, self._aims, self._size + 2 * self._rim) as sized:
                self._climb(sized, per_row(self._aims), parameters, steps)
        with torch.no_grad():
            whole = photos(self._model, units(self._model, self._easel.paint(parameters)))[0].float()
        inner = whole[
            :, self._rim : self._rim + self._height * self._size, self._rim : self._rim + self._width * self._size
        ]
        cells = inner.unflatten(2, (self._width, self._size)).unflatten(1, (self._height, self._size))
        cells = cells.permute(1, 3, 0, 2, 4).clone()
        silent = torch.ones(self._height, self._width, dtype=torch.bool)
        for row, column in self._alive:
            silent[row, column] = False
        cells[silent] = GREY
        return cells

    def _climb(self, sized: Model, aims: Target, parameters: list[Tensor], steps: int) -> None:
        adam = torch.optim.Adam(parameters, lr=_RATE, eps=_TINY)
        for step in track(range(steps), "activation grid"):
            painted = self._easel.paint(parameters)
            view = drawn(self._size + 2 * self._rim, self._generator)
            seen = sized_for(sized, units(sized, view.of(self._parts(painted[0]), GREY)))
            rules = WAKING if step < _WAKING else None
            slope = sized.gradient(seen.detach().to(self._model.dtype), aims, rules=rules).slope.to(seen)
            if not is_finite(slope):
                raise NotPossible(f"the slope at step {step} is not finite in {self._model.name}.")
            for p, g in zip(parameters, torch.autograd.grad(seen, parameters, -slope), strict=True):
                p.grad = g
            adam.step()

    def _parts(self, picture: Tensor) -> Tensor:
        """The part around each position that is not silent, with its rim."""
        side = self._size + 2 * self._rim
        return torch.stack(
            [
                picture[:, row * self._size : row * self._size + side, column * self._size : column * self._size + side]
                for row, column in self._alive
            ]
        )
