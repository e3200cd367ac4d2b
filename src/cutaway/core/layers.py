"""The places of a network, seen in one forward."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from cutaway.core.batch import Batch, select
from cutaway.core.errors import BadShape, NotPossible
from cutaway.core.site import Site
from cutaway.core.taps import batch_axis, batch_second

if TYPE_CHECKING:
    from cutaway.core.model import Model


class Layer(NamedTuple):
    """A place that can be read: its path, module type, output shape without the batch axis, parameters, and calls."""

    site: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    calls: int


class Watch:
    """What each module of a network gave in a forward of one input."""

    def __init__(self, root: nn.Module) -> None:
        """Nothing seen yet."""
        self._modules = [(path, module) for path, module in root.named_modules() if path]
        self._second = batch_second(root)
        self._shapes: dict[str, tuple[int, ...] | None] = {}
        self._calls: Counter[str] = Counter()

    def layers(self) -> list[Layer]:
        """All modules in the order of the tree; None as the shape of one that did not run or gave several parts."""
        return [
            Layer(
                path,
                type(m).__name__,
                self._shapes.get(path),
                sum(p.numel() for p in m.parameters()),
                self._calls[path],
            )
            for path, m in self._modules
        ]

    def hooks(self) -> Iterator[Any]:
        """Register a hook on each module; yields the handles."""
        for path, module in self._modules:
            yield module.register_forward_hook(self._seen(path))

    def _seen(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._calls[path] += 1
            with contextlib.suppress(BadShape, NotPossible):
                tensor = select(output, (), path)
                axis = batch_axis(module, Site(path), tensor, 1, self._second)
                self._shapes[path] = tuple(tensor.movedim(axis, 0).shape[1:])

        return hook


@contextlib.contextmanager
def watched(root: nn.Module) -> Iterator[Watch]:
    """Watch all modules of a network while the context lasts."""
    watch = Watch(root)
    with contextlib.ExitStack() as handles:
        for handle in watch.hooks():
            handles.callback(handle.remove)
        yield watch


def last_with_positions(model: "Model", row: Batch) -> Site:
    """The last layer in the order of the modules with at least 2 x 2 positions; the last one of all if there is none.

    Raises:
        BadShape: The network has no layer with units.
    """
    layers = [layer for layer in model.layers(row) if layer.shape is not None and layer.calls == 1 and layer.site]
    wide = [layer for layer in layers if len(layer.shape or ()) == 3 and min((layer.shape or ())[1:]) > 1]
    flat = [layer for layer in layers if len(layer.shape or ()) in (1, 3)]
    if not wide and not flat:
        raise BadShape(f"{model.name} has no layer with units, (n, units) or (n, units, height, width).")
    return Site.of((wide or flat)[-1].site)
