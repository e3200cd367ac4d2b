"""The thousand classes of ImageNet, and one sample photo for every second of them.

`imagenet.txt` has the classes in the order that networks use: identifiers ("wnid") sorted, each with a short name.
`imagenet_samples.txt` has the SHA-256 of a copy of the photos scaled to a short side of 256; that copy is used where
CUTAWAY_DATA has it. The originals are fetched otherwise. Their publisher gives no checksums, so each must show the
picture that the copy shows: the file has the likeness of each, too.
"""

from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import torch

from cutaway.core.dataset import Examples
from cutaway.core.errors import CutawayError
from cutaway.core.progress import track
from cutaway.core.space import Space
from cutaway.data.decoding import decode, file_bytes
from cutaway.data.fetch import Collection
from cutaway.data.images import Picture, read, to_units
from cutaway.data.likeness import TOLERANCE, apart, likeness
from cutaway.data.sets import DataSet

NAME = "imagenet-samples"
HOMES = ("https://raw.githubusercontent.com/EliSchwartz/imagenet-sample-images/master/",)
COUNT = 500


@cache
def wnids() -> tuple[str, ...]:
    """The thousand identifiers in class order."""
    return tuple(line.split(" ", 1)[0] for line in _lines("imagenet.txt"))


@cache
def classes() -> tuple[str, ...]:
    """The thousand names in class order."""
    return tuple(line.split(" ", 1)[1] for line in _lines("imagenet.txt"))


@cache
def collection() -> Collection:
    """The sample photos: scaled copies with their checksums, originals with what they must show."""
    sums = {file: digest for digest, _, file in (line.split() for line in _lines("imagenet_samples.txt"))}
    return Collection(NAME, HOMES, {**sums, **{_original(file): None for file in sums}}, _fault)


@cache
def likenesses() -> dict[str, int]:
    """What each original must show."""
    known = (line.split() for line in _lines("imagenet_samples.txt"))
    return {_original(file): int(bits, 16) for _, bits, file in known}


def listing(folder: Path) -> str:
    """The content of `imagenet_samples.txt` for a folder with the copies: checksum, likeness and name of each."""
    rows = ((sha256(path.read_bytes()).hexdigest(), likeness(read(path).image), path.name) for path in folder.iterdir())
    return "".join(f"{digest} {bits:016x} {name}\n" for digest, bits, name in sorted(rows, key=lambda row: row[2]))


def samples(which: range, space: Space | None = None) -> Examples:
    """The sample photos at these positions, in class order."""
    copies = [file for file in collection().sums if file.endswith(".jpg")]
    pictures = [_picture(copies[i]) for i in track(which, "reading photos")]
    names = [picture.name for picture in pictures]
    return Examples(
        x=to_units(torch.stack([picture.fitted(space) for picture in pictures]), space),
        names=names,
        labels=torch.tensor([wnids().index(name.split("_", 1)[0]) for name in names]),
        classes=classes(),
        source=NAME,
    )


def _picture(copy: str) -> Picture:
    path = collection().local(copy) or collection().path(_original(copy))
    return read(path)


def _fault(file: str, path: Path) -> str:
    """What is wrong with an original: it is no whole picture, or not the one that it should be."""
    try:
        # As it is stored, and as its orientation mark turns it: nobody knows which of them was copied.
        shown = [likeness(decode(file_bytes(path), file, suffix=path.suffix)), likeness(read(path, file).image)]
    except CutawayError as fault:
        return str(fault).removesuffix(".")
    distance = min(apart(found, likenesses()[file]) for found in shown)
    if distance <= TOLERANCE:
        return ""
    twin = next((name for name, known in likenesses().items() if apart(shown[1], known) <= TOLERANCE), "")
    seen = f"it shows {twin}" if twin else "it shows another picture than the known one"
    return f"{seen} (its likeness differs in {distance} of 63 bits; of another size or quality, in up to {TOLERANCE})"


def _original(copy: str) -> str:
    return copy.removesuffix(".jpg") + ".JPEG"


def _lines(file: str) -> list[str]:
    return files("cutaway.data").joinpath(file).read_text(encoding="utf-8").splitlines()


DATASETS = (DataSet(NAME, "one photo for every second ImageNet class (fetched)", COUNT, samples),)
