"""MNIST's 10,000 test digits: 28 x 28 pixels, one channel, 0 is paper and 1 is ink."""

import gzip
import struct
from pathlib import Path

import numpy as np
import torch

from cutaway.core.dataset import Examples
from cutaway.core.errors import BadShape
from cutaway.core.space import Space
from cutaway.data.digits import CLASSES
from cutaway.data.fetch import Collection
from cutaway.data.sets import DataSet

COUNT = 10_000
IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
FILES = Collection(
    "mnist",
    homes=(
        "https://raw.githubusercontent.com/patrick-kidger/equinox/main/docs/examples/MNIST/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    sums={
        IMAGES: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        LABELS: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
)


def digits(which: range, space: Space | None = None) -> Examples:
    """The test digits at these positions; `space` changes nothing."""
    chosen = list(which)
    pixels = read_idx(FILES.path(IMAGES), (COUNT, 28, 28))[chosen]
    labels = read_idx(FILES.path(LABELS), (COUNT,))[chosen]
    return Examples(
        x=torch.from_numpy(pixels).float()[:, None] / 255,
        names=[f"mnist {i}" for i in chosen],
        labels=torch.from_numpy(labels).long(),
        classes=CLASSES,
        source="mnist/test",
    )


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An array of bytes from a gzipped IDX file of the expected shape; never reads more than that."""
    header = struct.calcsize(">4B") + 4 * len(shape)
    expected = int(np.prod(shape))
    try:
        with gzip.open(path) as file:
            head, body = file.read(header), file.read(expected + 1)
        zero, kind, sizes = head[:2], head[2], struct.unpack(f">{len(shape)}I", head[4:])
    except (OSError, EOFError, IndexError, struct.error) as fault:
        raise BadShape(f"{path.name}: not a readable gzipped IDX file ({fault}).") from fault
    if zero != b"\0\0" or kind != 8 or sizes != shape or len(body) != expected:
        raise BadShape(f"{path.name}: expected bytes of shape {shape}; got shape {sizes} and {len(body)} bytes.")
    return np.frombuffer(body, np.uint8).reshape(shape)


DATASETS = (DataSet("mnist/test", "MNIST's test digits, 28 x 28 (fetched)", COUNT, digits),)
