"""`cutaway microscope`: a network of one's own, an interrupt, refusals."""

import json

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from cutaway.cli import main
from cutaway.report.microscope import units as found_out

NET = """
import torch

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 10, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(360, 2)
    ).eval()
"""
OWN = ["microscope", "net.py:make", "--model-size", "8", "--x", "mine", "--out", "site"]
QUICK = ["--steps", "1", "--size", "8", "--k", "1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a network and photos in a folder for each class."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    for k, name in enumerate(("cats", "dogs")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        pixels = np.random.default_rng(k).integers(0, 255, (9, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "mine" / name / "one.png")
    return tmp_path


def test_a_network_of_ones_own_and_a_folder_of_photos(here, capsys):
    assert main([*OWN, *QUICK, "--layers", "0,1", "--units", "0:3"]) == 0
    assert "site: site/index.html  (6 units" in capsys.readouterr().out
    page = BeautifulSoup((here / "site" / "1" / "00002.html").read_text("utf-8"), "html.parser")
    assert any(name in page.get_text() for name in ("labelled cats", "labelled dogs"))
    assert sorted(p.name for p in (here / "site").iterdir()) == [
        *("0", "1", "examples", "index.html", "jobs", "microscope.json")
    ]


def test_a_network_known_by_name_without_data_or_layers(here, capsys):
    assert main(["microscope", "shapes-cnn", "--units", "1", *QUICK]) == 0
    assert "site: microscope/index.html  (1 units" in capsys.readouterr().out
    assert len(list((here / "microscope").glob("*/00001.png"))) == 1


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(here, capsys, monkeypatch):
    made, ascended = [], found_out.ascended

    def stopped(model, aims, **options):
        made.append(len(aims))
        if len(made) == 2:
            raise KeyboardInterrupt
        return ascended(model, aims, **options)

    monkeypatch.setattr(found_out, "ascended", stopped)
    assert main([*OWN, *QUICK, "--layers", "1"]) == 130
    said = capsys.readouterr()
    assert "kept: site/index.html with 8 of 10 units; the same command goes on" in said.out
    assert "Interrupted" in said.err
    assert main([*OWN, *QUICK, "--layers", "1"]) == 0
    assert made == [8, 2, 2]
    assert len(list((here / "site" / "1").glob("0*.html"))) == 10


def test_changed_weights_are_refused_by_name(here, capsys):
    assert main([*OWN, *QUICK, "--layers", "1", "--units", "0"]) == 0
    (here / "net.py").write_text(NET.replace("manual_seed(0)", "manual_seed(1)"))
    before = (here / "site" / "index.html").read_bytes()
    assert main([*OWN, *QUICK, "--layers", "1", "--units", "1"]) == 2
    assert "differs in weights; name another folder" in capsys.readouterr().err
    assert (here / "site" / "index.html").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layers", "relu9"], "relu9"),
        (["--units", "99"], "from 0 to 9"),
        (["--units", "first"], "'0:16' or '3,17'"),
        (["--size", "4"], "a size from 8"),
        (["--steps", "-1"], "steps from 0"),
        (["--x", "nowhere"], "no data set or folder"),
        (["--out", "net.py"], "net.py"),
        (["--out", "mine"], "holds other files"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(here, capsys, options, said):
    assert main([*OWN, "--layers", "1", *options]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert not (here / "site").exists()


def test_a_model_that_reads_text_is_refused(here, capsys):
    assert main(["microscope", "sentiment-cnn"]) == 2
    assert "networks of images" in capsys.readouterr().err


def test_the_note_says_what_the_site_is(here):
    assert main([*OWN, *QUICK, "--layers", "1", "--units", "0"]) == 0
    note = json.loads((here / "site" / "microscope.json").read_text())
    assert note["layers"] == ["1"]
    assert (note["steps"], note["size"], note["k"], note["seed"]) == (1, 8, 1, 0)
