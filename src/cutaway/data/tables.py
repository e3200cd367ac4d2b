"""Rows of a table from a CSV file, for a model that names its columns.

A model with columns race=A and race=B takes a file with a column `race` that says A or B, or one with both columns.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import torch

from cutaway.core.dataset import Examples
from cutaway.core.errors import BadShape, unknown_name
from cutaway.core.space import Space

MAX_BYTES = 500_000_000


def table(path: str | Path, space: Space, which: Callable[[int], range]) -> Examples:
    """The rows of a CSV file with a header, in the order of the model's columns; other columns are left out.

    Args:
        path: The file.
        space: Names the columns.
        which: From how many rows there are to those that are wanted.

    Raises:
        UnknownName: A column that the file does not have.
        BadShape: A cell that is no number, or a value that no column stands for.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise BadShape(f"{path.name}: larger than {MAX_BYTES:,} bytes; split it.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            head = [name.strip() for name in next(reader, [])]
            cells = [line for line in reader if line]
    except (UnicodeDecodeError, csv.Error) as fault:
        raise BadShape(f"{path.name}: not a readable CSV file ({fault}).") from fault
    readers = [_column(name, head, space.names, path.name) for name in space.names]
    chosen = list(which(len(cells)))
    rows = []
    for i in chosen:
        if len(cells[i]) != len(head):
            raise BadShape(f"{path.name}, row {i}: expected {len(head)} cells; got {len(cells[i])}.")
        rows.append([read(cells[i], f"{path.name}, row {i}") for read in readers])
    unused = [name for name in head if name not in {n for s in space.names for n in (s, s.partition("=")[0])}]
    return Examples(
        x=torch.tensor(rows, dtype=torch.float32).view(len(rows), len(space.names)),
        names=[f"{path.name} {i}" for i in chosen],
        source=str(path),
        notes=[f"{path.name}: columns that the model does not take: {', '.join(unused)}"] if unused else [],
    )


def _column(name: str, head: list[str], every: tuple[str, ...], file: str) -> Callable[[list[str], str], float]:
    """From the cells of a row, and what to call it, to the number in one of the model's columns."""
    group, is_one_hot, value = name.partition("=")
    if name in head or not is_one_hot or group not in head:
        if name not in head:
            raise unknown_name(f"column in {file} called", name, head)
        at = head.index(name)
        return lambda cells, row: _number(cells[at], f"{row}, column {name!r}")
    at = head.index(group)
    values = [other.partition("=")[2] for other in every if other.partition("=")[0] == group]

    def chosen(cells: list[str], row: str) -> float:
        if cells[at].strip() not in values:
            raise BadShape(f"{row}: expected {group} as one of {', '.join(values)}; got {cells[at]!r}.")
        return float(cells[at].strip() == value)

    return chosen


def _number(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise BadShape(f"{where}: expected a number; got {cell!r}.") from None
