"""How a network runs fast on this machine, without another answer: how many inputs at once, and how memory is kept."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# On two cores a batch of 8 is as fast per image as any; larger ones only cost memory. A GPU wants more at once.
_ROWS_AT_ONCE = {"cpu": 8}
# More at once where all of their largest activation stays in a core's cache: a small recurrent network spends its time
# on calls, not on arithmetic.
_SMALL_ROWS, _CACHE = 64, 2**20
# The largest activation of a batch on the CPU. Above 32 MiB, glibc asks the system for memory anew for each tensor, and
# clearing those pages took as long as the arithmetic (EfficientNet-Lite0 at 224 x 224: 25 ms an image instead of 17.5).
_LARGEST = 20 * 2**20
# The largest block that glibc learns from. Once one was freed, it keeps up to twice as much instead of handing it back.
_LESSON = 32 * 2**20 - 8192


def rows_at_once(device: torch.device, largest: int = 0) -> int:
    """How many inputs to run in one forward.

    Args:
        device: Where.
        largest: Bytes of the largest activation of one input, if that is known.
    """
    usual = _ROWS_AT_ONCE.get(device.type, 64)
    if device.type != "cpu" or not largest:
        return usual
    return max(1, min(usual, _LARGEST // largest), min(_SMALL_ROWS, _CACHE // largest))


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next batch, by giving it a large block to free; elsewhere idle."""
    torch.empty(_LESSON, dtype=torch.uint8)


class Widest(TorchFunctionMode):
    """Notes the largest result of a forward, in bytes."""

    def __init__(self) -> None:
        """Start from nothing."""
        super().__init__()
        self.bytes = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and look at what came out."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.bytes = max(self.bytes, leaf.numel() * leaf.element_size())
        return result
