"""Hashes of inputs and values, the same on every machine."""

import hashlib
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutaway.core.batch import Batch, packed


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


# Tensors up to this many entries are checked by a checksum over all of them together.
_SMALL = 2**13


class StateHash:
    """The hash of a network's parameters and buffers, taken anew only when one of them has changed."""

    def __init__(self, module: nn.Module) -> None:
        """The hash of `module`."""
        self._module = module
        self._seen: tuple[Any, ...] = ()
        self._hash = ""

    def value(self) -> str:
        """SHA-256 of names and values, the same on every machine."""
        tensors = [*self._module.parameters(), *self._module.buffers()]
        small = packed(t for t in tensors if t.numel() <= _SMALL)
        seen = (
            *(zlib.crc32(_bytes(t).data) for t in small.values()),
            *(self._sign(t) for t in tensors if t.numel() > _SMALL),
        )
        if seen != self._seen:
            digest = hashlib.sha256()
            for name, t in sorted(self._module.state_dict().items()):
                if isinstance(t, Tensor):
                    digest.update(name.encode())
                    digest.update(_bytes(t).data)
            self._seen, self._hash = seen, digest.hexdigest()
        return self._hash

    @staticmethod
    def _sign(t: Tensor) -> tuple[int, int, int]:
        """A cheap sign that a large tensor is what it was; its version alone misses changes through `.data`.

        Wrapping sums of 8 bytes at a time are 20 times faster than a checksum. What escapes them is a change that
        leaves the sum as it was, such as a swap through `.data`.
        """
        data = _bytes(t)
        whole = len(data) // 8 * 8
        rest = int(np.add.reduce(data[whole:], dtype=np.int64)) if whole < len(data) else 0
        return (
            t.data_ptr(),
            0 if t.is_inference() else t._version,
            int(np.add.reduce(data[:whole].view(np.int64))) + rest,
        )


def _bytes(t: Tensor) -> np.ndarray:
    t = t.detach().cpu()
    # NumPy has fewer floating-point types than torch; the bits are what counts.
    t = t if t.dtype in (torch.float32, torch.float64, torch.int64) else t.contiguous().flatten().view(torch.uint8)
    return np.ascontiguousarray(t.numpy()).reshape(-1).view(np.uint8)
