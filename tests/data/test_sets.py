"""Bundled and fetched sets."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from cutaway.core.errors import BadShape
from cutaway.core.space import images
from cutaway.data import imagenet, load
from cutaway.data.mnist import read_idx
from cutaway.data.photos import PHOTOS

needs_data = pytest.mark.skipif(
    not Path(os.environ.get("CUTAWAY_DATA", "-"), "imagenet-samples").is_dir(),
    reason="needs CUTAWAY_DATA with the folders imagenet-samples and mnist",
)


@pytest.mark.parametrize("name", PHOTOS)
def test_every_photo_is_there(name):
    examples = load(f"photos/{name}", space=images(64))
    assert examples.x.shape == (1, 3, 64, 64)
    assert examples.x.std() > 0.02
    assert examples.source == f"photos/{name}"


def test_all_photos_together():
    assert load("photos[0:3]").names == ["astronaut", "camera", "chelsea"]


def test_digits_are_split_without_overlap():
    everything, test, train = (load(name) for name in ("digits", "digits/test", "digits/train"))
    assert len(everything) == 1797
    assert sorted(test.names + train.names) == sorted(everything.names)
    assert not set(test.names) & set(train.names)
    assert (everything.x.min(), everything.x.max()) == (0, 1)
    assert test.classes[test.labels[0]] == "zero"


def test_imagenet_classes_are_in_the_order_of_their_identifiers():
    wnids = imagenet.wnids()
    assert len(wnids) == len(set(imagenet.classes())) == 1000
    assert list(wnids) == sorted(wnids)
    assert imagenet.classes()[wnids.index("n02123045")] == "tabby"
    assert (imagenet.classes()[0], imagenet.classes()[999]) == ("tench", "toilet tissue")


@needs_data
def test_imagenet_samples_have_their_labels():
    examples = load("imagenet-samples[0:20]")
    assert examples.labels.tolist() == list(range(0, 40, 2))
    for name, label in zip(examples.names, examples.labels, strict=True):
        assert name.startswith(imagenet.wnids()[label])
    assert examples.notes == []


@needs_data
def test_mnist():
    examples = load("mnist/test[0:100]")
    assert examples.x.shape == (100, 1, 28, 28)
    assert examples.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert (examples.x.min(), examples.x.max()) == (0, 1)


class TestIdx:
    """MNIST's file format, from the hands of strangers."""

    def write(self, path, shape, body, kind=8):
        header = bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
        path.write_bytes(gzip.compress(header + body))
        return path

    def test_round_trip(self, tmp_path):
        values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        path = self.write(tmp_path / "a.gz", values.shape, values.tobytes())
        np.testing.assert_array_equal(read_idx(path, (2, 3, 4)), values)

    @pytest.mark.parametrize("shape", [(2, 3, 5), (4_000_000_000, 3, 4)])
    def test_another_shape_is_refused(self, tmp_path, shape):
        with pytest.raises(BadShape, match="expected bytes of shape"):
            read_idx(self.write(tmp_path / "a.gz", shape, bytes(24)), (2, 3, 4))

    @pytest.mark.parametrize("body", [bytes(23), bytes(25), bytes(10_000_000)])
    def test_too_little_or_too_much_is_refused(self, tmp_path, body):
        with pytest.raises(BadShape, match="expected bytes of shape"):
            read_idx(self.write(tmp_path / "a.gz", (2, 3, 4), body), (2, 3, 4))

    @pytest.mark.parametrize(
        "content",
        [b"", b"not gzip", gzip.compress(b"\0\0"), gzip.compress(bytes(500))[:20]],
        ids=["empty", "text", "short", "cut"],
    )
    def test_garbage_is_refused(self, tmp_path, content):
        (tmp_path / "a.gz").write_bytes(content)
        with pytest.raises(BadShape):
            read_idx(tmp_path / "a.gz", (2, 3, 4))
