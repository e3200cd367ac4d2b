"""Pictures while they are made: in a terminal as half blocks, in a notebook as a display that renews itself."""

import base64
import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from cutaway.cli.progress import _Watched
from cutaway.core.progress import Progress, is_heard, report, reporting
from cutaway.plot import live

RED_OVER_BLUE = torch.tensor([[[1.0], [0.0]], [[0.0], [0.0]], [[0.0], [1.0]]])[None]


def test_a_character_holds_two_pixels():
    text = live.half_blocks(RED_OVER_BLUE.repeat_interleave(2, 3), 2)
    assert text.count("▀") == 2
    assert text.startswith("\x1b[38;2;255;0;0m\x1b[48;2;0;0;255m▀")
    assert text.endswith("\x1b[0m")


def test_pictures_stand_side_by_side():
    pixels = live.strip(torch.ones(9, 1, 8, 8), 4)
    assert pixels.shape == (4, live.MOST * 4 + live.MOST - 1, 3)
    assert pixels[:, 4].sum() == 0
    assert pixels[:, :4].min() == 255
    assert live.strip(torch.zeros(1, 3, 10, 20), 4).shape == (4, 8, 3)


def test_a_step_is_words_and_a_picture():
    text = live.shown(Progress("<b>", 3, 7, lambda: RED_OVER_BLUE))
    assert "&lt;b&gt; 3 of 7" in text
    data = base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])
    assert np.asarray(Image.open(io.BytesIO(data))).shape[2] == 3
    assert live.shown(Progress("work", 3, None)) == "<div>work 3</div>"


@pytest.fixture
def notebook(monkeypatch):
    shown = []
    handle = SimpleNamespace(update=shown.append)
    display = SimpleNamespace(HTML=lambda text: text, display=lambda first, display_id: handle)
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(live, "PAUSE", 0.0)
    return shown


def test_a_notebook_sees_the_pictures_and_is_left_clean(notebook):
    with live.in_notebook():
        report("visualize", 1, 2, lambda: RED_OVER_BLUE)
    assert "visualize 1 of 2" in notebook[0]
    assert "<img" in notebook[0]
    assert notebook[-1] == ""
    assert not is_heard()


def test_another_listener_goes_first(notebook):
    heard = []
    with reporting(heard.append), live.in_notebook():
        report("visualize", 1, 2)
    assert len(heard) == 1
    assert not notebook


def test_outside_a_notebook_nothing_is_shown():
    with live.in_notebook():
        assert not is_heard()


@pytest.mark.parametrize("colours", ["truecolor", "standard"])
def test_a_terminal_shows_pictures_if_it_has_the_colours(colours):
    console = Console(file=io.StringIO(), force_terminal=True, color_system=colours, width=80)
    bars = _Watched(console=console)
    bars.look(Progress("visualize", 1, 2, lambda: RED_OVER_BLUE))
    assert (bars.picture is not None) == (colours == "truecolor")
    console.print(*bars.get_renderables())
    assert ("▀" in console.file.getvalue()) == (colours == "truecolor")
    bars.look(Progress("photos", 1, 2))
