"""What is known about fusing one network: its chains, and when they do not hold."""

import contextlib

import torch
from torch import nn

from cutaway.core.fingerprint import StateHash
from cutaway.core.fused.chain import Chain
from cutaway.core.fused.learn import Learner
from cutaway.core.fused.run import Hooked, Run


class Fusion:
    """The chains of one network, folded from the weights that it has now.

    Args:
        module: The network.
        state: A hash of its weights.
    """

    def __init__(self, module: nn.Module, state: StateHash) -> None:
        self._module = module
        self._state = state
        self._chains: dict[int, Chain] = {}
        self._folded: tuple[str, torch.memory_format] | None = None
        self._modules: list[tuple[str, nn.Module]] = []
        self._unfit: set[Hooked] = set()

    def learner(self) -> Learner:
        """A watch for one ordinary forward, to be handed to `learn` afterwards."""
        return Learner(self._module)

    def learn(self, learner: Learner) -> None:
        """Take the chains that were seen, on a machine and for weights that have the kernel."""
        tensors = [*self._module.parameters(), *self._module.buffers()]
        fits = all(t.is_cpu and t.dtype in (torch.float, torch.long) for t in tensors)
        self._chains = learner.chains() if fits and _has_kernel() else {}
        self._modules = list(self._module.named_modules())

    def run(self, channels_last: bool, many: bool) -> contextlib.AbstractContextManager[object]:
        """A context in which a forward runs fused, as far as nobody looks at what is in between.

        Args:
            channels_last: Are images laid out so?
            many: Are there so many rows that it pays to hash the weights, if no method has done so already?
        """
        if not self._chains or not (many or self._state.is_known):
            return contextlib.nullcontext()
        if not torch.backends.mkldnn.enabled or is_watched():
            return contextlib.nullcontext()
        hooked = _hooked(self._modules)
        if hooked in self._unfit:
            return contextlib.nullcontext()
        layout = torch.channels_last if channels_last else torch.contiguous_format
        now = self._state.value(), layout
        if now != self._folded:
            for chain in self._chains.values():
                chain.fold(layout)
            self._folded = now
        return Run(self._fitting(hooked), hooked)

    def does_not_fit(self, hooked: Hooked) -> None:
        """With hooks at these modules, the network is run as it is from now on."""
        self._unfit.add(hooked)

    def _fitting(self, hooked: Hooked) -> dict[int, Chain]:
        def shows(chain: Chain) -> bool:
            return any(map(chain.leaves, hooked.outputs)) or any(map(chain.enters, hooked.inputs))

        return {weight: chain for weight, chain in self._chains.items() if not shows(chain)}


def _hooked(modules: list[tuple[str, nn.Module]]) -> Hooked:
    """Where hooks are: those of a run that reads or changes a place, and others'."""
    outputs = tuple(path for path, module in modules if module._forward_hooks)
    return Hooked(outputs, tuple(path for path, module in modules if module._forward_pre_hooks))


def is_watched() -> bool:
    """Does somebody look at the operations? They would miss those that are fused."""
    hooks = torch.nn.modules.module
    everywhere = hooks._global_forward_hooks or hooks._global_forward_pre_hooks
    return bool(everywhere or torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack())


def _has_kernel() -> bool:
    kernels = ("_convolution_pointwise", "_reorder_convolution_weight")
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch has no annotation here
    return there and all(hasattr(torch.ops.mkldnn, name) for name in kernels)
