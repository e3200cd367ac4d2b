"""Folders in Broden's format, made here, and the three photos of ADE20K."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cutaway as ct
from cutaway.core.errors import BadOption, BadShape, UnknownName
from cutaway.data import label_maps
from cutaway.data.lazy import opened
from cutaway.dissection.dissect import dissect

SIZE, LABELS = 32, 16
needs_ade = pytest.mark.skipif(
    not Path(os.environ.get("CUTAWAY_DATA", "-"), "ade20k-sample").is_dir(),
    reason="needs CUTAWAY_DATA with the folder ade20k-sample",
)
CATEGORIES = {"object": [(300, "sky"), (7, "tree")], "material": [(9, "wood")], "scene": [(40, "forest"), (41, "sea")]}


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def save(path, numbers):
    parts = np.stack([numbers % 256, numbers // 256, 0 * numbers], -1)
    Image.fromarray(parts.astype(np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    """Four images: the sky is their red half, trees lie over a corner of it; wood is known for two of them."""
    folder = tmp_path / "broden"
    (folder / "images" / "set").mkdir(parents=True)
    write(folder / "category.csv", [("name", "first", "last"), *((name, 0, 9) for name in CATEGORIES)])
    for name, labels in CATEGORIES.items():
        rows = [(code, number, label, 1, 0.5) for code, (number, label) in enumerate(labels, start=1)]
        write(folder / f"c_{name}.csv", [("code", "number", "name", "frequency", "coverage"), *reversed(rows)])
    index = [("image", "split", "ih", "iw", "sh", "sw", *CATEGORIES)]
    for i in range(4):
        photo = np.zeros((SIZE, SIZE, 3), np.uint8)
        photo[: SIZE // 2, :, 0] = 255
        Image.fromarray(photo).save(folder / "images" / "set" / f"{i}.png")
        sky, tree, wood = (np.zeros((LABELS, LABELS), int) for _ in range(3))
        sky[: LABELS // 2], tree[:4, :4], wood[:, LABELS // 2 :] = 300, 7, 9
        for what, numbers in (("sky", sky), ("tree", tree), ("wood", wood)):
            save(folder / "images" / "set" / f"{i}_{what}.png", numbers)
        wooden = f"set/{i}_wood.png" if i < 2 else ""
        row = [f"set/{i}.png", "train", SIZE, SIZE, LABELS, LABELS, f"set/{i}_sky.png;set/{i}_tree.png", wooden]
        index.append((*row, "40" if i % 2 else "41"))
    write(folder / "index.csv", index)
    return folder


def test_pixels_images_and_layers_are_read(root):
    found = ct.data(f"broden:{root}", space=ct.images(SIZE))
    assert found.concept_names["object"] == ("", "sky", "tree")
    assert found.x.shape == (4, 3, SIZE, SIZE)
    sky, tree = found.concepts["object"][0]
    assert torch.equal(sky == 1, found.x[0, 0] > 0.5)
    assert tree.unique().tolist() == [0, 2]
    assert int((tree == 2).sum()) == 8 * 8
    assert found.concepts["material"].amin((1, 2, 3)).tolist() == [0, 0, -1, -1]
    assert found.concepts["material"].amax((1, 2, 3)).tolist() == [1, 1, -1, -1]
    assert found.concepts["scene"].unique(dim=0).shape == (2, 1, SIZE, SIZE)
    assert [int(m.unique()) for m in found.concepts["scene"]] == [2, 1, 2, 1]


def test_slices_are_those_of_the_whole(root):
    space = ct.images(SIZE)
    whole, lazy = ct.data(f"broden:{root}[1:4]", space=space), opened(f"broden:{root}[1:4]", space=space)
    assert len(lazy) == 3
    for part in (slice(0, 2), slice(2, 3)):
        assert torch.equal(lazy[part].x, whole[part].x)
        for category in CATEGORIES:
            assert torch.equal(lazy[part].concepts[category], whole[part].concepts[category])
    assert lazy[2:3].ids.tolist() == [2]
    before = lazy.fingerprint, lazy.stamp(slice(0, 1))
    os.utime(root / "images" / "set" / "1_tree.png", (1, 1))
    assert lazy.stamp(slice(0, 1)) != before[1]
    assert opened(f"broden:{root}[1:4]", space=space).fingerprint != before[0]


@pytest.mark.parametrize("crop", [1.0, 0.5])
def test_labels_are_cut_as_the_photo_is(crop):
    """A label of what is red, fitted like the photo, is what is red in the fitted photo."""
    labels = np.zeros((30, 40), np.int64)
    labels[4:22, 9:33] = 1
    photo = np.zeros((60, 80, 3), np.uint8)
    photo[..., 0] = 255 * labels.repeat(2, 0).repeat(2, 1)
    space = ct.images(48, crop=crop)
    x = ct.data(photo, space=space).x[0, 0]
    fitted = label_maps.fitted(labels, (80, 60), space)
    assert fitted.shape == (48, 48)
    assert float(((x > 0.5) == (fitted == 1)).float().mean()) > 0.97
    assert bool(((x > 0.95) <= (fitted == 1)).all())


class Red(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.units = torch.nn.Identity()

    def forward(self, x):
        return self.units(x).mean((2, 3))


def test_dissection_counts_only_where_somebody_looked(root):
    model = ct.Model(Red(), ct.images(SIZE))
    data = opened(f"broden:{root}", space=model.space)
    table = dissect(model, data, site="units", quantile=0.499, categories=("object", "material"))
    row = dict(zip(table.columns, next(row for row in table.rows if row[0] == 0), strict=True))
    assert (row["concept"], row["IoU"], row["ceiling"]) == ("sky", 1.0, 1.0)
    # Wood is the right half, the unit the upper half, of the two images that were looked at: a quarter of the pixels.
    assert row["material IoU"] == pytest.approx(1 / 3)


HARMS = {
    "no index": (lambda r: (r / "index.csv").unlink(), UnknownName, "no index.csv"),
    "no table": (lambda r: (r / "c_scene.csv").unlink(), UnknownName, "no c_scene.csv"),
    "no column": (lambda r: write(r / "index.csv", [("image", "ih")]), BadShape, "iw, sh, sw, object"),
    "no image": (lambda r: (r / "images/set/1.png").unlink(), UnknownName, "no picture at"),
    "no labels": (lambda r: (r / "images/set/1_sky.png").unlink(), UnknownName, "no picture at"),
    "torn image": (lambda r: tear(r / "images/set/1.png"), BadShape, r"set/1\.png.* broken or cut short"),
    "torn labels": (lambda r: tear(r / "images/set/1_sky.png"), BadShape, r"1_sky\.png.* broken or cut short"),
    "wrong size": (
        lambda r: save(r / "images/set/1_sky.png", np.zeros((4, 5), int)),
        BadShape,
        "says 16 x 16 labels; the file has 4 x 5",
    ),
    "wrong image": (
        lambda r: Image.new("RGB", (9, 8)).save(r / "images/set/1.png"),
        BadShape,
        "says 32 x 32 pixels; the file has 8 x 9",
    ),
    "unknown label": (
        lambda r: save(r / "images/set/1_sky.png", np.full((16, 16), 9)),
        BadShape,
        r"label 9 is not in c_object\.csv",
    ),
    "a photo": (
        lambda r: Image.new("RGB", (16, 16), (1, 2, 3)).save(r / "images/set/1_sky.png"),
        BadShape,
        "some pixels have B > 0",
    ),
    "outside": (lambda r: swap(r / "index.csv", "set/1_sky.png", "../index.csv"), BadShape, "outside images/"),
    "words": (lambda r: swap(r / "index.csv", "32,32,16", "32,wide,16"), BadShape, "above 0 as iw; got 'wide'"),
    "short row": (lambda r: swap(r / "index.csv", ",,41", ""), BadShape, "fewer cells"),
    "twice": (lambda r: swap(r / "c_object.csv", "2,7", "2,300"), BadShape, "number is there twice"),
    "not text": (lambda r: (r / "index.csv").write_bytes(b"\xff\xfe\x00\x01"), BadShape, "cannot be read"),
}


def tear(path):
    path.write_bytes(path.read_bytes()[:46])


def swap(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_wrong_is_named(root, harm):
    break_it, kind, message = HARMS[harm]
    break_it(root)
    with pytest.raises(kind, match=message):
        ct.data(f"broden:{root}", space=ct.images(SIZE))


def test_images_that_cannot_be_read_can_be_left_out(root):
    tear(root / "images" / "set" / "1_sky.png")
    found = opened(f"broden:{root}", space=ct.images(SIZE), broken="skip")[0:3]
    assert found.ids.tolist() == [0, 2]
    assert "1_sky.png" in found.notes[0]
    assert len(opened(f"broden:{root}", space=ct.images(SIZE), broken="skip")[1:2]) == 0


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnknownName, match="reads a folder with index.csv"):
        ct.data(f"broden:{tmp_path}/none")


def test_a_slice_beyond_the_index_is_refused(root):
    with pytest.raises(BadOption, match="there are 4"):
        opened(f"broden:{root}[2:9]")


@needs_ade
def test_the_three_photos_of_ade20k_have_their_objects():
    found = ct.data("ade20k-sample", space=ct.images(224))
    names = found.concept_names["object"]
    seen = [{names[i] for i in m.unique().tolist()} for m in found.concepts["object"]]
    assert "bus" in seen[2] or "car" in seen[2]
    assert all("building" in s or "wall" in s for s in seen)
    assert len(names) == 151
    table = dissect(
        ct.load("shapes-cnn"), opened("ade20k-sample", space=ct.load("shapes-cnn").space), site="relu4", quantile=0.9
    )
    assert {"best object", "best color"} <= set(table.columns)
