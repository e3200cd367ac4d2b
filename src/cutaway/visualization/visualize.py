"""Feature visualisation: what a unit, a class or a direction looks for, as a picture made for it."""

from functools import partial

import torch
from torch import Tensor

from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Pictures
from cutaway.core.target import Target
from cutaway.visualization.ascend import ascended
from cutaway.visualization.canvas import Canvas
from cutaway.visualization.places import photos
from cutaway.visualization.score import best_photos, held_out, photo_check, rise_checks, size_checks


@method(
    paper="olah2017",
    laws={"rises", "seeded"},
    needs={"gradient", "image"},
    quick={"steps": 4, "size": 16},
)
def visualize(
    model: Model,
    data: Dataset | None = None,
    *,
    objective: str | Target = "logit(0)",
    canvas: Canvas = "fourier",
    diversity: float = 0.0,
    copies: int = 1,
    steps: int = 256,
    size: int = 128,
    robust: bool = True,
    seed: int = 0,
) -> Pictures:
    """A picture made so that a unit, a class or a direction answers as strongly as it can.

    picture = argmax over p of the mean over views v of objective(v(p))

    A view moves, scales and turns the picture a little, at random. Several objectives share one optimisation. For each
    picture, `steps` forwards and backwards that end at the layer aimed at, and 32 forwards for the score; with data,
    one forward for each example.

    Args:
        objective: What to raise: any target, such as `unit("conv3:12")`, `logit("tabby")`, `-unit("conv3:12@4,5")`,
            `direction("conv3", [...], 4)` or `energy("conv3")`; or a list of them, as `[unit("a:1"), unit("a:2")]`.
        canvas: What is optimised. `fourier`: waves, weighted and coloured as in photos. `pixel`: pixels. `shared`:
            `fourier`, with coarse layers that all pictures have in common. `alpha`: with transparent parts, on grey.
        diversity: How much of its objective each copy may lose to look unlike the others, as a share; 0 is none.
        copies: Pictures of each objective, from different noise.
        steps: Of the search.
        size: Pixels along a side.
        robust: Whether the network looks through random views.
        seed: Of the first noise and the views.

    Returns:
        The pictures, (objectives * copies, 3, size, size) in [0, 1]. Each caption has the objective and its mean over
        16 fresh views; with data also the highest value among the examples.

    Source: Olah, Mordvintsev and Schubert 2017. Differs: waves are real (a Hartley transform), all five random changes
    are one linear resampling, and diversity is a share of the objective.
    """
    aims = objectives(model, objective)
    search = partial(ascended, model, aims, size=size, canvas=canvas, copies=copies, seed=seed)
    made = search(steps=steps, diversity=diversity, robust=robust)
    begun = search(steps=0)
    every = [aim for aim in aims for _ in range(copies)]
    before, after = (held_out(model, every, p, seed=seed) for p in (begun, made))
    checks = {**rise_checks(before, after), **size_checks(model, aims, size)}
    best = torch.empty(0)
    if data is not None:
        best = best_photos(model, aims, data)[0].repeat_interleave(copies)
        checks["photos"] = photo_check(after, best, len(data))
    if diversity:
        checks["diversity"] = Check(_diversity_text(after, copies), "note", diversity)
    return Pictures(images=photos(model, made), captions=_captions(every, after, best), checks=checks)


def objectives(model: Model, objective: str | Target) -> list[Target]:
    """The targets that an option names: one, or the members of a list.

    Raises:
        BadOption: None at all.
    """
    target = Target.of(objective, model)
    aims = list(target.rows) or [target]
    if not all(aim.sites for aim in aims):
        raise BadOption(f"expected an objective that depends on the network; got {target}.")
    return aims


def _captions(aims: list[Target], after: Tensor, best: Tensor) -> list[str]:
    scores = [f"{aim}: {value:.3g}" for aim, value in zip(aims, after.tolist(), strict=True)]
    photo = [f", best photo {value:.3g}" for value in best.tolist()] or [""] * len(scores)
    return [score + beside for score, beside in zip(scores, photo, strict=True)]


def _diversity_text(after: Tensor, copies: int) -> str:
    groups = after.view(-1, copies)
    low, high = groups.amin(1).mean(), groups.amax(1).mean()
    return f"Unlike copies score from {float(low):.4g} to {float(high):.4g}: what looking different cost."
