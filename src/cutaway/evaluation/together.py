"""Several maps under the same test: what they have in common is computed once.

    with together(maps):
        curves = [parameter_randomization(model, x, one) for one in maps]

The first call examines all maps, and the others are answered from it. Every result is what it would be by itself; the
forwards and backwards are counted in the first. Networks with random weights and noisy copies are made once, and maps
that need gradients of the same target on the same input take them from one pass; see `core.shared`.
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import ContextVar
from typing import TypeVar, cast

from cutaway.core.batch import Batch
from cutaway.core.errors import CutawayError
from cutaway.core.fingerprint import fingerprint
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Result
from cutaway.core.shared import shared_passes

Case = TypeVar("Case")
Next = TypeVar("Next")
Found = TypeVar("Found", bound=Result)


class _Group:
    """Maps that are examined together.

    Attributes:
        maps: The maps.
        found: By test, the answer about each map, or why there is none.
    """

    def __init__(self, maps: Sequence[Attribution]) -> None:
        self.maps = maps
        self.found: dict[Hashable, dict[int, Result | CutawayError]] = {}


_group: ContextVar[_Group | None] = ContextVar("group", default=None)


@contextlib.contextmanager
def together(maps: Sequence[Attribution]) -> Iterator[None]:
    """Examine these maps together while this lasts.

    Args:
        maps: Of the same inputs. A list may grow meanwhile: a test takes the maps that are there when it is first
            asked, and the later ones when it is asked about one of them.
    """
    token = _group.set(_Group(maps))
    try:
        yield
    finally:
        _group.reset(token)


def examined(
    attribution: Attribution,
    model: Model,
    x: Batch,
    test: tuple[Hashable, ...],
    begin: Callable[[Attribution], Case],
    examine: Callable[[list[Case | CutawayError]], list[Found | CutawayError]],
) -> Found:
    """The evidence about one map, found for it alone, or for all maps that it is together with.

    Args:
        attribution: The map.
        model, x: What it explains.
        test: The name of the test and its options.
        begin: A map as a case, or its refusal.
        examine: The test of several cases: for each what was found, or why nothing; see `each`.

    Raises:
        CutawayError: There is no evidence about this map; the other maps have theirs all the same.
    """
    group = _group.get()
    if group is None or not any(one is attribution for one in group.maps):
        group = _Group([attribution])
    known = group.found.setdefault((model, model.fingerprint, fingerprint(x), *test), {})
    if id(attribution) not in known:
        new = [one for one in group.maps if id(one) not in known]
        with shared_passes():
            cases = each(new, begin)
            refused = [case for case in cases if isinstance(case, CutawayError)]
            found = examine(cases) if len(refused) < len(cases) else refused
        known.update(zip(map(id, new), found, strict=True))
    answer = known[id(attribution)]
    if isinstance(answer, CutawayError):
        raise answer
    return cast(Found, answer)


def each(cases: Sequence[Case | CutawayError], act: Callable[[Case], Next]) -> list[Next | CutawayError]:
    """What `act` makes of each case, or its refusal: what ends one case must not end the others."""
    return [case if isinstance(case, CutawayError) else _attempted(act, case) for case in cases]


def _attempted(act: Callable[[Case], Next], case: Case) -> Next | CutawayError:
    try:
        return act(case)
    except CutawayError as refusal:
        return refusal
