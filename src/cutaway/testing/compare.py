"""How results are compared: entry by entry, with tolerances that have a scale."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from cutaway.core.result import Result

# What the exact laws allow, relative to the largest entry: float64 proves the mathematics, float32 the code path.
GATES = {torch.float64: 1e-9, torch.float32: 1e-4}


def gap(a: Tensor, b: Tensor, scale: float = 0.0) -> float:
    """The largest difference, relative to the largest entry of `b` or to `scale`; inf for other shapes or holes."""
    if a.shape != b.shape or not torch.equal(torch.isnan(a), torch.isnan(b)):
        return math.inf
    if not a.numel():
        return 0.0
    x, y = torch.nan_to_num(a.double()), torch.nan_to_num(b.double())
    return 0.0 if torch.equal(x, y) else float((x - y).abs().max()) / (max(float(y.abs().max()), scale) + 1e-300)


def close(a: Tensor, b: Tensor, gate: float, what: str, scale: float = 0.0) -> None:
    """Fail if two tensors differ by more than `gate` of the largest entry, or of `scale` if that is larger."""
    found = gap(a, b, scale)
    assert found <= gate, f"{what}: differs by {found:.2g} of the largest value; at most {gate:g} is right"


def same_result(a: Result, b: Result, gate: float = 0.0) -> None:
    """Fail if two results differ in a tensor by more than `gate`, or in anything else but what is about the run itself.

    About the run are the cost, the time, and checks that are mere notes: what was converted, what was kept from before.
    """
    left, right = a.arrays(), b.arrays()
    # A small tensor of a result, such as a residual, is known as well as the large ones are.
    scale = max((float(t.double().nan_to_num().abs().max()) for t in right.values() if t.numel()), default=0.0)
    assert left.keys() == right.keys(), f"tensors {sorted(left.keys() ^ right.keys())} are in one result only"
    for name in left:
        assert left[name].dtype == right[name].dtype, f"{name} is {left[name].dtype}, and {right[name].dtype}"
        close(left[name], right[name], gate, name, scale)
    _same(_stable(a.as_json()), _stable(b.as_json()), gate, "")


# Columns of a table that are about the run: what an earlier call has left in memory costs nothing.
_ABOUT_THE_RUN = ("forwards", "backwards", "seconds")


def _stable(data: dict[str, Any]) -> dict[str, Any]:
    made = {k: v for k, v in data["provenance"].items() if k not in ("cost", "created")}
    data = data | {"provenance": made, "checks": {k: c for k, c in data["checks"].items() if c["status"] != "note"}}
    if "columns" not in data or "rows" not in data:
        return data
    keep = [name not in _ABOUT_THE_RUN for name in data["columns"]]
    return data | {"rows": [list(itertools.compress(row, keep)) for row in data["rows"]]}


def _same(a: Any, b: Any, gate: float, path: str) -> None:
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), f"{path}: {sorted(a.keys() ^ b.keys())} are in one result only"
        for key in a:
            # With a tolerance, sentences may round differently, and a hash of values differs; without one, they agree.
            if not (gate and key in ("text", "attribution")):
                _same(a[key], b[key], gate, f"{path}/{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        assert len(a) == len(b), f"{path}: {len(a)} entries, and {len(b)}"
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            _same(x, y, gate, f"{path}/{k}")
    elif isinstance(a, float) and isinstance(b, float):
        assert a == b or (a != a and b != b) or abs(a - b) <= gate * max(1.0, abs(b)), f"{path}: {a!r}, and {b!r}"
    else:
        assert a == b, f"{path}: {a!r}, and {b!r}"
