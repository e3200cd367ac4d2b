"""What was taken away one after the other, and what to say of the rest where the time was short."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.core.budget import cut_short
from cutaway.core.checks import Check


class Taken(NamedTuple):
    """By how much the target fell without each of several things, and which of these there was time for."""

    falls: Tensor
    asked: Tensor

    @property
    def known(self) -> Tensor:
        """The falls that there was time for."""
        return self.falls[self.asked]

    @property
    def every(self) -> Tensor:
        """All falls; of those that there was no time for, the mean of the others."""
        return torch.where(self.asked, self.falls, self.known.mean())


def left_out(taken: Sequence[Taken], noun: str) -> dict[str, Check]:
    """The check of pieces or parts that there was no time for, by input."""
    known = [one.known for one in taken]
    done, wanted = [len(one) for one in known], [len(one.falls) for one in taken]
    if done == wanted:
        return {}
    least = min(taken, key=lambda one: len(one.known) / len(one.falls)).known
    then = (
        f"They were taken in random order; the others stand at the mean of these, {float(least.mean()):.3g}, around "
        f"which single ones spread with a standard deviation of {float(least.std()):.2g}."
    )
    return cut_short(done, wanted, noun, then)
