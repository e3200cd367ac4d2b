"""Coarse maps from a late layer: its channels, weighted by how much the target rises with each."""

from collections.abc import Callable

from torch import Tensor

from cutaway.attribution.coarse import as_grid, coarse_map, layer_checks, site_of, slope_checks
from cutaway.attribution.rules import guided_backprop
from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.site import Site
from cutaway.core.target import Target


@method(paper="selvaraju2017", laws={"batch_independent"}, needs={"gradient", "image"})
def grad_cam(
    model: Model, x: Batch, target: Target, *, layer: Site | None = None, relu: bool = True, upsample: bool = True
) -> Attribution:
    """Where a layer's channels that speak for the target are active.

    map_p = max(0, sum over c of w_c A_cp),   w_c = mean over positions p of d target / d A_cp

    One forward, and a backward that ends at the layer.

    Args:
        layer: A place with channels and positions, or with the tokens of a square grid of patches. If none is named,
            the last place with at least 2 x 2 positions before any pooling.
        relu: Keep only what speaks for the target. Without it the map has a sign.
        upsample: Bilinear, to the height and width of the input. Otherwise the map stays at the layer's resolution.

    Returns:
        One value per position, (n, 1, height, width). `extra["grid"]` is the map at the layer's resolution.

    Source: Selvaraju et al. 2017, eq. 1 and 2. Differs: also for the token grids of vision transformers.
    """
    return _from_slopes(model, x, target, layer, relu, upsample, _mean_slopes, "activation times slope")


@method(paper="chattopadhay2018", laws={"batch_independent"}, needs={"gradient", "image"})
def grad_cam_plus_plus(
    model: Model, x: Batch, target: Target, *, layer: Site | None = None, relu: bool = True, upsample: bool = True
) -> Attribution:
    """Grad-CAM with weights that count each appearance of an object alike, whether it is large or small.

    map_p = max(0, sum over c of w_c A_cp),   w_c = sum over p of max(0, g_cp) / (2 + g_cp S_c)
    with the slopes g_cp = d target / d A_cp, and S_c = sum over p of A_cp

    One forward, and a backward that ends at the layer.

    Args:
        layer: As in `grad_cam`; it should come after a rectifier, since the weights presume that nothing in it is
            negative.
        relu: Keep only what speaks for the target. Without it the map has a sign.
        upsample: Bilinear, to the height and width of the input. Otherwise the map stays at the layer's resolution.

    Returns:
        One value per position, (n, 1, height, width), with no unit: only its order within one map has a meaning.

    Source: Chattopadhay et al. 2018, eq. 7 and 19, where the class score is exp(target) and higher slopes of the
    target are 0. Differs: the factor exp(target), the same for a whole map, is left out.
    """
    return _from_slopes(model, x, target, layer, relu, upsample, _appearances, "activation times weight")


@method(paper="jiang2021", laws={"batch_independent"}, needs={"gradient", "image"})
def layer_cam(
    model: Model, x: Batch, target: Target, *, layer: Site | None = None, relu: bool = True, upsample: bool = True
) -> Attribution:
    """Where a layer is active and more activity there would raise the target: a weight for each single position.

    map_p = max(0, sum over c of max(0, g_cp) A_cp),   g_cp = d target / d A_cp

    Works at early layers too, where one weight for a whole channel says little. One forward, and a backward that ends
    at the layer.

    Args:
        layer: As in `grad_cam`.
        relu: Keep only what speaks for the target. Without it the map has a sign.
        upsample: Bilinear, to the height and width of the input. Otherwise the map stays at the layer's resolution.

    Returns:
        One value per position, (n, 1, height, width). `extra["grid"]` is the map at the layer's resolution.

    Source: Jiang et al. 2021, eq. 5 to 7. Differs: maps of several layers are not merged.
    """
    return _from_slopes(model, x, target, layer, relu, upsample, _positive_slopes, "activation times slope")


@method(paper="selvaraju2017", laws={"batch_independent"}, needs={"gradient", "image", "relu_family"})
def guided_grad_cam(model: Model, x: Batch, target: Target, *, layer: Site | None = None) -> Attribution:
    """The fine lines of guided backprop, where Grad-CAM says that they matter for the target.

    values = guided_backprop(x) * grad_cam(x), the second enlarged to the size of the input

    Two forwards, a backward to the layer and one to the input.

    Args:
        layer: As in `grad_cam`.

    Returns:
        Modified slopes times a coarse map, shaped like x. Their sum has no meaning.

    Source: Selvaraju et al. 2017, section 3.2.
    """
    lines = guided_backprop(model, x, target)
    coarse = grad_cam(model, x, target, layer=layer)
    about = {name: c for name, c in lines.checks.items() if name in ("rectifiers", "smooth", "opaque")}
    text = (
        "The fine lines are those of guided backprop, which show edges of the input even where the network's weights "
        "are random; only the coarse map depends on the target."
    )
    return Attribution(
        values=lines.values * coarse.values,
        target=str(target),
        unit="modified slope times map",
        score=coarse.score,
        extra={"grid": coarse.extra["grid"]},
        checks={**coarse.checks, **about, "lines": Check(text, "note")},
    )


# From activations and slopes, (n, c, h, w), to maps (n, 1, h, w).
_Weigh = Callable[[Tensor, Tensor], Tensor]


def _mean_slopes(act: Tensor, slope: Tensor) -> Tensor:
    return (slope.mean((2, 3), keepdim=True) * act).sum(1, keepdim=True)


def _appearances(act: Tensor, slope: Tensor) -> Tensor:
    weights = (slope.clamp(min=0) / _denominator(act, slope)).sum((2, 3), keepdim=True)
    return (weights * act).sum(1, keepdim=True)


def _denominator(act: Tensor, slope: Tensor) -> Tensor:
    """The paper's 2 g^2 + S g^3, over g^2: where g is 0 the weight is 0, whatever stands here."""
    return 2 + slope * act.sum((2, 3), keepdim=True)


def _positive_slopes(act: Tensor, slope: Tensor) -> Tensor:
    return (slope.clamp(min=0) * act).sum(1, keepdim=True)


def _from_slopes(
    model: Model,
    x: Batch,
    target: Target,
    layer: Site | None,
    relu: bool,
    upsample: bool,
    weigh: _Weigh,
    unit: str,
) -> Attribution:
    assert isinstance(x, Tensor)
    site = site_of(model, x, target, layer)
    score, act, slope = model.gradient(x, target, wrt=site)
    channels, slopes = as_grid(act, site), as_grid(slope, site)
    grid = weigh(channels, slopes)
    checks = layer_checks(act, site, chosen=layer is None) | slope_checks(slope, grid, site, relu)
    if weigh is _appearances:
        checks |= _sign_check(channels, slopes, site)
    return coarse_map(x, target, grid, site, score=score, unit=unit, checks=checks, relu=relu, upsample=upsample)


def _sign_check(act: Tensor, slope: Tensor, site: Site) -> dict[str, Check]:
    """A warning where a weight's denominator has the wrong sign, which needs activations that sum to less than 0."""
    wrong = ((_denominator(act, slope) <= 0) & (slope > 0)).flatten(2).any(2)
    if not wrong.any():
        return {}
    share = float(wrong.double().mean())
    text = f"The weights of {share:.0%} of the channels at {site} are not defined, since its activations are negative"
    return {"negative": Check(f"{text}; choose a place after a rectifier, or use grad_cam.", "warn", share)}
