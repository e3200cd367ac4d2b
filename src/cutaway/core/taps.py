"""Hooks that read, change and cut a forward at named places."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.core.batch import replaced, select
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.site import Site

Edit = Tensor | float | Callable[[Tensor], Tensor]


class Stop(BaseException):
    """Everything that was wanted has been seen. Not an Exception: a network that catches those must not catch this."""


class Taps:
    """Read and edit module outputs during one forward.

    Use as a context around the forward; afterwards `found` holds what was read.

    Args:
        root: The network.
        read: Whole places to read.
        edits: Places with their new values, applied in order.
        leaf: Whole place where the graph is cut, so that a gradient can be taken there.
        rows: Number of inputs in this forward.
        stop: Calls that each module is known to make; None runs to the end.
        arrived: Called when the first edited place is reached, before the edit.
    """

    def __init__(
        self,
        root: nn.Module,
        *,
        read: Sequence[Site],
        edits: Mapping[Site, Edit],
        leaf: Site | None,
        rows: int,
        stop: Mapping[str, int] | None,
        arrived: Callable[[Site, Tensor], None] | None = None,
    ) -> None:
        self.found: dict[Site, Tensor] = {}
        self.calls: Counter[str] = Counter()
        self._root = root
        self._read = list(read)
        self._edits = dict(edits)
        self._leaf = leaf
        self._rows = rows
        self._stop = stop
        self._arrived = arrived
        self._handles: list[Any] = []
        self.sites = list(dict.fromkeys([*self._read, *(s.whole for s in self._edits), *([leaf] if leaf else [])]))

    def __enter__(self) -> "Taps":
        """Register one hook on each module that is named."""
        for path in dict.fromkeys(site.module for site in self.sites):
            module = self._root.get_submodule(path)
            self._handles.append(module.register_forward_hook(self._hook(path)))
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, path: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            call = self.calls[path]
            self.calls[path] += 1
            for site in self.sites:
                if site.module == path and site.call in (None, call):
                    output = self._visit(site, module, output)
            if self._complete():
                raise Stop
            return output

        return hook

    def _visit(self, site: Site, module: nn.Module, output: Any) -> Any:
        raw = select(output, site.part, str(site))
        # The whole network is asked only where the first axis does not count the inputs.
        second = raw.shape[:1] != (self._rows,) and batch_second(self._root)
        axis = batch_axis(module, site, raw, self._rows, second)
        tensor = raw.movedim(axis, 0)
        if self._arrived is not None and any(edited.whole == site for edited in self._edits):
            self._arrived(site, tensor)
        new = tensor
        for edited, edit in self._edits.items():
            if edited.whole == site:
                new = apply_edit(new, edited, edit, module)
        if site == self._leaf:
            new = new.detach().requires_grad_()
        if site in self._read or site == self._leaf:
            self.found[site] = new
        if new is tensor and site not in self._read:
            return output
        # Clone: an in-place operation that follows would overwrite what is returned to the reader, or a leaf.
        return replaced(output, site.part, (new.clone() if site in self.found else new).movedim(0, axis))

    def _complete(self) -> bool:
        """True if nothing more is wanted: each place was seen as often as it can be."""
        if self._stop is None:
            return False
        seen, known = self.calls, self._stop
        return all(
            seen[s.module] > s.call if s.call is not None else seen[s.module] == known.get(s.module) == 1
            for s in self.sites
        )

    def check(self) -> None:
        """After a forward that ran to the end: was each named place there, once?

        Raises:
            NotPossible: A module did not run.
            BadOption: A module ran several times and the site does not say which call, or names one that was not made.
        """
        for site in self.sites:
            calls = self.calls[site.module]
            if calls == 0:
                raise NotPossible(
                    f"layer {site.module!r} did not run on this input; choose another, or an input that reaches it."
                )
            if site.call is not None and site.call >= calls:
                raise BadOption(
                    f"layer {site.module!r} ran {calls} times; expected {site.module}#0 to #{calls - 1}; got {site}."
                )
            if site.call is None and calls > 1:
                choices = ", ".join(f"{site.module}#{k}" for k in range(min(calls, 4)))
                raise BadOption(
                    f"layer {site.module!r} ran {calls} times; say which call: {choices}{' ...' if calls > 4 else ''}."
                )


def batch_second(root: nn.Module) -> bool:
    """True if the batch comes second somewhere in a network."""
    return any(getattr(m, "batch_first", True) is False for m in root.modules())


def batch_axis(module: nn.Module, site: Site, tensor: Tensor, rows: int, second: bool = False) -> int:
    """Which axis of a module's output counts inputs.

    Args:
        second: Somewhere in this network the batch comes second, so it may do so here.

    Raises:
        BadShape: None does.
    """
    choices = [0, 1] if second else [0]
    aside = site.part[:1] == ("1",)
    if isinstance(module, nn.RNNBase):
        choices = [1] if aside or not module.batch_first else [0]  # states are (layers, batch, features) in any case
    elif isinstance(module, nn.MultiheadAttention):
        choices = [0] if aside or module.batch_first else [1]  # attention weights have the batch first in any case
    elif (first := _batch_first_inside(module)) is not None:
        choices = [0] if first else [1]
    for axis in choices:
        if tensor.ndim > axis and tensor.shape[axis] == rows:
            return axis
    axis = choices[0]
    raise BadShape(
        f"expected {rows} inputs along axis {axis} at {site}; got shape {tuple(tensor.shape)}. "
        "Choose a place with a batch axis."
    )


def _batch_first_inside(module: nn.Module) -> bool | None:
    """What a layer, or the attention inside a transformer layer, says about its batch axis."""
    says = (getattr(m, "batch_first", None) for m in module.modules())
    return next((s for s in says if isinstance(s, bool)), None) if not isinstance(module, nn.Sequential) else None


def apply_edit(tensor: Tensor, site: Site, edit: Edit, module: nn.Module | None) -> Tensor:
    """A tensor with the values at a place exchanged.

    Raises:
        BadShape: The new values do not fit there.
    """
    index = site.index(tensor, module)
    old = tensor[index]
    given = edit(old) if callable(edit) and not isinstance(edit, Tensor) else edit
    new = (given if isinstance(given, Tensor) else torch.as_tensor(given)).to(tensor)
    try:
        new = new.expand_as(old)
    except RuntimeError:
        raise BadShape(
            f"expected values of shape {tuple(old.shape)} at {site}; the edit has {tuple(new.shape)}."
        ) from None
    if site.is_whole:
        return new
    changed = tensor.clone()
    changed[index] = new
    return changed
