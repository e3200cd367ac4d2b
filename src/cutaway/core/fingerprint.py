"""Hashes of inputs and values, the same on every machine."""

import hashlib
from typing import Any

import numpy as np
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


def sum_of_bits(t: Tensor) -> tuple[int, int, int, float]:
    """A cheap sign that a tensor is what it was; the version alone misses changes through `.data`."""
    data = bits_of(t)
    whole = len(data) // 8 * 8
    # Wrapping sums of 8 bytes at a time: 20 times faster than a checksum, and only a swap through `.data` escapes them.
    total = int(np.add.reduce(data[:whole].view(np.int64)))
    if whole != len(data):
        total += int(np.add.reduce(data[whole:], dtype=np.int64))
    # The sum of values as well: an even number of changed signs leaves the sum of bits as it was.
    values = float(np.add.reduce(data.view(np.float32))) if t.dtype == torch.float32 else float(t.sum())
    return t.data_ptr(), 0 if t.is_inference() else t._version, total, values


def bits_of(t: Tensor) -> np.ndarray:
    """The bytes of a tensor, row by row."""
    t = t.detach() if t.device.type == "cpu" else t.detach().cpu()
    # NumPy has fewer floating-point types than torch; the bits are what counts.
    t = t if t.dtype in (torch.float32, torch.float64, torch.int64) else t.contiguous().flatten().view(torch.uint8)
    return np.ascontiguousarray(t.numpy()).reshape(-1).view(np.uint8)
