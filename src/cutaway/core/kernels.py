"""The weights that a network's convolutions and linear layers used in a forward, in whatever module they are."""

from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

from cutaway.core.batch import Batch, take
from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.operations import Places, operation_name


class Kernel(NamedTuple):
    """The weights of one operation.

    Attributes:
        site: The module in which it was met.
        operation: `conv2d` or `linear`.
        weight: (filters, channels, height, width), or (outputs, inputs).
    """

    site: str
    operation: str
    weight: Tensor


def kernels(model: Model, x: Batch) -> list[Kernel]:
    """The weights of every convolution over two axes and every linear layer, in the order of one forward.

    Args:
        model: The network.
        x: An input; the first row is run.

    Raises:
        NotPossible: The module is scripted and cannot be looked into.
    """
    if model.is_scripted:
        raise NotPossible(f"{model.name} is scripted and cannot be looked into; load the module that it was made from.")
    look = _Look(Places(model.module))
    with look:
        model.run(take(x, slice(0, 1)))
    return look.met


class _Look(TorchFunctionMode):
    """Notes the weights of operations."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self._places = places
        self.met: list[Kernel] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and note its weights."""
        kwargs = kwargs or {}
        name = operation_name(func)
        if name in ("conv2d", "linear"):
            weight = kwargs["weight"] if "weight" in kwargs else args[1]
            self.met.append(Kernel(self._places.now, name, weight.detach()))
        return func(*args, **kwargs)
