"""Borrow a network, do not own it: whatever happens inside, it comes back as it was."""

import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, compress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutaway.core.batch import flattened, packed
from cutaway.core.errors import NotPossible
from cutaway.core.parts import buffers, parameters, parts


@contextmanager
def borrowed(module: nn.Module) -> Iterator[None]:
    """Evaluate in eval mode with frozen parameters, then restore everything, also after an error or an interrupt.

    Restored: training flags, `requires_grad`, buffers, attributes that a forward sets or fills (hooks, lists and plain
    tensors too), the random state of torch, NumPy and Python, and torch's switches. Inside, autograd works even if the
    caller is in `no_grad` or `inference_mode`; autocast, compiled calls and the fused encoder path, which hides its
    operations, are off.

    Raises:
        NotPossible: A forward wrote into a parameter, which cannot be undone.
    """
    with ExitStack() as switches:
        switches.enter_context(torch.inference_mode(False))
        before = _Snapshot(module)
        switches.enter_context(torch.enable_grad())
        for device in {"cpu", *(d.type for d in {p.device for p in before.parameters})}:
            switches.enter_context(torch.autocast(device, enabled=False))
        switches.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            if any(part.training for part, _ in before.attributes):
                module.eval()
            for part, attributes in before.attributes:
                if attributes.get("_compiled_call_impl") is not None:
                    part._compiled_call_impl = None  # hooks and modes do not reach into compiled code
            for parameter in compress(before.parameters, before.required):
                if not parameter.is_inference():
                    parameter.requires_grad_(False)
            yield
        finally:
            before.restore()
        before.verify()


_CONTAINERS = frozenset({dict, list, set, OrderedDict, defaultdict, Counter, deque})


class _Kept(dict[type, bool]):
    """Whether the values of an attribute of this type can change in place, and must be kept."""

    def __missing__(self, kind: type) -> bool:
        self[kind] = kind in _CONTAINERS or issubclass(kind, Tensor)
        return self[kind]


_kept = _Kept()


class _Snapshot:
    """What a forward or a method might change.

    A network has thousands of attributes, and this happens at every call: so all of them are gone through once, by
    loops in C, and in columns.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        modules = parts(module)
        self.attributes = [(m, m.__dict__.copy()) for m in modules]
        values = list(chain.from_iterable(attributes.values() for _, attributes in self.attributes))
        kept = list(compress(values, map(_kept.__getitem__, map(type, values))))
        # Hooks, submodules and a user's own caches live in such containers; most are empty.
        self.containers: list[Any] = [v for v in kept if type(v) in _CONTAINERS]
        self.contents = [(c, c.copy()) for c in self.containers if c]
        self.tensors = [v for v in kept if isinstance(v, Tensor)] if len(kept) > len(self.containers) else []
        self.tensors += buffers(modules)
        self.flat = flattened(self.tensors)
        self.values = packed(self.flat)
        self.pointers = [t.data_ptr() for t in self.tensors]
        self.are_views = all(t.is_contiguous() for t in self.tensors)
        self.parameters = parameters(modules)
        self.required = [p.requires_grad for p in self.parameters]
        self.grads = [p.grad for p in self.parameters]
        self.versions = _versions(self.parameters)
        self.random: list[Any] = [torch.get_rng_state(), np.random.get_state(), random.getstate()]  # noqa: NPY002 the caller's legacy state is what must survive
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]  # torch has no annotation here

    def restore(self) -> None:
        """Put everything back."""
        for module, attributes in self.attributes:
            now = module.__dict__
            now.update(attributes)
            if len(now) > len(attributes):
                for name in now.keys() - attributes.keys():
                    del now[name]
        self._refill()
        if [p.requires_grad for p in self.parameters] != self.required:
            for p, required in zip(self.parameters, self.required, strict=True):
                if not p.is_inference():  # whose flag is fixed
                    p.requires_grad_(required)
        for p, found, grad in zip(self.parameters, [p.grad for p in self.parameters], self.grads, strict=True):
            if found is not grad:
                p.grad = grad
        if not self._hold_their_values():
            for kind, values in self.values.items():
                self._put_back([t for t in self.tensors if (t.device, t.dtype) == kind], values)
        torch.set_rng_state(self.random[0])
        np.random.set_state(self.random[1])  # noqa: NPY002 the legacy state, as above
        random.setstate(self.random[2])
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)

    def _refill(self) -> None:
        """Empty all containers, and fill those again that were full: so the order inside is what it was."""
        for container in filter(None, self.containers):
            container.clear()
        for container, contents in self.contents:
            container.clear()  # again: two modules may hold the same one
            (container.extend if isinstance(container, list | deque) else container.update)(contents)

    def _hold_their_values(self) -> bool:
        """Are buffers and plain tensors what they were? Not told by their versions, which `.data` goes around."""
        same = self.are_views and self.pointers == [t.data_ptr() for t in self.tensors]
        now = packed(self.flat if same else flattened(self.tensors))
        return all(torch.equal(now[kind], values) for kind, values in self.values.items())

    @staticmethod
    def _put_back(tensors: list[Tensor], values: Tensor) -> None:
        with torch.no_grad():
            for tensor, was in zip(tensors, torch.split(values, [t.numel() for t in tensors]), strict=True):
                if not torch.equal(tensor.reshape(-1), was):
                    tensor.copy_(was.view_as(tensor))

    def verify(self) -> None:
        """Refuse to go on with a network that was changed for good."""
        for p, version, now in zip(self.parameters, self.versions, _versions(self.parameters), strict=True):
            if version != now:
                name = next(name for name, other in self.module.named_parameters() if other is p)
                raise NotPossible(
                    f"the forward of this network writes into its parameter {name!r}, which cannot be undone; "
                    "make it a buffer."
                )


def _versions(parameters: list[nn.Parameter]) -> list[int]:
    return [0 if p.is_inference() else p._version for p in parameters]  # made in inference mode: there is no counter
