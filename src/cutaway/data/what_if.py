"""The people behind the What-If Tool's COMPAS network: 3,496 rows of twelve columns, sex and race one-hot.

From a county's records (Broward, Florida) as ProPublica published them. The labels are what the COMPAS questionnaire
decided, which the network was trained to repeat; `what-if-compas/recidivism` has what became of the same people within
two years. Eleven people are "Asian", a race that the network has no column for: all of its race columns are 0.
"""

import base64
import json
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from cutaway.core.dataset import Examples
from cutaway.core.errors import BadShape
from cutaway.core.space import Space
from cutaway.data.fetch import Collection
from cutaway.data.sets import DataSet

NAME, COUNT = "what-if-compas", 3496
CLASSES = ("low risk", "high risk")
RECIDIVISM = ("no recidivism", "recidivism")
NUMBERS = ("age", "juv_fel_count", "juv_misd_count", "juv_other_count", "priors_count")
GROUPS = {
    "sex": ("Female", "Male"),
    "race": ("African-American", "Caucasian", "Hispanic", "Native American", "Other"),
}
COLUMNS = (*NUMBERS, *(f"{group}={value}" for group, values in GROUPS.items() for value in values))
FILES = Collection(
    NAME,
    homes=("https://raw.githubusercontent.com/PAIR-code/what-if-tool/master/wit_dashboard/demo/data/compas/",),
    sums={
        "compas_data.json": "6cdbcda57bc0ce87840c7900e0a963728cb8ed4c515a98ab59b3a0602774ba83",
        "group1-shard1of1.bin": "3e93b330f5b68d09e6060412327cc20c5ab63b4a64e4e5e3fbd0158f227978d1",
    },
)
_LABELS = {"COMPASS_determination": CLASSES, "recidivism_within_2_years": RECIDIVISM}


def people(label: str, source: str, which: range, space: Space | None = None) -> Examples:
    """The rows at these positions with one of the two labels; `space` changes nothing."""
    x, labels, without = _all()
    chosen = list(which)
    outside = sum(i in without for i in chosen)
    note = (
        f"{outside} of {len(chosen)} people have a race that the network has no column for; all its race columns are 0"
    )
    return Examples(
        x=x[chosen],
        names=[f"person {i}" for i in chosen],
        labels=labels[label][chosen],
        classes=_LABELS[label],
        source=source,
        notes=[note] if outside else [],
    )


@cache
def _all() -> tuple[Tensor, dict[str, Tensor], frozenset[int]]:
    path = FILES.path("compas_data.json")
    try:
        people = [_person(entry["features"]["feature"]) for entry in json.loads(path.read_text(encoding="utf-8"))]
        rows = torch.tensor([_row(person) for person in people], dtype=torch.float32)
        labels = {label: torch.tensor([person[label] for person in people]) for label in _LABELS}
    except (ValueError, KeyError, TypeError, IndexError) as fault:
        raise BadShape(f"{path.name}: not the rows that were expected ({type(fault).__name__}: {fault}).") from fault
    if len(rows) != COUNT:
        raise BadShape(f"{path.name}: expected {COUNT:,} rows; got {len(rows):,}.")
    return rows, labels, frozenset(i for i, person in enumerate(people) if person["race"] not in GROUPS["race"])


def _person(features: dict[str, Any]) -> dict[str, Any]:
    """The first value of each feature: a number, or text in base 64."""
    found: dict[str, Any] = {}
    for name, kinds in features.items():
        ((kind, values),) = kinds.items()
        value = values["value"][0]
        found[name] = base64.b64decode(value).decode("utf-8") if kind == "bytesList" else int(value)
    return found


def _row(person: dict[str, Any]) -> list[float]:
    one_hot = [float(person[group] == value) for group, values in GROUPS.items() for value in values]
    return [float(person[name]) for name in NUMBERS] + one_hot


_OPINION, _FACT = _LABELS
DATASETS = (
    DataSet(
        NAME, "people and how COMPAS rated their risk, 12 columns (fetched)", COUNT, partial(people, _OPINION, NAME)
    ),
    DataSet(
        f"{NAME}/recidivism",
        "the same people and whether they were charged again within two years (fetched)",
        COUNT,
        partial(people, _FACT, f"{NAME}/recidivism"),
    ),
)
