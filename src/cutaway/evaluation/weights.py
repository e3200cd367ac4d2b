"""Weights made random again, block by block, by each module's own initialiser."""

import copy
import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from cutaway.core.batch import Batch
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.model import Model

Order = Literal["cascading", "independent"]


class Blocks(NamedTuple):
    """The layers with weights, in blocks.

    Attributes:
        parts: Paths of the modules in each block; the block at the output first, and in it the layer nearest to the
            output. total: How many layers have weights.
    """

    parts: list[list[str]]
    total: int


def blocks(model: Model, x: Batch, stages: int) -> Blocks:
    """Group the modules that hold parameters by the order in which a forward meets them.

    The layer at the output is a block of its own: it is the one that knows most of the classes.

    Raises:
        NotPossible: The network has no weights, or cannot be looked into.
    """
    if stages < 1:
        raise BadOption(f"expected at least 1 stage; got {stages}.")
    paths = _from_the_output(model, x)
    if not paths:
        raise NotPossible(f"{model.name} has no weights that could be made random.")
    if stages == 1:
        return Blocks([paths], len(paths))
    rest, count = paths[1:], min(stages - 1, len(paths) - 1)
    cuts = [round(len(rest) * k / count) for k in range(count + 1)] if count else []
    return Blocks([paths[:1], *(rest[a:b] for a, b in itertools.pairwise(cuts))], len(paths))


class Randomiser:
    """A copy of a model whose weights become random block by block; the model itself is never touched.

    Attributes:
        model: The copy.
        without: Paths of modules that have no initialiser of their own.
    """

    def __init__(self, model: Model, parts: Sequence[Sequence[str]], order: Order, seed: int) -> None:
        """A randomiser of these blocks.

        Raises:
            NotPossible: The network cannot be copied.
        """
        self.without: list[str] = []
        self._original, self._parts, self._order, self._seed = model, parts, order, seed
        # Each layer has a seed of its own: how the layers are grouped does not change what is drawn.
        self._seeds = {path: seed * 1_000_003 + k for k, path in enumerate(p for part in parts for p in part)}
        self.model = copied(self._original)

    def step(self, block: int) -> Model:
        """The copy with that block random, too (cascading) or alone (independent)."""
        if self._order == "independent" and block:
            self._put_back()
        for path in self._parts[block]:
            module = self.model.module.get_submodule(path)
            if not reinitialise(module, self._seeds[path]):
                self.without.append(path)
        return self.model

    def _put_back(self) -> None:
        """Give the copy the weights that were learned: it stays the same network, of which all else is known."""
        with torch.no_grad():
            for own, learned in zip(_state(self.model.module), _state(self._original.module), strict=True):
                own.copy_(learned)


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def copied(model: Model) -> Model:
    """A copy of a model, whose weights may be changed.

    Raises:
        NotPossible: The network cannot be copied.
    """
    try:
        with torch.no_grad():
            return model.with_module(copy.deepcopy(model.module))
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise NotPossible(f"{model.name} cannot be copied, so its weights stay as they are: {reason}") from error


def reinitialise(module: nn.Module, seed: int) -> bool:
    """Make a module's own parameters random; those of its children stay.

    Parameters that its `reset_parameters` does not change become normal noise with their own mean and spread.

    Returns:
        False if any needed that noise.
    """
    own = [p for p in module._parameters.values() if p is not None and p.is_floating_point()]
    before = [p.detach().clone() for p in own]
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    devices = sorted({p.device.index or 0 for p in own if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        if callable(reset):
            _tried(reset)
        left = [p for p, old in zip(own, before, strict=True) if torch.equal(p, old) and _varies(p)]
        for p in left:
            p.copy_(p.mean() + p.std(correction=0) * torch.randn_like(p))
    return not left


def _varies(p: Tensor) -> bool:
    return p.numel() > 1 and bool((p != p.flatten()[0]).any())


def _tried(reset: object) -> None:
    assert callable(reset)
    try:
        reset()
    except (TypeError, RuntimeError, AttributeError, ValueError):
        return  # an initialiser that wants arguments, or that a parametrisation has cut off: the noise below takes over


def _from_the_output(model: Model, x: Batch) -> list[str]:
    """Modules that hold parameters themselves, the last one that a forward enters first."""
    met: dict[str, int] = {}
    for k, operation in enumerate(model.census(x)):
        met.setdefault(operation.site.partition("#")[0], k)
    held: list[tuple[int, int, str]] = []
    place = -1
    for path, module in model.module.named_modules():
        if any(p is not None for p in module._parameters.values()):
            # A module that no operation is in (a projection read by its parent) goes with the one registered before it.
            place = met.get(path, place)
            held.append((place, len(held), path))
    return [path for _, _, path in sorted(held, reverse=True)]
