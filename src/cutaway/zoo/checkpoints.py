"""Weights from files of strangers: safetensors, or torch files of which only tensors are taken.

A `.pt` file is a pickle, a small program. It is read with torch's restricted unpickler and nothing laxer: a file that
names any function but the few that rebuild tensors is refused, and none of it has run.
"""

import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cutaway.core.errors import BadOption, BadShape, CutawayError, NotPossible, UnknownName

TORCH_FILES = {".pt", ".pth", ".bin", ".ckpt"}
MAX_HEADER = 25_000_000  # bytes of a safetensors header; a model with 100,000 tensors needs about 10 million
MAX_UNPACKING = 4  # a torch archive is stored, not compressed; more than this is a trap
NESTED = ("state_dict", "model_state_dict", "model")
ADVICE = "Save the weights alone: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')."


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, in memory.

    Raises:
        UnknownName: No such file.
        BadOption: A kind of file that is never read.
        BadShape: Broken or cut short.
        NotPossible: Contains more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UnknownName(f"no weights file at {str(path)!r}.")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix in TORCH_FILES:
        return _tensors(_read_torch(path), path.name)
    raise BadOption(f"{path.name}: expected .safetensors, or .pt, .pth, .bin, .ckpt with tensors only. {ADVICE}")


def fill(module: nn.Module, state: Mapping[str, Tensor], name: str) -> list[str]:
    """Put the tensors into the network; every one of them must have its place and every place its tensor.

    Args:
        module: The network.
        state: Tensors by name.
        name: Of the file, for messages.

    Returns:
        Notes on what was done to the names.
    """
    notes = []
    wanted = module.state_dict()
    if state and not set(state) & set(wanted) and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
        notes.append("names in the weights file began with 'module.', which was taken off (saved from DataParallel)")
    missing, surplus = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or surplus:
        raise BadShape(
            f"{name} does not fit {type(module).__name__}: "
            f"{_listed('missing', missing)}{_listed('unexpected', surplus)}"
        )
    for key, tensor in state.items():
        if isinstance(wanted[key], Tensor) and wanted[key].shape != tensor.shape:
            raise BadShape(f"{name}: expected {key} of shape {tuple(wanted[key].shape)}; got {tuple(tensor.shape)}.")
    module.load_state_dict(dict(state))
    return notes


def _listed(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return f"{what} {', '.join(keys[:5])}{more}. "


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        _check_header(path)
        return safetensors.torch.load_file(path, device="cpu")
    except (safetensors.SafetensorError, struct.error, ValueError, RuntimeError, OSError, RecursionError) as fault:
        raise BadShape(f"{path.name}: broken or cut short ({fault}). Copy or save it again.") from fault


def _check_header(path: Path) -> None:
    """Sizes that cannot be true are refused before anything is allocated."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, MAX_HEADER):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        pairs = json.loads(file.read(length), object_pairs_hook=list)
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise ValueError("the header is no table of tensors")
    keys = [key for key, _ in pairs]
    if len(keys) != len(set(keys)):
        raise ValueError("a tensor is named twice")


def _read_torch(path: Path) -> Any:
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 10):
        raise NotPossible(
            f"{path.name}: torch {torch.__version__} is too old to read this safely; 2.10 is needed. {ADVICE}"
        )
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            # It also warns about pickles that it then refuses.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        raise _refusal(path, str(fault)) from None
    except Exception as fault:  # a hostile file can make the reader raise anything
        first = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise BadShape(f"{path.name}: broken, cut short, or no torch file ({first}). Copy or save it again.") from fault


def _refusal(path: Path, why: str) -> CutawayError:
    """Our own words: torch's message advises to read the file without protection."""
    if named := re.search(r"GLOBAL ([\w.]+)", why):
        return NotPossible(f"{path.name}: refused, since it asks for {named[1]} and not only for tensors. {ADVICE}")
    with path.open("rb") as file:
        pickled = file.read(1) == b"\x80" or zipfile.is_zipfile(path)
    if pickled:
        return NotPossible(f"{path.name}: refused, since it holds more than tensors. {ADVICE}")
    return BadShape(f"{path.name}: broken, cut short, or no torch file. Copy or save it again. {ADVICE}")


def _check_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > MAX_UNPACKING * path.stat().st_size:
        raise BadShape(f"{path.name}: would unpack to {unpacked:,} bytes, many times its size; refused.")


def _tensors(loaded: Any, name: str) -> dict[str, Tensor]:
    """The state dict, also where it lies inside a training checkpoint."""
    for key in NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise BadShape(f"{name}: expected tensors by name (a state dict); got {type(loaded).__name__}. {ADVICE}")
    return dict(loaded)
