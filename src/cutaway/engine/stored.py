"""Activations of a whole data set on disk, for methods that cannot do with a state: read back by slices.

They are a job like any other, whose states are the rows themselves; each shard's file is written whole or not at all
and named by its content, so a set that was cut off is gone on with, and a damaged file is done again. Nothing is
merged: a slice is read from the files that hold it, and never more than that is in memory.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import safetensors
import torch
from torch import Tensor

from cutaway.core import atomic
from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset, Examples, first
from cutaway.core.errors import BadShape, NotPossible, unknown_name
from cutaway.core.model import Model
from cutaway.core.site import Site
from cutaway.engine.execution import Execution, execution
from cutaway.engine.folder import JobFolder, Kept
from cutaway.engine.job import begun, finished
from cutaway.engine.state import Int, State, States
from cutaway.engine.work import SHARD, Job


@dataclass
class Rows(State):
    """What was kept of each example, as it is.

    Attributes:
        ids: (n,) the examples' numbers, rising.
        values: (n, ...).
    """

    shrinks: ClassVar[bool] = False
    ids: Tensor
    values: Tensor

    @classmethod
    def empty(cls, *shape: int, dtype: torch.dtype = torch.float32) -> Self:
        """Nothing seen of examples of this shape."""
        return cls(torch.zeros(0, dtype=Int), torch.zeros(0, *shape, dtype=dtype))

    def update(self, ids: Tensor, values: Tensor) -> None:
        """Take in examples by number."""
        if values.shape[1:] != self.values.shape[1:] or len(ids) != len(values):
            raise BadShape(
                f"expected activations of shape {tuple(self.values.shape[1:])} for each example; got "
                f"{tuple(values.shape)} for {len(ids)} examples."
            )
        whole = self.merge(type(self)(ids.to("cpu", Int), values.detach().to(self.values)))
        self.ids, self.values = whole.ids, whole.values

    def merge(self, other: Self) -> Self:
        """All of both. An example that both have seen is there once."""
        ids = torch.cat([self.ids, other.ids])
        order = ids.sort(stable=True).indices
        fresh = torch.ones_like(ids, dtype=torch.bool)
        fresh[1:] = ids[order][1:] != ids[order][:-1]
        chosen = order[fresh]
        return type(self)(ids[chosen], torch.cat([self.values, other.values])[chosen])


@dataclass(frozen=True)
class Activations:
    """The work that keeps the activations at some places.

    Attributes:
        sites: The places.
    """

    sites: tuple[str, ...]

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """No rows yet."""
        acts = self._read(model, model.inputs(first(data)))
        return {site: Rows.empty(*act.shape[1:], dtype=act.dtype) for site, act in acts.items()}

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Keep the activations of some examples."""
        for site, act in self._read(model, x).items():
            state = states[site]
            assert isinstance(state, Rows)
            state.update(ids, act)

    def _read(self, model: Model, x: Batch) -> dict[str, Tensor]:
        trace = model.run(x, read=self.sites)
        return {site: trace[Site.of(site)].detach().cpu() for site in self.sites}


class Stored:
    """Activations on disk.

    Attributes:
        sites: The places.
        ids: The numbers of the examples that are there, rising: all, but for files that could not be read.
        checks: What a reader has to know about how they were made.
    """

    def __init__(self, sites: tuple[str, ...], kept: list[Kept], checks: dict[str, Check]) -> None:
        self.sites, self.checks = sites, checks
        self._paths = [k.path for k in kept]
        self._marks = [_mark(path) for path in self._paths]
        numbers = [self._slice(i, f"{sites[0]}/ids", slice(None)) for i in range(len(kept))]
        self._starts = torch.tensor([0, *(len(n) for n in numbers)]).cumsum(0).tolist()
        self.ids = torch.cat(numbers)

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.ids)

    def read(self, site: str, start: int = 0, stop: int | None = None) -> Tensor:
        """The activations of `ids[start:stop]` at a place, (n, ...), in that order.

        Raises:
            UnknownName: Another place.
            NotPossible: A file was changed or removed since this set was opened.
        """
        if site not in self.sites:
            raise unknown_name("stored place", site, self.sites, "Store that place, too.")
        start, stop, _ = slice(start, stop).indices(len(self))
        found = [
            self._slice(i, f"{site}/values", slice(max(start - low, 0), min(stop, high) - low))
            for i, (low, high) in enumerate(zip(self._starts, self._starts[1:], strict=False))
            if low < stop and start < high
        ]
        return torch.cat(found) if found else self._slice(0, f"{site}/values", slice(0, 0))

    def _slice(self, file: int, name: str, part: slice) -> Tensor:
        path = self._paths[file]
        if _mark(path) != self._marks[file]:
            raise NotPossible(f"{path} was changed or removed while it was in use; store the activations again.")
        with safetensors.safe_open(path, framework="pt") as opened:
            return torch.as_tensor(opened.get_slice(name)[part])


def stored(
    model: Model, data: Dataset, sites: Sequence[str | Site], *, label: str = "activations", shard: int = SHARD
) -> Stored:
    """Keep the activations of a data set at some places, where and how `execution` says.

    In its folder they stay, and the next call with the same network, data and places finds them; without a folder they
    go with the object that is returned.

    Args:
        model: The network.
        data: The set.
        sites: Places.
        label: What to call it in the progress.
        shard: Examples in a file.

    Raises:
        BadShape: The data set is empty, or nothing in it could be read.
        NotPossible: A shard cannot be done or kept.
    """
    names, how = tuple(map(str, sites)), execution()
    job = begun(Activations(names), model, data, shard, how)
    if how.folder is not None:
        return _opened(job, how, names, label)
    with atomic.explained("make a temporary folder"):
        folder = tempfile.mkdtemp(prefix="cutaway-")
    try:
        found = _opened(job, replace(how, folder=Path(folder)), names, label)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


def _opened(job: Job, how: Execution, sites: tuple[str, ...], label: str) -> Stored:
    assert how.folder is not None
    data, folder = job.data, JobFolder(how.folder, job.id)
    with folder.at_work():
        kept, checks = finished(job, how, folder, label)
        found = Stored(sites, kept, checks)
    there = sum(len(job.shards[i]) for k in kept for i in range(k.index, k.stop))
    if there < len(data):
        text = f"Partial: {there} of {len(data)} examples ({there / len(data):.0%}) have been looked at."
        checks["coverage"] = Check(text, "warn", there / len(data))
    elif not len(found):
        raise BadShape(f"none of the {len(data)} examples of {data.source or 'the data set'} could be read.")
    elif len(found) < len(data):
        text = f"{len(data) - len(found)} of {len(data)} examples could not be read and were left out."
        checks["data"] = Check(text, "note", float(len(data) - len(found)))
    return found


def _mark(path: Path) -> tuple[int, ...]:
    """What changes when a file does."""
    try:
        about = os.stat(path)  # noqa: PTH116 one call for all three
    except OSError:
        return ()
    return about.st_size, about.st_mtime_ns, about.st_ino
