"""The published tables of network dissection, and their published sums."""

import os
from pathlib import Path

import pytest

from cutaway.core.errors import BadShape, UnknownName
from cutaway.dissection.detectors import summary
from cutaway.dissection.published import published

FOLDER = Path(os.environ.get("CUTAWAY_DATA", "nowhere")) / "netdissect-tables"
needs_tables = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs CUTAWAY_DATA with the folder netdissect-tables")


@needs_tables
@pytest.mark.parametrize(
    ("name", "detectors", "unique"),
    [
        ("caffe_reference_places205", 107, 60),
        ("caffe_reference_places365", 118, 72),
        ("caffe_reference_imagenet", 97, 50),
    ],
)
def test_the_published_sums_are_reproduced(name, detectors, unique):
    """Detectors and unique detectors of AlexNet's conv5, as the authors report them."""
    table = published(FOLDER / f"{name}.csv")
    found = summary([(row[2], row[1]) for row in table.rows], [row[3] for row in table.rows])
    assert (found.units, found.detectors, found.unique) == (256, detectors, unique)
    assert f"{detectors} of 256 units" in table.checks["detectors"]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UnknownName, match="no file"):
        published(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadShape, match="expected the columns"):
        published(tmp_path / "other.csv")
    (tmp_path / "words.csv").write_text("unit,label,category,score\none,red,color,high\n")
    with pytest.raises(BadShape, match="numbers as scores"):
        published(tmp_path / "words.csv")
