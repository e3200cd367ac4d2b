"""Where relevance begins: what a target says of the tensors that it reads."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cutaway.attribution.relevance.ledger import Ledger
from cutaway.attribution.relevance.weights import total
from cutaway.core.target import Target
from cutaway.core.trace import Trace


@dataclass(frozen=True)
class Beginning(Target):
    """A target that writes down how much relevance begins: the sum of value times slope at what it reads.

    Attributes:
        target: The target itself.
        ledger: Where to write.
        whole: Begin with relevance itself, as against relevance for each unit.
    """

    target: Any = None
    ledger: Any = None
    whole: bool = False

    def take(self, rows: slice) -> "Beginning":
        """The target of some inputs."""
        return beginning(self.target.take(rows), self.ledger, self.whole)


def beginning(target: Target, ledger: Ledger, whole: bool) -> Beginning:
    """A target with its books kept."""

    def value(trace: Trace) -> Tensor:
        score, leaves = target(trace), trace.as_leaves()
        read = list(dict.fromkeys(site.whole for site in target.sites))
        told = target(leaves)
        if not told.requires_grad:
            return score
        slopes = torch.autograd.grad(told.sum(), [leaves[site] for site in read], allow_unused=True)
        relevance = {site: s * trace[site].detach() for site, s in zip(read, slopes, strict=True) if s is not None}
        ledger.begin(sum(total(r) for r in relevance.values()))
        if not whole:
            return score
        below = torch.stack([(r * trace[site]).reshape(len(r), -1).sum(1) for site, r in relevance.items()]).sum(0)
        return score.detach() + below - below.detach()

    fields = {name: getattr(target, name) for name in ("text", "sites", "classes")}
    return Beginning(**fields, value=value, target=target, ledger=ledger, whole=whole)
