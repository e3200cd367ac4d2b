"""Pictures that raise targets: one optimisation for all of them at once, through random views.

p* = argmax over p of the mean over views v of target(v(paint(p)))

Adam climbs in the parameters of a canvas. All pictures are seen through the same view at a step, so a picture's answer
does not depend on its neighbours. The forward ends at the last place that a target reads.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from cutaway.core.batch import join
from cutaway.core.door import is_finite
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.target import Target, per_row
from cutaway.visualization.canvas import Canvas, Easel, easel, easel_with
from cutaway.visualization.diversity import Diverse
from cutaway.visualization.views import View, drawn
from cutaway.visualization.wake import WAKING

# The step of Adam; small gradients, such as those of a probability, must not drown in the term that keeps it finite.
_RATE, _TINY = 0.05, 1e-12
# Steps in which a signal may pass rectifiers that are off.
_WAKING = 16
# Numbers in the parameters that are optimised at once: 128 pictures of 128 x 128.
_AT_ONCE = 2**23


def ascended(
    model: Model,
    aims: Sequence[Target | str],
    *,
    size: int | tuple[int, int] = 128,
    canvas: Canvas = "fourier",
    steps: int = 256,
    copies: int = 1,
    diversity: float = 0.0,
    start: Float[Tensor, "n c h w"] | None = None,
    robust: bool = True,
    rate: float = _RATE,
    seed: int = 0,
    label: str = "visualize",
) -> Float[Tensor, "k c h w"]:
    """Pictures, in the model's input units, one for each aim (`copies` for each, side by side), all in one batch.

    One forward and one backward for each picture and step, both ending at the layer that is aimed at.

    Args:
        model: A network of images. Where it takes pictures of this size it sees them so; otherwise resized to its own.
        aims: What to raise.
        size: Pixels along a side, or height and width.
        canvas: What is optimised: see `canvas.py`. On `shared`, all pictures have their coarse layers in common; on
            `alpha`, they may be transparent, and come on grey.
        steps: Of the search.
        copies: Pictures of each aim.
        diversity: How much of its aim a picture gives up to look unlike the other copies: see `diversity.py`.
        start: Pictures to begin with, one for each aim or one for all, of any size; they take the canvas's place.
        robust: Look through random views.
        rate: Step of Adam in parameters.
        seed: Of the faint noise at the start and of the views.
        label: For the progress.

    Raises:
        BadOption: A size, number of steps or diversity out of range.
        NotPossible: Not a network of images, or an aim that cannot be differentiated or is not finite.
    """
    height, width = sides(size)
    _check(model, min(height, width), steps, copies, diversity)
    targets = [Target.of(aim, model) for aim in aims]
    with shown(model, targets, size) as sized:
        channels = int(model.space.shape[0] or 3)
        whole = canvas == "shared" or start is not None
        many = len(targets) if whole else max(1, _AT_ONCE // (copies * channels * height * width))
        parts = []
        for begin in range(0, len(targets), many):
            some = targets[begin : begin + many]
            generator = torch.Generator().manual_seed(seed)
            like = torch.empty(0, dtype=model.dtype, device=model.device)
            if start is None:
                on = easel(canvas, len(some), copies, (channels, height, width), generator, like)
            else:
                on = easel_with(_begun(model, start.to(like), (height, width), len(targets), copies))
            climb = _Climb(model, sized, some, on, copies, diversity, generator)
            parts.append(climb.pictures(steps, robust, rate, label))
        return join(parts)


@contextmanager
def shown(model: Model, targets: Sequence[Target], size: int | tuple[int, int]) -> Iterator[Model]:
    """The network at the size of the pictures if it runs so as far as the targets ask, else at its own.

    Raises:
        NotPossible: A layer of a target does not run, or has no gradient.
    """
    sites = list(dict.fromkeys(site for t in targets for site in t.sites))
    with model.borrow():
        model.is_steady(model.example())
        model.run(model.example(), read=sites)
        sized = model.at_size(*sides(size))
        with sized.borrow():
            try:
                runs = all(act.numel() for act in sized.run(sized.example(), read=sites).values())
            except (RuntimeError, ValueError, IndexError, BadShape):
                runs = False
            yield sized if runs else model


class _Climb:
    """One optimisation: the pictures of some aims."""

    def __init__(
        self,
        model: Model,
        sized: Model,
        aims: list[Target],
        on: Easel,
        copies: int,
        diversity: float,
        generator: torch.Generator,
    ) -> None:
        self._model, self._sized, self._on, self._generator = model, sized, on, generator
        every = [aim for aim in aims for _ in range(copies)]
        self._diverse = Diverse(aims, copies, diversity) if diversity else None
        self._aims = per_row(every)

    def pictures(self, steps: int, robust: bool, rate: float, label: str) -> Tensor:
        """Climb, and give the last pictures in input units."""
        parameters = [p.detach().clone().requires_grad_() for p in self._on.parameters]
        adam = torch.optim.Adam(parameters, lr=rate, eps=_TINY)

        def now() -> Tensor:
            with torch.no_grad():
                return on_grey(self._on.paint(parameters), self._channels)

        for step in track(range(steps), label, pictures=now):
            painted = self._on.paint(parameters)
            view = drawn(painted.shape[-1], self._generator) if robust else View()
            seen = self._seen(painted, view)
            aims = self._diverse.aims() if self._diverse is not None else self._aims
            rules = WAKING if step < _WAKING else None
            slope = self._sized.gradient(seen.detach(), aims, rules=rules).slope
            if not is_finite(slope):
                raise NotPossible(f"the slope of {self._aims} is not finite at step {step} in {self._model.name}.")
            for p, g in zip(parameters, torch.autograd.grad(seen, parameters, -slope), strict=True):
                p.grad = g
            adam.step()
        return units(self._model, now())

    @property
    def _channels(self) -> int:
        return int(self._model.space.shape[0] or 3)

    def _seen(self, painted: Tensor, view: View) -> Tensor:
        """What the network is shown: the view of the pictures, at the size it takes."""
        if painted.shape[1] > self._channels:
            painted = self._on_a_ground(painted)
        return sized_for(self._sized, units(self._model, view.of(painted, 0.5)))

    def _on_a_ground(self, painted: Tensor) -> Tensor:
        """Transparent pictures before coarse random colours, and their light dimmed by how much they cover."""
        colours, cover = painted[:, : self._channels], painted[:, self._channels :]
        ground = torch.rand((1, self._channels, 6, 6), generator=self._generator, dtype=torch.float64).to(painted)
        ground = interpolate(ground, painted.shape[2:], mode="bilinear", align_corners=False)
        return colours * cover + ground * (1 - cover)


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width, from those or from one number for both."""
    return (size, size) if isinstance(size, int) else size


def sized_for(model: Model, pictures: Float[Tensor, "k c h w"]) -> Float[Tensor, "k c h2 w2"]:
    """Pictures resized, with anti-aliasing, to what a network takes."""
    wanted = [own or given for own, given in zip(model.space.shape[1:], pictures.shape[2:], strict=True)]
    if list(pictures.shape[2:]) == wanted:
        return pictures
    return interpolate(pictures, wanted, mode="bilinear", align_corners=False, antialias=True)


def on_grey(painted: Float[Tensor, "k d h w"], channels: int) -> Float[Tensor, "k c h w"]:
    """Pictures whose last channel may be how much they cover, on middle grey."""
    if painted.shape[1] == channels:
        return painted
    cover = painted[:, channels:]
    return painted[:, :channels] * cover + 0.5 * (1 - cover)


def units(model: Model, pictures: Tensor) -> Tensor:
    """From [0, 1] to the model's input units."""
    return model.space.low + model.space.range * pictures


def _begun(model: Model, start: Tensor, size: tuple[int, int], aims: int, copies: int) -> Tensor:
    """Given pictures in [0, 1], one for each that will be made, at their size."""
    if start.ndim != 4 or len(start) not in (1, aims):
        raise BadShape(f"expected 1 or {aims} pictures (n, c, h, w) to start from; got {tuple(start.shape)}.")
    shares = (start - model.space.low) / model.space.range
    shares = interpolate(shares, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
    return shares.repeat_interleave(copies if len(start) == aims else aims * copies, dim=0)


def _check(model: Model, size: int, steps: int, copies: int, diversity: float) -> None:
    if model.space.kind != "image":
        raise NotPossible(f"pictures are made for networks of images; {model.name} takes {model.space.describe()}.")
    if size < 1 or steps < 0 or copies < 1:
        raise BadOption(f"expected a size and copies from 1 and steps from 0; got {size}, {copies} and {steps}.")
    if diversity < 0 or (diversity and copies < 2):
        raise BadOption(f"expected diversity from 0, and 2 copies or more to be unlike; got {diversity:g}, {copies}.")
