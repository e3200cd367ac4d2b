"""A study: a folder of results, each in a folder named by what it was made from."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cutaway.core import atomic
from cutaway.core.errors import BadOption, NotPossible, UnknownName, unknown_name
from cutaway.core.result import Provenance, Result
from cutaway.store import folder
from cutaway.store.index import Entry, Index

T = TypeVar("T")

MARK = "study.json"
QUARANTINE = "quarantined"
KEY_LENGTH = 32
RETRIES = 20
_HEX = frozenset("0123456789abcdef")


class DamagedResult(NotPossible):
    """A stored result whose files are not what was written. They have been set aside; the result can be made again."""


class Study:
    """A folder of results. The files are the truth; two processes may write to it at the same time.

    Args:
        path: The folder; made if it is not there. A folder with other files in it is refused.
        draw: Gives the picture of a result as PNG, kept beside it; None keeps none.
    """

    def __init__(self, path: str | Path, *, draw: Callable[[Result], bytes] | None = None) -> None:
        self.path = Path(path)
        self._draw = draw
        self._claim()
        self._index = Index(self.path / "index.sqlite", self._stamps, self._entry)

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r})"

    def __len__(self) -> int:
        """How many results there are."""
        return len(self._stamps())

    def key_of(self, provenance: Provenance) -> str:
        """The key under which a result of this making is kept: a hash of everything that can change it."""
        if not provenance.method:
            raise BadOption("expected the provenance of a catalogued method; got one without a method name.")
        made = provenance.as_json()
        parts = ("method", "options", "model_fingerprint", "input_fingerprint", "target", "seed", "versions")
        return _hash({part: made[part] for part in parts})

    def has(self, key: str) -> bool:
        """Whether a result of that whole key is there. Its bytes are checked on reading, not here."""
        return _is_key(key) and (self.path / key / folder.JSON).is_file()

    def put(self, result: Result) -> str:
        """Keep a result and return its key. One of the same key is replaced, in one step.

        A result made by hand has no method; its key is the hash of its content.
        """
        if result.provenance.method:
            key = self.key_of(result.provenance)
        else:
            key = hashlib.sha256(b"".join(folder.pack(result, "").values())).hexdigest()[:KEY_LENGTH]
        files = folder.pack(result, key, self._draw(result) if self._draw else b"")
        doing = f"keep the result {key} in {self.path}"
        with atomic.explained(doing, sum(map(len, files.values()))):
            temporary = Path(tempfile.mkdtemp(prefix=atomic.TEMPORARY, dir=self.path))
            try:
                for name, data in files.items():
                    atomic.write_bytes(temporary / name, data)
                self._swap_in(temporary, key)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            atomic.sync_folder(self.path)
        return key

    def get(self, key: str) -> Result:
        """The result of that key, or of the only key that begins so. Damaged files are set aside and named."""
        return self._checked(self.resolve(key), folder.unpack)

    def picture(self, key: str) -> bytes:
        """The drawing of a result as PNG; empty where none was kept."""
        key = self.resolve(key)
        return self._checked(key, lambda path, k: folder.read_picture(path, folder.read_header(path, k)))

    def find(self, **wanted: Any) -> list[Entry]:
        """Results by any column of `Entry`, newest first: `find(method="rise", model="shapes-cnn")`."""
        return self._index.find(wanted)

    def resolve(self, prefix: str) -> str:
        """The whole key that begins with `prefix`."""
        if _is_key(prefix) and self.has(prefix):
            return prefix
        keys = sorted(self._stamps())
        found = [key for key in keys if prefix and key.startswith(prefix)]
        if len(found) > 1:
            shown = ", ".join(key[:12] for key in found[:5])
            raise UnknownName(f"{prefix!r} begins {len(found)} keys: {shown}. Give more letters of one.")
        if not found:
            raise unknown_name("result", prefix, [k[:12] for k in keys], f"{self.path} holds {len(keys)} results.")
        return found[0]

    def clean(self) -> list[str]:
        """Remove what killed writers left behind, and say what it was. Run it while nobody writes."""
        removed = []
        for path in sorted(self.path.glob(f"{atomic.TEMPORARY}*")):
            old_key = path.name.rpartition("-")[2]
            if path.name.startswith(_OLD) and not (self.path / old_key).exists():
                # Killed between moving the previous version away and moving the new one in.
                path.rename(self.path / old_key)
                continue
            with atomic.explained(f"remove {path}"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            removed.append(path.name)
        return removed

    def _claim(self) -> None:
        mark = self.path / MARK
        if mark.is_file():
            return
        atomic.make_folder(self.path)
        with atomic.explained(f"open the study {self.path}"):
            others = [p.name for p in self.path.iterdir() if not p.name.startswith(atomic.TEMPORARY)]
        if others and not mark.is_file():
            raise NotPossible(f"{self.path} is no study: it holds {others[0]!r} and no {MARK}. Choose an empty folder.")
        text = json.dumps({"format": folder.FORMAT, "what": "a cutaway study: one folder per result"})
        atomic.write_text(mark, text, overwrite=True)

    def _stamps(self) -> dict[str, int]:
        stamps = {}
        with atomic.explained(f"read the study {self.path}"), os.scandir(self.path) as found:
            for item in found:
                if _is_key(item.name) and item.is_dir(follow_symlinks=False):
                    with contextlib.suppress(OSError):  # replaced this very moment, or torn
                        stamps[item.name] = (self.path / item.name / folder.JSON).stat().st_mtime_ns
        return stamps

    def _entry(self, key: str, stamp: int) -> Entry | None:
        try:
            return Entry.of(key, folder.read_header(self.path / key, key)["body"], stamp)
        except (folder.Damaged, NotPossible, OSError, LookupError, TypeError, ValueError):
            return None  # `get` says what is wrong with it

    def _checked(self, key: str, read: Callable[[Path, str], T]) -> T:
        """Read; damage counts only if the folder was not replaced meanwhile."""
        path = self.path / key
        for _ in range(RETRIES):
            before = _identity(path)
            try:
                with _but_missing(f"read the result {path}"):
                    return read(path, key)
            except (folder.Damaged, FileNotFoundError) as error:
                if before is not None and before == _identity(path):
                    raise self._set_aside(path, error) from error
        raise _busy(self.path, key)

    def _set_aside(self, path: Path, error: Exception) -> DamagedResult:
        what = f"the result {path.name} in {self.path} is damaged: {error}."
        try:
            atomic.make_folder(self.path / QUARANTINE)
            aside = Path(tempfile.mkdtemp(prefix=f"{path.name}-", dir=self.path / QUARANTINE))
            path.rename(aside)
        except (OSError, NotPossible):
            return DamagedResult(f"{what} It could not be moved away. Delete it and make it again.")
        return DamagedResult(f"{what} Its files are now in {aside}. Make it again.")

    def _swap_in(self, temporary: Path, key: str) -> None:
        """Give a finished folder its name; the previous one of that name goes afterwards."""
        place = self.path / key
        moved = []
        for _ in range(RETRIES):
            try:
                # Works on a name that is free. A folder with files in it, or a link, stops it.
                temporary.rename(place)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            old = self.path / f"{_OLD}{os.urandom(4).hex()}-{key}"
            with contextlib.suppress(FileNotFoundError):  # another process was first
                place.rename(old)
                moved.append(old)
        else:
            raise _busy(self.path, key)
        for old in moved:
            old.unlink() if old.is_symlink() or old.is_file() else shutil.rmtree(old, ignore_errors=True)


_OLD = f"{atomic.TEMPORARY}old-"


def _is_key(name: str) -> bool:
    return len(name) == KEY_LENGTH and _HEX.issuperset(name)


@contextlib.contextmanager
def _but_missing(doing: str) -> Iterator[None]:
    """`atomic.explained`, except that a missing file stays a `FileNotFoundError`."""
    with atomic.explained(doing):
        try:
            yield
        except FileNotFoundError as error:
            missing = error
        else:
            return
    raise missing


def _busy(path: Path, key: str) -> NotPossible:
    return NotPossible(f"the result {key} in {path} is being rewritten all the time. Try again.")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _hash(data: Any) -> str:
    text = json.dumps(folder.plain(data), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
