"""`cutaway trust`: the table and the sentences in a terminal, its refusals, and an interrupt."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cutaway.cli import main
from cutaway.cli.trust import tell
from cutaway.core.checks import Check
from cutaway.core.result import Table
from cutaway.evaluation import trust_schedule

FAST = ["--model", "shapes-cnn", "--methods", "gradient,grad-cam", "--rough"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def folder(here):
    (here / "mine").mkdir()
    for k in range(2):
        pixels = np.random.default_rng(k).integers(0, 255, (60, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / "mine" / f"photo {k}.png")
    return "mine"


def test_a_folder_gets_a_table_and_a_sentence_for_each_method(folder, capsys):
    assert main(["trust", folder, *FAST, "--picture", "table.png"]) == 0
    out = capsys.readouterr().out
    assert out.index("method") < out.index("forwards")
    for name in ("gradient", "grad_cam"):
        assert any(line.startswith(f"{name} ") and line.endswith(".") for line in out.splitlines()), out
    assert "2 inputs are too few" in out
    key = out.split("kept as ")[1].split()[0]
    assert main(["report", key, "--out", "page.html"]) == 0
    assert main(["trust", folder, *FAST]) == 0
    assert key in capsys.readouterr().out


def test_a_photo_from_standard_input_and_a_text(folder, here, monkeypatch, capsys):
    data = (here / folder / "photo 0.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["trust", "-", *FAST]) == 0
    assert "One input is too few" in capsys.readouterr().out
    assert (
        main(["trust", "--text", "a gripping , funny film", "--methods", "occlusion", "--tests", "word_deletion"]) == 0
    )
    assert "top words" in capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 100, 300])
def test_cells_of_the_table_stay_whole_in_a_terminal_of_any_width_and_in_a_pipe(width):
    columns = ["method", "verdict", "deletion, lead", "forwards"]
    cells = ["integrated_gradients", "✕ do not rely on", "! 0.05 (-0.00 to 0.12)", 1200]
    table = Table(title="t", columns=columns, rows=[cells], checks={cells[0]: Check("Do not.", "fail")})
    terminal, pipe = (io.StringIO() for _ in range(2))
    tell(table, Console(file=terminal, width=width, force_terminal=True, color_system=None))
    tell(table, Console(file=pipe, width=width))
    line = next(line for line in pipe.getvalue().splitlines() if line.startswith(cells[0]))
    assert line.split() == " ".join(map(str, cells)).replace("1200", "1,200").split()
    assert "do not rely on  ! 0.05" in terminal.getvalue()
    assert ("to 0.12" in terminal.getvalue()) == (width >= 100)


def test_refusals_are_one_line(folder, capsys):
    assert main(["trust", folder, "--model", "shapes-cnn", "--tests", "word_deletion"]) == 2
    assert "word_deletion is no test for images" in capsys.readouterr().err
    assert main(["trust", folder, "--model", "shapes-cnn", "--budget", "0"]) == 2
    assert "budget above 0" in capsys.readouterr().err
    assert main(["trust"]) == 2


def test_what_was_not_examined_is_told_in_one_line(capsys):
    cost = [3, 10, 0, 0.5]
    rows = [["occlusion", "✓ passed", *cost], ["lime", "not tested", *cost], ["a", "not examined", 3, 0, 0, 0.0]]
    rows.append(["b", "not examined", 3, 0, 0, 0.0])
    late = Check("Not examined: there was no time left.", "note")
    checks = {"occlusion": Check("Passed."), "lime": Check("Not tested."), "a": late, "b": late}
    columns = ["method", "verdict", "inputs", "forwards", "backwards", "seconds"]
    tell(Table(title="t", columns=columns, rows=rows, checks=checks), Console())
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert sum(line.startswith(("occlusion ", "lime ", "a", "b ")) for line in lines) == 4
    assert "a, b Not examined: there was no time left." in lines


def test_an_interrupt_leaves_nothing_torn(folder, here, monkeypatch, capsys):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(trust_schedule, "tested", stop)
    assert main(["trust", folder, *FAST]) == 130
    left = [p for p in (here / "cutaway-study").rglob("*") if p.is_file() and "sqlite" not in p.name]
    assert [p.name for p in left if p.name != "study.json"] == []
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert main(["trust", folder, *FAST]) == 0
