"""Borrow a network, do not own it: whatever happens inside, it comes back as it was."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from cutaway.core.errors import NotPossible


@contextmanager
def borrowed(module: nn.Module) -> Iterator[None]:
    """Evaluate in eval mode with frozen parameters, then restore everything, also after an error or an interrupt.

    Restored: training flags, `requires_grad`, buffers, attributes that a forward sets, the random state of torch, NumPy and
    Python, and torch's switches. Inside, autograd works even if the caller is in `no_grad` or `inference_mode`, autocast is
    off, and the fused encoder path, which hides its operations, is off.

    Raises:
        NotPossible: A forward wrote into a parameter, which cannot be undone.
    """
    before = _Snapshot(module)
    with ExitStack() as switches:
        switches.enter_context(torch.inference_mode(False))
        switches.enter_context(torch.enable_grad())
        for device in {"cpu", *(p.device.type for p in module.parameters())}:
            switches.enter_context(torch.autocast(device, enabled=False))
        switches.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)
            yield
        finally:
            before.restore()
        before.verify()


class _Snapshot:
    """What a forward or a method might change."""

    def __init__(self, module: nn.Module) -> None:
        self.attributes = [(m, dict(m.__dict__)) for m in module.modules()]
        self.parameters = [(name, p, p.requires_grad, p.grad, p._version) for name, p in module.named_parameters()]
        self.buffers = [
            (m, name, b, b._version, b.detach().clone())
            for m in module.modules()
            for name, b in m._buffers.items()
            if b is not None
        ]
        self.random: list[Any] = [torch.get_rng_state(), np.random.get_state(), random.getstate()]  # noqa: NPY002 the caller's legacy state is what must survive
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore(self) -> None:
        """Put everything back."""
        for module, attributes in self.attributes:
            for name in set(module.__dict__) - set(attributes):
                del module.__dict__[name]
            module.__dict__.update(attributes)
        for _, p, required, grad, _ in self.parameters:
            p.requires_grad_(required)
            p.grad = grad
        for module, name, buffer, version, values in self.buffers:
            module._buffers[name] = buffer
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(values)
        torch.set_rng_state(self.random[0])
        np.random.set_state(self.random[1])  # noqa: NPY002 see above
        random.setstate(self.random[2])
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)

    def verify(self) -> None:
        """Refuse to go on with a network that was changed for good."""
        for name, p, _, _, version in self.parameters:
            if p._version != version:
                raise NotPossible(
                    f"the forward of this network writes into its parameter {name!r}, which cannot be undone; make it a buffer."
                )

