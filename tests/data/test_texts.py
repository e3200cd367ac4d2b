"""Texts and tables as examples: written out, from files, from data sets."""

import os
from pathlib import Path

import pytest
import torch

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, BadShape, UnknownName
from cutaway.core.fill import Fill
from cutaway.data import is_name, join, load

TOKENS, ROWS = ct.tokens(), ct.rows(["age", "job=a", "job=b"])


def has(folder):
    there = Path(os.environ.get("CUTAWAY_DATA", "-"), folder).is_dir()
    return pytest.mark.skipif(not there, reason=f"needs CUTAWAY_DATA with the folder {folder}")


def test_a_text_written_out():
    found = load("text:a  fine [0] film: yes")
    assert found.x == ["a  fine [0] film: yes"]
    assert found.source == "text:a  fine [0] film: yes"
    assert found.names == ["a fine [0] film: yes"]
    assert load("text:" + "long " * 40).names[0].endswith("…")


def test_lines_of_a_file_are_texts(tmp_path):
    file = tmp_path / "reviews.txt"
    file.write_text("\ufeffgood film\n\n  bad one \nthird", encoding="utf-8")
    found = load(file, space=TOKENS)
    assert found.x == ["good film", "bad one", "third"]
    assert "1 empty lines" in found.notes[0]
    part = load(f"{file}[1:3]", space=TOKENS)
    assert part.x == ["bad one", "third"]
    assert part.source == f"{file}[1:3]"
    file.write_bytes(b"\xff\xfe bad")
    with pytest.raises(BadShape, match="UTF-8"):
        load(file, space=TOKENS)
    file.write_text("\n \n")
    with pytest.raises(BadShape, match="there is none"):
        load(file, space=TOKENS)


def test_only_names_of_something_are_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.txt").write_text("x")
    assert all(map(is_name, ("sst2/test", "sst2/test[3]", "text:x", "here.txt", "here.txt[0]")))
    assert not any(map(is_name, ("a fine film", "sst2", "", "nowhere.txt", "x" * 5000, "a [1] b")))


def test_a_name_that_is_none_says_how_text_is_given():
    with pytest.raises(UnknownName, match=r"nearest: sst2/test.*--text"):
        load("sst2/tset", space=TOKENS)
    with pytest.raises(UnknownName, match=r"FILE\.csv"):
        load("nowhere.csv", space=ROWS)


def test_texts_are_joined_and_sliced_like_pictures():
    both = join([load("text:one"), load("text:two")])
    assert both.x == ["one", "two"]
    assert [part.x for part in both] == [["one"], ["two"]]
    with pytest.raises(BadOption, match="texts and tensors"):
        join([load("text:one"), Examples(torch.zeros(1, 3), ["row"])])


def test_columns_are_found_by_their_names(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("job,age\na,30\nb,4e1\n")
    found = load(file, space=ROWS)
    assert found.x.tolist() == [[30, 1, 0], [40, 0, 1]]
    file.write_text("job=b,age,job=a\n1,30,0\n")
    assert load(file, space=ROWS).x.tolist() == [[30, 0, 1]]


@pytest.mark.parametrize(
    ("content", "fault", "message"),
    [
        ("job,years\na,1\n", UnknownName, "no column in t.csv called 'age'"),
        ("job,age\na,old\n", BadShape, "row 0, column 'age': expected a number; got 'old'"),
        ("job,age\nc,1\n", BadShape, "expected job as one of a, b; got 'c'"),
        ("job,age\na\n", BadShape, "expected 2 cells; got 1"),
        ("", UnknownName, "age"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_its_place(tmp_path, content, fault, message):
    file = tmp_path / "t.csv"
    file.write_text(content)
    with pytest.raises(fault, match=message):
        load(file, space=ROWS)


@has("sst2")
def test_sentences_have_their_labels():
    found = load("sst2/test[0:3]")
    assert found.x[0] == "no movement , no yuks , not much of anything"
    assert found.labels.tolist() == [0, 0, 0]
    assert found.classes == ("negative", "positive")
    sizes = {part: load(f"sst2/{part}").labels.bincount().tolist() for part in ("train", "dev", "test")}
    assert sizes == {"train": [3310, 3610], "dev": [428, 444], "test": [912, 909]}


@has("sst2")
def test_texts_are_no_fill():
    image = torch.zeros(1, 3, 4, 4)
    with pytest.raises(BadOption, match="has texts"):
        Fill.of("sample:sst2/dev")(image, ct.images(4))


@has("nltk")
def test_polarity_takes_the_classes_in_turn():
    found = load("sentence-polarity[0:4]")
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert found.x[0].startswith("simplistic , silly and tedious")
