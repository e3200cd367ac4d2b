"""Batches: a tensor, or a dictionary of tensors with a common batch axis."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cutaway.core.errors import BadShape, NotPossible
from cutaway.core.text import Encoded

Batch = Tensor | dict[str, Tensor]


def size(x: Batch) -> int:
    """Number of rows."""
    return len(x) if isinstance(x, Tensor) else len(next(iter(x.values())))


def primary(x: Batch) -> Tensor:
    """The tensor that is explained: the batch, or the first of its tensors."""
    return x if isinstance(x, Tensor) else next(iter(x.values()))


def take(x: Batch, rows: slice | Tensor) -> Batch:
    """Some rows."""
    if isinstance(x, Encoded):
        return x.rows(rows)
    return x[rows] if isinstance(x, Tensor) else {k: v[rows] for k, v in x.items()}


def repeat(x: Batch, times: int) -> Batch:
    """Each row `times` times, one after the other."""
    if isinstance(x, Tensor):
        return x.repeat_interleave(times, dim=0)
    if isinstance(x, Encoded):
        return x.rows(torch.arange(size(x)).repeat_interleave(times))
    return {k: v.repeat_interleave(times, dim=0) for k, v in x.items()}


def join(parts: Sequence[Tensor]) -> Tensor:
    """Chunks of one batch, put together again."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def tensors_in(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Tensor]:
    """All tensors of a module's output, by their path: tuple positions, dictionary keys, dataclass fields."""
    if isinstance(value, Tensor):
        return {path: value}
    if isinstance(value, dict):
        items = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, tuple | list):
        items = [(str(i), v) for i, v in enumerate(value)]
    elif hasattr(value, "__dataclass_fields__"):
        items = [(name, getattr(value, name)) for name in value.__dataclass_fields__]
    else:
        return {}
    return {p: t for key, v in items for p, t in tensors_in(v, (*path, key)).items()}


def select(value: Any, part: tuple[str, ...], what: str) -> Tensor:
    """The tensor at `part` of a module's output; without `part`, the only floating-point tensor there.

    Raises:
        BadShape: There is no such part, or there are several tensors and none was chosen.
    """
    found = tensors_in(value)
    if part in found:
        return found[part]
    if not part:
        floating = {p: t for p, t in found.items() if t.is_floating_point()}
        if len(floating) == 1:
            return next(iter(floating.values()))
        if not floating:
            raise NotPossible(
                f"{what} gave {type(value).__name__} without a floating-point tensor; choose another place."
            )
        raise BadShape(f"{what} gave {len(floating)} tensors; say which: {_choices(floating, what)}.")
    raise BadShape(f"no part {'/'.join(part)!r} in what {what} gave; there are: {_choices(found, what)}.")


def replaced(value: Any, part: tuple[str, ...], new: Tensor) -> Any:
    """A module's output with one tensor exchanged; containers of the same type as before."""
    if not part:
        if isinstance(value, Tensor):
            return new
        floating = [p for p, t in tensors_in(value).items() if t.is_floating_point()]
        return replaced(value, floating[0], new)
    key, rest = part[0], part[1:]
    if isinstance(value, dict):
        real = next(k for k in value if str(k) == key)
        # A model output of a library is a dict with constructor checks; fill a shallow copy instead of building a new
        # one.
        copy = value.copy() if type(value) is dict else type(value)(**value)
        copy[real] = replaced(value[real], rest, new)
        return copy
    if isinstance(value, tuple | list):
        items = list(value)
        items[int(key)] = replaced(items[int(key)], rest, new)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return replace(value, **{key: replaced(getattr(value, key), rest, new)})


def _choices(found: dict[tuple[str, ...], Tensor], what: str) -> str:
    return ", ".join(f"{what}/{'/'.join(p)} {tuple(t.shape)}" for p, t in found.items())


Kind = tuple[torch.device, torch.dtype]


def flattened(tensors: Iterable[Tensor]) -> dict[Kind, list[Tensor]]:
    """Tensors with one axis, by device and type: views of those that are contiguous, copies of others."""
    groups: dict[Kind, list[Tensor]] = {}
    with torch.no_grad():
        for t in tensors:
            groups.setdefault((t.device, t.dtype), []).append(t if t.ndim == 1 else t.reshape(-1))
    return groups


def packed(groups: dict[Kind, list[Tensor]]) -> dict[Kind, Tensor]:
    """All values of a group in a row, a copy: quicker to keep and compare than many small tensors."""
    with torch.no_grad():
        return {kind: torch.cat(flat) for kind, flat in groups.items()}
