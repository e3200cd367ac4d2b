"""The first class activation map: exact, for networks that end in a mean over positions and one linear layer."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cutaway.attribution.coarse import as_grid, coarse_map, grid_size, layer_checks, site_of
from cutaway.core.batch import Batch, join
from cutaway.core.checks import Check
from cutaway.core.errors import NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.operations import Call
from cutaway.core.result import Attribution
from cutaway.core.site import Site
from cutaway.core.target import Target

_MEANS = ("adaptive_avg_pool2d", "avg_pool2d", "mean")
# What may follow the mean: one linear operation, and what only lays out numbers (dropout does nothing here).
_LINEAR = ("addmm", "conv2d", "linear", "matmul")
_LAYOUT = ("contiguous", "dropout", "flatten", "getitem", "permute", "reshape", "squeeze", "transpose", "view")
# Whether a score is linear in the mean is looked at with the mean so many times as large.
_FAR = -10.0
# How much the bias may differ there, of the size of the score, by rounding.
_ROUNDING = 1e-4


@method(
    paper="zhou2016", laws={"batch_independent", "linear_in_target"}, needs={"gradient", "image", "mean_and_linear"}
)
def cam(model: Model, x: Batch, target: Target, *, upsample: bool = True) -> Attribution:
    """What each position adds to the score of a network that ends in a mean over positions and one linear layer.

    map_p = sum over c of w_c A_cp,   target = mean over p of map_p + bias

    A is what the mean is taken of, and w the weights of the linear layer; nothing is approximated. The network is
    recognised by its operations, and refused if it ends otherwise. Two forwards, and two backwards that end
    at the mean: the second pair makes sure of it.

    Args:
        upsample: Bilinear, to the height and width of the input. Otherwise the map stays at the layer's resolution.

    Returns:
        One value per position, (n, 1, height, width), in the target's unit and with a sign. `extra["grid"]` is the map
        at the layer's resolution, whose mean with `extra["bias"]` added is the target.

    Raises:
        NotPossible: The network ends otherwise, or the target is not linear in the logits.

    Source: Zhou et al. 2016, eq. 2. Differs: the mean's 1 / positions belongs to the mean, not to the map.
    """
    assert isinstance(x, Tensor)
    _refuse_other_ends(model, x)
    site = site_of(model, x, target, None)
    score, pooled = _through_mean(model, x, target, site, 1.0)
    channels = as_grid(pooled.act, site)
    grid = torch.einsum("nc,nchw->nhw", pooled.slope, channels)[:, None]
    bias = score - grid.mean((1, 2, 3))
    # Is the rest the same where the mean is quite another? Then target is linear in it, and the map is exact.
    other, far = _through_mean(model, x, target, site, _FAR)
    part = _FAR * (far.slope * channels.mean((2, 3))).sum(1)
    scale = torch.stack([score.abs(), other.abs(), part.abs()]).amax(0)
    gap = float(((other - part - bias).abs() / scale.clamp(min=torch.finfo(x.dtype).tiny)).max())
    if gap > _ROUNDING:
        raise NotPossible(
            f"cam takes apart a score that is linear in the logits, such as logit(3) or logit(3) - logit(5); {target} "
            "is not. Use grad_cam for it."
        )
    checks = layer_checks(pooled.act, site, chosen=True)
    text = (
        f"The mean of the map and the bias of {float(bias[0]):.4g} give the target exactly; with the mean taken "
        f"{_FAR:g} times, the bias is the same within {gap:.1g} of the score."
    )
    checks["sum"] = Check(text, "ok", gap)
    return coarse_map(
        x,
        target,
        grid,
        site,
        score=score,
        unit="target",
        checks=checks,
        relu=False,
        upsample=upsample,
        extra={"bias": bias},
    )


class _Mean(NamedTuple):
    """What is averaged over all positions, and the target's slope at the average, (n, c)."""

    act: Tensor
    slope: Tensor


def _through_mean(model: Model, x: Tensor, target: Target, site: Site, factor: float) -> tuple[Tensor, _Mean]:
    """The score, and the mean that it goes through; `factor` times that mean goes on into the linear layer."""
    acts: dict[int, Tensor] = {}
    slopes: dict[int, Tensor] = {}

    def rule(call: Call) -> Any:
        result, act = call.run(), call.args[0] if call.args else None
        if not (isinstance(act, Tensor) and result.requires_grad and _is_mean(act, result)):
            return result
        # A batch may take several forwards, and a forward may take means of its own on the way: the last counts.
        forward, onward = model.spent["forwards"], result * factor
        acts[forward] = act.detach()

        def note(slope: Tensor) -> None:
            slopes[forward] = slope.detach().flatten(1)

        onward.register_hook(note)
        return onward

    score = model.gradient(x, target, wrt=site, rules=dict.fromkeys(_MEANS, rule)).score
    forwards = [f for f in acts if f in slopes]
    if sum(len(acts[f]) for f in forwards) != len(x):
        raise _other_end(model, f"{target} does not go through a mean over all positions")
    return score, _Mean(join([acts[f] for f in forwards]), join([slopes[f] for f in forwards]))


def _is_mean(act: Tensor, result: Tensor) -> bool:
    """Is this the mean over all positions of an image, or over all tokens of a square?"""
    if act.ndim not in (3, 4) or min(grid_size(tuple(act.shape[1:]))) < 2:
        return False
    if act.ndim == 3 and act.shape[1] != grid_size(tuple(act.shape[1:]))[0] ** 2:
        return False
    mean = act.mean((2, 3) if act.ndim == 4 else 1).detach()
    return result.numel() == mean.numel() and torch.allclose(result.detach().flatten(1), mean, rtol=1e-3, atol=1e-5)


def _refuse_other_ends(model: Model, x: Tensor) -> None:
    """By its operations: after the last mean, one linear operation at most, and nothing else that computes."""
    names = [operation.name for operation in model.census(x)]
    at = max((i for i, name in enumerate(names) if name in _MEANS), default=None)
    if at is None:
        raise _other_end(model, "it takes no mean")
    after = [name for name in names[at + 1 :] if name not in _LAYOUT]
    if len(after) > 1 or not set(after) <= set(_LINEAR):
        raise _other_end(model, f"after its last mean it has {', '.join(after)}")


def _other_end(model: Model, why: str) -> NotPossible:
    return NotPossible(
        f"cam needs a network that ends in a mean over positions and one linear layer; {model.name} does not: {why}. "
        "Use grad_cam, which gives the same map where cam is possible and works at any layer."
    )
