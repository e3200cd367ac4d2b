"""Data sets by text: names, slices, and what is said about wrong ones."""

import pytest
import torch

from cutaway.core.errors import BadOption, UnknownName
from cutaway.data import join, load, names
from cutaway.data.sets import catalogue


def test_every_data_set_has_a_name_and_a_line():
    listed = names()
    assert {"photos/chelsea", "shapes/test", "digits", "mnist/test", "imagenet-samples"} <= {name for name, _ in listed}
    assert all(about and "\n" not in about for _, about in listed)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("shapes/test[3]", ["test 3"]),
        ("shapes/test[-1]", ["test 1999"]),
        ("shapes/test[1:4]", ["test 1", "test 2", "test 3"]),
        ("shapes/test[10:20:5]", ["test 10", "test 15"]),
        ("shapes/test[-2:]", ["test 1998", "test 1999"]),
        ("shapes/test[:2]", ["test 0", "test 1"]),
    ],
)
def test_slices_as_in_python(text, wanted):
    assert load(text).names == wanted


@pytest.mark.parametrize(
    "text",
    ["digits[5:2]", "digits[1797]", "digits[-1798]", "digits[0:1798]", "digits[::0]", "digits[]", "digits[1:2:3:4]"],
)
def test_wrong_slices_are_refused(text):
    with pytest.raises(BadOption):
        load(text)


@pytest.mark.parametrize(
    "text", ["photos/chelsey", "photo", "digits[a]", "digits[__import__('os')]", "", "nowhere.png", "x" * 5000]
)
def test_unknown_names_suggest_others(text):
    with pytest.raises(UnknownName, match="nearest: "):
        load(text)


def test_slicing_the_text_and_slicing_the_examples_agree():
    whole, part = load("digits/test"), load("digits/test[4:9]")
    assert torch.equal(whole[4:9].x, part.x)
    assert torch.equal(whole[4:9].labels, part.labels)
    assert whole[4:9].names == part.names


def test_the_package_itself_can_be_called():
    import cutaway

    assert cutaway.data("digits/test[1]").names == ["digit 5"]


def test_examples_come_back_as_they_are():
    some = load("digits/test[0:2]")
    assert load(some) is some


def test_join_keeps_labels_where_all_have_them():
    digits, more = load("digits/test[0:2]"), load("digits/train[5]")
    both = join([digits, more])
    assert both.names == [*digits.names, *more.names]
    assert both.labels.tolist() == [*digits.labels.tolist(), *more.labels.tolist()]
    assert both.classes == digits.classes


def test_join_forgets_labels_that_do_not_go_together():
    photos = join([load("photos/chelsea"), load("photos/coffee")])
    assert photos.labels is None
    assert photos.source == "photos/chelsea, photos/coffee"
    with pytest.raises(BadOption):
        join([])


def test_sizes_are_as_announced():
    for entry in catalogue().values():
        if "(fetched" not in entry.summary:
            assert len(entry.take(range(entry.size)[-2:], None)) == min(2, entry.size)


def test_a_folder_called_like_a_set_does_not_hide_it(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load("digits[0:2]").names == ["digit 0", "digit 1"]
