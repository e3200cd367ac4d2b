"""What a layer knows of a photo: the picture that it cannot tell from it, and the one in which that is overdone."""

from collections.abc import Callable

import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.layers import last_with_positions
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Pictures
from cutaway.core.site import INPUT, Site, unit_axis
from cutaway.core.target import Target, per_row
from cutaway.core.trace import Trace
from cutaway.visualization.ascend import ascended
from cutaway.visualization.places import photos
from cutaway.visualization.score import held_out

# Price of the mean difference between neighbouring pixels, in ranges, beside a distance of 1 for no activation at all.
_ROUGHNESS = 0.3
# Below it, a caricature has still some slope towards the photo's activation.
_LEAST_COSINE = 0.1


@method(
    paper="mahendran2015",
    laws={"rises", "seeded"},
    needs={"gradient", "image"},
    quick={"steps": 4},
)
def invert(
    model: Model,
    x: Batch,
    *,
    layer: Site | None = None,
    channels: tuple[int | str, ...] = (),
    steps: int = 256,
    seed: int = 0,
) -> Pictures:
    """A picture with the same activation as the photo: what the layer lost can be anything, what it kept is there.

    z* = argmin over z of |a(z) - a(x)|^2 / |a(x)|^2 + price * mean |difference of neighbouring pixels|

    On the Fourier canvas, from faint noise, without views: positions must stay where they are. `steps` forwards and
    backwards for each photo, ending at the layer.

    Args:
        layer: A whole layer, one position of it as `conv3@4,5`, or one channel as `conv3:12`; the last with positions
            if none is named.
        channels: Only these channels of the layer, as 3;17;40; all if none are named.
        steps: Of the search.
        seed: Of the noise.

    Returns:
        The pictures, (n, 3, height, width) in [0, 1]. Each caption says how far its activation is from the photo's,
        as a share of that one's length.

    Source: Mahendran and Vedaldi 2015. Differs: waves that fall off with their frequency take the place of the paper's
    norms of pixels; the roughness is a mean of absolute differences.
    """
    assert isinstance(x, Tensor)
    wanted = _Wanted(model, x, layer, channels, steps)
    aims = [wanted.distance(i) for i in range(len(x))]
    size = (x.shape[2], x.shape[3])
    made = ascended(model, aims, size=size, steps=steps, robust=False, seed=seed, label="invert")
    off = -per_row([wanted.distance(i, price=0) for i in range(len(x))])(model.run(made, read=[wanted.place])).double()
    off = off.clamp(min=0).sqrt()
    captions = [f"{wanted.text}, {share:.0%} away" for share in off.tolist()]
    text = f"The activations of {wanted.text} lie {float(off.mean()):.1%} of the photos' own lengths away from them."
    worst = float(off.max())
    checks = {"score": Check(text, "ok" if worst < 0.5 else "warn", -float(off.mean()))}
    return Pictures(images=photos(model, made), captions=captions, checks=checks)


@method(
    paper="olah2018",
    laws={"rises", "seeded"},
    needs={"gradient", "image"},
    quick={"steps": 4},
)
def caricature(
    model: Model,
    x: Batch,
    *,
    layer: Site | None = None,
    channels: tuple[int | str, ...] = (),
    power: float = 1.0,
    steps: int = 256,
    robust: bool = True,
    seed: int = 0,
) -> Pictures:
    """The photo as a layer would exaggerate it: as much as possible of the same mixture of features at the same places.

    z* = argmax over z of the mean over views v of a(v(z)) . a(x) / |a(x)| * max(0.1, cos(a(v(z)), a(x))) ** power

    On the Fourier canvas, from faint noise. `steps` forwards and backwards for each photo, ending at the layer, and 16
    forwards for the score.

    Args:
        layer: As in `invert`.
        channels: As in `invert`.
        power: Of the cosine: 0 wants only more, a larger one wants the same mixture.
        steps: Of the search.
        robust: Whether the network looks through random views.
        seed: Of the noise and the views.

    Returns:
        The pictures, (n, 3, height, width) in [0, 1]. Each caption says how long the activation along the photo's is
        over 16 fresh views, as a multiple of the photo's.

    Source: Olah et al. 2018, who call it so for whole layers; the objective is that of their activation grids.
    """
    assert isinstance(x, Tensor)
    if not 0 <= power < float("inf"):
        raise BadOption(f"expected a power of the cosine from 0; got {power!r}.")
    wanted = _Wanted(model, x, layer, channels, steps)
    aims = [wanted.likeness(i, power) for i in range(len(x))]
    size = (x.shape[2], x.shape[3])
    made = ascended(model, aims, size=size, steps=steps, robust=robust, seed=seed, label="caricature")
    along = held_out(model, [wanted.likeness(i, 0) for i in range(len(x))], made, seed=seed)
    captions = [f"{wanted.text}, {times:.2g} times the photo" for times in along.tolist()]
    text = (
        f"Through fresh views, the activations of {wanted.text} reach {float(along.mean()):.3g} times as far along the "
        "photos' as the photos themselves."
    )
    checks = {"score": Check(text, "ok" if float(along.min()) > 1 else "note", float(along.mean()))}
    return Pictures(images=photos(model, made), captions=captions, checks=checks)


class _Wanted:
    """The activations that pictures should have: some part of a layer, for each photo.

    Raises:
        BadOption: No steps to go, or channels that are no numbers.
        BadShape: Channels that the layer does not have.
        NotPossible: An activation without any length.
    """

    def __init__(
        self, model: Model, x: Tensor, layer: Site | None, channels: tuple[int | str, ...], steps: int
    ) -> None:
        if steps < 0:
            raise BadOption(f"expected steps from 0; got {steps}.")
        site = layer or last_with_positions(model, x[:1])
        if site.whole == INPUT:
            raise BadOption("expected a layer; the input needs no search.")
        self.place, self._site = site.whole, site
        self._channels = _numbers(channels)
        trace = model.run(x, read=[self.place])
        whole = trace[self.place]
        axis = unit_axis(whole, trace.module(site))
        if self._channels and (site.unit is not None or max(self._channels) >= whole.shape[axis]):
            raise BadShape(f"expected channels below {whole.shape[axis]} of a whole layer or position; got {channels}.")
        self._act = self._part(trace)
        self._price = _ROUGHNESS / model.space.range
        self._lengths = self._act.flatten(1).norm(dim=1)
        if not self._lengths.all():
            row = int((self._lengths == 0).nonzero()[0])
            raise NotPossible(f"{site} is zero everywhere on input number {row}: it says nothing that could be shown.")
        some = f", channels {';'.join(map(str, self._channels))}" if self._channels else ""
        self.text = f"{site}{some}"

    def distance(self, i: int, price: float | None = None) -> Target:
        """Minus the squared distance from photo i's activation, relative to its length, and minus the roughness."""
        price = self._price if price is None else price

        def value(trace: Trace) -> Tensor:
            off = (self._part(trace) - self._act[i : i + 1]).flatten(1).square().sum(1) / self._lengths[i] ** 2
            return -off - price * _roughness(trace[INPUT]) if price else -off

        return self._target("minus the distance", i, value, (INPUT,) if price else ())

    def likeness(self, i: int, power: float) -> Target:
        """How far an activation reaches along photo i's, in its lengths, times a power of the cosine between them."""

        def value(trace: Trace) -> Tensor:
            act = self._part(trace).flatten(1)
            along = act @ self._act[i].flatten() / self._lengths[i] ** 2
            if not power:
                return along
            length = act.square().sum(1).clamp(min=torch.finfo(act.dtype).tiny).sqrt()
            return along * (along * self._lengths[i] / length).clamp(min=_LEAST_COSINE) ** power

        return self._target("the likeness", i, value, ())

    def _target(self, what: str, i: int, value: Callable[[Trace], Tensor], more: tuple[Site, ...]) -> Target:
        return Target(f"{what} of {self.text} to that of input {i}", (self.place, *more), value)

    def _part(self, trace: Trace) -> Tensor:
        """The part of the layer that counts, rows first."""
        if not self._channels:
            return trace[self._site]
        whole = trace[self.place]
        chosen = whole.index_select(
            unit_axis(whole, trace.module(self._site)), torch.tensor(self._channels, device=whole.device)
        )
        index = Site(self._site.module, position=self._site.position).index(chosen, trace.module(self._site))
        return chosen[index]


def _roughness(z: Tensor) -> Tensor:
    """The mean absolute difference between neighbouring pixels of each picture."""
    down, across = z.diff(dim=2).abs(), z.diff(dim=3).abs()
    return down.flatten(1).sum(1) / z[0].numel() + across.flatten(1).sum(1) / z[0].numel()


def _numbers(channels: tuple[int | str, ...]) -> tuple[int, ...]:
    try:
        numbers = tuple(int(c) for c in channels)
    except ValueError:
        numbers = (-1,)
    if any(n < 0 for n in numbers):
        raise BadOption(f"expected channels as whole numbers from 0, such as 3;17;40; got {channels}.")
    return numbers
