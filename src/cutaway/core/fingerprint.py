"""Hashes of inputs and values, the same on every machine."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutaway.core.batch import Batch, flattened, packed
from cutaway.core.parts import buffers, parameters, parts


def fingerprint(x: Batch) -> str:
    """SHA-256 of shapes, types and values."""
    digest = hashlib.sha256()
    for name, tensor in [("", x)] if isinstance(x, Tensor) else sorted(x.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes(tensor).data)
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


# Tensors up to this many entries are looked at all together.
_SMALL = 2**13
# Words of 8 bytes are added up in so many columns: a prime number, so that the rows of no usual layer fall on them.
_COLUMNS = 509


class StateHash:
    """The hash of a network's parameters and buffers, taken anew only when one of them has changed."""

    def __init__(self, module: nn.Module) -> None:
        """The hash of `module`."""
        self._module = module
        self._seen: list[int] = []
        self._hash = ""

    def value(self) -> str:
        """SHA-256 of names and values, the same on every machine."""
        modules = parts(self._module)
        tensors = [*parameters(modules), *buffers(modules)]
        large = [t for t in tensors if t.numel() > _SMALL]
        small = packed(flattened(t for t in tensors if t.numel() <= _SMALL))
        # The version alone would miss changes through `.data`.
        seen = [checksum(_bytes(t)) for t in (*small.values(), *large)]
        seen += [0 if t.is_inference() else t._version for t in large]
        if seen != self._seen:
            digest = hashlib.sha256()
            for name, t in sorted(self._module.state_dict().items()):
                if isinstance(t, Tensor):
                    digest.update(name.encode())
                    digest.update(_bytes(t).data)
            self._seen, self._hash = seen, digest.hexdigest()
        return self._hash


def checksum(data: np.ndarray) -> int:
    """A number that tells, in this process, whether bytes are what they were; 15 times faster than a CRC.

    hash of n, s_0, ..., s_508,   s_k = the sum of the words of 8 bytes at places k, k + 509, k + 1018, ... modulo 2^64

    A change of one word always shows in its sum, and words that change places or signs show unless all of them are a
    multiple of 509 words apart.

    Args:
        data: Bytes in a row.
    """
    end = len(data) // 8 * 8
    words = data[:end].view(np.int64)
    whole = len(words) // _COLUMNS * _COLUMNS
    sums = np.add.reduce(words[:whole].reshape(-1, _COLUMNS), axis=0)
    sums[: len(words) - whole] += words[whole:]
    return hash((len(data), sums.tobytes(), data[end:].tobytes()))


def _bytes(t: Tensor) -> np.ndarray:
    t = t.detach() if t.is_cpu else t.detach().cpu()
    # NumPy has fewer floating-point types than torch; the bits are what counts.
    t = t if t.dtype in (torch.float32, torch.float64, torch.int64) else t.contiguous().flatten().view(torch.uint8)
    return np.ascontiguousarray(t.numpy()).reshape(-1).view(np.uint8)
