"""The thousand classes of ImageNet, and one sample photo for every second of them.

`imagenet.txt` has the classes in the order that networks use: identifiers ("wnid") sorted, each with a short name.
`imagenet_samples.txt` has the SHA-256 of a copy of the photos scaled to a short side of 256; that copy is used where
CUTAWAY_DATA has it. The originals are fetched otherwise: their publisher gives no checksums, and the notes say so.
"""

from functools import cache
from importlib.resources import files

import torch

from cutaway.core.dataset import Examples
from cutaway.core.progress import track
from cutaway.core.space import Space
from cutaway.data.fetch import Collection
from cutaway.data.images import Picture, read, to_units
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
    """The sample photos: scaled copies with their checksums, originals without."""
    sums = {file: digest for digest, file in (line.split() for line in _lines("imagenet_samples.txt"))}
    return Collection(NAME, HOMES, {**sums, **{_original(file): None for file in sums}})


def samples(which: range, space: Space | None = None) -> Examples:
    """The sample photos at these positions, in class order."""
    copies = [file for file in collection().sums if file.endswith(".jpg")]
    pictures = [_picture(copies[i]) for i in track(which, "reading photos")]
    names = [picture.name for picture in pictures]
    originals = sum(name.endswith(".JPEG") for name in names)
    return Examples(
        x=to_units(torch.stack([picture.fitted(space) for picture in pictures]), space),
        names=names,
        labels=torch.tensor([wnids().index(name.split("_", 1)[0]) for name in names]),
        classes=classes(),
        source=NAME,
        notes=[f"{originals} original photos, whose publisher gives no checksums"] if originals else [],
    )


def _picture(copy: str) -> Picture:
    path = collection().local(copy) or collection().path(_original(copy))
    return read(path)


def _original(copy: str) -> str:
    return copy.removesuffix(".jpg") + ".JPEG"


def _lines(file: str) -> list[str]:
    return files("cutaway.data").joinpath(file).read_text(encoding="utf-8").splitlines()


DATASETS = (DataSet(NAME, "one photo for every second ImageNet class (fetched)", COUNT, samples),)
