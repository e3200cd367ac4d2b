"""A SQLite file that makes finding fast. It can be lost or damaged without harm: it is made again from the folders."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

from cutaway.core.errors import unknown_name


@dataclass(frozen=True)
class Entry:
    """What is known about a stored result without opening its arrays.

    Attributes:
        key: Name of its folder.
        shape: Name of the result's shape.
        status: The worst status among its checks.
        options: Options of the method, as JSON.
    """

    created: str
    key: str
    method: str = ""
    model: str = ""
    model_fingerprint: str = ""
    input: str = ""
    input_fingerprint: str = ""
    target: str = ""
    seed: int | None = None
    shape: str = ""
    title: str = ""
    status: str = "ok"
    options: str = "{}"
    stamp: int = field(default=0, repr=False)

    @classmethod
    def of(cls, key: str, body: dict[str, Any], stamp: int) -> "Entry":
        """The entry of a result from the body of its `result.json`; `stamp` is that file's time in nanoseconds."""
        made = body["provenance"]
        known = {f.name for f in fields(cls)} & made.keys() - {"options"}
        ranks = ("ok", "note", "warn", "fail")
        worst = max((check["status"] for check in body["checks"].values()), key=ranks.index, default="ok")
        return cls(
            key=key,
            shape=body["shape"],
            title=body["title"],
            status=worst,
            options=json.dumps(made["options"]),
            stamp=stamp,
            **{name: made[name] for name in known},
        )


COLUMNS = [f.name for f in fields(Entry)]
FILTERS = [name for name in COLUMNS if name != "stamp"]


class Index:
    """The entries of one study, kept up to date with its folders at every question.

    Args:
        path: The SQLite file.
        stamps: Gives the keys of the folders that are there, each with the time of its `result.json`.
        read: Gives the entry of a key, or None where its files are damaged.
    """

    def __init__(
        self, path: Path, stamps: Callable[[], dict[str, int]], read: Callable[[str, int], Entry | None]
    ) -> None:
        self._path = path
        self._stamps = stamps
        self._read = read

    def find(self, wanted: dict[str, Any]) -> list[Entry]:
        """The entries whose columns equal `wanted`, newest first."""
        for name in wanted:
            if name not in FILTERS:
                raise unknown_name("column of a study", name, FILTERS, "Those can be asked for.")
        where = " AND ".join(f"{name} IS ?" for name in wanted) or "1"
        question = f"SELECT {', '.join(COLUMNS)} FROM results WHERE {where} ORDER BY created DESC, key"
        with self._current() as database:
            return [Entry(*row) for row in database.execute(question, list(wanted.values()))]

    @contextlib.contextmanager
    def _current(self) -> Iterator[sqlite3.Connection]:
        """A connection whose table agrees with the folders."""
        for attempt in (self._on_disk, self._afresh, self._in_memory):
            database = None
            try:
                database = attempt()
                self._agree(database)
            except (sqlite3.Error, OSError):
                # Damaged, or the folder is read-only: the next way needs less.
                if database is not None:
                    database.close()
                continue
            with contextlib.closing(database):
                yield database
            return

    def _on_disk(self) -> sqlite3.Connection:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return _open(str(self._path))

    def _afresh(self) -> sqlite3.Connection:
        self._path.unlink(missing_ok=True)
        return self._on_disk()

    def _in_memory(self) -> sqlite3.Connection:
        return _open(":memory:")

    def _agree(self, database: sqlite3.Connection) -> None:
        stamps = self._stamps()
        known = dict(database.execute("SELECT key, stamp FROM results"))
        fresh = {key: self._read(key, stamp) for key, stamp in stamps.items() if known.get(key) != stamp}
        entries = [astuple(entry) for entry in fresh.values() if entry is not None]
        gone = [(key,) for key in known if key not in stamps or (key in fresh and fresh[key] is None)]
        if gone or entries:
            _write(database, gone, entries)


def _open(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=30)
    columns = ", ".join(f"{name} PRIMARY KEY" if name == "key" else name for name in COLUMNS)
    try:
        database.execute(f"CREATE TABLE IF NOT EXISTS results ({columns})")
        found = [row[1] for row in database.execute("PRAGMA table_info(results)")]
        if found != COLUMNS:
            raise sqlite3.DatabaseError("another version's table")
    except sqlite3.Error:
        database.close()
        raise
    return database


def _write(database: sqlite3.Connection, gone: Iterable[tuple[str]], entries: Iterable[tuple[Any, ...]]) -> None:
    with database:
        database.executemany("DELETE FROM results WHERE key = ?", gone)
        database.executemany(f"INSERT OR REPLACE INTO results VALUES ({', '.join('?' * len(COLUMNS))})", entries)
