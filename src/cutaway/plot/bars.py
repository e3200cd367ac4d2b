"""Attribution of columns or units: one bar each, the largest first. Columns of a one-hot group share a bar."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cutaway.core.catalogue import catalogue
from cutaway.core.result import Attribution
from cutaway.plot import heat
from cutaway.plot.style import SMALL, figure, label, number, theme

MOST_BARS = 20


class Bar(NamedTuple):
    """A value with its name, and the input there, as a person would write it."""

    name: str
    value: float


def is_row(result: Attribution) -> bool:
    """Whether the explained inputs are rows of numbers."""
    return result.input.ndim == 2 and result.input.is_floating_point() and result.input.shape == result.values.shape


def units_axis(result: Attribution) -> int | None:
    """The axis that counts units, where each unit of a layer has one value for all of its positions; else None."""
    owner = result.extra.get("player")
    if owner is None or result.wrt == "input" or owner.shape != result.values.shape or not len(owner):
        return None
    count = len(result.players[0]) if result.players else 0
    for axis in range(1, owner.ndim):
        line = owner.movedim(axis, 1).flatten(2)
        if line.shape[1] == count > 1 and bool((line == line[..., :1]).all()):
            return axis
    return None


def of_units(result: Attribution, i: int) -> Tensor | None:
    """One value for each unit of a layer, where that is what the values are."""
    axis = units_axis(result)
    if axis is None:
        return None
    whole = result.extra.get("whole", result.values)[i].detach().cpu().double()
    return whole.movedim(axis - 1, 0).flatten(1)[:, 0]


def base(result: Attribution, i: int) -> float | None:
    """The target on the baseline of the i-th input; None where the values do not add up to the change from one."""
    entry = catalogue().get(result.provenance.method)
    if entry is None or "complete" not in entry.laws or len(result.score) <= i:
        return None
    score = float(result.score[i])
    if "change" in result.extra:
        return score - float(result.extra["change"][i])
    return score - float(result.values[i].double().sum())


def names(result: Attribution, i: int) -> list[str]:
    """A name per entry: what the result calls them, else their index."""
    if units_axis(result) is not None:
        return [f"{result.wrt}:{name}" for name in result.players[i]]
    count = result.values[i].numel()
    given = result.tokens[i] if len(result.tokens) > i and result.wrt == "input" else []
    if len(given) == count:
        return given
    site = "" if result.wrt == "input" else result.wrt
    shape = result.values.shape[1:]
    if len(shape) < 2:
        return [f"{site}:{j}" if site else f"column {j}" for j in range(count)]
    return [f"{site}[{j}]" for j in range(count)]


def columns(result: Attribution, i: int) -> list[Bar]:
    """The values of the i-th input in its order; a one-hot group (race=A, race=B) has one where its values add up."""
    units = of_units(result, i)
    values = (result.values[i].detach().cpu().double().flatten() if units is None else units).tolist()
    called = names(result, i)
    if not is_row(result):
        return [Bar(name, value) for name, value in zip(called, values, strict=True)]
    at = result.input[i].detach().cpu().double().tolist()
    if base(result, i) is not None:
        return [Bar(f"{name} = {there}", sum(values[j] for j in js)) for name, there, js in choices(called, at)]
    found = []
    for name, there, js in choices(called, at):
        # A player that is a whole group has its value on each of its columns.
        if len(js) > 1 and "features" in result.provenance.options and len({values[j] for j in js}) == 1:
            found.append(Bar(f"{name} = {there}", values[js[0]]))
        else:
            found += [Bar(f"{called[j]} = {number(at[j])}", values[j]) for j in js]
    return found


def choices(called: Sequence[str], at: Sequence[float]) -> list[tuple[str, str, list[int]]]:
    """Columns of a row by name and what is there, with their positions; a one-hot group is one choice.

    Args:
        called: Names of the columns; race=A and race=B are a group.
        at: The row.
    """
    members: dict[str, list[int]] = {}
    for j, name in enumerate(called):
        members.setdefault(_group(name, called), []).append(j)
    return [(group, _chosen(js, called, at), js) for group, js in members.items()]


def _group(name: str, called: Sequence[str]) -> str:
    """What stands before "=" where several columns share it; else the column's own name."""
    head, is_one_hot, _ = name.partition("=")
    shared = is_one_hot and sum(other.partition("=")[0] == head and "=" in other for other in called) > 1
    return head if shared else name


def _chosen(js: list[int], called: Sequence[str], at: Sequence[float]) -> str:
    if len(js) == 1:
        return number(at[js[0]])
    on = [called[j].partition("=")[2] + ("" if at[j] == 1 else f" ({number(at[j])})") for j in js if at[j]]
    return " + ".join(on) or "none of its columns"


def draw(result: Attribution, *, most: int) -> Figure:
    """Bars of the first few inputs, one chart each."""
    shown = min(len(result.values), most)
    count = min(len(columns(result, 0)) if len(result.values) else 0, MOST_BARS)
    fig = figure(max(shown, 1) * (0.9 + 0.24 * count) + 0.5)
    for i, ax in enumerate(fig.subplots(max(shown, 1), 1, squeeze=False)[:, 0]):
        if i < shown:
            _draw_row(ax, result, i)
    upper, lower = heat.ends(result)
    meaning = f"right of 0: {label(upper, 60)}; left of 0: {label(lower, 60)}" if lower else label(upper, 60)
    fig.suptitle(label(result.title or "Attribution", 70), x=0.02, ha="left", weight="bold", fontsize=11.5)
    fig.supxlabel(meaning, fontsize=SMALL, color=theme().muted)
    return fig


def _draw_row(ax: Axes, result: Attribution, i: int) -> None:
    every = columns(result, i)
    values = torch.tensor([bar.value for bar in every], dtype=torch.float64)
    order = values.abs().argsort(descending=True, stable=True)[:MOST_BARS].tolist()
    scale = heat.scale_of(values, signed=result.signed, percentile=100, unit=result.unit)
    for place, j in enumerate(order):
        value = every[j].value
        # A thin outline: the palest colours are near the ground's.
        ax.barh(place, value, height=0.72, color=heat.colour(value, scale), edgecolor=theme().muted, linewidth=0.5)
        ax.annotate(
            f" {number(value)} ", (value, place), va="center", ha="left" if value >= 0 else "right", fontsize=SMALL
        )
    ax.set_yticks(range(len(order)), [label(every[j].name, 36) for j in order])
    ax.invert_yaxis()
    ax.axvline(0, color=theme().muted, linewidth=0.8)
    ax.margins(x=0.18)
    left_out = f", the {len(order)} largest of {len(values)}" if len(order) < len(values) else ""
    ax.set_xlabel(f"{label(result.unit, 60) or 'value'} at {label(result.wrt, 30)}{left_out}")
