"""Hashes of inputs and values, the same on every machine."""

import hashlib

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
