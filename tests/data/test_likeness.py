"""Photos without a checksum are known by what they show."""

import http.server
import io
import os
import threading
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutaway.core.errors import BadShape, NotPossible
from cutaway.core.space import images
from cutaway.data import fetch, imagenet, load
from cutaway.data.images import read
from cutaway.data.likeness import TOLERANCE, apart, likeness

COPIES = Path(os.environ.get("CUTAWAY_DATA", "-"), "imagenet-samples")
needs_copies = pytest.mark.skipif(not COPIES.is_dir(), reason="needs CUTAWAY_DATA with the folder imagenet-samples")
FIRST, SECOND = list(imagenet.likenesses())[:2]


def scene(seed):
    """Soft blobs, as different from each other as photos are."""
    rough = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((400, 300), Image.Resampling.BICUBIC)


def jpeg(image, quality=75, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(400, 300), (200, 150), (800, 600), (233, 175)])
@pytest.mark.parametrize("quality", [30, 60, 95])
def test_a_picture_saved_anew_is_the_same_picture(size, quality):
    for seed in range(10):
        again = read(jpeg(scene(seed).resize(size), quality)).image
        assert apart(likeness(scene(seed)), likeness(again)) <= TOLERANCE


def test_other_pictures_are_other_pictures():
    known = [likeness(scene(seed)) for seed in range(60)]
    assert min(apart(a, b) for i, a in enumerate(known) for b in known[:i]) > TOLERANCE
    turned = [likeness(scene(seed).transpose(Image.Transpose.ROTATE_90)) for seed in range(60)]
    assert min(map(apart, known, turned)) > TOLERANCE


def test_a_likeness_is_the_signs_of_a_cosine_transform():
    image = scene(3)
    small = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=float)
    places = (np.arange(32) + 0.5) * np.pi / 32
    bits = ""
    for row in range(8):
        for column in range(8):
            wave = np.outer(np.cos(row * places), np.cos(column * places))
            bits += "1" if (small * wave).sum() > 0 else "0"
    assert likeness(image) == int(bits[1:], 2)


def test_each_of_the_samples_has_a_likeness_of_its_own():
    known = list(imagenet.likenesses().values())
    assert len(known) == imagenet.COUNT
    assert min(apart(a, b) for i, a in enumerate(known) for b in known[:i]) >= TOLERANCE + 4


@needs_copies
def test_the_listing_is_made_from_the_copies():
    assert imagenet.listing(COPIES) == files("cutaway.data").joinpath("imagenet_samples.txt").read_text("utf-8")


@needs_copies
def test_the_samples_saved_anew_are_known():
    for name, known in list(imagenet.likenesses().items())[::10]:
        image = read(COPIES / name.replace(".JPEG", ".jpg")).image
        for scale, quality in ((0.5, 75), (1, 30), (1.7, 60)):
            size = round(image.width * scale), round(image.height * scale)
            assert apart(known, likeness(read(jpeg(image.resize(size), quality)).image)) <= TOLERANCE


class TestOriginals:
    """Fetched from a server on this machine that has made-up photos, which the likenesses are made for."""

    @pytest.fixture(autouse=True)
    def _home(self, tmp_path, monkeypatch):
        self.home = tmp_path / "home"
        self.home.mkdir()
        known = dict(imagenet.likenesses()) | {FIRST: likeness(scene(1)), SECOND: likeness(scene(2))}
        monkeypatch.setattr(imagenet, "likenesses", lambda: known)
        monkeypatch.setattr(fetch, "cache", lambda: tmp_path / "cache")
        monkeypatch.setattr(fetch, "ATTEMPTS", 1)
        monkeypatch.delenv("CUTAWAY_DATA", raising=False)

    @pytest.fixture
    def publish(self, monkeypatch):
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=self.home)) as running:
            thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            monkeypatch.setattr(imagenet, "HOMES", (f"http://127.0.0.1:{running.server_port}/",))
            imagenet.collection.cache_clear()
            yield lambda name, data: (self.home / name).write_bytes(data)
            imagenet.collection.cache_clear()
            running.shutdown()
            thread.join()

    def test_at_any_size_and_quality_they_are_taken(self, publish):
        publish(FIRST, jpeg(scene(1).resize((900, 700)), 60))
        publish(SECOND, jpeg(scene(2), 95))
        examples = load("imagenet-samples[0:2]", space=images(32))
        assert examples.names == [FIRST, SECOND]
        assert examples.labels.tolist() == [0, 2]
        assert examples.notes == []
        assert (fetch.cache() / "imagenet-samples" / f"{FIRST}.sha256").is_file()

    def test_turned_by_a_mark_they_are_taken(self, publish):
        mark = Image.Exif()
        mark[0x0112] = 6
        publish(FIRST, jpeg(scene(1), exif=mark))
        publish(SECOND, jpeg(scene(2).transpose(Image.Transpose.ROTATE_90), exif=mark))
        assert len(load("imagenet-samples[0:2]", space=images(32)).x) == 2

    def test_swapped_they_are_refused_by_name(self, publish):
        publish(FIRST, jpeg(scene(2)))
        with pytest.raises(NotPossible, match=rf"{FIRST}: it shows {SECOND} .*thrown away.*imagenet-samples/ in a"):
            load("imagenet-samples[0]", space=images(32))

    def test_another_picture_is_refused(self, publish):
        publish(FIRST, jpeg(scene(7)))
        with pytest.raises(NotPossible, match=r"it shows another picture than the known one \(its likeness differs in"):
            load("imagenet-samples[0]", space=images(32))

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
    def test_cut_short_they_are_refused(self, publish, share):
        data = jpeg(scene(1))
        publish(FIRST, data[: int(share * len(data))])
        with pytest.raises(NotPossible, match=rf"{FIRST}.*(cut short|empty)"):
            load("imagenet-samples[0]", space=images(32))

    def test_an_error_page_is_refused(self, publish):
        publish(FIRST, b"<html>moved</html>")
        with pytest.raises(NotPossible, match=r"not a picture in a known format"):
            load("imagenet-samples[0]", space=images(32))

    def test_in_the_own_folder_they_are_looked_at_too(self, monkeypatch, tmp_path):
        folder = tmp_path / "own" / "imagenet-samples"
        folder.mkdir(parents=True)
        monkeypatch.setenv("CUTAWAY_DATA", str(tmp_path / "own"))
        (folder / FIRST).write_bytes(jpeg(scene(1)))
        assert load("imagenet-samples[0]", space=images(32)).names == [FIRST]
        (folder / FIRST).write_bytes(jpeg(scene(2)))
        with pytest.raises(BadShape, match=rf"{FIRST}: it shows {SECOND}.*Remove it or copy it again"):
            load("imagenet-samples[0]", space=images(32))
