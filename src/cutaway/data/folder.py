"""Your own pictures: a folder of files, or of one sub-folder per class."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch

from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, BadShape, UnknownName
from cutaway.core.progress import track
from cutaway.core.space import Space
from cutaway.data.decoding import SUFFIXES
from cutaway.data.images import Picture, frame, read, to_units

ENDINGS = frozenset().union(*SUFFIXES.values())
MAX_VALUES = 600_000_000  # floats in memory: about 4,000 photos of 224 x 224


def pictures(
    path: str,
    space: Space | None,
    choose: Callable[[int], range],
    *,
    broken: Literal["stop", "skip"] = "stop",
) -> Examples:
    """The chosen pictures of a folder, in the order of their names; sub-folders are classes.

    Args:
        path: The folder.
        space: Size and channels to bring them to.
        choose: From the number of files to the indices that are wanted.
        broken: Stop at an unreadable file, or leave it out and count it.
    """
    root = Path(path)
    if not path or not root.is_dir():
        raise UnknownName(
            f"no folder at {path!r}. `folder:PATH` reads a folder of pictures, or of one sub-folder per class."
        )
    files, classes, notes = listing(root)
    chosen = [files[i] for i in choose(len(files))]
    _check_memory(len(chosen), space)
    kept, read_ones = [], []
    left_out: list[str] = []
    for name, picture in _decoded(root, chosen, broken, left_out):
        kept.append(name)
        read_ones.append(picture.fitted(space))
        notes += [f"{name}: {note}" for note in picture.notes]
    if not kept:
        raise BadShape(f"none of {len(chosen)} pictures in {root.name} could be read; the first: {left_out[0]}")
    if left_out:
        notes.append(f"{len(left_out)} of {len(chosen)} files left out: {'; '.join(left_out)}")
    labels = torch.tensor([classes.index(name.parts[0]) for name in kept]) if classes else None
    return Examples(
        x=to_units(torch.stack(read_ones), space),
        names=[name.as_posix() for name in kept],
        labels=labels,
        classes=classes,
        source=f"folder:{path}",
        notes=notes,
    )


def listing(root: Path) -> tuple[list[Path], tuple[str, ...], list[str]]:
    """Files relative to the folder, class names, and what was passed over."""
    found = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    seen = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    files = [path for path in seen if path.suffix.lower() in ENDINGS]
    if not files:
        raise BadShape(f"no pictures in {str(root)!r}; expected files ending in {', '.join(sorted(ENDINGS))}.")
    notes = [f"{len(seen) - len(files)} files that are no pictures were passed over"] if len(files) < len(seen) else []
    classed = [path for path in files if len(path.parts) > 1]
    if classed and len(classed) < len(files):
        notes.append(f"{len(files) - len(classed)} pictures beside the class folders were passed over")
    classes = tuple(sorted({path.parts[0] for path in classed}))
    return classed or files, classes, notes


def _decoded(root: Path, chosen: list[Path], broken: str, left_out: list[str]) -> Iterator[tuple[Path, Picture]]:
    for name in track(chosen, "reading pictures"):
        try:
            picture = read(root / name, name=name.as_posix())
        except BadShape as fault:
            if broken == "stop":
                raise BadShape(f"{fault} broken='skip' leaves such files out and counts them.") from fault
            left_out.append(str(fault))
        else:
            yield name, picture


def _check_memory(count: int, space: Space | None) -> None:
    channels, height, width = frame(space)
    fitting = MAX_VALUES // (channels * height * width)
    if count > fitting:
        raise BadOption(
            f"{count} pictures of {height} x {width} are too many at once; take a slice such as [0:{fitting}]."
        )
