"""Folders of the user's own pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from cutaway.core.errors import BadOption, BadShape, UnknownName
from cutaway.core.progress import reporting
from cutaway.core.space import images
from cutaway.data import folder, load


def paint(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 12, 3), level, dtype=np.uint8)).save(path)


@pytest.fixture
def classed(tmp_path):
    """Two classes, three pictures, in a folder whose name has a space and an umlaut."""
    root = tmp_path / "my pictures ü [1]"
    for name, level in (("cats/b.png", 51), ("cats/a.jpg", 102), ("dogs/deep/c.png", 204)):
        paint(root / name, level)
    return root


def test_sub_folders_are_classes(classed):
    examples = load(f"folder:{classed}", space=images(8))
    assert examples.names == ["cats/a.jpg", "cats/b.png", "dogs/deep/c.png"]
    assert examples.classes == ("cats", "dogs")
    assert examples.labels.tolist() == [0, 0, 1]
    assert torch.allclose(examples.x.mean((1, 2, 3)), torch.tensor([0.4, 0.2, 0.8]), atol=0.01)


def test_the_path_alone_will_do_and_slices_work(classed):
    assert load(str(classed)).names == load(f"folder:{classed}").names
    assert load(f"folder:{classed}[1:3]").labels.tolist() == [0, 1]


def test_a_flat_folder_has_no_labels(tmp_path):
    paint(tmp_path / "one.png", 0)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("no picture")
    examples = load(f"folder:{tmp_path}")
    assert examples.labels is None
    assert examples.names == ["one.png"]
    assert examples.notes == ["1 files that are no pictures were passed over"]


def test_pictures_beside_class_folders_are_counted(classed):
    paint(classed / "stray.png", 0)
    examples = load(f"folder:{classed}", space=images(8))
    assert len(examples) == 3
    assert examples.notes == ["1 pictures beside the class folders were passed over"]


class TestBroken:
    """One bad file among good ones."""

    @pytest.fixture(autouse=True)
    def _broken(self, classed):
        (classed / "cats" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")

    def test_stops_and_names_it(self, classed):
        with pytest.raises(BadShape, match=r"cats/b.png: .*broken='skip'"):
            load(f"folder:{classed}")

    def test_or_is_left_out_and_counted(self, classed):
        examples = load(f"folder:{classed}", broken="skip")
        assert examples.names == ["cats/a.jpg", "dogs/deep/c.png"]
        assert examples.labels.tolist() == [0, 1]
        assert examples.notes[-1].startswith("1 of 3 files left out: cats/b.png: ")

    def test_nothing_left_is_an_error(self, classed):
        with pytest.raises(BadShape, match="none of 1 pictures"):
            load(f"folder:{classed}[1]", broken="skip")

    def test_another_policy_is_refused(self, classed):
        with pytest.raises(BadOption, match="'stop' or 'skip'"):
            load(f"folder:{classed}", broken="ignore")


def test_no_folder_and_no_pictures(tmp_path):
    with pytest.raises(UnknownName, match="no folder at"):
        load("folder:/nowhere/at/all")
    with pytest.raises(UnknownName, match="no folder at"):
        load("folder:")
    with pytest.raises(BadShape, match="no pictures in"):
        load(f"folder:{tmp_path}")


def test_too_many_at_once_asks_for_a_slice(classed, monkeypatch):
    monkeypatch.setattr(folder, "MAX_VALUES", 2 * 3 * 8 * 8)
    with pytest.raises(BadOption, match=r"take a slice such as \[0:2\]"):
        load(f"folder:{classed}", space=images(8))
    assert len(load(f"folder:{classed}[0:2]", space=images(8))) == 2


def test_progress_is_told(classed):
    seen = []
    with reporting(seen.append):
        load(f"folder:{classed}")
    assert (seen[-1].done, seen[-1].total) == (3, 3)


def test_what_was_done_to_a_file_is_noted(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert load(f"folder:{tmp_path}").notes == ["clear.png: transparent parts shown on white"]
