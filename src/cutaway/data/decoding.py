"""The bytes of a picture file, decoded.

Anyone's file may come in here, so the door is narrow: six formats known by their first bytes, sizes checked before
anything is decoded, one frame.
"""

import io
import warnings
from pathlib import Path

from PIL import Image

from cutaway.core.errors import BadShape, NotPossible, UnknownName

MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 1024 * 1024

SUFFIXES = {
    "PNG": {".png"},
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
    "WEBP": {".webp"},
}
_MAGIC = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
}
ALLOWED = "PNG, JPEG, GIF, BMP, TIFF and WebP"


def decode(data: bytes, name: str, *, suffix: str = "") -> Image.Image:
    """Decode the bytes of one file.

    Args:
        data: The content.
        name: Of the file, for messages.
        suffix: Of the file; if it has one, it must agree with the content.

    Raises:
        BadShape: No picture, too large, several frames, broken, cut short, or called what it is not.
    """
    kind = sniff(data, name)
    if suffix and suffix.lower() not in SUFFIXES[kind]:
        raise BadShape(f"{name}: called {suffix} but contains {kind}. Rename it if that is meant, or remove it.")
    try:
        with warnings.catch_warnings():
            # Our own limit stands below; Pillow's warning has another one.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=[kind])
            _check_header(image, name)
            image.load()
    except BadShape:
        raise
    except Image.DecompressionBombError as fault:
        raise too_many_pixels(name) from fault
    except Exception as fault:  # a hostile file can make a decoder raise anything
        raise BadShape(
            f"{name}: the {kind} data is broken or cut short ({fault}). Save or copy the picture again."
        ) from fault
    return image


def sniff(data: bytes, name: str) -> str:
    """The format, by the first bytes."""
    if not data:
        raise BadShape(f"{name}: the file is empty (0 bytes).")
    if len(data) > MAX_BYTES:
        raise BadShape(f"{name}: more than {MAX_BYTES >> 20} MiB; too large for one picture.")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for kind, starts in _MAGIC.items():
        if data.startswith(starts):
            return kind
    raise BadShape(f"{name}: not a picture in a known format; expected {ALLOWED}.")


def file_bytes(path: Path) -> bytes:
    """The content of a plain file."""
    if not path.exists():
        raise UnknownName(f"no picture at {str(path)!r}. Give the path of a file, or `-` for standard input.")
    if not path.is_file():
        raise BadShape(f"{path.name}: expected a plain file; got a folder or device.")
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except PermissionError as fault:
        raise NotPossible(f"{path.name}: not allowed to read this file.") from fault


def _check_header(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise too_many_pixels(name, f"{width} x {height} pixels")
    # A phone's JPEG may carry a preview as a second frame (MPO); that is no animation.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise BadShape(f"{name}: contains several frames or pages; save the one to explain as a PNG.")


def too_many_pixels(name: str, size: str = "too many pixels") -> BadShape:
    """The refusal of a picture beyond the limit."""
    return BadShape(f"{name}: {size}; the limit is {MAX_PIXELS // 1_000_000} million. Scale it down first.")
