"""Data sets that are read a slice at a time, for jobs over more examples than fit in memory."""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cutaway.core.dataset import Dataset, Examples
from cutaway.core.errors import BadShape, unknown_name
from cutaway.core.space import Space
from cutaway.data.folder import listing, pictures
from cutaway.data.images import frame
from cutaway.data.sets import DataSet, catalogue

Broken = Literal["stop", "skip"]


@dataclass(frozen=True)
class Named:
    """A data set of the catalogue, or a part of it. Its content is fixed by its name: generated, or checked by hash.

    Attributes:
        entry: The set.
        chosen: Which of its examples.
        space: What the model takes; photos are brought to its size.
        source: The text that named it.
    """

    entry: DataSet
    chosen: range
    space: Space | None
    source: str

    def __len__(self) -> int:
        """How many examples."""
        return len(self.chosen)

    def __getitem__(self, index: slice) -> Examples:
        """Some of them, read now."""
        return self.entry.take(self.chosen[index], self.space)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """What labels point into."""
        return self[0:1].classes

    @property
    def fingerprint(self) -> str:
        """A hash of name and choice."""
        return _hash([self.entry.name, str(self.chosen), repr(self.space)])


@dataclass(frozen=True)
class Folder:
    """The pictures of a folder, or some of them.

    Attributes:
        path: The folder.
        chosen: Which of its files, in the order of their names.
        space: What the model takes.
        source: The text that named it.
        broken: What to do about files that cannot be read.
    """

    path: Path
    chosen: range
    space: Space | None
    source: str
    broken: Broken = "stop"

    def __len__(self) -> int:
        """How many files."""
        return len(self.chosen)

    def __getitem__(self, index: slice) -> Examples:
        """Some of them, read now. Files that were left out leave gaps in `ids`."""
        wanted = self.chosen[index]
        numbers = {self._files[i].as_posix(): place for place, i in zip(range(len(self))[index], wanted, strict=True)}
        try:
            found = pictures(str(self.path), self.space, lambda size: wanted, broken=self.broken)
        except BadShape as fault:
            if self.broken == "stop":
                raise
            channels, height, width = frame(self.space)
            return Examples(x=torch.zeros(0, channels, height, width), names=[], notes=[str(fault)])
        return replace(found, ids=torch.tensor([numbers[name] for name in found.names]))

    @cached_property
    def _files(self) -> list[Path]:
        return listing(self.path)[0]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the sub-folders."""
        return listing(self.path)[1]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files' names, sizes and times of change."""
        return _hash([self.stamp(slice(None)), repr(self.space), self.broken])

    def stamp(self, index: slice) -> str:
        """A hash of the names, sizes and times of change of some of the files, now."""
        return stamp(self.path, (self._files[i].as_posix() for i in self.chosen[index]))


def opened(source: str | Path | Dataset | Tensor, *, space: Space | None = None, broken: Broken = "stop") -> Dataset:
    """A data set by name, or a folder of pictures, read only as far as it is looked at.

    Args:
        source: As `cutaway.data` takes it; what is a data set already, or a tensor, is taken as it is.
        space: The space of the model that will see them.
        broken: Stop at a file that cannot be read, or leave it out and say so.

    Raises:
        UnknownName: No such set or folder.
    """
    from cutaway.data import broden, names, split, which

    if isinstance(source, Tensor):
        return Examples(x=source, names=[str(i) for i in range(len(source))])
    if not isinstance(source, str | Path):
        return source
    source = str(source)
    name, index = split(source)
    if (entry := catalogue().get(name)) is not None:
        return Named(entry, which(index, entry.size, source), space, source)
    if source.startswith(broden.PREFIX):
        return broden.opened(source, space, broken)
    path = Path(name.removeprefix("folder:"))
    if path.is_dir():
        return Folder(path, which(index, len(listing(path)[0]), source), space, source, broken)
    raise unknown_name("data set or folder", source, [known for known, _ in names()], "`cutaway data` lists all.")


def stamp(root: Path, files: Iterable[str]) -> str:
    """A hash of files' names, sizes and times of change; a file that is gone is told by that."""
    found: list[object] = []
    for name in files:
        with contextlib.suppress(OSError):
            about = (root / name).stat()
            found.append([name, about.st_size, about.st_mtime_ns])
    return _hash(found)


def _hash(parts: list[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
