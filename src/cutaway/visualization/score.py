"""Is a picture any good? What it scores through views that its search never met, beside the best photo of a set."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.batch import size
from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset
from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.receptive import receptive_fields
from cutaway.core.site import OUTPUT
from cutaway.core.target import Target, per_row
from cutaway.visualization.ascend import shown, sized_for
from cutaway.visualization.views import drawn

VIEWS = 16
# Far from the seeds that a search would use, so that its views are others.
_FRESH = 2**40
# Inputs whose activations are held at once.
_AT_ONCE = 32


def held_out(
    model: Model, targets: Sequence[Target], pictures: Float[Tensor, "k c h w"], *, seed: int, views: int = VIEWS
) -> Float[Tensor, "k"]:
    """What each picture scores on its own target, on average over fresh random views, the same for all pictures."""
    generator = torch.Generator().manual_seed(_FRESH + seed)
    looks = [drawn(pictures.shape[-1], generator) for _ in range(views)]
    middle = (model.space.low + model.space.high) / 2
    found = torch.zeros(len(pictures), dtype=torch.float64)
    with shown(model, targets, pictures.shape[-1]) as sized:
        for begin in range(0, len(pictures), _AT_ONCE):
            rows = slice(begin, begin + _AT_ONCE)
            aims = per_row(targets[rows])
            for look in looks:
                seen = sized_for(sized, look.of(pictures[rows], middle))
                found[rows] += aims(sized.run(seen, read=aims.sites)).double().cpu() / views
    return found


def best_photos(model: Model, targets: Sequence[Target], data: Dataset) -> tuple[Float[Tensor, "k"], list[str]]:
    """The highest score of each target among the examples of a data set, as they are, and which example has it."""
    best, names = torch.full((len(targets),), -torch.inf, dtype=torch.float64), [""] * len(targets)
    sites = list(dict.fromkeys(site for t in targets for site in t.sites))
    for begin in track(range(0, len(data), _AT_ONCE), "photos"):
        part = data[begin : begin + _AT_ONCE]
        x = model.inputs(part)
        trace = model.run(x, read=sites)
        for k, target in enumerate(targets):
            score, which = target(trace).double().expand(size(x)).max(0)
            if score > best[k]:
                best[k], names[k] = score.cpu(), part.names[int(which)]
    return best, names


def rise_checks(before: Float[Tensor, "k"], after: Float[Tensor, "k"]) -> dict[str, Check]:
    """Did the objective rise, and was there any slope at all?"""
    text = (
        f"Through {VIEWS} fresh views the pictures score {float(after.mean()):.4g} on average; before the search, "
        f"{float(before.mean()):.4g}."
    )
    fell = after <= before
    if fell.any():
        text += f" {int(fell.sum())} of {len(after)} did not rise."
    checks = {"score": Check(text, "fail" if fell.any() else "ok", float(after.mean()))}
    if (still := after == before).any():
        text = f"{int(still.sum())} of {len(after)} objectives did not move at all: such a unit never fires here."
        checks["silent"] = Check(text, "fail", float(still.sum()))
    return checks


def photo_check(after: Float[Tensor, "k"], best: Float[Tensor, "k"], count: int) -> Check:
    """How many pictures beat every photo."""
    wins = int((after > best).sum())
    text = f"{wins} of {len(after)} pictures score above the best of {count} examples, seen through fresh views."
    if wins < len(after):
        text += " The others do not show what raises their objective most."
    return Check(text, "ok" if wins == len(after) else "warn", wins / len(after))


def size_checks(model: Model, targets: Sequence[Target], side: int) -> dict[str, Check]:
    """How the network saw the pictures: at their size or resized, and whether they fill what a unit sees."""
    sites = list(dict.fromkeys(site for t in targets for site in t.sites if site != OUTPUT))
    checks = {}
    with shown(model, targets, side) as sized:
        wanted = [own or side for own in sized.space.shape[1:]]
        if wanted != [side, side]:
            text = f"The network saw the pictures resized to {wanted[0]} x {wanted[1]}, the only size that it takes."
            checks["size"] = Check(text, "note", float(wanted[0]))
        try:
            fields = receptive_fields(sized, sites, sized.example()) if sites else {}
        except NotPossible:
            fields = {}
        widest = max((max(f.y.size, f.x.size) for f in fields.values() if f is not None), default=0.0)
        if widest > min(wanted):
            text = f"A position sees {widest:g} pixels and the picture has {min(wanted)}: it sees the border, too."
            checks["field"] = Check(text, "note", widest)
    return checks
