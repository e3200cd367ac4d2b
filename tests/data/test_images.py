"""One picture at the door: what is read, what is refused, and what is said about it."""

import contextlib
import io
import os
import resource
import struct
import sys
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from cutaway.core.errors import BadShape, CutawayError, UnknownName
from cutaway.core.space import images, rows
from cutaway.data import load
from cutaway.data.decoding import MAX_PIXELS
from cutaway.data.images import read

FORMATS = {"PNG": ".png", "JPEG": ".jpg", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}


def gradient(width=40, height=30):
    """Red grows to the right, green downwards, blue is constant: every corner has its own colour."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, np.full_like(across, 100)], 2).astype(np.uint8))


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that claims a size and has next to no data."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_reads_each_format(tmp_path, kind):
    path = tmp_path / f"a photo – ü{FORMATS[kind]}"
    options = {"lossless": True} if kind == "WEBP" else {}
    path.write_bytes(encoded(gradient(), kind, **options))
    picture = read(path)
    assert picture.name == path.name
    assert picture.pixels().shape == (3, 30, 40)
    wanted = torch.from_numpy(np.array(gradient())).permute(2, 0, 1) / 255
    assert (picture.pixels() - wanted).abs().max() < (0.2 if kind in ("JPEG", "GIF") else 1e-6)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_is_refused_by_name(tmp_path, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, kind)
    path = tmp_path / f"half{FORMATS[kind]}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadShape, match=f"half{FORMATS[kind]}: .*cut short"):
        read(path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "nothing.png").touch()
    with pytest.raises(BadShape, match=r"nothing.png: the file is empty \(0 bytes\)"):
        read(tmp_path / "nothing.png")


@pytest.mark.parametrize("size", [(50_000, 50_000), (1, 1_000_000_000), (2_000_000_000, 2)])
def test_a_bomb_is_refused_before_decoding(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(BadShape, match=r"bomb.png: .*the limit is 100 million"):
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert time.monotonic() - start < 1


def test_a_size_between_pillows_limit_and_ours_raises_no_warning():
    width = 9_500
    assert Image.MAX_IMAGE_PIXELS < width * 10_000 < MAX_PIXELS
    with pytest.raises(BadShape, match="cut short"):
        read(png_header(width, 10_000))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(kind):
    frames = [gradient(), gradient().rotate(180)]
    with pytest.raises(BadShape, match="several frames or pages"):
        read(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))


def test_a_hundred_thousand_frames_are_refused_at_once():
    one = encoded(Image.new("P", (4, 4)), "GIF")
    many = one[:-1] + one[one.index(b",") : -1] * 100_000 + b";"
    start = time.monotonic()
    with pytest.raises(BadShape, match="several frames or pages"):
        read(many)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("name", [b"IDAT", b"zTXt", b"iCCP"])
def test_a_chunk_that_unpacks_to_much_more_needs_little_memory(name):
    packed = zlib.compress(bytes(200_000_000))
    body = packed if name == b"IDAT" else b"k\0\0" + packed
    header = png_header(4, 4)[:33]
    bomb = header + struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(BadShape):
        read(bomb + png_header(4, 4)[33:])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_the_first_picture_of_a_phones_jpeg_is_used():
    picture = read(encoded(gradient(), "MPO", save_all=True, append_images=[gradient(8, 8)]))
    assert picture.image.size == (40, 30)
    assert picture.notes == ["the file holds several pictures; the first was used"]


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".jpg"), ("JPEG", ".png"), ("PNG", ".txt"), ("BMP", ".TIF")])
def test_a_wrong_ending_is_refused(tmp_path, kind, suffix):
    path = tmp_path / f"mislabelled{suffix}"
    path.write_bytes(encoded(gradient(), kind))
    with pytest.raises(BadShape, match=f"called {suffix} but contains {kind}"):
        read(path)


@pytest.mark.parametrize("name", ["photo.JPG", "photo.jpeg", "photo"])
def test_a_right_or_no_ending_is_fine(tmp_path, name):
    (tmp_path / name).write_bytes(encoded(gradient(), "JPEG"))
    assert read(tmp_path / name).image.size == (40, 30)


@pytest.mark.parametrize(
    "content",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"\x00\x00\x01\x00\x01\x00",
        b"icns\x00\x00\x00\x08",
        b"P6 1 1 255 \0\0\0",
        b"hello",
    ],
    ids=["svg", "eps", "ico", "icns", "ppm", "text"],
)
def test_other_formats_are_refused(content):
    with pytest.raises(BadShape, match="not a picture in a known format; expected PNG"):
        read(content)


@pytest.mark.parametrize("seed", range(30))
def test_damaged_bytes_are_read_or_refused_and_nothing_else(seed):
    draw = np.random.default_rng(seed)
    kind = list(FORMATS)[seed % len(FORMATS)]
    damaged = bytearray(encoded(gradient(), kind))
    for at in draw.integers(12, len(damaged), 20):
        damaged[at] = draw.integers(256)
    try:
        picture = read(bytes(damaged))
    except BadShape:
        return
    assert torch.isfinite(picture.fitted()).all()


def test_each_exif_orientation_comes_out_upright():
    upright = np.asarray(gradient())
    turned = {2: np.fliplr, 3: lambda a: a[::-1, ::-1], 4: np.flipud, 6: np.rot90, 8: lambda a: np.rot90(a, 3)}
    for orientation, stored in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = read(encoded(Image.fromarray(np.ascontiguousarray(stored(upright))), "PNG", exif=exif))
        assert picture.notes == ["turned upright as its EXIF mark says"]
        np.testing.assert_array_equal(np.asarray(picture.image), upright)


def test_unreadable_exif_data_does_no_harm():
    picture = read(encoded(gradient(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage"))
    assert picture.image.size == (40, 30)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_is_repeated(mode):
    picture = read(encoded(gradient().convert(mode), "PNG"))
    pixels = picture.pixels()
    assert torch.equal(pixels[0], pixels[2])
    assert picture.notes == ["grey, repeated in three channels"]


def test_sixteen_bits_keep_their_scale():
    values = np.array([[0, 257, 32_768, 65_535]], dtype=np.uint16)
    picture = read(encoded(Image.fromarray(values), "PNG"))
    assert torch.allclose(picture.pixels()[0], torch.tensor([[0, 257 / 65535, 32768 / 65535, 1.0]]))
    assert picture.notes == ["grey with more than eight bits, repeated in three channels"]
    assert picture.fitted(images(8, channels=1)).shape == (1, 8, 8)


def test_numbers_of_unknown_scale_are_refused():
    with pytest.raises(BadShape, match="outside the known range"):
        read(encoded(Image.fromarray(np.array([[0.0, 300.0]], dtype=np.float32)), "TIFF"))


def test_cmyk_is_converted():
    ink = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    picture = read(encoded(ink, "TIFF"))
    assert picture.pixels()[:, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert picture.notes == ["converted from CMYK without a colour profile"]


def test_a_colour_space_without_a_plain_conversion_is_refused():
    with pytest.raises(BadShape, match="colours in mode LAB"):
        read(encoded(Image.new("LAB", (4, 4)), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_are_shown_on_white(mode):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
    picture = read(encoded(clear, "PNG"))
    assert (picture.pixels() == 1).all()
    assert picture.notes == ["transparent parts shown on white"]


def test_an_opaque_alpha_channel_changes_nothing():
    picture = read(encoded(gradient().convert("RGBA"), "PNG"))
    assert picture.notes == []
    np.testing.assert_array_equal(np.asarray(picture.image), np.asarray(gradient()))


def test_a_transparent_palette_colour_is_shown_on_white():
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([255, 0, 0, 0, 255, 0])
    indexed.putpixel((1, 0), 1)
    picture = read(encoded(indexed, "PNG", transparency=1))
    assert picture.pixels()[:, 0].T.tolist() == [[1, 0, 0], [1, 1, 1]]


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(UnknownName, match=r"no picture at .*away.png"):
        read(tmp_path / "away.png")
    with pytest.raises(BadShape, match="expected a plain file"):
        read(tmp_path)


def test_a_named_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadShape, match="expected a plain file"):
        read(tmp_path / "pipe.png")


def test_standard_input(monkeypatch):
    class Stdin:
        buffer = io.BytesIO(encoded(gradient(), "PNG"))

    monkeypatch.setattr(sys, "stdin", Stdin)
    examples = load("-")
    assert examples.x.shape == (1, 3, 224, 224)
    assert examples.names == ["standard input"]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float64])
def test_arrays_of_each_type_agree(kind):
    whole = np.asarray(gradient())
    array = {np.uint8: whole, np.uint16: whole.astype(np.uint16) * 257}.get(kind, (whole / 255).astype(kind))
    assert torch.allclose(read(array).pixels(), read(whole).pixels(), atol=1 / 255)


def test_arrays_with_any_strides_give_equal_answers_and_stay_as_they_are():
    whole = np.asarray(gradient()).copy()
    wanted = read(np.ascontiguousarray(whole[::-1, ::2])).pixels()
    assert torch.equal(read(whole[::-1, ::2]).pixels(), wanted)
    np.testing.assert_array_equal(whole, np.asarray(gradient()))


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((3, 8, 9)), r"expected \(height, width\)"),
        (np.zeros((0, 8, 3)), r"expected \(height, width\)"),
        (np.zeros((2, 8, 8, 3)), r"expected \(height, width\)"),
        (np.full((8, 8, 3), np.nan), r"floats in \[0, 1\]"),
        (np.full((8, 8), 255.0), r"floats in \[0, 1\]"),
        (np.zeros((8, 8), dtype=np.int64), "expected uint8"),
        (np.zeros((8, 8), dtype=complex), "expected uint8"),
    ],
    ids=["channels first", "empty", "batch", "nan", "0..255 as floats", "int64", "complex"],
)
def test_other_arrays_are_refused(array, complaint):
    with pytest.raises(BadShape, match=complaint):
        read(array)


@pytest.mark.parametrize("thing", [torch.zeros(3, 8, 8), [1, 2], None, 7], ids=["tensor", "list", "None", "number"])
def test_other_things_are_refused(thing):
    with pytest.raises(BadShape, match="expected a path, bytes, a PIL image or a NumPy array; got"):
        load(thing)


def test_a_pil_image_is_taken_and_not_changed():
    image = gradient().convert("RGBA")
    assert load(image).x.shape == (1, 3, 224, 224)
    assert image.mode == "RGBA"


class TestFitting:
    """Scaled to fill the frame, cut around the centre."""

    def test_the_size_of_the_frame_changes_nothing(self):
        picture = read(gradient(48, 48))
        assert torch.equal(picture.fitted(images(48)), picture.pixels())

    def test_a_wide_picture_loses_its_sides(self):
        halves = np.zeros((10, 40, 3), dtype=np.uint8)
        halves[:, 15:25] = 255
        assert (read(halves).fitted(images(10)) == 1).all()

    def test_scaling_down_averages(self):
        """Alternating black and white lines become grey, where taking every second pixel would leave one of them."""
        lines = np.zeros((64, 64), dtype=np.uint8)
        lines[::2] = 255
        small = read(lines).fitted(images(16))
        assert (small[:, 2:-2, 2:-2] - 0.5).abs().max() < 0.02

    def test_height_and_width_may_differ(self):
        assert read(gradient()).fitted(images((20, 60))).shape == (3, 20, 60)

    def test_a_very_long_picture_needs_little_memory(self):
        long = Image.new("L", (2_000_000, 1), 77)
        assert read(long).fitted(images(224)).shape == (3, 224, 224)

    def test_one_pixel_fills_the_frame(self):
        assert (read(np.full((1, 1, 3), 51, dtype=np.uint8)).fitted() == 0.2).all()

    def test_the_space_decides_about_channels_and_bounds(self):
        examples = load(gradient(), space=images(16, channels=1, low=-1, high=1))
        assert examples.x.shape == (1, 1, 16, 16)
        assert examples.x.min() < -0.3
        assert examples.x.max() <= 1

    @pytest.mark.parametrize("space", [rows(3), images(8, channels=4)])
    def test_a_space_that_cannot_show_it_is_refused(self, space):
        with pytest.raises(CutawayError):
            load(gradient(), space=space)


@pytest.mark.parametrize("height", [255, 256, 257, 341, 383])
def test_every_size_fills_the_frame_whatever_the_rounding(height):
    for width in range(256, 420, 7):
        assert read(np.zeros((height, width, 3), dtype=np.uint8)).fitted().shape == (3, 224, 224)
