"""The folder of a job: a manifest, and one file for each finished shard, named by its content.

    JOB/manifest.json                          what the job is, and how it was cut
    JOB/parts/000003.<sha256>.safetensors      the states of shard 3; written whole or not at all, never changed
    JOB/bad/                                   parts that could not be read back
    JOB/cancel                                 asks whoever works on it to stop

The answer is a fold over the manifest, so a shard that was done twice counts once, and a part that is torn, altered or
of another job is set aside and done again.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from cutaway.core import atomic
from cutaway.core.errors import NotPossible
from cutaway.engine.state import State, States

_NAME = re.compile(r"(?P<index>\d{6,})\.(?P<sha>[0-9a-f]{64})\.safetensors")
MANIFEST, PARTS, BAD, CANCEL, LOCK = "manifest.json", "parts", "bad", "cancel", "lock"


@dataclass(frozen=True)
class Part:
    """A finished shard.

    Attributes:
        job: The job's id.
        index, start, stop: Which shard, and its examples.
        weights: Hash of the network that looked at it.
        seen: Examples that could be read.
        notes: What was said about their files.
        spent: Network passes.
        states: What was kept.
        elsewhere: True if another process spent the passes.
    """

    job: str
    index: int
    start: int
    stop: int
    weights: str
    seen: int
    notes: tuple[str, ...]
    spent: Mapping[str, int]
    states: States = field(repr=False)
    elsewhere: bool = False

    def packed(self) -> bytes:
        """The part as a safetensors file: the same bytes wherever it was made."""
        arrays = {f"{name}/{key}": t for name, s in self.states.items() for key, t in s.arrays().items()}
        header = {
            "job": self.job,
            "index": self.index,
            "start": self.start,
            "stop": self.stop,
            "weights": self.weights,
            "seen": self.seen,
            "notes": list(self.notes),
            "spent": dict(sorted(self.spent.items())),
            "kinds": {name: type(state).__name__ for name, state in sorted(self.states.items())},
        }
        return safetensors.torch.save(arrays, {"cutaway": json.dumps(header, sort_keys=True)})

    @classmethod
    def unpacked(cls, data: bytes, *, elsewhere: bool = False) -> "Part":
        """The inverse of `packed`.

        Raises:
            ValueError: These bytes are no part.
        """
        try:
            size = int.from_bytes(data[:8], "little")
            header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["cutaway"])
            kinds, arrays = header.pop("kinds"), safetensors.torch.load(data)
            grouped: dict[str, dict[str, Any]] = {name: {} for name in kinds}
            for key, tensor in arrays.items():
                name, _, inner = key.rpartition("/")
                grouped[name][inner] = tensor
            states = {name: State.kinds[kind].of(grouped[name]) for name, kind in kinds.items()}
            return cls(**header | {"notes": tuple(header["notes"])}, states=states, elsewhere=elsewhere)
        except (KeyError, TypeError, ValueError, UnicodeDecodeError, safetensors.SafetensorError) as error:
            raise ValueError(f"no part of a job ({error})") from error


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
        with open(self.path / LOCK, "ab") as lock, _shared(lock.fileno()):  # noqa: PTH123 a handle to lock
            yield

    def wanted(self, missing: Iterable[int]) -> Iterator[int]:
        """Those of the shards that nobody has finished by the time that they are asked for."""
        for index in missing:
            self.check_cancelled()
            if not any(self._parts.glob(f"{index:06d}.*.safetensors")):
                yield index

    def keep(self, part: Part) -> None:
        """Write a part under the name of its content. If it is there already, nothing changes."""
        data = part.packed()
        path = self._parts / f"{part.index:06d}.{hashlib.sha256(data).hexdigest()}.safetensors"
        if not path.exists():
            atomic.write_bytes(path, data, overwrite=True)

    def parts(self, shards: int, weights: str) -> tuple[dict[int, Path], list[str]]:
        """A readable part for each finished shard, and what is wrong with the others, which are set aside."""
        found: dict[int, Path] = {}
        bad = []
        for path in sorted(self._parts.iterdir()):
            match = _NAME.fullmatch(path.name)
            if match is None or int(match["index"]) in found:  # a temporary file, or one shard done twice
                continue
            fault = self._fault(path, match["sha"], shards, weights)
            if fault:
                bad.append(f"{path.name[:13]}… {fault}")
                self._set_aside(path)
            else:
                found[int(match["index"])] = path
        return found, bad

    def read(self, path: Path) -> Part:
        """A part."""
        return Part.unpacked(path.read_bytes())

    def check_cancelled(self) -> None:
        """Stop if somebody asked for it.

        Raises:
            NotPossible: They did.
        """
        if (self.path / CANCEL).exists():
            raise NotPossible(
                f"job {self.job[:12]} was cancelled; its finished shards are kept. Run it again to go on."
            )

    def _fault(self, path: Path, sha: str, shards: int, weights: str) -> str:
        try:
            data = path.read_bytes()
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        if hashlib.sha256(data).hexdigest() != sha:
            return "was altered or cut short"
        try:
            part = Part.unpacked(data)
        except ValueError as error:
            return str(error)
        if part.job != self.job or part.weights != weights or part.index >= shards:
            return "belongs to another job"
        return ""

    def _set_aside(self, path: Path) -> None:
        with atomic.explained(f"set aside {path}"):
            path.replace(atomic.make_folder(self.path / BAD) / path.name)


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
