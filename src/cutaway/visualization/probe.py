"""A patch of another picture pasted into a photo: does what an atlas shows as a confusion happen?"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.overflow import first_overflow
from cutaway.core.result import Curve

# Classes that are drawn beside those of the photo and of the patch.
_OTHERS = 3
# A class that has less than this everywhere is not drawn.
_LEAST = 0.05


@method(paper="carter2019", needs={"image", "one_input"}, quick={"sizes": (0.0, 0.5)})
def patch_probe(
    model: Model,
    x: Batch,
    data: Dataset,
    *,
    number: int = 0,
    sizes: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6),
    crop: float = 1.0,
    at: tuple[float, float] = (0.25, 0.25),
) -> Curve:
    """What a network takes a photo for when a patch of another picture is pasted into it, from small to large.

    p_k(s) = probability of class k for the photo with the patch at side s

    A second series for the photo's class is with a patch of the same size in the patch's mean colour: what of the
    change is only the hiding. Two forwards for each size.

    Args:
        number: The example of the data that the patch comes from.
        sizes: The patch's side as a share of the photo's shorter side; 0 is the photo as it is.
        crop: The share of the other picture's middle that is the patch.
        at: Where the middle of the patch goes, as shares of height and width; it is moved to lie inside.

    Returns:
        Probabilities by size, for the class of the photo, that of the patch's own picture, and up to three others that
        reach 5 %.

    Raises:
        BadOption: Sizes, crop or place out of range.
        BadShape: Several photos, or no example of that number.
        NotPossible: Probabilities that are not finite.

    Source: Carter, Armstrong, Schubert, Johnson and Olah 2019, the last section.
    """
    assert isinstance(x, Tensor)
    if len(x) != 1:
        raise BadShape(f"expected one photo; got {len(x)}.")
    if not 0 <= number < len(data):
        raise BadShape(f"expected an example from 0 to {len(data) - 1}; got {number}.")
    if len(at) != 2 or not all(0 <= share <= 1 for share in (*at, *sizes)) or not sizes or not 0 < crop <= 1:
        raise BadOption(
            "expected sizes and a place as shares from 0 to 1, and a crop above 0, such as sizes=0.1;0.3 at=0.5;0.5; "
            f"got sizes={sizes}, at={at}, crop={crop}."
        )
    other = model.inputs(data[number : number + 1])
    assert isinstance(other, Tensor)
    patch = _middle(other, crop).float()  # half precision is not resized everywhere
    plain = patch.mean((2, 3), keepdim=True).expand_as(patch)
    pasted = torch.cat([_pasted(x, patch, size, at) for size in sizes])
    hidden = torch.cat([_pasted(x, plain, size, at) for size in sizes])
    shown, control = model.predict(pasted).double().cpu(), model.predict(hidden).double().cpu()
    if not (torch.isfinite(shown).all() and torch.isfinite(control).all()):
        raise NotPossible(f"the probabilities of {model.name} are not finite: {first_overflow(model, x)}.")
    own, foreign = (int(model.predict(p).argmax()) for p in (x, other))
    y = {_name(model, k): shown[:, k] for k in _drawn(shown, own, foreign)}
    y[f"{_name(model, own)}, plain patch"] = control[:, own]
    return Curve(
        x=torch.tensor(sizes, dtype=torch.float64),
        y=y,
        x_label="side of the patch, as a share of the photo's",
        y_label="probability",
        checks=_checks(model, sizes, shown, control, own, foreign),
    )


def _middle(picture: Tensor, crop: float) -> Tensor:
    height, width = (max(1, round(crop * side)) for side in picture.shape[2:])
    top, left = (picture.shape[2] - height) // 2, (picture.shape[3] - width) // 2
    return picture[:, :, top : top + height, left : left + width]


def _pasted(x: Tensor, patch: Tensor, size: float, at: tuple[float, float]) -> Tensor:
    """The photo with the patch at that size."""
    shorter = min(x.shape[2:])
    side = round(size * shorter)
    if not side:
        return x
    scale = side / min(patch.shape[2:])
    tall, wide = (min(round(scale * n), limit) for n, limit in zip(patch.shape[2:], x.shape[2:], strict=True))
    small = interpolate(patch, (max(1, tall), max(1, wide)), mode="bilinear", antialias=True, align_corners=False)
    top, left = (
        min(max(0, round(share * n - length / 2)), n - length)
        for share, n, length in zip(at, x.shape[2:], small.shape[2:], strict=True)
    )
    changed = x.clone()
    changed[:, :, top : top + small.shape[2], left : left + small.shape[3]] = small.to(x)
    return changed


def _drawn(shown: Tensor, own: int, foreign: int) -> list[int]:
    """The classes to draw."""
    peaks = shown.amax(0)
    others = [k for k in peaks.argsort(descending=True, stable=True).tolist() if k not in (own, foreign)][:_OTHERS]
    return list(dict.fromkeys([own, foreign, *(k for k in others if peaks[k] >= _LEAST)]))


def _name(model: Model, k: int) -> str:
    return model.classes[k].split(",")[0] if model.classes else f"class {k}"


def _checks(
    model: Model, sizes: tuple[float, ...], shown: Tensor, control: Tensor, own: int, foreign: int
) -> dict[str, Check]:
    winners = shown.argmax(1).tolist()
    mine = _name(model, own)
    if changes := [i for i, winner in enumerate(winners) if winner != own]:
        i = changes[0]
        share = float(shown[i, winners[i]])
        text = f"From a side of {sizes[i]:.0%} on, the photo is taken for {_name(model, winners[i])} ({share:.0%})."
        checks = {"change": Check(text, "ok", sizes[i])}
    else:
        checks = {"change": Check(f"No patch of these sizes takes the photo from {mine}.", "note")}
    if third := [i for i, winner in enumerate(winners) if winner not in (own, foreign)]:
        i = max(third, key=lambda j: float(shown[j, winners[j]]))
        share = float(shown[i, winners[i]])
        text = (
            f"At {sizes[i]:.0%} it is neither {mine} nor {_name(model, foreign)} but {_name(model, winners[i])} "
            f"({share:.0%}): the parts make a third thing."
        )
        checks["third"] = Check(text, "ok", share)
    if lost := [i for i in range(len(sizes)) if int(control[i].argmax()) != own]:
        text = f"A plain patch alone takes the photo from {mine} at a side of {sizes[lost[0]]:.0%}."
        checks["hiding"] = Check(text, "warn", sizes[lost[0]])
    return checks
