"""Hashes of inputs and values, the same on every machine."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from cutaway.core.batch import Batch


def fingerprint(x: Batch) -> str:
    """SHA-256 of shapes, types and values."""
    digest = hashlib.sha256()
    for name, tensor in [("", x)] if isinstance(x, Tensor) else sorted(x.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def as_text(value: Any) -> Any:
    """An option's value as it is written down: text or number, so that it can be read again."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return f"given {fingerprint(value)[:12]}"
    if isinstance(value, tuple | list):
        return [as_text(v) for v in value]
    if callable(value) and not isinstance(value, type) and hasattr(value, "__qualname__"):
        return f"given {value.__qualname__}"  # its str has a memory address
    ids = getattr(value, "ids", None)
    return f"given {fingerprint(ids)[:12]}" if isinstance(ids, Tensor) else str(value)
