"""What the target loses when something is taken away: a window of an image, a column, a word, a unit of a layer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.attribution.taken import Taken, left_out
from cutaway.core.batch import Batch, join, size, take
from cutaway.core.budget import afford, at_once, fair_share, in_time
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.fill import Fill, neutral
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.patched import Patched
from cutaway.core.progress import report
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site, unit_axis
from cutaway.core.target import Target

_NEUTRAL = neutral()
# Variants of one input that are in memory at once.
_TOGETHER = 64
# Fills that say nothing of an activation: they ask for the bounds of the input.
_INPUT_ONLY = ("noise", "gaussian", "farthest", "sample")


@method(
    paper="zeiler2014",
    laws={"batch_independent", "linear_in_target", "same_for_equivalent_nets"},
    quick={"parts": 4},
)
def occlusion(
    model: Model,
    x: Batch,
    target: Target,
    *,
    wrt: Site = INPUT,
    window: int | None = None,
    stride: int | None = None,
    parts: int = 7,
    fill: Fill = _NEUTRAL,
    seed: int = 0,
) -> Attribution:
    """Take away one piece after the other, and see how much the target falls.

    values_i = mean over the pieces that contain entry i of target(x) - target(x without the piece)

    The pieces are square windows of an image, single columns of a row, single tokens of a text, and at a layer its
    units. One forward for each; of an occluded image only what differs from the whole one is computed, and for a unit
    only what comes after its layer.

    Args:
        wrt: What pieces are taken from: the input, a layer, or one unit of it ("conv3:12").
        window: Side of the square window in pixels, for images; the shorter side divided by `parts` if not given.
        stride: Pixels from one window to the next, at most the window; half of it if not given. The last window of
            each line ends at the border.
        parts: How many windows go side by side along the shorter side of an image, where `window` is not given.
        fill: What is put in the place; at a layer, `neutral` is 0, and `mean` is the unit's mean over its positions.
        seed: Draws a random fill, the same for each input, and the order in which pieces are taken away.

    Returns:
        Falls in the target's unit: one for each pixel (n, 1, h, w), column or token; at a layer, a unit's value stands
        at all its positions.

    Source: Zeiler and Fergus 2014, section 4.2. Differs: the fall is shown where the window was, averaged over all
    windows there, not the score at the window's centre.
    """
    if window is not None and window < 1:
        raise BadOption(f"expected a window of 1 pixel or more; got {window}.")
    if parts < 1:
        raise BadOption(f"expected 1 part or more along a side; got {parts}.")
    found = []
    for i in range(size(x)):
        row, aim = take(x, slice(i, i + 1)), target.row(i)
        score = _scorer(model, row, wrt.whole, aim)
        if wrt == INPUT and model.space.kind == "image":
            pieces = _windows(model, row, score, window, stride, parts, fill, seed)
        else:
            pieces = _entries(model, row, wrt, score, fill, seed)
        if i == 0:
            afford((pieces.number + 2) * size(x), f"occlusion of {pieces.noun}", stops=True)
        with fair_share(size(x) - i):
            found.append(_falls(pieces, i, size(x), seed))
    return Attribution(
        values=join([f.values for f in found]),
        target=str(target),
        wrt=str(wrt),
        unit="target",
        score=torch.stack([f.score for f in found]),
        checks=_checks(found, fill) | left_out([f.taken for f in found], "pieces"),
    )


class _Pieces(NamedTuple):
    """What can be taken away from one input: how many, what they are, and what the target is without them."""

    number: int
    noun: str
    nothing_gone: Tensor
    all_gone: Tensor
    without: Callable[[Sequence[int]], Tensor]
    lay_out: Callable[[Taken], Tensor]


class _Falls(NamedTuple):
    """One input's values, and what to say of them."""

    values: Tensor
    score: Tensor
    all_gone: Tensor
    taken: Taken
    noun: str

    @property
    def largest(self) -> Tensor:
        """The largest change that a piece makes."""
        return self.taken.known.abs().max()


def _falls(pieces: _Pieces, done: int, total: int, seed: int) -> _Falls:
    score = pieces.nothing_gone[0]
    falls = score.new_zeros(pieces.number)
    asked = torch.zeros_like(falls, dtype=torch.bool)
    # In random order, so that those that were taken away say something of the others.
    order = torch.randperm(pieces.number, generator=torch.Generator().manual_seed(seed))
    for some in in_time(order.split(at_once(_TOGETHER))):
        report("occlusion", done * pieces.number + int(asked.sum()), total * pieces.number)
        falls[some] = score - pieces.without(some.tolist())
        asked[some] = True
    report("occlusion", (done + 1) * pieces.number, total * pieces.number)
    taken = Taken(falls, asked)
    return _Falls(pieces.lay_out(taken), score, pieces.all_gone[0], taken, pieces.noun)


def _scorer(model: Model, row: Batch, at: Site, target: Target) -> Callable[[Tensor], Tensor]:
    """From variants of an input, or of its activation at a layer, to the target on each."""
    if at == INPUT and isinstance(row, Tensor) and model.space.kind != "tokens":
        return lambda variants: target(model.run(variants, read=target.sites)).expand(len(variants))
    prefix = model.prefix(row, at)

    def score(variants: Tensor) -> Tensor:
        values = variants.full() if isinstance(variants, Patched) else variants
        return target(model.run(None, read=target.sites, edit={at: values}, prefix=prefix)).expand(len(variants))

    return score


# -- windows of an image -----------------------------------------------------------------------------------------------


def _windows(
    model: Model,
    row: Batch,
    score: Callable[[Tensor], Tensor],
    window: int | None,
    stride: int | None,
    parts: int,
    fill: Fill,
    seed: int,
) -> _Pieces:
    image = primary(row)
    gone = admitted(model, row, fill(image, model.space, torch.Generator().manual_seed(seed)))
    side, tops, lefts = _lattice(image.shape[2], image.shape[3], window, stride, parts)
    corners = [(top, left) for top in tops for left in lefts]

    def without(some: Sequence[int]) -> Tensor:
        chosen = [corners[k] for k in some]
        boxes = [gone[:, :, top : top + side, left : left + side] for top, left in chosen]
        return score(Patched(image, torch.cat(boxes), *zip(*chosen, strict=True)))

    def lay_out(taken: Taken) -> Tensor:
        down, across = _covers(tops, side, image.shape[2]), _covers(lefts, side, image.shape[3])
        falls, asked = (part.double().cpu().view(len(tops), len(lefts)) for part in taken)
        number = down.T @ asked @ across
        means = (down.T @ falls @ across) / number.clamp(min=1)
        return torch.where(number > 0, means, taken.known.double().mean().cpu())[None, None].to(taken.falls)

    noun = f"{len(corners)} windows of {side} × {side} pixels"
    return _Pieces(len(corners), noun, score(image), score(gone), without, lay_out)


def _lattice(
    height: int, width: int, window: int | None, stride: int | None, parts: int
) -> tuple[int, list[int], list[int]]:
    """The windows' side, the first row of each line of them, and the first column of each.

    Raises:
        BadOption: A window that does not fit, or steps that leave pixels out.
    """
    shorter = min(height, width)
    side = window if window is not None else -(-shorter // parts)
    step = stride if stride is not None else (side + 1) // 2
    if side > shorter:
        raise BadOption(f"expected a window of at most {shorter} pixels, the image's shorter side; got {side}.")
    if not 1 <= step <= side:
        raise BadOption(f"expected a stride from 1 to the window's {side} pixels, so that none is missed; got {step}.")
    tops, lefts = ([*range(0, length - side, step), length - side] for length in (height, width))
    return side, tops, lefts


def _covers(starts: Sequence[int], side: int, length: int) -> Tensor:
    """Which entries each interval covers, (intervals, length)."""
    at, first = torch.arange(length), torch.tensor(starts)[:, None]
    return ((at >= first) & (at < first + side)).double()


# -- columns of a row, tokens of a text, units of a layer --------------------------------------------------------------


def _entries(model: Model, row: Batch, wrt: Site, score: Callable[[Tensor], Tensor], fill: Fill, seed: int) -> _Pieces:
    """The entries along one axis of an activation, each with all its positions."""
    if wrt.head is not None or wrt.position is not None:
        raise BadOption(f"expected a whole layer, or one unit of it such as conv3:12; got {wrt}.")
    trace = model.run(row, read=[wrt.whole])
    act, tokens = trace[wrt.whole], wrt == INPUT and model.space.kind == "tokens"
    axis = 1 if tokens else unit_axis(act, trace.module(wrt))
    index = wrt.index(act, trace.module(wrt))
    players = _players(row, act, axis, wrt, tokens)
    gone = _without_all(model, row, act, axis, wrt, fill, seed)
    nothing = act.index_copy(axis, players, gone.index_select(axis, players))

    def without(some: Sequence[int]) -> Tensor:
        variants = act.repeat(len(some), *[1] * (act.ndim - 1))
        for variant, player in zip(variants, players[some].tolist(), strict=True):
            variant.select(axis - 1, player).copy_(gone[0].select(axis - 1, player))
        return score(variants)

    def lay_out(taken: Taken) -> Tensor:
        every = taken.falls.new_zeros(act.shape[axis]).index_copy_(0, players, taken.every)
        if tokens:
            return every[None]
        return every.view(-1, *[1] * (act.ndim - 1 - axis)).expand_as(act)[index].clone()

    noun = f"{len(players)} {'tokens' if tokens else 'columns' if wrt == INPUT else 'units'}"
    return _Pieces(len(players), noun, score(act), score(nothing), without, lay_out)


def _players(row: Batch, act: Tensor, axis: int, wrt: Site, tokens: bool) -> Tensor:
    """Which entries of the axis are taken away: the unit that was named; else all, without the padding of a text."""
    if wrt.unit is not None:
        return torch.tensor([wrt.unit], device=act.device)
    mask = row.get("attention_mask") if tokens and isinstance(row, dict) else None
    return torch.arange(act.shape[axis], device=act.device) if mask is None else mask[0].nonzero()[:, 0]


def _without_all(model: Model, row: Batch, act: Tensor, axis: int, wrt: Site, fill: Fill, seed: int) -> Tensor:
    """What stands for each entry once it is gone, shaped like the activation."""
    name = str(fill).partition(":")[0].split()[0]
    if wrt.whole == INPUT and model.space.kind != "tokens":
        return admitted(model, row, fill(act, model.space, torch.Generator().manual_seed(seed)))
    if name in _INPUT_ONLY:
        raise BadOption(f"expected a fill that fits an activation: zero, mean, constant:0.5; got {fill}.")
    if name == "neutral":
        return torch.zeros_like(act)
    # A fill takes channels at axis 1, as an image has them.
    return fill(act.movedim(axis, 1), model.space).movedim(1, axis) if wrt != INPUT else fill(act, model.space)


def primary(row: Batch) -> Tensor:
    """The tensor that is explained: the input, or the first of several."""
    return row if isinstance(row, Tensor) else next(iter(row.values()))


def admitted(model: Model, row: Batch, filled: Tensor) -> Tensor:
    """A filled input, checked at the door like any other."""
    return primary(model.inputs(filled if isinstance(row, Tensor) else {**row, next(iter(row)): filled}))


# -- what to say of it -------------------------------------------------------------------------------------------------


def _checks(found: Sequence[_Falls], fill: Fill) -> dict[str, Check]:
    """What was taken away, and how the single pieces compare with all of them."""
    one = found[0]
    where = "" if len(found) == 1 else f" of the first of {len(found)} inputs"
    text = f"{one.noun}{where} were taken away, one at a time, with {fill} in their place."
    checks = {"pieces": Check(text, "note")}
    if len(found) == 1:
        change = float(one.score - one.all_gone)
        text = (
            f"One piece changes the target by at most {float(one.largest):.3g}; all together change it by "
            f"{-change:.3g}, from {float(one.score):.3g} to {float(one.all_gone):.3g}."
        )
        checks["together"] = Check(text, "note", change)
    idle = [i for i, f in enumerate(found) if not f.largest > _rounding(f.score)]
    if idle:
        which = "" if len(found) == 1 else f" for {len(idle)} of {len(found)} inputs"
        checks["idle"] = Check(f"No piece changes the target{which}: is it the fill already, or saturated?", "warn")
    return checks


def _rounding(score: Tensor) -> float:
    """What the last digits of a score may differ by without anything having changed."""
    return 16 * torch.finfo(score.dtype).eps * float(score.abs())
