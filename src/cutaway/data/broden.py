"""Folders in Broden's format: photos with what is where in them, in several categories at once.

    index.csv          image, split, ih, iw, sh, sw, and a column for each category; a cell has, with ; between them,
                       label pictures or numbers of labels that are true of the whole image; an empty one says that
                       nobody looked
    category.csv       name, ... of the categories
    c_CATEGORY.csv     code, number, name, ... of the labels of one category
    images/            photos and label pictures; a pixel's number is R + 256 G

(Bau, Zhou, Khosla, Oliva and Torralba 2017; the files of the original tool.)
"""

import csv
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, BadShape, CutawayError, UnknownName
from cutaway.core.space import Space
from cutaway.data import label_maps
from cutaway.data.folder import MAX_VALUES
from cutaway.data.images import frame, read, to_units
from cutaway.data.lazy import Broken, stamp

PREFIX = "broden:"
_SIZES = ("ih", "iw", "sh", "sw")


@dataclass(frozen=True)
class Broden:
    """A folder in Broden's format, or some of its images, read as they are looked at.

    Attributes:
        path: The folder.
        chosen: Which of its images, in the order of the index.
        space: What the model takes; photos and labels are brought to its frame alike.
        source: The text that named it.
        broken: What to do about images that cannot be read.
    """

    path: Path
    chosen: range
    space: Space | None
    source: str
    broken: Broken = "stop"
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many images."""
        return len(self.chosen)

    def __getitem__(self, index: slice) -> Examples:
        """Some of them, read now, with their concepts. Images that were left out leave gaps in `ids`."""
        places = range(len(self))[index]
        channels, height, width = frame(self.space)
        if len(places) * channels * height * width > MAX_VALUES:
            raise BadOption(f"{len(places)} images of {height} x {width} are too many at once; take a slice.")
        found, notes = [], []
        for place in places:
            try:
                found.append((place, *self._one(self._rows[self.chosen[place]])))
            except CutawayError as fault:
                if self.broken == "stop":
                    raise type(fault)(f"{fault} broken='skip' leaves such images out and counts them.") from fault
                notes.append(f"left out: {fault}")
        numbers = [place for place, *_ in found]
        return Examples(
            x=torch.stack([x for _, x, _ in found]) if found else torch.zeros(0, channels, height, width),
            names=[self._rows[self.chosen[place]]["image"] for place in numbers],
            source=self.source,
            notes=notes,
            ids=torch.tensor(numbers, dtype=torch.int64),
            concepts={c: _stacked([maps[c] for *_, maps in found], height, width) for c in self._names},
            concept_names=self._names,
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the index, the labels, and the files' names, sizes and times of change."""
        about = [self._rows[i] for i in self.chosen], self._names, self._codes
        parts = [json.dumps(about), self.stamp(slice(None)), repr(self.space), self.broken]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def stamp(self, index: slice) -> str:
        """A hash of the names, sizes and times of change of some of the images and their labels, now."""
        rows = [self._rows[i] for i in self.chosen[index]]
        labels = (part for row in rows for c in self._names for part in _parts(row[c]) if not part.isdecimal())
        return stamp(self.path / "images", itertools.chain((row["image"] for row in rows), labels))

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        return index_of(self.path)

    @cached_property
    def _tables(self) -> dict[str, list[tuple[int, str]]]:
        return {category: _labels(self.path, category) for category in categories(self.path)}

    @cached_property
    def _names(self) -> Mapping[str, tuple[str, ...]]:
        return {category: ("", *(name for _, name in labels)) for category, labels in self._tables.items()}

    @cached_property
    def _codes(self) -> dict[str, dict[int, int]]:
        """By category, from the number of a label in the files to its place among the names; 0 is nothing."""
        return {c: {0: 0} | {number: i + 1 for i, (number, _) in enumerate(t)} for c, t in self._tables.items()}

    def _one(self, row: Mapping[str, str]) -> tuple[Tensor, dict[str, Tensor]]:
        """An image, and its maps by category, (layers, height, width)."""
        picture = read(_inside(self.path, row["image"]), name=row["image"])
        tall, wide, rows, columns = (int(row[size]) for size in _SIZES)
        size = picture.image.size
        if size != (wide, tall):
            raise BadShape(
                f"{row['image']}: index.csv says {tall} x {wide} pixels; the file has {size[1]} x {size[0]}."
            )
        maps = {}
        for category in self._names:
            parts, shape = _parts(row[category]), (rows, columns)
            layers = [self._layer(part, category, row["image"], shape, size) for part in parts]
            maps[category] = torch.stack(layers) if layers else torch.full((1, *frame(self.space)[1:]), -1).short()
        return to_units(picture.fitted(self.space), self.space), maps

    def _layer(self, part: str, category: str, image: str, shape: tuple[int, int], size: tuple[int, int]) -> Tensor:
        if part.isdecimal():
            code = self._coded(np.array([[int(part)]]), category, f"{image}: {category} of the whole image")
            return torch.full(frame(self.space)[1:], code.item(), dtype=torch.int16)
        found = label_maps.numbers(_inside(self.path, part), part)
        if found.shape != shape:
            raise BadShape(
                f"{part}: index.csv says {shape[0]} x {shape[1]} labels; "
                f"the file has {found.shape[0]} x {found.shape[1]}."
            )
        return label_maps.fitted(self._coded(found, category, part), size, self.space)

    def _coded(self, found: np.ndarray, category: str, name: str) -> np.ndarray:
        codes, (unique, places) = self._codes[category], np.unique(found, return_inverse=True)
        unknown = [int(number) for number in unique if int(number) not in codes]
        if unknown:
            raise BadShape(f"{name}: label {unknown[0]} is not in c_{category}.csv.")
        return np.array([codes[int(number)] for number in unique])[places].reshape(found.shape)


def opened(text: str, space: Space | None, broken: Broken) -> Broden:
    """The folder that `broden:PATH` or `broden:PATH[0:100]` means.

    Raises:
        UnknownName: No such folder, or a table is missing.
        BadShape: A table is not what it should be.
    """
    from cutaway.data import split, which

    path, index = text.removeprefix(PREFIX), ""
    if not Path(path).is_dir():
        path, index = split(path)
    if not path or not Path(path).is_dir():
        raise UnknownName(f"no folder at {path!r}. `broden:PATH` reads a folder with index.csv and category.csv.")
    root = Path(path)
    return Broden(root, which(index, len(index_of(root)), text), space, text, broken)


def index_of(root: Path) -> list[dict[str, str]]:
    """The rows of index.csv, checked as far as that needs no picture."""
    names = categories(root)
    rows = list(_table(root, "index.csv", ("image", *_SIZES, *names)))
    if not rows:
        raise BadShape(f"index.csv in {root.name} lists no image.")
    for line, row in enumerate(rows, start=2):
        for size in _SIZES:
            if not row[size].isdecimal() or not int(row[size]):
                raise BadShape(f"index.csv, line {line}: expected a whole number above 0 as {size}; got {row[size]!r}.")
        if not row["image"]:
            raise BadShape(f"index.csv, line {line}: names no image.")
    return rows


def categories(root: Path) -> list[str]:
    """The names in category.csv."""
    names = [row["name"] for row in _table(root, "category.csv", ("name",))]
    if not names or not all(names) or len(set(names)) < len(names):
        raise BadShape(f"category.csv in {root.name}: expected different names of categories; got {names}.")
    return names


def _labels(root: Path, category: str) -> list[tuple[int, str]]:
    """Number and name of the labels of a category, in the order of their codes."""
    file = f"c_{category}.csv"
    found = list(_table(root, file, ("code", "number", "name")))
    for line, row in enumerate(found, start=2):
        if not row["code"].isdecimal() or not row["number"].isdecimal():
            raise BadShape(f"{file}, line {line}: expected whole numbers; got {row['code']!r} and {row['number']!r}.")
    labels = [(int(row["code"]), int(row["number"]), row["name"]) for row in found if int(row["number"])]
    for what, values in (("code", [code for code, *_ in labels]), ("number", [number for _, number, _ in labels])):
        if len(set(values)) < len(values):
            raise BadShape(f"{file}: a {what} is there twice.")
    if not labels:
        raise BadShape(f"{file}: lists no label.")
    if len(labels) > np.iinfo(np.int16).max:
        raise BadShape(f"{file}: {len(labels)} labels are more than fit; the limit is {np.iinfo(np.int16).max}.")
    return [(number, name) for _, number, name in sorted(labels)]


def _table(root: Path, name: str, needed: tuple[str, ...]) -> Iterator[dict[str, str]]:
    path = root / name
    if not path.is_file():
        raise UnknownName(
            f"no {name} in {str(root)!r}; a folder in Broden's format has index.csv, category.csv, c_*.csv."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        raise BadShape(f"{name} in {root.name} cannot be read ({fault}).") from fault
    lines: Any = csv.DictReader(text.splitlines())
    missing = [column for column in needed if column not in (lines.fieldnames or ())]
    if missing:
        raise BadShape(f"{name}: expected the columns {', '.join(needed)}; {', '.join(missing)} is missing.")
    for line, row in enumerate(lines, start=2):
        if any(row[column] is None for column in needed):
            raise BadShape(f"{name}, line {line}: has fewer cells than the first line.")
        yield {column: row[column].strip() for column in needed}


def _parts(cell: str) -> list[str]:
    return [part for part in cell.split(";") if part]


def _inside(root: Path, name: str) -> Path:
    """A file below images/; an index may come from anybody, so it must not name others."""
    folder = root / "images"
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadShape(f"{name}: index.csv names a file outside images/.")
    return path


def _stacked(maps: list[Tensor], height: int, width: int) -> Tensor:
    """Maps of several images with as many layers as the one with most; more layers of nothing change nothing."""
    layers = max((len(m) for m in maps), default=1)
    whole = torch.zeros(len(maps), layers, height, width, dtype=torch.int16)
    for row, m in zip(whole, maps, strict=True):
        row[: len(m)] = m
        if bool((m < 0).all()):
            row[:] = -1
    return whole
