"""Inputs to explain: bundled photos, generated shapes, digits, folders of pictures, and sets that are fetched once.

Pictures are float tensors (n, 3, height, width) in [0, 1]; digits have one channel. A data set is named by text, with a
slice in brackets where wanted: `shapes/test[0:16]`, `digits/test[3]`, `photos/chelsea`, `folder:holiday[0:20]`,
`broden:PATH` for photos with what is where in them, `cat.jpg`, `-` for standard input; `text:a fine film`,
`reviews.txt` with a text on each line, `people.csv`; `moves:c3 d4` for a position of a board game. Labels are class
indices; `classes` has their names.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cutaway.core.callable import make_callable
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, unknown_name
from cutaway.core.fill import set_loader
from cutaway.core.space import Space
from cutaway.data.texts import PREFIX as TEXT
from cutaway.data.texts import lines, written

_SLICE = re.compile(r"(?P<name>.*?)\[(?P<index>[-\d:]*)\]", re.DOTALL)
_OWN = {
    "image": "folder:PATH reads your own pictures.",
    "tokens": "text:... (or --text) is a text itself, FILE.txt has one on each line.",
    "row": "FILE.csv is read by the names of its columns.",
}
_PART = re.compile(r"(-?\d{1,9})|(-?\d{0,9}):(-?\d{0,9})(?::(\d{1,9}))?")


def load(source: Any, *, space: Space | None = None, broken: Literal["stop", "skip"] = "stop") -> Examples:
    """Examples by name, from a file or folder, from bytes, or from a picture in memory.

    Args:
        source: The name of a data set, `folder:PATH`, the path of a picture or folder, `-` for standard input; or
            bytes, a PIL image or a NumPy array (height, width, 3).
        space: The space of the model that will see them: photos are brought to its size and channels. Without
            one, 224 x 224.
        broken: What to do about unreadable files in a folder: `stop` names the first, `skip` leaves them out and
            counts them.

    Returns:
        The examples, with labels, class names and masks where they are known, and notes on what was done to the files.
    """
    if isinstance(source, Examples):
        return source
    if broken not in ("stop", "skip"):
        raise BadOption(f"expected broken='stop' or 'skip'; got {broken!r}.")
    if not isinstance(source, str | Path):
        return _picture(source, space)
    text = str(source)
    # A file may be called like a set: then the set is meant, and ./NAME is the file.
    return _named(text, space) or _from_disk(text, space, broken)


def join(parts: Iterable[Examples], source: str = "") -> Examples:
    """Several sets of examples as one; labels and masks are kept where all have them and the classes agree."""
    parts = list(parts)
    if not parts:
        raise BadOption("expected at least one set of examples to join; got none.")
    same = all(part.classes == parts[0].classes for part in parts)
    labels = [part.labels for part in parts if part.labels is not None]
    masks = [part.masks for part in parts if part.masks is not None]
    return Examples(
        x=_joined([part.x for part in parts]),
        names=[name for part in parts for name in part.names],
        labels=torch.cat(labels) if same and len(labels) == len(parts) else None,
        classes=parts[0].classes if same else (),
        masks=torch.cat(masks) if len(masks) == len(parts) else None,
        source=source or ", ".join(part.source for part in parts),
        notes=[note for part in parts for note in part.notes],
    )


def is_name(text: str) -> bool:
    """Whether `load` reads this from somewhere: a data set, `text:...`, a file. Else it may be a text itself."""
    from cutaway.data.sets import catalogue

    name, _ = split(text)
    return text.startswith(TEXT) or name in catalogue() or any(_is(Path.is_file, path) for path in (text, name))


def names() -> list[tuple[str, str]]:
    """Name and one-line description of every data set."""
    from cutaway.data.sets import catalogue

    return [(entry.name, entry.summary) for entry in catalogue().values()]


def _picture(source: Any, space: Space | None) -> Examples:
    from cutaway.data.images import example

    return example(source, space)


def _named(text: str, space: Space | None) -> Examples | None:
    from cutaway.data.sets import catalogue

    name, index = split(text)
    entry = catalogue().get(name)
    return replace(entry.take(which(index, entry.size, text), space), source=text) if entry else None


def _from_disk(text: str, space: Space | None, broken: Literal["stop", "skip"]) -> Examples:
    from cutaway.data import broden
    from cutaway.data.folder import pictures
    from cutaway.data.moves import PREFIX, position

    if text.startswith(PREFIX):
        return position(text, space)
    if text.startswith(broden.PREFIX):
        return broden.opened(text, space, broken)[:]
    if text.startswith(TEXT):
        return written(text.removeprefix(TEXT))
    kind = space.kind if space is not None else "image"
    if kind in ("tokens", "row") and (found := _lines_of(text, space)):
        return found
    if text == "-" or _is(Path.is_file, text):
        return _picture(text, space)
    path = text.removeprefix("folder:")
    path, index = (path, "") if _is(Path.is_dir, path) else split(path)
    if text.startswith("folder:") or _is(Path.is_dir, path):
        return pictures(path, space, lambda size: which(index, size, text), broken=broken)
    more = "`cutaway data` lists all; " + _OWN.get(kind, _OWN["image"])
    raise unknown_name("data set or file", text, [name for name, _ in names()], more)


def _lines_of(text: str, space: Space | None) -> Examples | None:
    """The lines of a file of texts, or the rows of a table, for a model that takes such."""
    path, index = (text, "") if _is(Path.is_file, text) else split(text)
    if space is None or not _is(Path.is_file, path):
        return None
    if space.kind == "tokens":
        return replace(lines(path, lambda size: which(index, size, text)), source=text)
    from cutaway.data.tables import table

    return replace(table(path, space, lambda size: which(index, size, text)), source=text)


def _joined(parts: list[Tensor | list[str]]) -> Tensor | list[str]:
    texts = [part for part in parts if not isinstance(part, Tensor)]
    if texts and len(texts) < len(parts):
        raise BadOption("expected inputs of one kind; got texts and tensors.")
    if texts:
        return [text for part in texts for text in part]
    return torch.cat([part for part in parts if isinstance(part, Tensor)])


def _numbers(name: str, space: Space) -> Tensor:
    """A data set as tensors, for fills that draw from it."""
    found = load(name, space=space).x
    if not isinstance(found, Tensor):
        raise BadOption(f"expected a data set of pictures or rows to draw from; {name} has texts.")
    return found


def split(text: str) -> tuple[str, str]:
    """The name, and what stands in brackets behind it."""
    match = _SLICE.fullmatch(text)
    return (match["name"], match["index"] or "?") if match else (text, "")


def _is(kind: Callable[[Path], bool], text: str) -> bool:
    try:
        return bool(text) and kind(Path(text))
    except (OSError, ValueError):  # too long, or not a path at all
        return False


def which(index: str, size: int, text: str = "") -> range:
    """The indices that the text between the brackets means, out of `size`.

    Args:
        index: `3`, `-1`, `0:16`, `10:20:2`, or nothing for all.
        size: How many there are.
        text: The whole name, for error messages.
    """
    if not index:
        return range(size)
    match = _PART.fullmatch(index)
    if match is None:
        raise BadOption(f"expected a number or a slice such as [3] or [0:16]; got {text or index!r}.")
    one, start, stop, step = match.groups()
    if one is not None:
        if not -size <= int(one) < size:
            raise BadOption(f"{text or one!r} asks for number {one}; there are {size}, counted from 0.")
        return range(size)[int(one) :][:1]
    if step == "0":
        raise BadOption(f"expected a positive step; got {text or index!r}.")
    chosen = range(size)[slice(*(int(part) if part else None for part in (start, stop, step)))]
    if not chosen:
        raise BadOption(f"{text or index!r} is empty; there are {size}, counted from 0.")
    if stop and int(stop) > size:
        raise BadOption(f"{text or index!r} ends at {stop}; there are {size}.")
    return chosen


make_callable(__name__, load)
set_loader(_numbers)
