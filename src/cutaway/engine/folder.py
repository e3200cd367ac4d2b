"""The folder of a job: a manifest, and one file for each finished shard, named by its content.

    JOB/manifest.json                                 what the job is, and how it was cut
    JOB/parts/000003.<sha256>.safetensors             the states of shard 3; whole or not there, never changed
    JOB/parts/000000-000015.<sha256>.safetensors      sixteen neighbours merged, which take their place
    JOB/bad/                                          parts that could not be read back
    JOB/cancel                                        asks whoever works on it to stop

The answer is a fold over the manifest, so a shard that was done twice counts once, and a part that is torn, altered or
of another job is set aside and done again. Shards are folded in groups of sixteen, and then the groups, whether or not
the files of a group were merged on the way: so merging them changes no answer, not in the last bit either.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutaway.core import atomic
from cutaway.core.errors import NotPossible
from cutaway.engine.part import Part, joined

_NAME = re.compile(r"(?P<name>(?P<index>\d{6,})(-\d{6,})?)\.(?P<sha>[0-9a-f]{64})\.safetensors")
MANIFEST, PARTS, BAD, CANCEL, LOCK = "manifest.json", "parts", "bad", "cancel", "lock"
# Shards that are folded first among themselves, and whose files are merged if together they are larger than this.
GROUP = 16
MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Kept:
    """A readable file of a job.

    Attributes:
        index, stop: The shards that it holds; the second is the first one after them.
        path: The file.
    """

    index: int
    stop: int
    path: Path


class JobFolder:
    """The files of one job.

    Args:
        root: Where jobs are kept.
        job: The job's id.
    """

    def __init__(self, root: Path, job: str) -> None:
        self.job = job
        self.path = atomic.make_folder(Path(root) / job)
        self._parts = atomic.make_folder(self.path / PARTS)

    def write_manifest(self, about: Mapping[str, Any]) -> None:
        """Say what the job is, unless that is said already."""
        if not (self.path / MANIFEST).is_file():
            text = json.dumps(about, indent=1, ensure_ascii=False, default=str)
            atomic.write_text(self.path / MANIFEST, text, overwrite=True)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Let others see that somebody works on the job; several may. A request to stop that lies there is old."""
        with contextlib.suppress(OSError):
            (self.path / CANCEL).unlink(missing_ok=True)
        with atomic.explained(f"write {self.path / LOCK}"):
            lock = open(self.path / LOCK, "ab")  # noqa: PTH123, SIM115 a handle to lock, closed below
        with lock, _shared(lock.fileno()):
            yield

    def wanted(self, missing: Iterable[int]) -> Iterator[int]:
        """Those of the shards that nobody has finished by the time that they are asked for."""
        for index in missing:
            self.check_cancelled()
            if not any(self._files(index)) and not any(self._merged(index)):
                yield index

    def keep(self, part: Part) -> None:
        """Write a part under the name of its content. If it is there already, nothing changes."""
        data = part.packed()
        path = self._parts / f"{part.name}.{hashlib.sha256(data).hexdigest()}.safetensors"
        if not path.exists():
            atomic.write_bytes(path, data, overwrite=True)

    def compact(self, index: int, shards: int) -> None:
        """Merge the files of a shard's group if all of them are there and they are large.

        The merged file is written before the others go, and readers take it in their place; so a process that is killed
        in between, or another one that does the same, does no harm. Files that cannot be read are left to `parts`.
        """
        start = index - index % GROUP
        group = [min(self._files(i), default=None) for i in range(start, min(start + GROUP, shards))]
        paths = [path for path in group if path is not None]
        if len(paths) < max(len(group), 2):
            return
        with contextlib.suppress(FileNotFoundError, ValueError):  # somebody else merged them, or one is damaged
            if sum(path.stat().st_size for path in paths) <= MOST_BYTES:
                return
            parts = [Part.unpacked(_checked(path)) for path in paths]
            if not all(state.shrinks for state in parts[0].states.values()):
                return
            self.keep(joined(parts))
            for i in range(start, start + len(group)):
                for path in self._files(i):
                    path.unlink(missing_ok=True)

    def parts(self, shards: int, weights: str) -> tuple[list[Kept], list[str]]:
        """A readable file for each finished shard, in order, and what is wrong with others, which are set aside."""
        found: dict[int, Kept] = {}
        bad = []
        # Merged files first: their names have a dash, and what they hold needs no other file.
        for path in sorted(self._parts.iterdir(), key=lambda path: ("-" not in path.name, path.name)):
            match = _NAME.fullmatch(path.name)
            if match is None or int(match["index"]) in found:  # a temporary file, or a shard that was done twice
                continue
            try:
                part = self._own(path, match["name"], shards, weights)
            except FileNotFoundError:  # merged with others meanwhile: the new file has another name
                if path.is_symlink():  # it leads nowhere, now and later
                    bad.append(f"{match['name']}: is a link to nothing")
                    self._set_aside(path)
                    continue
                return self.parts(shards, weights)
            except ValueError as fault:
                bad.append(f"{match['name']}: {fault}")
                self._set_aside(path)
                continue
            kept = Kept(part.index, part.index + part.shards, path)
            found |= dict.fromkeys(range(kept.index, kept.stop), kept)
        return [found[i] for i in sorted(found) if found[i].index == i], bad

    def read(self, kept: Kept) -> Part:
        """A part.

        Raises:
            FileNotFoundError: It was merged with others meanwhile.
        """
        return Part.unpacked(kept.path.read_bytes())

    def check_cancelled(self) -> None:
        """Stop if somebody asked for it.

        Raises:
            NotPossible: They did.
        """
        if (self.path / CANCEL).exists():
            raise NotPossible(
                f"job {self.job[:12]} was cancelled; its finished shards are kept. Run it again to go on."
            )

    def _files(self, index: int) -> Iterator[Path]:
        return self._parts.glob(f"{index:06d}.*.safetensors")

    def _merged(self, index: int) -> Iterator[Path]:
        return self._parts.glob(f"{index - index % GROUP:06d}-*.safetensors")

    def _own(self, path: Path, name: str, shards: int, weights: str) -> Part:
        """A part of this job.

        Raises:
            FileNotFoundError: It is no longer there.
            ValueError: It is none.
        """
        part = Part.unpacked(_checked(path))
        if part.job != self.job or part.weights != weights or part.index + part.shards > shards or part.name != name:
            raise ValueError("belongs to another job")
        return part

    def _set_aside(self, path: Path) -> None:
        with atomic.explained(f"set aside {path}"), contextlib.suppress(FileNotFoundError):
            path.replace(atomic.make_folder(self.path / BAD) / path.name)


def _checked(path: Path) -> bytes:
    """The content of a part's file, if it is that which the name tells."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != path.name.split(".")[1]:
        raise ValueError("was altered or cut short")
    return data


def finished(path: Path) -> set[int]:
    """The shards of which there are files, by their names alone."""
    names = [match["name"] for p in (path / PARTS).glob("*") if (match := _NAME.fullmatch(p.name))]
    ends = [(int(name.partition("-")[0]), int(name.rpartition("-")[2])) for name in names]
    return {index for first, last in ends for index in range(first, last + 1)}


@contextlib.contextmanager
def _shared(handle: int) -> Iterator[None]:
    """A lock that many may hold, and that the system drops when its holder dies."""
    try:
        import fcntl
    except ImportError:  # not on this system: nobody can see that the job runs, and nothing else changes
        yield
        return
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)
    yield


def is_at_work(path: Path) -> bool:
    """True if somebody works on the job in this folder now, as far as the system can say."""
    try:
        import fcntl

        with open(path / LOCK, "ab") as lock:  # noqa: PTH123 a handle to lock
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


def cancel(path: Path) -> None:
    """Ask whoever works on the job to stop after the shard at hand."""
    with atomic.explained(f"write {path / CANCEL}"):
        os.close(os.open(path / CANCEL, os.O_CREAT | os.O_WRONLY, atomic.PRIVATE))
