"""One run of a network on a decomposed input; see `core.decomposed.tensor`."""

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.core.batch import Batch, repeat, select
from cutaway.core.decomposed.rules import answer
from cutaway.core.decomposed.tensor import Book, Decomposed, Gap, How, of_groups
from cutaway.core.errors import NotPossible
from cutaway.core.operations import Places
from cutaway.core.runner import Runner
from cutaway.core.site import INPUT, OUTPUT, Site
from cutaway.core.taps import Stop
from cutaway.core.trace import Trace


class Parts(NamedTuple):
    """What comes from each group of entries, and what does not, at the places that were read.

    Attributes:
        part: Activations that come from the group; one row for each.
        rest: The others. At every place, part + rest is what the network computes.
        whole: What the network computes.
        gap: How far part + rest is from it at the worst place.
    """

    part: Trace
    rest: Trace
    whole: Trace
    gap: Gap


def decomposed_run(
    runner: Runner, row: Batch, masks: Tensor, wanted: Sequence[Site], how: How, wrt: Site = INPUT
) -> tuple[dict[Site, Decomposed], Gap]:
    """One forward for several groups of one input.

    Args:
        runner: Of the network.
        row: One input.
        masks: Which entries each group has, as `Model.decomposed` takes them.
        wanted: Places to read.
        how: Choices between published rules.
        wrt: Where the groups' entries are.

    Raises:
        NotPossible: An operation has no rule, or a place does not depend on the input through operations that have one.
    """
    runner.check_hookable()
    count, at = len(masks), runner.resolved(wrt)
    book = Book(answer, Places(runner.module), how)
    split = partial(of_groups, masks=masks.to(next(runner.module.parameters(), masks).device), book=book)
    reads = {site: runner.resolved(site) for site in wanted if site != OUTPUT}
    if INPUT in reads.values():
        raise NotPossible("the input itself is not decomposed; read a layer or the output.")
    stop = runner.calls if OUTPUT not in wanted else None
    taps = runner.taps(list(reads.values()), {} if at == INPUT else {at: split}, None, count, stop=stop)
    # The part and the rest of each group; the value is computed once.
    runner.spent["forwards"] += 2 * count + 1
    output = None
    with torch.no_grad(), taps, contextlib.suppress(Stop):
        args, kwargs = runner.arguments(repeat(row, count))
        if at == INPUT:
            first = next(iter(kwargs), None)
            args = tuple(split(t) for t in args)
            kwargs = {name: split(t) if name == first else t for name, t in kwargs.items()}
        output = runner.module(*args, **kwargs)
        taps.check()
        runner.calls.update(taps.calls)
    found = {site: taps.found[place] for site, place in reads.items()}
    if OUTPUT in wanted:
        found[OUTPUT] = select(output, runner.output, runner.name)
    return {site: _still_decomposed(site, value, runner) for site, value in found.items()}, book.gap


def _still_decomposed(site: Site, value: Tensor, runner: Runner) -> Decomposed:
    if isinstance(value, Decomposed):
        return value
    raise NotPossible(
        f"{site} of {runner.name} is not decomposed: it does not depend on the input, or only through a decision such "
        "as a softmax or a comparison. Choose scores before the softmax, or another place."
    )
