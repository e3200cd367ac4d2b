"""Options of a model that come as text from a shell: sizes, means, class names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutaway.core.errors import BadOption, UnknownName
from cutaway.core.space import Space, images, rows

MAX_CLASSES_BYTES = 4_000_000


def space_of(
    *,
    size: int | str | tuple[int, int] | None,
    channels: int,
    mean: float | str | Sequence[float],
    std: float | str | Sequence[float],
    columns: int | str | Sequence[str] | None,
) -> Space:
    """The space of images of a size, or of rows with columns.

    Args:
        size: 224, (240, 320), or as text "224" or "240x320" (height x width).
        channels: 3 for colour, 1 for grey.
        mean, std: What the network's inputs are normalised with, in input units; numbers, or text such as
            "0.5,0.5,0.5".
        columns: How many columns a row has, or their names; instead of a size.
    """
    if (size is None) == (columns is None):
        raise BadOption(
            "expected either size=... for images (such as 224 or '240x320') or columns=... for rows of a table."
        )
    if columns is not None:
        return rows(_columns(columns), mean=_numbers(mean, "mean"), std=_numbers(std, "std"))
    assert size is not None
    if channels not in (1, 3):
        raise BadOption(f"expected channels=1 or 3; got {channels}.")
    return images(
        _size(size), channels=channels, mean=_numbers(mean, "mean", channels), std=_numbers(std, "std", channels)
    )


def classes_of(classes: Any) -> tuple[str, ...] | None:
    """Class names from a list, or from a text file with one name per line.

    A line may begin with a WordNet identifier ("n02123045 tabby"), which is left out.
    """
    if classes is None or not isinstance(classes, str | Path):
        return None if classes is None else tuple(str(name) for name in classes)
    path = Path(classes)
    if str(classes) == "imagenet":
        from cutaway.data.imagenet import classes as imagenet

        return imagenet()
    if not path.is_file():
        raise UnknownName(
            f"no file of class names at {str(path)!r}. Give a text file with one name per line, or 'imagenet'."
        )
    if path.stat().st_size > MAX_CLASSES_BYTES:
        raise BadOption(f"{path.name}: too large for a list of class names.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as fault:
        raise BadOption(
            f"{path.name}: expected class names as UTF-8 text; {fault.reason} at byte {fault.start}."
        ) from fault
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(_without_wnid(line.strip()) for line in lines)


def _without_wnid(line: str) -> str:
    first, _, rest = line.partition(" ")
    return rest if rest and len(first) == 9 and first[0] == "n" and first[1:].isdigit() else line


def _columns(columns: int | str | Sequence[str]) -> int | list[str]:
    if isinstance(columns, str):
        return int(columns) if columns.isdigit() else [name.strip() for name in columns.split(",")]
    return columns if isinstance(columns, int) else [str(name) for name in columns]


def _size(size: int | str | tuple[int, int]) -> int | tuple[int, int]:
    parts = size.lower().split("x") if isinstance(size, str) else [size] if isinstance(size, int) else list(size)
    if len(parts) not in (1, 2) or not all(str(part).strip().isdigit() and 0 < int(part) <= 8192 for part in parts):
        raise BadOption(f"expected a size in pixels such as 224 or '240x320' (height x width); got {size!r}.")
    height, width = int(parts[0]), int(parts[-1])
    return height, width


def _numbers(values: float | str | Sequence[float], what: str, channels: int | None = None) -> list[float]:
    parts = (
        values.split(",") if isinstance(values, str) else [values] if isinstance(values, int | float) else list(values)
    )
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        raise BadOption(f"expected {what} as a number, or several with commas between; got {values!r}.") from None
    if channels is not None and len(numbers) not in (1, channels):
        raise BadOption(f"expected one {what}, or one for each of {channels} channels; got {len(numbers)}.")
    return numbers
