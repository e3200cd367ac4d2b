"""The files of one result: `result.json`, `arrays.safetensors` and `picture.png`, with checksums.

`result.json` is an object with a header (`format`, `key`, `made_by`, the size and SHA-256 of the other files, the
SHA-256 of the body) and the `body`, which is `Result.as_json()` plus the order of the arrays.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from cutaway.core.errors import NotPossible
from cutaway.core.result import Result

FORMAT = 1
MAX_JSON = 64 * 2**20
MAX_ARRAY_HEADER = 2**20
JSON, ARRAYS, PICTURE = "result.json", "arrays.safetensors", "picture.png"


class Damaged(Exception):
    """The files of a result are not what was written. The message says which and how."""


def pack(result: Result, key: str, picture: bytes = b"") -> dict[str, bytes]:
    """The files of a result by name."""
    arrays = {k: v.detach().cpu().contiguous().clone() for k, v in result.arrays().items()}
    files = {ARRAYS: safetensors.torch.save(arrays)}
    if picture:
        files[PICTURE] = picture
    body = plain({**result.as_json(), "arrays": list(arrays)})
    header = {
        "format": FORMAT,
        "key": key,
        "made_by": dict(result.provenance.versions),
        "files": {name: {"bytes": len(data), "sha256": _sha(data)} for name, data in files.items()},
        "body_sha256": _sha(_canonical(body)),
    }
    files[JSON] = json.dumps({**header, "body": body}, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")
    if len(files[JSON]) > MAX_JSON:
        raise NotPossible(
            f"{JSON} would have {len(files[JSON]):,} bytes; at most {MAX_JSON:,} are read back. "
            "Keep many numbers in a tensor, not in text."
        )
    return files


def unpack(folder: Path, key: str) -> Result:
    """Read a result back, checking every byte.

    Raises:
        Damaged: The files are torn, altered, or those of another key.
        NotPossible: The files were written in a format that this version does not know.
        FileNotFoundError: There is no such result.
    """
    header = read_header(folder, key)
    body = header["body"]
    order = body.pop("arrays")
    data = _read(folder, ARRAYS, header["files"][ARRAYS]["bytes"])
    _compare(data, header["files"][ARRAYS], ARRAYS)
    arrays = _load_arrays(data)
    if set(arrays) != set(order):
        raise Damaged(f"{ARRAYS} has other arrays than {JSON} says")
    try:
        return Result.from_parts(restored(body), {name: arrays[name] for name in order})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{JSON} describes no result that this version knows ({error})") from error


def read_header(folder: Path, key: str) -> dict[str, Any]:
    """The checked content of `result.json`."""
    data = _read(folder, JSON, MAX_JSON, at_most=True)
    try:
        header: dict[str, Any] = json.loads(data)
        found = header["format"]
        if found == FORMAT:
            body = header["body"]
            intact = header["body_sha256"] == _sha(_canonical(body)) and isinstance(body["arrays"], list)
            intact = intact and all(int(f["bytes"]) >= 0 and f["sha256"] for f in header["files"].values())
            intact = intact and ARRAYS in header["files"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{JSON} is torn or altered ({type(error).__name__})") from error
    if found != FORMAT:
        raise NotPossible(
            f"{folder / JSON} is in format {found!r} of {header.get('made_by', 'another cutaway')}; this version reads "
            f"format {FORMAT}. Open it with the version that wrote it, or make the result again."
        )
    if not intact:
        raise Damaged(f"{JSON} was altered: its checksum does not match")
    if header["key"] != key:
        raise Damaged(f"the folder holds the result {header['key']}, not the one that its name says")
    return header


def read_picture(folder: Path, header: Mapping[str, Any]) -> bytes:
    """The drawing, or nothing where none was kept."""
    if PICTURE not in header["files"]:
        return b""
    data = _read(folder, PICTURE, header["files"][PICTURE]["bytes"])
    _compare(data, header["files"][PICTURE], PICTURE)
    return data


def plain(value: Any) -> Any:
    """The value as JSON can hold it: tuples become lists, and nan and infinity become {"float": "nan"}."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    # A number of NumPy's, or a tensor with one entry.
    item: Callable[[], Any] | None = getattr(value, "item", None)
    return plain(item()) if item is not None else str(value)


def restored(value: Any) -> Any:
    """The inverse of `plain` for nan and infinity."""
    if isinstance(value, dict):
        if value.keys() == {"float"} and isinstance(value["float"], str):
            return float(value["float"])
        return {k: restored(v) for k, v in value.items()}
    if isinstance(value, list):
        return [restored(v) for v in value]
    return value


def _read(folder: Path, name: str, size: int, *, at_most: bool = False) -> bytes:
    handle = os.open(folder / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle).st_size
        if found > size or (found != size and not at_most):
            raise Damaged(f"{name} has {found:,} bytes; expected {'at most ' if at_most else ''}{size:,}")
        return file.read()


def _compare(data: bytes, expected: Mapping[str, Any], name: str) -> None:
    if _sha(data) != expected["sha256"]:
        raise Damaged(f"{name} was altered: its checksum does not match")


def _load_arrays(data: bytes) -> dict[str, torch.Tensor]:
    # The header is bounded before it is parsed: ten million tensors of no size would otherwise cost gigabytes.
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_ARRAY_HEADER, len(data) - 8):
        raise Damaged(f"{ARRAYS} has a header of {length:,} bytes; expected at most {MAX_ARRAY_HEADER:,}")
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise Damaged(f"{ARRAYS} is malformed ({error})") from error


def _canonical(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
