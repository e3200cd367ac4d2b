"""Texts as examples: written out after `text:`, or the lines of a text file."""

from collections.abc import Callable
from pathlib import Path

from cutaway.core.dataset import Examples
from cutaway.core.errors import BadShape

PREFIX = "text:"
MAX_BYTES = 100_000_000
_SHOWN = 40  # letters of a text in its name


def written(text: str) -> Examples:
    """One text as an example; its source is the text itself."""
    return Examples(x=[text], names=[shortened(text)], source=f"{PREFIX}{text}")


def lines(path: str | Path, which: Callable[[int], range]) -> Examples:
    """The lines of a UTF-8 text file, one example each; empty ones are left out.

    Args:
        path: The file.
        which: From how many there are to those that are wanted.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise BadShape(f"{path.name}: larger than {MAX_BYTES:,} bytes; split it.")
    try:
        every = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as fault:
        raise BadShape(f"{path.name}: expected UTF-8 text; {fault.reason} at byte {fault.start}.") from fault
    texts = [line for line in every if line]
    if not texts:
        raise BadShape(f"{path.name}: expected one text per line; there is none.")
    chosen = list(which(len(texts)))
    empty = len(every) - len(texts)
    return Examples(
        x=[texts[i] for i in chosen],
        names=[f"{path.name} {i}: {shortened(texts[i])}" for i in chosen],
        source=str(path),
        notes=[f"{empty} empty lines of {path.name} were left out"] if empty else [],
    )


def shortened(text: str) -> str:
    """The beginning of a text, as its name."""
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1].rstrip()}…"
