"""Files that are too large, or not free enough, to come with the package: fetched once, checked by SHA-256.

The folder in the environment variable CUTAWAY_DATA is read first; it needs no network. Downloads go to the user's cache
folder, under a temporary name until their checksum is right, so a broken download is never mistaken for the file.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pooch

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
    """

    name: str
    homes: tuple[str, ...]
    sums: Mapping[str, str | None]

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
        if wanted and hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            raise BadShape(
                f"{path}: the content is not that of the known {file} (SHA-256 differs). Remove it or copy it again."
            )
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
        pooch.get_logger().setLevel(logging.WARNING)
        folder = cache() / self.name
        fetcher = pooch.create(
            path=folder,
            base_url="",
            registry={file: self.sums.get(file)},
            urls={file: url},
            retry_if_failed=ATTEMPTS - 1,
        )
        return Path(fetcher.fetch(file, downloader=pooch.HTTPDownloader(timeout=TIMEOUT)))


def cache() -> Path:
    """Where downloads are kept."""
    return Path(pooch.os_cache("cutaway"))


def _short(fault: Exception) -> str:
    text = str(fault)
    if "does not match the known hash" in text:
        return "its checksum is wrong, so it was thrown away"
    return f"{type(fault).__name__} {text[:120]}".strip()
