"""Jobs: a work, a network and a data set that is cut into shards."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

import cutaway
from cutaway.core.batch import Batch
from cutaway.core.dataset import Dataset, Examples, first
from cutaway.core.errors import NotPossible
from cutaway.core.fingerprint import as_text, fingerprint
from cutaway.core.model import Model
from cutaway.engine.part import Part
from cutaway.engine.state import State, States

# Examples in memory at once, decoded.
BATCH = 32
# Examples in a shard: ten seconds of work or more for an ImageNet network on one core.
SHARD = 256


class Work(Protocol):
    """What a method does with a data set: a frozen dataclass, whose fields are all that it depends on."""

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Empty states.

        Args:
            model: The network.
            data: The whole set.
            examples: How many of them these states will see.
        """

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Take a batch in.

        Args:
            states: As `begin` made them; they are changed.
            model: The network.
            x: The examples as the network takes them.
            part: The examples with what is known about them.
            ids: The number of each in the whole set, (n,).
        """


@runtime_checkable
class OnDisk(Protocol):
    """A data set whose files somebody may change while they are looked at."""

    def stamp(self, index: slice, /) -> str:
        """A text that changes when one of these files does."""


@dataclass(frozen=True)
class Job:
    """One work on one model and one data set.

    Attributes:
        work: What to do.
        model: The network.
        data: The set.
        shard: Examples in a shard.
    """

    work: Work
    model: Model
    data: Dataset
    shard: int = SHARD

    @cached_property
    def weights(self) -> str:
        """The hash of the weights when the job began."""
        return self.model.fingerprint

    @cached_property
    def parameters(self) -> str:
        """The hash of the parameters alone when the job began; a forward may count in a buffer, put back at the end."""
        return self._parameters()

    @cached_property
    def stamps(self) -> list[str]:
        """What would change if the files of a shard did, for each shard, when the job began."""
        return [self._stamp(shard) for shard in self.shards]

    @cached_property
    def id(self) -> str:
        """A hash of everything that the answer depends on."""
        values = {f.name: getattr(self.work, f.name) for f in dataclasses.fields(self.work)}  # type: ignore[arg-type]  # a dataclass
        about = {
            "work": f"{type(self.work).__module__}.{type(self.work).__qualname__}",
            "options": {name: _hashed(value) for name, value in values.items()},
            "model": self.weights,
            "space": repr(self.model.space),
            "data": self.data.fingerprint,
            "shard": self.shard,
            "cutaway": cutaway.__version__,
            "torch": str(torch.__version__),
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def shards(self) -> list[range]:
        """The manifest: which examples belong together."""
        n = len(self.data)
        return [range(start, min(start + self.shard, n)) for start in range(0, n, self.shard)]

    def do(self, index: int) -> Part:
        """Look at one shard.

        Raises:
            NotPossible: The weights are not those that the job began with.
        """
        shard = self.shards[index]
        before = Counter(self.model.spent)
        states = self.work.begin(self.model, self.data, len(shard))
        seen, notes = self.take_in(states, index)
        return Part(
            job=self.id,
            index=index,
            start=shard.start,
            stop=shard.stop,
            weights=self.weights,
            seen=seen,
            notes=tuple(notes),
            spent=dict(Counter(self.model.spent) - before),
            states=states,
            device=str(self.model.device),
        )

    def take_in(self, states: States, index: int) -> tuple[int, list[str]]:
        """Bring a shard into states; how many examples there were, and what was said about their files.

        Raises:
            NotPossible: The weights, or the files, are not those that the job began with.
        """
        shard, seen, notes = self.shards[index], 0, list[str]()
        with self.model.borrow():
            self._get_ready()
            for start in range(shard.start, shard.stop, BATCH):
                part = self.data[start : min(start + BATCH, shard.stop)]
                notes += part.notes
                if len(part):
                    ids = torch.arange(start, start + len(part)) if part.ids is None else part.ids
                    self.work.update(states, self.model, self.model.inputs(part), part, ids)
                seen += len(part)
        if self._parameters() != self.parameters:
            raise NotPossible(
                f"the weights of {self.model.name} changed while shard {index} was looked at; leave the network alone "
                "while a job runs, and start it again."
            )
        if self._stamp(shard) != self.stamps[index]:
            raise NotPossible(
                f"files of {self.data.source} (examples {shard.start}-{shard.stop - 1}) changed since the job began; "
                "start it again when they stay as they are."
            )
        return seen, notes

    def _get_ready(self) -> None:
        """Learn how the network runs fast, from the same example in every process, so that all run it alike."""
        if len(row := first(self.data)):
            self.model.is_steady(self.model.inputs(row))
        assert self.model.fingerprint  # known from here on

    def _parameters(self) -> str:
        return fingerprint({name: p.detach() for name, p in self.model.module.named_parameters()})

    def _stamp(self, shard: range) -> str:
        data = self.data
        return data.stamp(slice(shard.start, shard.stop)) if isinstance(data, OnDisk) else ""


def _hashed(value: Any) -> Any:
    """A field of a work as text; tensors by their content."""
    if isinstance(value, Tensor):
        return fingerprint(value)
    if isinstance(value, Mapping):
        return {str(k): _hashed(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_hashed(v) for v in value]
    return as_text(value)
