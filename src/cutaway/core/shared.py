"""One pass for all that ask for the same: gradients of one target on one input, at whatever places.

    with shared_passes():
        maps = [gradient(model, x, target), grad_cam(model, x, target), layer_cam(model, x, target)]

Off unless asked for. Inside, `Model.gradient` without edits, rules and a prefix looks whether an earlier call took the
same pass. Which places are wanted is learned from the first input: for the next ones, and for the next weights, the
first call asks for all of them, in one forward and one backward, and the other calls are answered from it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from cutaway.core.batch import Batch, size
from cutaway.core.errors import CutawayError
from cutaway.core.fingerprint import fingerprint
from cutaway.core.site import Site
from cutaway.core.target import Target

if TYPE_CHECKING:
    from cutaway.core.model import Model
    from cutaway.core.slopes import Gradient

# Passes that are kept: that of the input, and that of one of its rows, with which a method may look for its layer.
_KEPT = 2


class _Pass(NamedTuple):
    """What one pass depends on, and what it gave.

    Attributes:
        model: Its network, space and names; `weights` tells whether these are still the same.
        weights, x: Fingerprints.
        target: Its text.
        found: By place.
    """

    model: Model
    weights: str
    x: str
    target: str
    found: dict[Site, Gradient]


class Passes:
    """The last passes, and which places were wanted of any so far."""

    def __init__(self) -> None:
        """Nothing asked so far."""
        self._kept: list[_Pass] = []
        self._wanted: list[Site] = []
        self._apart = False

    def gradient(self, model: Model, x: Any, target: Target, site: Site) -> Gradient:
        """As `Model.gradient`, from a pass that was made already, or from one that also serves those who ask next."""
        batch = model.inputs(x)
        if not size(batch) or not model.is_steady(batch) or not _says_all(target, model):
            return model.gradients(batch, target, wrt=[site])[0]
        known = self._of(model, batch, target).found
        if site not in known:
            others = [other for other in self._wanted if other not in known and other != site]
            known |= self._taken(model, batch, target, [site, *others])
        if site not in self._wanted:
            self._wanted.append(site)
        # Copies: whoever asked may write into what it gets.
        return type(known[site])(*(tensor.clone() for tensor in known[site]))

    def _of(self, model: Model, batch: Batch, target: Target) -> _Pass:
        """The pass for these weights, this input and this target: an earlier one, or one that knows nothing yet."""
        about = (model.fingerprint, fingerprint(batch), target.text)
        for one in self._kept:
            if one.model is model and one[1:4] == about:
                return one
        self._kept = [*self._kept[1 - _KEPT :], _Pass(model, *about, {})]
        return self._kept[-1]

    def _taken(self, model: Model, batch: Batch, target: Target, sites: list[Site]) -> dict[Site, Gradient]:
        """Gradients at all these places; at the first alone where they cannot be had together."""
        if len(sites) > 1 and not self._apart:
            try:
                return dict(zip(sites, model.gradients(batch, target, wrt=sites), strict=True))
            except CutawayError:
                alone = self._taken(model, batch, target, sites[:1])
                self._apart = True  # it was the places: at one of them alone there is a gradient
                return alone
        return {sites[0]: model.gradients(batch, target, wrt=sites[:1])[0]}


def _says_all(target: Target, model: Model) -> bool:
    """Is the text of this target all there is to it? Then another target of that text is the same one."""
    try:
        return Target.of(target.text, model).text == target.text
    except CutawayError:
        return False


_passes: ContextVar[Passes | None] = ContextVar("passes", default=None)


def current() -> Passes | None:
    """The passes that are shared now; None where they are not."""
    return _passes.get()


@contextlib.contextmanager
def shared_passes() -> Iterator[None]:
    """Share passes while this lasts; inside another such context, with that one."""
    if _passes.get() is not None:
        yield
        return
    token = _passes.set(Passes())
    try:
        yield
    finally:
        _passes.reset(token)
