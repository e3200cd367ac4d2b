"""What a network consists of, listed in one quick walk: every call looks at all of it, so each step counts."""

from collections.abc import Sequence

from torch import Tensor, nn


def parts(root: nn.Module) -> list[nn.Module]:
    """Each module once, in the order of the tree, as `root.modules()` has them."""
    found: dict[nn.Module, None] = {}
    waiting: list[nn.Module | None] = [root]
    while waiting:
        module = waiting.pop()
        if module is None or module in found:
            continue
        found[module] = None
        if children := module._modules:
            waiting.extend(reversed(children.values()))
    return list(found)


def parameters(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The modules' own parameters; one that two of them share comes twice."""
    return [p for m in modules for p in m._parameters.values() if p is not None]


def buffers(modules: Sequence[nn.Module]) -> list[Tensor]:
    """The modules' own buffers."""
    return [b for m in modules for b in m._buffers.values() if b is not None]
