"""Tables of units as the authors of network dissection published them, read as our own."""

import csv
from pathlib import Path

from cutaway.core.checks import Check
from cutaway.core.errors import BadShape, UnknownName
from cutaway.core.result import Table
from cutaway.dissection.detectors import DETECTS, summary

_NEEDED = ("unit", "label", "category", "score")


def published(path: str | Path) -> Table:
    """The best concept of each unit, from a file with the columns unit, category, label and score.

    Args:
        path: A table of the original tool (`tally.csv`).

    Returns:
        Rows as those of `dissect`, as far as the file has them, and the same summary.

    Raises:
        UnknownName: No such file.
        BadShape: The file has other columns, or a score that is no number.
    """
    path = Path(path)
    if not path.is_file():
        raise UnknownName(f"no file at {str(path)!r}; expected a table of units, such as tally.csv.")
    with path.open(encoding="utf-8", newline="") as lines:
        found = list(csv.DictReader(lines))
    if not found or not set(_NEEDED) <= set(found[0]):
        raise BadShape(
            f"expected the columns {', '.join(_NEEDED)} in {path.name}; got {', '.join(found[0] if found else [])}."
        )
    try:
        rows = [
            [int(row["unit"]), row["label"], row["category"], float(row["score"]), float(row["score"]) > DETECTS]
            for row in found
        ]
    except ValueError as fault:
        raise BadShape(f"expected whole numbers as units and numbers as scores in {path.name}; {fault}.") from None
    rows.sort(key=lambda row: -float(row[3]))
    counted = summary([(str(row[2]), str(row[1])) for row in rows], [float(row[3]) for row in rows])
    checks = {"detectors": Check(str(counted), "ok", float(counted.detectors))}
    columns, label = ["unit", "concept", "category", "IoU", "detector"], "detectors by category"
    return Table(
        title=path.stem, columns=columns, rows=rows, checks=checks, tally=counted.by_category, tally_label=label
    )
