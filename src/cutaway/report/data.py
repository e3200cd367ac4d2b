"""Results as JSON that any reader can load: no nan, and large tensors only by their size and range."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from markupsafe import Markup
from torch import Tensor

from cutaway.core.result import Result

MADE_BY = "cutaway report"
MOST = 4096  # numbers of one tensor


def as_data(value: Any) -> Any:
    """A result, or a structure of results, as dictionaries, lists, strings, numbers and None."""
    if isinstance(value, Result):
        data = value.as_json()
        for name, tensor in value.arrays().items():
            head, _, key = name.partition("/")
            if key:
                data[head][key] = tensor
            else:
                data[head] = tensor
        return as_data(data)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_data(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Tensor):
        return _numbers(value)
    if isinstance(value, Mapping):
        return {str(key): as_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.8g}") if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else str(value)


def content(title: str, **parts: Any) -> dict[str, Any]:
    """A whole report as data, headed by who made it."""
    return {"made_by": MADE_BY, "format": 1, "title": title, **as_data(parts)}


def to_json(data: Mapping[str, Any]) -> str:
    """Data as the text of a JSON file, in ASCII."""
    return json.dumps(data, indent=1, allow_nan=False)


def inside_html(data: Mapping[str, Any]) -> Markup:
    """Data as JSON for a script element: nothing in it can end the element or open another."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _numbers(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu()
    if tensor.numel() <= MOST:
        return as_data(tensor.tolist())
    low, high = (as_data(float(end)) for end in tensor.aminmax())
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch."), "low": low, "high": high}
