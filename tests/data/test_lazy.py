"""Data sets read a slice at a time: the same examples as all at once, with numbers that stay."""

import os

import pytest
import torch
from PIL import Image

import cutaway as ct
from cutaway.core.errors import BadShape, UnknownName
from cutaway.data.lazy import opened


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_slices_are_those_of_the_whole():
    whole, lazy = ct.data("shapes/test[10:20]"), opened("shapes/test[10:20]")
    assert len(lazy) == 10
    assert torch.equal(lazy[3:7].x, whole.x[3:7])
    assert lazy.classes == whole.classes
    assert lazy[8:99].names == whole.names[8:]


def test_examples_in_memory_are_a_data_set():
    examples = ct.data("shapes/test[0:3]")
    assert opened(examples) is examples


def test_the_fingerprint_changes_with_name_choice_and_space():
    texts = ["shapes/test[0:3]", "shapes/test[0:4]", "shapes/train[0:3]"]
    prints = {opened(text).fingerprint for text in texts} | {opened(texts[0], space=ct.images(48)).fingerprint}
    assert len(prints) == 4
    assert opened(texts[0]).fingerprint == opened(texts[0]).fingerprint


def test_a_folder_is_read_as_it_is_needed(folder):
    space = ct.images(8)
    lazy = opened(f"folder:{folder}", space=space)
    assert len(lazy) == 6
    assert torch.equal(lazy[2:4].x, ct.data(str(folder), space=space).x[2:4])
    assert lazy[2:4].ids.tolist() == [2, 3]
    before = lazy.fingerprint
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "3.png")
    os.utime(folder / "3.png", (1, 1))
    assert opened(f"folder:{folder}", space=space).fingerprint != before


def test_numbers_stay_where_files_are_left_out(folder):
    (folder / "2.png").write_bytes(b"no picture")
    space = ct.images(8)
    with pytest.raises(BadShape, match=r"2\.png"):
        opened(str(folder), space=space)[0:4]
    lazy = opened(str(folder), space=space, broken="skip")
    assert lazy[0:4].ids.tolist() == [0, 1, 3]
    assert len(lazy[2:3]) == 0
    assert lazy[2:3].notes


def test_an_unknown_set_is_named_with_its_neighbours():
    with pytest.raises(UnknownName, match="nearest: shapes/test"):
        opened("shapes/tset")
