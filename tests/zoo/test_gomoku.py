"""The weights of the gomoku network: arrays alone are read from its pickle, and nothing in it is ever called."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import cutaway as ct
from cutaway.cli import cli
from cutaway.core.errors import BadShape, NotPossible
from cutaway.zoo.gomoku import FILE, FILES, PolicyValueNet, read_arrays

needs_net = pytest.mark.skipif(
    not Path(os.environ.get("CUTAWAY_DATA", "-"), "gomoku").is_dir(), reason="needs CUTAWAY_DATA with the folder gomoku"
)


def pickled(arrays):
    """As NumPy wrote them under Python 2: by the names that the reader knows."""
    content = pickle.dumps(arrays, protocol=2)
    return content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


class Trap:
    """Asks the reader to make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_asks_for_a_call_is_refused_and_nothing_is_called(tmp_path):
    canary = tmp_path / "canary"
    for content in (pickle.dumps([Trap(canary)], 2), pickle.dumps([Trap(canary)], 5), b"cos\nsystem\n(S'true'\ntR."):
        with pytest.raises(NotPossible, match="refused, since it asks for"):
            read_arrays(content, "weights")
        assert not canary.exists()


def test_only_the_exact_names_of_arrays_are_known():
    for name in (
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"cbuiltins\neval\n.",
        b"cnumpy\n__class__\n.",
    ):
        with pytest.raises(NotPossible, match="refused"):
            read_arrays(name, "weights")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x02", b"]\x94.", b"N.", pickle.dumps([1.0], 2), pickle.dumps({"a": 1}, 2), b"\x80\x02]q\x01(K\x01e."],
)
def test_broken_content_is_refused_in_words(content):
    if content == b"]\x94.":
        assert read_arrays(content, "weights") == []
        return
    with pytest.raises(BadShape, match="weights"):
        read_arrays(content, "weights")


def test_arrays_of_another_type_are_refused():
    for array in (np.zeros(3), np.array([None, 1], dtype=object), np.zeros(3, ">f4"), np.zeros(3, np.int32)):
        with pytest.raises((BadShape, NotPossible)):
            read_arrays(pickled([array]), "weights")


@needs_net
def test_the_stand_ins_rebuild_what_numpy_would():
    """The file's arrays in order: shapes as published, and every number finite."""
    arrays = read_arrays(FILES.path(FILE).read_bytes(), FILE)
    shapes = [a.shape for a in arrays]
    assert shapes[:6] == [(32, 4, 3, 3), (32,), (64, 32, 3, 3), (64,), (128, 64, 3, 3), (128,)]
    assert shapes[6:] == [(4, 128, 1, 1), (4,), (144, 36), (36,), (2, 128, 1, 1), (2,), (72, 64), (64,), (64, 1), (1,)]
    assert all(np.isfinite(a).all() and a.dtype == np.float32 for a in arrays)


@needs_net
def test_another_file_of_that_name_is_refused(tmp_path, monkeypatch):
    (tmp_path / "gomoku").mkdir()
    (tmp_path / "gomoku" / FILE).write_bytes(FILES.path(FILE).read_bytes() + b"x")
    monkeypatch.setenv("CUTAWAY_DATA", str(tmp_path))
    with pytest.raises(BadShape, match="SHA-256"):
        ct.load("gomoku")


@needs_net
def test_a_true_convolution_turns_the_kernel():
    """Reference: the first layer by its definition, sum over k of w[k] x[p - k], from the arrays as they are stored."""
    first, bias = read_arrays(FILES.path(FILE).read_bytes(), FILE)[:2]
    model = ct.load("gomoku")
    x = ct.data("moves:c3 d4 c4", space=model.space).x
    ours = model.run(x, read=["conv1"])["conv1"][0].numpy()
    padded = np.pad(x[0].numpy(), ((0, 0), (1, 1), (1, 1)))
    for unit, row, column in ((0, 0, 0), (5, 2, 3), (31, 5, 5)):
        total = bias[unit]
        for plane in range(4):
            for a in range(3):
                for b in range(3):
                    total += first[unit, plane, a, b] * padded[plane, row + 2 - a, column + 2 - b]
        assert ours[unit, row, column] == pytest.approx(total, abs=1e-5)


def test_the_two_heads_are_places():
    net = PolicyValueNet(4)
    out = net(torch.rand(2, 4, 4, 4))
    assert out["policy"].shape == (2, 16)
    assert out["value"].shape == (2, 1)


@needs_net
def test_the_command_line_takes_moves_and_says_why(tmp_path):
    call = [
        "run",
        "move-contrast",
        "--model",
        "gomoku",
        "--x",
        "moves:c3 a1 c4",
        "--target",
        'logit("c2") - logit("f6")',
    ]
    shown = CliRunner().invoke(cli, [*call, "--study", str(tmp_path / "study"), "--picture", str(tmp_path / "a.png")])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    assert "I play c2 because, if I played f6, they would reply" in text
    assert (tmp_path / "a.png").stat().st_size > 1000


@needs_net
def test_maps_of_planes_can_be_drawn():
    from cutaway.plot import png_bytes

    model = ct.load("gomoku")
    why = ct.run("integrated_gradients", model, "moves:c3 d4 c4", target='logit("c5") - logit("f6")', baseline="zero")
    assert png_bytes(why).startswith(b"\x89PNG")
