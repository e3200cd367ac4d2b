"""Borrow a network, do not own it: whatever happens inside, it comes back as it was."""

import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutaway.core.batch import packed
from cutaway.core.errors import NotPossible


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
        for device in {"cpu", *(p.device.type for _, p, *_ in before.parameters)}:
            switches.enter_context(torch.autocast(device, enabled=False))
        switches.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            if any(part.training for part, _ in before.attributes):
                module.eval()
            for part, attributes in before.attributes:
                if attributes.get("_compiled_call_impl") is not None:
                    part._compiled_call_impl = None  # hooks and modes do not reach into compiled code
            for _, parameter, required, *_ in before.parameters:
                if required and not parameter.is_inference():
                    parameter.requires_grad_(False)
            yield
        finally:
            before.restore()
        before.verify()


def _version(p: nn.Parameter) -> int:
    return 0 if p.is_inference() else p._version  # made in inference mode: there is no counter


_CONTAINERS = (dict, list, set, OrderedDict, defaultdict, Counter, deque)


class _Snapshot:
    """What a forward or a method might change."""

    def __init__(self, module: nn.Module) -> None:
        modules = list(module.named_modules())
        self.attributes = [(m, m.__dict__.copy()) for _, m in modules]
        held = [value for _, attributes in self.attributes for value in attributes.values()]
        # Hooks, submodules and a user's own caches live in such containers.
        self.containers: list[Any] = [(v, v.copy() if v else ()) for v in held if type(v) in _CONTAINERS]
        self.tensors = [t for t in held if isinstance(t, Tensor)]
        self.tensors += [b for _, m in modules for b in m._buffers.values() if b is not None]
        self.values = packed(self.tensors)
        self.parameters = [
            (f"{path}.{name}", p, p.requires_grad, p.grad, _version(p))
            for path, m in modules
            for name, p in m._parameters.items()
            if p is not None
        ]
        self.random: list[Any] = [torch.get_rng_state(), np.random.get_state(), random.getstate()]  # noqa: NPY002 the caller's legacy state is what must survive
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]  # torch has no annotation here

    def restore(self) -> None:
        """Put everything back."""
        for module, attributes in self.attributes:
            now = module.__dict__
            for name in now.keys() - attributes.keys():
                del now[name]
            now.update(attributes)
        for container, contents in self.containers:
            if not container and not contents:
                continue
            container.clear()
            (container.extend if isinstance(container, list | deque) else container.update)(contents)
        for _, p, required, grad, _ in self.parameters:
            if p.requires_grad != required and not p.is_inference():  # whose flag is fixed
                p.requires_grad_(required)
            if p.grad is not grad:
                p.grad = grad
        for kind, now in packed(self.tensors).items():
            if not torch.equal(now, self.values[kind]):  # and not by their versions, which `.data` goes around
                self._put_back([t for t in self.tensors if (t.device, t.dtype) == kind], self.values[kind])
        torch.set_rng_state(self.random[0])
        np.random.set_state(self.random[1])  # noqa: NPY002 the legacy state, as above
        random.setstate(self.random[2])
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)

    @staticmethod
    def _put_back(tensors: list[Tensor], values: Tensor) -> None:
        with torch.no_grad():
            for tensor, was in zip(tensors, torch.split(values, [t.numel() for t in tensors]), strict=True):
                if not torch.equal(tensor.reshape(-1), was):
                    tensor.copy_(was.view_as(tensor))

    def verify(self) -> None:
        """Refuse to go on with a network that was changed for good."""
        for name, p, _, _, version in self.parameters:
            if _version(p) != version:
                raise NotPossible(
                    f"the forward of this network writes into its parameter {name!r}, which cannot be undone; "
                    "make it a buffer."
                )
