"""The smallest part of an image whose loss destroys the score, or whose keeping saves it: one learned mask."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.attribution.masks import scored
from cutaway.attribution.veil import Veil, fading
from cutaway.core.batch import Batch, repeat
from cutaway.core.budget import afford, cut_short, fair_share, in_time
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.fill import Fill, gaussian_blur
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT
from cutaway.core.target import Target, per_row

Game = Literal["deletion", "preservation"]
# As in the paper, at 224 pixels: a mask of 28 x 28 cells, enlarged and blurred with a Gaussian of 5 pixels.
_CELLS = 28
_SOFTNESS = 5 / 224
# The power of the differences between neighbouring cells.
_POWER = 3
_STEP, _MEMORY, _SPREAD, _TINY = 0.1, 0.9, 0.999, 1e-8


@method(
    paper="fong2017",
    laws={"batch_independent", "same_for_equivalent_nets"},
    needs={"gradient", "image"},
    quick={"iterations": 3, "fills": ("neutral",)},
)
def meaningful_perturbation(
    model: Model,
    x: Batch,
    target: Target,
    *,
    game: Game = "deletion",
    fills: tuple[str, ...] = ("blur:10", "neutral", "noise"),
    iterations: int = 300,
    size_weight: float = 0.3,
    edge_weight: float = 0.01,
    jitter: int = 4,
    probability: bool = True,
    seed: int = 0,
) -> Attribution:
    """The smallest region whose loss makes the score fall, or that is enough to keep it, by a mask that is learned.

    deletion:      min over m of   size_weight * mean(1 - m) + edge_weight * sum |grad m|^3 + score(m x + (1 - m) fill)
    preservation:  min over m of   size_weight * mean(m)     + edge_weight * sum |grad m|^3 - score(m x + (1 - m) fill)

    One forward and one backward for each iteration. The fills take turns, so that one mask has to do for all.

    Args:
        game: Whether the mask is found by what its loss destroys, or by what it saves.
        fills: What hidden pixels fade to. The score under each of them is reported: a mask that works with one fill
            alone is an artefact of it.
        iterations: Steps of Adam, of size 0.1.
        size_weight: Price of the whole image, in units of the score.
        edge_weight: Price of an edge as long as one of the mask's 28 x 28 cells.
        jitter: The image and the mask are moved together by up to so many pixels, anew for each step.
        probability: Where the target is the logit of one class, score its probability, as in the paper.
        seed: Draws the moves and random fills; the same for each input.

    Returns:
        One number from 0 to 1 for each pixel, (n, 1, h, w): how far it is hidden by a deletion, or kept by a
        preservation. `extra["scores"]`, (n, fills), is the score that the mask leaves, by fill, and `extra["area"]`,
        (n,), the mean of the values.

    Source: Fong and Vedaldi 2017, eq. 3 to 5, section 4.3. Differs: the mean size in place of the sum over 28 x 28
    cells, at four times their price; fills take turns; the search starts from the whole image
    hidden (deletion) or kept (preservation).
    """
    assert isinstance(x, Tensor)
    _check(fills, iterations, size_weight, edge_weight, jitter)
    passes, looks = len(x) * iterations, len(x) * (1 + 2 * len(fills))
    afford(passes + looks, f"meaningful_perturbation of {len(x)} inputs", backwards=passes, stops=True)
    aims = [scored(target.row(i), model, probability) for i in range(len(x))]
    found = []
    for i, aim in enumerate(aims):
        row = x[i : i + 1]
        veils = [fading(model, row, Fill.of(fill), seed) for fill in fills]
        options = _Options(game, iterations, size_weight, edge_weight, jitter, seed)
        with fair_share(len(x) - i):
            found.append(_searched(model, row, aim, veils, options))
    values = torch.cat([f.mask if game == "preservation" else 1 - f.mask for f in found])
    area = values.mean((1, 2, 3))
    scores, none, full = (torch.stack([getattr(f, name) for f in found]) for name in ("scores", "none", "full"))
    return Attribution(
        values=values,
        target=str(per_row(aims) if target.rows else aims[0]),
        unit="share hidden" if game == "deletion" else "share kept",
        score=full,
        signed=False,
        extra={"scores": scores, "area": area},
        checks=_checks(game, fills, area, scores, none, full, any(a is not target.row(i) for i, a in enumerate(aims)))
        | cut_short([f.steps for f in found], iterations, "iterations", "The mask is what it was by then."),
    )


class _Options(NamedTuple):
    game: Game
    iterations: int
    size_weight: float
    edge_weight: float
    jitter: int
    seed: int


class _Found(NamedTuple):
    """A mask (1, 1, h, w), 1 where the image is shown; the score under it and of the hidden image, by fill; of x."""

    mask: Tensor
    scores: Tensor
    none: Tensor
    full: Tensor
    steps: int


def _check(fills: Sequence[str], iterations: int, size_weight: float, edge_weight: float, jitter: int) -> None:
    if not fills:
        raise BadOption("expected at least one fill, such as blur:10; got none.")
    if iterations < 1:
        raise BadOption(f"expected 1 iteration or more; got {iterations}.")
    if size_weight < 0 or edge_weight < 0:
        raise BadOption(f"expected weights of 0 or more; got size_weight={size_weight}, edge_weight={edge_weight}.")
    if jitter < 0:
        raise BadOption(f"expected a jitter of 0 pixels or more; got {jitter}.")


def _searched(model: Model, row: Tensor, aim: Target, veils: list[Veil], options: _Options) -> _Found:
    """Adam on the cells of one input's mask."""
    height, width = row.shape[2:]
    sign = 1.0 if options.game == "deletion" else -1.0
    generator = torch.Generator().manual_seed(options.seed)
    # All hidden, or all kept: the game is won, and the mask shrinks. From the other side a score of 1 has no slope.
    values = torch.full((1, 1, min(_CELLS, height), min(_CELLS, width)), (1 - sign) / 2).to(row)
    mean, square = torch.zeros_like(values), torch.zeros_like(values)
    step = 0
    # Each fill has its turn, also where there is no time.
    steps = in_time(range(options.iterations), least=len(veils))
    for step in track(steps, "meaningful_perturbation", options.iterations):
        moves = torch.randint(-options.jitter, options.jitter + 1, (2,), generator=generator).tolist()
        with torch.inference_mode(False), torch.enable_grad():
            cells = values.detach().clone().requires_grad_()
            mask = _wide(cells, height, width)
            shown, veil = mask.detach().clamp(0, 1), veils[step % len(veils)]
            moved = torch.roll(veil(shown), moves, (2, 3))
            found = model.gradient(row, aim, edit={INPUT: moved})
            up = veil.back(shown, torch.roll(found.slope, [-m for m in moves], (2, 3)))
            price = options.size_weight * sign * -cells.mean() + options.edge_weight * _edges(cells)
            (slope,) = torch.autograd.grad((mask, price), cells, (sign * up, torch.ones_like(price)))
        mean, square = _MEMORY * mean + (1 - _MEMORY) * slope, _SPREAD * square + (1 - _SPREAD) * slope**2
        ahead, spread = mean / (1 - _MEMORY ** (step + 1)), square / (1 - _SPREAD ** (step + 1))
        values = (values - _STEP * ahead / (spread.sqrt() + _TINY)).clamp(0, 1)
    mask = _wide(values, height, width).clamp(0, 1)
    seen = torch.cat([row] + [v.hidden for v in veils] + [v(mask) for v in veils])
    scores = aim(model.run(repeat(row, len(seen)), read=aim.sites, edit={INPUT: seen})).expand(len(seen))
    return _Found(mask, scores[1 + len(veils) :], scores[1 : 1 + len(veils)], scores[0], step + 1)


def _wide(cells: Tensor, height: int, width: int) -> Tensor:
    """The mask at the image's size: enlarged, then blurred."""
    wide = F.interpolate(cells, size=(height, width), mode="bilinear", align_corners=False)
    return gaussian_blur(wide, max(0.5, _SOFTNESS * min(height, width)))


def _edges(cells: Tensor) -> Tensor:
    """Sum of |grad m|^3 over the cells."""
    down, across = F.pad(cells.diff(dim=2), (0, 0, 0, 1)), F.pad(cells.diff(dim=3), (0, 1))
    # Not zero where a mask is flat: there the root has no slope.
    return (down**2 + across**2 + 1e-12).pow(_POWER / 2).sum()


def _checks(
    game: Game, fills: Sequence[str], area: Tensor, scores: Tensor, none: Tensor, full: Tensor, converted: bool
) -> dict[str, Check]:
    """The mask's area, and whether it works under every fill."""
    one = "" if len(area) == 1 else f" (the first of {len(area)} inputs)"
    verb = "hides" if game == "deletion" else "keeps"
    checks = {"area": Check(f"The mask {verb} {float(area[0]):.1%} of the image{one}.", "note", float(area[0]))}
    parts = ", ".join(f"{float(s):.3g} with {f}" for f, s in zip(fills, scores[0], strict=True))
    text = f"Under the mask the score goes from {float(full[0]):.3g} to {parts}{one}."
    # The share of what hiding everything does (deletion), or undoes (preservation), that the mask reaches.
    span = full[:, None] - none
    largest = span.abs().amax(1, keepdim=True)
    idle = (span.abs() <= 0.1 * largest) | (largest < 1e-6)
    kept = (scores - none) / torch.where(idle, 1, span)
    share = torch.where(idle, math.inf, 1 - kept if game == "deletion" else kept)
    worst = 0.0 if idle.all() else float(share.min())
    checks["score"] = Check(text, "ok" if worst > 0.5 else "warn", worst)
    if idle.any():
        which = ", ".join(f for f, i in zip(fills, idle.any(0), strict=True) if i)
        text = f"Hiding the whole image with {which} hardly moves the score, so that says nothing of the mask."
        checks["idle"] = Check(text, "warn")
    weak = [f for f, s in zip(fills, share.amin(0), strict=True) if s <= 0.5]
    if weak and len(weak) < len(fills):
        text = f"The mask does less than half with {', '.join(weak)}: in part it is an artefact of the other fills."
        checks["fills"] = Check(text, "warn", worst)
    elif weak:
        checks["weak"] = Check("The mask reaches less than half of what hiding everything does.", "warn", worst)
    if float(area.min()) < 1e-3 or float(area.max()) > 0.9:
        checks["empty"] = Check("The mask is nearly empty, or nearly full; change size_weight.", "warn")
    if converted:
        text = "As in the paper, the class's probability was scored, not its logit; probability=False scores the logit."
        checks["score_kind"] = Check(text, "note")
    return checks
