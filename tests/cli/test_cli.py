"""The command line, called in process: every command, its errors and exit statuses."""

import io
import json
import re
import shlex
import sys

import numpy as np
import pytest
from PIL import Image

from cutaway.cli import main
from cutaway.core.catalogue import catalogue

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))

def make():
    return Net()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photo(here):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(here / "a photo ü.png")
    return "a photo ü.png"


def test_help_teaches_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("explain", "run", "methods", "models", "data", "layers", "report", "train"):
        assert command in shown
        assert main([command, "--help"]) == 0
        about = capsys.readouterr().out
        assert "cutaway " in about or "`" in about


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_help_of_a_method_shows_each_option(name, capsys):
    assert main(["run", name.replace("_", "-"), "--help"]) == 0
    shown = capsys.readouterr().out
    for option in catalogue()[name].options:
        assert f"--{option.name.replace('_', '-')}" in shown
        assert option.help


def test_the_example_of_a_method_that_asks_for_regions_works_as_it_stands(here, capsys):
    assert main(["run", "pointing-game", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    example = re.search("Example: cutaway (run pointing-game .*?) Python:", shown).group(1)
    assert main(shlex.split(example)) == 0
    assert "The map's highest pixel is on the region" in " ".join(capsys.readouterr().out.split())


def test_methods_json_has_the_whole_catalogue(capsys):
    assert main(["methods", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(entries) == set(catalogue())
    entry = entries["integrated_gradients"]
    assert entry["room"] == "attribution"
    assert entry["paper"] == "sundararajan2017"
    assert "complete" in entry["laws"]
    assert "baseline" in [option["name"] for option in entry["options"]]


@pytest.mark.parametrize("command", ["models", "data"])
def test_lists_are_text_and_json(command, capsys):
    assert main([command]) == 0
    names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert main([command, "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == names


def test_layers_lists_places_with_shapes(capsys):
    assert main(["layers", "--model", "shapes-cnn"]) == 0
    by_option = capsys.readouterr().out
    assert main(["layers", "shapes-cnn"]) == 0
    assert capsys.readouterr().out == by_option
    assert "Conv2d" in by_option


def test_a_users_own_network_is_explained_with_one_command(here, photo, capsys):
    (here / "net.py").write_text(NET)
    (here / "names.txt").write_text("cat\ndog\n<b>bird</b>\n")
    args = ["--model", "net.py:make", "--size", "32", "--classes", "names.txt"]
    assert main(["explain", photo, *args, "--methods", "gradient,occlusion", "--out", "why"]) == 0
    page = (here / "why" / "report.html").read_text()
    assert "occlusion" in page.lower()
    assert "<b>bird</b>" not in page
    assert json.loads((here / "why" / "report.json").read_text())
    assert "cutaway explain &#39;a photo ü.png&#39; --model net.py:make --size 32 --classes names.txt" in page
    assert "cutaway.load(&#39;net.py:make&#39;, size=&#39;32&#39;, classes=&#39;names.txt&#39;)" in page
    assert list((here / "why" / "report_pictures").glob("*.png"))
    assert "report:" in capsys.readouterr().out


def test_run_keeps_its_result_and_report_makes_a_page_of_it(here, capsys):
    assert main(["run", "gradient", "--model", "digits-cnn", "--x", "digits/test[0]", "--target", "3"]) == 0
    key = capsys.readouterr().out.split("kept as ")[1].split()[0]
    assert main(["report"]) == 0
    assert key in capsys.readouterr().out
    assert main(["report", key, "--out", "page.html"]) == 0
    assert "gradient" in (here / "page.html").read_text().lower()


def test_text_is_explained_straight_from_the_command_line(here, capsys):
    text = "a gripping , 'funny' film"
    assert main(["explain", "--text", text, "--methods", "gradient", "--out", "why.html"]) == 0
    page = (here / "why.html").read_text()
    assert "What sentiment-lstm read in" in page
    assert "cutaway explain --text" in page
    assert "report:" in capsys.readouterr().out
    args = [
        "run",
        "occlusion",
        "--model",
        "sentiment-cnn",
        "--text",
        text,
        "--target",
        "positive",
        "--picture",
        "p.png",
    ]
    assert main(args) == 0
    assert (here / "p.png").exists()
    assert "marked text" in capsys.readouterr().out


def test_texts_from_a_file_and_rows_from_a_table(here, capsys):
    (here / "reviews.txt").write_text("a fine film\n\ndull\n")
    args = ["--model", "sentiment-cnn", "--methods", "occlusion", "--out", "t.html"]
    assert main(["explain", "reviews.txt[0:2]", *args]) == 0
    assert "reviews.txt 1: dull" in capsys.readouterr().out
    (here / "net.py").write_text("from torch import nn\n\ndef make():\n    return nn.Linear(2, 2)\n")
    (here / "rows.csv").write_text("b,name,a\n1,x,2\n3,y,4\n")
    args = ["--model", "net.py:make", "--columns", "a,b", "--methods", "integrated_gradients", "--out", "r.html"]
    assert main(["explain", "rows.csv", *args]) == 0
    page = (here / "r.html").read_text()
    assert "columns that the model does not take: name" in page
    assert "on the baseline" in page


def test_photo_from_standard_input(here, photo, monkeypatch, capsys):
    data = (here / photo).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["run", "gradient", "--model", "shapes-cnn", "--x", "-"]) == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["explane"], "nearest: explain"),
        (["run", "gradiant", "--x", "digits"], "nearest: gradient"),
        (["run", "gradient", "--model", "digits-cnn", "--x", "digits/test[0]", "--target", "12"], "0 to 9"),
        (["run", "gradient", "--model", "digits-cnn", "--x", "digits/test[0]", "--target", "-1"], "from 0"),
        (["run", "gradient", "--model", "digits-cnn", "--x", "digits/test[0]", "--wrt", "cnv"], "no layer"),
        (["run", "smoothgrad", "--model", "digits-cnn", "--x", "digits/test[0]", "--samples", "few"], "samples"),
        (["run", "gradient", "--model", "nothing", "--x", "digits"], "no model"),
        (["run", "gradient", "--model", "nowhere.py:make", "--size", "8", "--x", "digits"], "nowhere.py"),
        (["explain", "no.jpg"], "no data set or file"),
        (["explain"], "expected an input"),
        (["explain", "--text", "x", "--model", "digits-cnn"], "Choose a --model for text"),
        (["explain", "--text", " "], "has no word"),
        (["run", "gradient", "--model", "sentiment-cnn", "--x", "a fine film"], "--text"),
        (["report", "abc123"], "abc123"),
        (["explain", "digits/test[0]", "--model", "digits-cnn", "--methods", "deletion"], "explain a prediction"),
    ],
)
def test_a_refusal_is_one_line_and_status_2(here, args, message, capsys):
    assert main(args) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_debug_shows_the_traceback(here):
    with pytest.raises(Exception, match="nearest"):
        main(["--debug", "run", "gradiant", "--x", "digits"])


def test_interrupt_keeps_the_photos_that_are_finished(here, monkeypatch, capsys):
    from cutaway.report import compose

    real = compose.one

    def photo(model, example, *args, **more):
        if example.names[0].endswith("1"):
            raise KeyboardInterrupt
        return real(model, example, *args, **more)

    monkeypatch.setattr(compose, "one", photo)
    args = [
        "explain",
        "shapes/test[0]",
        "shapes/test[1]",
        "--model",
        "shapes-cnn",
        "--methods",
        "gradient",
        "--out",
        "w",
    ]
    assert main(args) == 130
    assert (here / "w" / "report.html").exists()
    assert "1 of 2" in capsys.readouterr().out
    assert not list(here.rglob("*tmp*"))
