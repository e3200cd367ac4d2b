"""Do several methods tell the same story about the same inputs? How much their orders agree, and where they do not."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.catalogue import find
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution, Matrix
from cutaway.core.target import Target
from cutaway.evaluation.orders import over_input
from cutaway.evaluation.paired import ENOUGH, interval
from cutaway.maths.statistics import ranks, spearman

# Mean rank correlations below which two maps tell different stories, and from which they tell the same one.
_LOW, _HIGH = 0.3, 0.7
_METHODS = ("gradient", "input_x_gradient", "integrated_gradients", "smoothgrad")
_QUICK = {"methods": ("gradient", "input_x_gradient")}


@method(paper="krishna2024", needs={"gradient"}, quick=_QUICK)
def agreement(
    model: Model,
    x: Batch,
    target: Target,
    *,
    methods: tuple[str, ...] = _METHODS,
    by: Literal["value", "size"] = "value",
) -> Matrix:
    """Compare the maps of several methods for the same inputs, each with each, by the order of their entries.

    A_ab = mean over inputs of spearman(map_a, map_b),   over all pixels, columns or tokens

    A map is first reduced to one signed number for each position, and a coarse one is interpolated. Agreement says
    nothing of truth: methods that share a mistake agree.

    Args:
        methods: Names of methods, with ";" between them in text. Each has its defaults.
        by: "value" ranks from most negative to most positive; "size" ranks by distance from zero, which is the fairer
            comparison where one of the methods has no sign.

    Returns:
        Rank correlations from -1 to 1, (methods, methods), nan where a map is constant. For several inputs the means,
        with 95 % bootstrap intervals of them.

    Raises:
        BadOption: Fewer than two methods, or one twice, or one that makes no map.
        NotPossible: The map of a method has no positions in the input.

    Source: Krishna et al. 2024, rank correlation of section 4.2. Differs: all entries rather than the top ones, signs
    or sizes by choice, intervals.
    """
    maps = _maps(model, x, target, methods)
    flat = torch.stack([m.flatten(1) for m in maps.values()])
    flat = flat.abs() if by == "size" else flat
    pairs = spearman(*torch.broadcast_tensors(flat[:, None], flat[None, :]))  # (methods, methods, n)
    counted = torch.nanmean(pairs, dim=2)
    low, high = _intervals(pairs) if pairs.shape[2] > 1 else (torch.empty(0), torch.empty(0))
    names = list(maps)
    return Matrix(
        title="Agreement",
        values=counted,
        row_names=names,
        column_names=names,
        unit="rank correlation" if by == "value" else "rank correlation of sizes",
        low=low,
        high=high,
        checks=_checks(names, pairs, counted),
    )


# Networks that are one function are treated alike as long as all of the methods do; the default ones do.
@method(paper="krishna2024", laws={"same_for_equivalent_nets"}, needs={"gradient"}, quick=_QUICK)
def disagreement(
    model: Model,
    x: Batch,
    target: Target,
    *,
    methods: tuple[str, ...] = _METHODS,
    by: Literal["value", "size"] = "value",
) -> Attribution:
    """Show where in an input several methods disagree: how far apart their ranks for each position are.

    values_i = standard deviation over methods of rank_m(i),   ranks from 0 (lowest entry of a map) to 1 (highest)

    Args:
        methods: Names of methods, with ";" between them in text. Each has its defaults.
        by: "value" ranks from most negative to most positive; "size" ranks by distance from zero.

    Returns:
        Spread of the ranks from 0 (all agree) to 0.5 (half say highest, half lowest), for each pixel, column or token.
        `extra["rank"]` is their mean. Two random maps have 0.17 on average, six 0.26, many 0.29.

    Raises:
        BadOption: Fewer than two methods, or one twice, or one that makes no map.
        NotPossible: The map of a method has no positions in the input.

    Source: own, on the ranks that Krishna et al. 2024 compare.
    """
    maps = _maps(model, x, target, methods)
    flat = torch.stack([m.flatten(1) for m in maps.values()])
    places = ranks(flat.abs() if by == "size" else flat)
    places = (places - 1) / max(1, places.shape[-1] - 1)
    shape = next(iter(maps.values())).shape
    spread, mean = places.std(0, unbiased=False).view(shape), places.mean(0).view(shape)
    if model.space.kind == "image":
        spread, mean = spread[:, None], mean[:, None]
    return Attribution(
        values=spread.to(model.dtype),
        target=str(target),
        unit="ranks of 1",
        signed=False,
        extra={"rank": mean.to(model.dtype)},
        checks=_constant(list(maps), flat),
    )


def _maps(model: Model, x: Batch, target: Target, methods: tuple[str, ...]) -> dict[str, Float[Tensor, "n *entries"]]:
    """One number for each position, by method."""
    names = [name.strip().replace("-", "_") for name in methods]
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadOption(f"expected two or more different methods; got {';'.join(methods) or 'none'}.")
    entries = [find(name) for name in names]
    for entry in entries:
        if entry.result != "Attribution" or "target" not in entry.positional or entry.name == "disagreement":
            raise BadOption(f"expected methods that explain; {entry.name} gives {entry.result}.")
    maps = {}
    for entry in track(entries, "agreement"):
        made = entry.function(model, x, target)
        assert isinstance(made, Attribution)
        maps[entry.name] = over_input(model, x, made)
    return maps


def _intervals(pairs: Float[Tensor, "k k n"]) -> tuple[Tensor, Tensor]:
    """Over the inputs for which a pair has a value; nan where there is none."""
    low, high = pairs.new_full((2, *pairs.shape[:2]), math.nan)
    for a in range(len(pairs)):
        for b in range(len(pairs)):
            values = pairs[a, b][~pairs[a, b].isnan()]
            if len(values):
                low[a, b], high[a, b] = interval(values)
    return low, high


def _checks(names: list[str], pairs: Tensor, mean: Tensor) -> dict[str, Check]:
    upper = [(a, b) for a in range(len(names)) for b in range(a + 1, len(names)) if not mean[a, b].isnan()]
    flat = int(pairs.diagonal(dim1=0, dim2=1).isnan().any(1).sum())
    checks = {}
    if not upper:
        checks["verdict"] = Check("No two maps have an order that could be compared.", "warn")
    else:
        by_value = sorted(upper, key=lambda pair: float(mean[pair]))
        (a, b), (c, d) = by_value[0], by_value[-1]
        least, most = float(mean[a, b]), float(mean[c, d])
        what = "agree" if least >= _HIGH else "agree in part" if least >= _LOW else "tell different stories"
        over = f", on average over {pairs.shape[2]} inputs" if pairs.shape[2] > 1 else ""
        ends = span((least, names[a], names[b]), (most, names[c], names[d]))
        text = f"The methods {what}, with a rank correlation {ends}{over}."
        checks["verdict"] = Check(text, "ok" if least >= _HIGH else "note" if least >= _LOW else "warn", least)
    if flat:
        text = f"For {flat} inputs a map has one value everywhere and no order; its pairs were left out there."
        checks["constant"] = Check(text, "warn", flat)
    if 1 < pairs.shape[2] < ENOUGH:
        text = f"{pairs.shape[2]} inputs are too few for intervals that can be relied on."
        checks["few"] = Check(text, "note", pairs.shape[2])
    return checks


def span(least: tuple[float, str, str], most: tuple[float, str, str]) -> str:
    """From which correlation to which, and of which two each; as one number where both round alike."""
    low, high = (f"{round(value, 2) + 0.0:.2f}" for value, *_ in (least, most))
    if low == high:
        return f"of {low}"
    return f"between {low} ({least[1]} and {least[2]}) and {high} ({most[1]} and {most[2]})"


def _constant(names: list[str], flat: Float[Tensor, "k n entries"]) -> dict[str, Check]:
    still = (flat == flat[..., :1]).all(2).any(1).tolist()
    found = [name for name, is_still in zip(names, still, strict=True) if is_still]
    if not found:
        return {}
    text = f"Of {' and '.join(found)}, a map has one value everywhere; all its ranks are the middle one."
    return {"constant": Check(text, "warn", len(found))}
