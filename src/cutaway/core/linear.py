"""Linear layers by the library that multiplies faster on this machine.

torch multiplies matrices of single precision with MKL, which uses wide vector instructions (AVX-512) only on processors
of its own maker. oneDNN, which torch carries too, uses them wherever there are any: on AMD's it is 2.2 times as fast.
The products are the same up to rounding; which library takes one depends on the processor and on the sizes alone, so
that a result is the same each time.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Multiplications from which on oneDNN's fixed cost of a call, 10 microseconds, is won back.
_WORTH = 2**21
# And those that must come on each operation of a network, since looking at each costs a microsecond.
_FOR_EACH = 2**18
_product: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Linears(TorchFunctionMode):
    """Run the linear layers of a forward without a graph by oneDNN, where that is faster.

    Use as a context around the forward, inside no other mode: those then see `linear` as ever.

    Attributes:
        operations: How many were met so far.
        work: Multiplications in linear layers among them.
    """

    def __init__(self) -> None:
        """Start from nothing."""
        super().__init__()
        self.operations = self.work = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        self.operations += 1
        if func is F.linear and not kwargs and _fits(*args[:2]):
            x, weight, bias = (*args, None)[:3]
            work = x.numel() * len(weight)
            self.work += work
            if work >= _WORTH and is_faster():
                return _product(x.contiguous(), weight, bias, "none", [], "")
        return func(*args, **(kwargs or {}))

    def pays(self, rows: int) -> bool:
        """Would it pay to run that forward so, with so many times the rows?"""
        return self.work * rows >= max(_WORTH, _FOR_EACH * self.operations) and is_faster()


@functools.cache
def is_faster() -> bool:
    """Has this machine wide vectors that MKL does not use, and torch oneDNN's linear layer?"""
    known = Path("/proc/cpuinfo")
    maker = known.read_text() if known.is_file() else platform.processor()
    wide = "AuthenticAMD" in maker and torch.backends.cpu.get_cpu_capability() == "AVX512"
    mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]  # torch has no annotation here
    return wide and mkl and _product is not None


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Plain matrices of single precision on the CPU, of which no gradient is wanted."""
    return (
        type(x) is Tensor
        and x.dtype == weight.dtype == torch.float
        and x.is_cpu
        and weight.is_contiguous()
        and not torch.is_grad_enabled()
    )
