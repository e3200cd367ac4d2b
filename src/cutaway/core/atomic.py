"""Files that appear whole or not at all.

A file is written under a random name beside its destination, synced, and renamed. A process killed in between leaves a
temporary file, which no reader opens, and the previous version.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from cutaway.core.errors import NotPossible

TEMPORARY = ".tmp-"
PRIVATE = 0o600
SHARED = 0o666  # as far as the user's umask allows


def write_text(
    path: str | Path, text: str, *, overwrite: bool = False, ours: str = "", mode: int = PRIVATE, sync: bool = True
) -> Path:
    """Write text as UTF-8; see `write_bytes`."""
    # Half of a surrogate pair (from a file name that is no Unicode) cannot be written; it becomes a question mark.
    data = text.encode("utf-8", errors="replace")
    return write_bytes(path, data, overwrite=overwrite, ours=ours.encode(), mode=mode, sync=sync)


def write_bytes(
    path: str | Path, data: bytes, *, overwrite: bool = False, ours: bytes = b"", mode: int = PRIVATE, sync: bool = True
) -> Path:
    """Write a file so that readers see the previous version or this one.

    Args:
        path: Where to. The folder must exist; `make_folder` makes one.
        data: The whole content.
        overwrite: Replace a file that is there already.
        ours: Replace it also if these bytes stand in its first 4 KiB, which says that it was written by cutaway.
        mode: Permissions of a new file, less the user's umask.
        sync: Wait until the disk has it.

    Returns:
        The path.
    """
    path = Path(path)
    with explained(f"write {path}", len(data)):
        if path.is_dir():
            raise NotPossible(f"expected a file name; {path} is a folder. Add a name to it.")
        may_replace = overwrite or (bool(ours) and _starts_with(path, ours))
        temporary = _fill_temporary(path, data, mode, sync=sync)
        try:
            _move(temporary, path, replace=may_replace)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        if sync:
            sync_folder(path.parent)
    return path


def make_folder(path: str | Path, *, mode: int = 0o700) -> Path:
    """Make a folder and the ones above it, unless it is there."""
    path = Path(path)
    with explained(f"make the folder {path}"):
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    return path


def sync_folder(path: Path) -> None:
    """Wait until renames in this folder are on the disk, where the system can say so."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def explained(doing: str, size: int | None = None) -> Iterator[None]:
    """Turn an `OSError` into a sentence with the path, the size and what to do.

    Args:
        doing: What was tried, as "write PATH".
        size: Bytes that were to be written.
    """
    try:
        yield
    except OSError as error:
        amount = "" if size is None else f" ({size:,} bytes)"
        raise NotPossible(f"could not {doing}{amount}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    advice = {
        errno.ENOSPC: "the disk is full. Free that much and try again; what was there before is unchanged.",
        errno.EDQUOT: "the disk quota is used up. Free that much and try again; what was there before is unchanged.",
        errno.EROFS: "the file system is read-only. Choose another folder.",
        errno.EACCES: "the folder may not be written to. Choose another folder or change its permissions.",
        errno.EPERM: "the folder may not be written to. Choose another folder or change its permissions.",
        errno.ENOENT: "the folder does not exist. Make it first.",
        errno.ENOTDIR: "a part of the path is a file, not a folder. Choose another path.",
        errno.EEXIST: "something else of that name is there. Choose another path.",
        errno.ENAMETOOLONG: "the name is too long. Choose a shorter one.",
        errno.ELOOP: "it is a symbolic link, which is not followed here. Remove the link.",
    }
    return advice.get(error.errno or 0, f"{error.strerror or error}.")


def _fill_temporary(path: Path, data: bytes, mode: int, *, sync: bool) -> Path:
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    # O_EXCL: a file or link that somebody put there beforehand is refused, not followed.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def _move(temporary: Path, path: Path, *, replace: bool) -> None:
    if replace:
        temporary.replace(path)
        return
    try:
        # A link fails where the name is taken, in one step; looking first would leave a gap for another process.
        os.link(temporary, path)
    except FileExistsError:
        raise _taken(path) from None
    except OSError:  # a file system without links
        if path.exists():
            raise _taken(path) from None
        temporary.replace(path)


def _taken(path: Path) -> NotPossible:
    return NotPossible(f"{path} exists and was not written by cutaway. Choose another name, or ask to overwrite it.")


def _starts_with(path: Path, mark: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return mark in file.read(4096)
    except FileNotFoundError:
        return False
