"""A user's own network: from an object, or from a factory in a Python file."""

import sys
import textwrap

import pytest
import safetensors.torch
import torch
from torch import nn

from cutaway import zoo
from cutaway.core.errors import BadOption, BadShape, NotPossible, UnknownName
from cutaway.core.model import Model
from cutaway.core.space import images
from cutaway.zoo.options import classes_of

NET = """
    import torch
    from torch import nn
    from neighbour import WIDTH

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, WIDTH, 3)
            self.drop = nn.Dropout(0.5)
            self.fc = nn.Linear(WIDTH, 2)

        def forward(self, x):
            return {"logits": self.fc(self.drop(self.conv(x).mean((2, 3)))), "loss": torch.zeros(())}

    def make():
        return Net()

    ready = Net()
    number = 3

    def broken():
        raise RuntimeError("no such luck")

    def whole():
        from cutaway import Model, images
        return Model(Net(), images(6), output="logits", name="mine")

    def wrong():
        return {"weights": 1}
"""


@pytest.fixture
def file(tmp_path):
    """A user's file, in a folder with a space, with a neighbour that it imports."""
    folder = tmp_path / "my nets"
    folder.mkdir()
    (folder / "neighbour.py").write_text("WIDTH = 4\n")
    (folder / "net.py").write_text(textwrap.dedent(NET))
    yield folder / "net.py"
    sys.modules.pop("neighbour", None)


@pytest.mark.parametrize("factory", ["make", "Net", "ready"])
def test_a_factory_a_class_and_an_object_will_do(file, factory):
    path = list(sys.path)
    model = zoo.load(f"{file}:{factory}", size=8, output="logits", classes=["no", "yes"])
    assert model.predict(torch.rand(2, 3, 8, 8)).shape == (2, 2)
    assert (model.name, model.classes) == (file.stem, ("no", "yes"))
    assert not model.module.training
    assert sys.path == path


def test_options_come_as_text_from_a_shell(file):
    model = zoo.load(
        f"{file}:Net", size="10x12", output="logits", mean="0.5,0.4,0.3", std="0.2", classes="imagenet", name="own"
    )
    assert model.space == images((10, 12), mean=[0.5, 0.4, 0.3], std=0.2)
    assert model.classes[281] == "tabby"
    assert model.name == "own"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_are_put_in(file, tmp_path, suffix):
    state = zoo.load(f"{file}:Net", size=8, output="logits").module.state_dict()
    state = {key: torch.full_like(value, 0.25) for key, value in state.items()}
    weights = tmp_path / f"w{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(state, weights)
    model = zoo.load(f"{file}:Net", size=8, output="logits", weights=weights)
    assert all((p == 0.25).all() for p in model.module.parameters())
    assert any("safer form" in note for note in model.notes) == (suffix == ".pt")


def test_weights_of_another_network_are_refused(file, tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pt")
    with pytest.raises(BadShape, match=r"w.pt does not fit Net: missing conv.bias.*unexpected bias, weight"):
        zoo.load(f"{file}:Net", size=8, weights=tmp_path / "w.pt")


def test_a_factory_may_return_the_whole_model(file):
    model = zoo.load(f"{file}:whole")
    assert isinstance(model, Model)
    assert model.name == "mine"
    with pytest.raises(UnknownName, match="whole called 'size'. It has none"):
        zoo.load(f"{file}:whole", size=8)


def test_a_misspelt_option_suggests_the_right_one(file):
    with pytest.raises(UnknownName, match="'sise'; nearest: size"):
        zoo.load(f"{file}:Net", sise=8)


def test_the_users_code_leaves_the_random_state_alone(file):
    before = torch.get_rng_state()
    zoo.load(f"{file}:Net", size=8)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("factory", "kind", "complaint"),
    [
        ("broken", NotPossible, "net.py:broken failed with RuntimeError: no such luck"),
        ("wrong", BadOption, "to make a torch.nn.Module; got dict"),
        ("number", NotPossible, "failed with TypeError"),
        ("mak", UnknownName, "'mak'; nearest: make"),
    ],
)
def test_factories_that_do_not_work(file, factory, kind, complaint):
    with pytest.raises(kind, match=complaint):
        zoo.load(f"{file}:{factory}", size=8)


def test_files_that_do_not_work(tmp_path):
    with pytest.raises(UnknownName, match="no Python file at"):
        zoo.load(f"{tmp_path}/away.py:Net", size=8)
    (tmp_path / "bad.py").write_text("def broken(:\n")
    with pytest.raises(NotPossible, match=r"bad.py:Net failed with SyntaxError"):
        zoo.load(f"{tmp_path}/bad.py:Net", size=8)


def test_a_module_in_memory():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).train()
    model = zoo.load(net, size=2, name="flat")
    assert model.predict(torch.rand(1, 3, 2, 2)).shape == (1, 3)
    assert zoo.load(net, space=images(2)).space == model.space


def test_rows_instead_of_images():
    model = zoo.load(nn.Linear(2, 1), columns="age,height", scores="values")
    assert model.space.names == ("age", "height")
    assert zoo.load(nn.Linear(4, 1), columns=4).space.shape == (4,)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": 8, "columns": 3},
        {"size": 0},
        {"size": "8y8"},
        {"size": "8x8x8"},
        {"size": 10**9},
        {"size": 8, "channels": 2},
        {"size": 8, "mean": "red"},
        {"size": 8, "mean": [0.1, 0.2]},
        {"size": 8, "std": 0},
        {"size": 8, "scores": "odds"},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(BadOption):
        zoo.load(nn.Linear(2, 2), **options)


class TestClassNames:
    """From a text file."""

    def test_one_name_per_line_and_wnids_are_left_out(self, tmp_path):
        (tmp_path / "names.txt").write_text("n02123045 tabby\nespresso maker\n\nKätzchen\n\n", encoding="utf-8-sig")
        assert classes_of(tmp_path / "names.txt") == ("tabby", "espresso maker", "", "Kätzchen")

    def test_other_files_are_refused(self, tmp_path):
        with pytest.raises(UnknownName, match="no file of class names"):
            classes_of("names.txt")
        (tmp_path / "latin.txt").write_bytes("Kätzchen".encode("latin-1"))
        with pytest.raises(BadOption, match="as UTF-8 text"):
            classes_of(tmp_path / "latin.txt")


def test_a_file_that_was_changed_a_moment_ago_is_read_anew(tmp_path):
    path = tmp_path / "net.py"
    for width in (2, 3):  # as long, and within a second
        path.write_text(f"from torch import nn\n\n\ndef make():\n    return nn.Linear(4, {width})\n")
        assert zoo.load(f"{path}:make", columns=4).module.out_features == width
    assert not (tmp_path / "__pycache__").exists()
