"""Files that are too large, or not free enough, to come with the package: fetched once, checked by SHA-256.

The folder in the environment variable CUTAWAY_DATA is read first; it needs no network. Downloads go to the user's cache
folder, under a temporary name until they have been checked, so a broken download is never mistaken for the file.

Where a publisher's file has no known checksum, its content is looked at instead, and the checksum of what was accepted
is kept beside it (`NAME.sha256`): later changes are noticed.
"""

import hashlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pooch

from cutaway.core.atomic import write_text
from cutaway.core.errors import BadShape, NotPossible

TIMEOUT = 30  # seconds without an answer
ATTEMPTS = 3


@dataclass(frozen=True)
class Collection:
    """Files that belong together and where the public has them.

    Attributes:
        name: Folder name, in CUTAWAY_DATA and in the cache.
        homes: Addresses that a file name is appended to, in the order in which they are tried.
        sums: SHA-256 by file name; None where the publisher's file has no known sum.
        fault: Says what is wrong with the content of such a file; nothing if it is what it should be.
    """

    name: str
    homes: tuple[str, ...]
    sums: Mapping[str, str | None]
    fault: Callable[[str, Path], str] = lambda file, path: ""

    def path(self, file: str) -> Path:
        """Where the file is on this machine, after fetching it if need be."""
        return self.local(file) or self._fetched(file)

    def local(self, file: str) -> Path | None:
        """The file in CUTAWAY_DATA, checked, or None."""
        folder = os.environ.get("CUTAWAY_DATA")
        path = Path(folder) / self.name / file if folder else None
        if path is None or not path.is_file():
            return None
        wanted = self.sums.get(file)
        if wanted and _sum(path) != wanted:
            raise BadShape(
                f"{path}: the content is not that of the known {file} (SHA-256 differs). Remove it or copy it again."
            )
        if not wanted and (fault := self.fault(file, path)):
            raise BadShape(f"{path}: {fault}. Remove it or copy it again.")
        return path

    def _fetched(self, file: str) -> Path:
        faults = []
        for home in self.homes:
            try:
                return self._download(home + file, file)
            except Exception as fault:  # sockets, HTTP, disks and checksums each raise their own
                faults.append(f"{home + file}: {_short(fault)}")
        raise NotPossible(
            f"{self.name} needs {file}, which could not be fetched ({'; '.join(faults)}). Put it into "
            f"{self.name}/ in a folder that the environment variable CUTAWAY_DATA names."
        )

    def _download(self, url: str, file: str) -> Path:
        path = cache() / self.name / file
        known = self.sums.get(file)
        if known:
            return _get(url, path, known)
        kept = _kept(path)
        return _again(url, path, kept) if kept else self._first(url, path)

    def _first(self, url: str, path: Path) -> Path:
        """Fetch a file without a known sum, look at it, and keep its sum."""
        new = _get(url, path.with_name(f"{secrets.token_hex(8)}-{path.name}"), None)
        try:
            if fault := self.fault(path.name, new):
                raise _Refused(f"{fault}, so it was thrown away")
            write_text(_record(path), f"{_sum(new)}  {path.name}\n", overwrite=True)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        return path


class _Refused(Exception):
    """Fetched, but not what it should be."""


def _again(url: str, path: Path, kept: str) -> Path:
    """A file whose sum was kept; fetched anew if it is no longer there, or no longer the same."""
    try:
        return _get(url, path, kept)
    except ValueError as fault:
        if "does not match the known hash" not in str(fault):
            raise
        raise _Refused(
            f"it is not what was fetched at first, so it was thrown away; remove {_record(path)} to take it anyway"
        ) from fault


def _get(url: str, path: Path, known: str | None) -> Path:
    """The file at `path`, fetched unless it is there with the known sum."""
    pooch.get_logger().setLevel(logging.WARNING)
    fetcher = pooch.create(
        path=path.parent,
        base_url="",
        registry={path.name: known},
        urls={path.name: url},
        retry_if_failed=ATTEMPTS - 1,
    )
    return Path(fetcher.fetch(path.name, downloader=pooch.HTTPDownloader(timeout=TIMEOUT)))


def _record(path: Path) -> Path:
    """Where the sum of an accepted file is kept."""
    return path.with_name(f"{path.name}.sha256")


def _kept(path: Path) -> str | None:
    """The sum of an accepted file, if it was kept."""
    record = _record(path)
    text = record.read_text(encoding="utf-8", errors="replace") if record.is_file() else ""
    found = re.match("[0-9a-f]{64}(?= )", text)
    return found[0] if found else None


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def cache() -> Path:
    """Where downloads are kept."""
    return Path(pooch.os_cache("cutaway"))


def _short(fault: Exception) -> str:
    text = str(fault)
    if isinstance(fault, _Refused):
        return text
    if "does not match the known hash" in text:
        return "its checksum is wrong, so it was thrown away"
    return f"{type(fault).__name__} {text[:120]}".strip()
