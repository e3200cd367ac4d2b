"""What the decorator reads from a function, and what it does for every caller."""

from typing import Literal

import pytest
import torch
from torch import nn

import cutaway
from cutaway.core.batch import Batch
from cutaway.core.errors import BadOption, BadShape, NotPossible, UnknownName
from cutaway.core.fill import Fill, zero
from cutaway.core.method import catalogue, explainer_of, find, method
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Scores
from cutaway.core.site import INPUT, Site
from cutaway.core.space import images, rows
from cutaway.core.target import Target, logit
from cutaway.testing import nets
from cutaway.testing.models import inputs_for, text_model, tiny_model
from cutaway.testing.troubled import Overflowing, Random

SEEN = {}
ZERO = zero()


@method(paper="simonyan2014", laws={"dummy"}, needs={"gradient"}, quick={"count": 1})
def slopes(
    model: Model,
    x: Batch,
    target: Target,
    *,
    wrt: Site = INPUT,
    fill: Fill = ZERO,
    count: int = 4,
    share: float = 0.5,
    exact: bool = False,
    norm: Literal["l1", "l2"] = "l2",
    mode: Literal["a", "b"] | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Attribution:
    """Slopes, for the tests.

    values = d target / d x

    Args:
        wrt: Where.
        fill: What stands for
            absent.
        count, share: Two numbers.
        exact: Yes or no.
        norm: Which.
        seed: Of nothing.

    Returns:
        Slopes.

    Source: none.
    """
    SEEN.update(wrt=wrt, fill=fill, count=count, share=share, exact=exact, norm=norm, mode=mode, size=size, seed=seed)
    found = model.gradient(x, target, wrt=wrt)
    return Attribution(values=found.slope, target=str(target), wrt=str(wrt), score=found.score)


@method(paper="simonyan2014")
def examined(model: Model, x: Batch, attribution: Attribution) -> Scores:
    """How large an attribution is, for the tests."""
    return Scores(names=["size"], values=attribution.values.abs().sum().double()[None])


@method(paper="simonyan2014", needs={"image"})
def pictured(model: Model, x: Batch, target: Target) -> Attribution:
    """For images only."""
    return Attribution(values=model.gradient(x, target).slope, target=str(target))


MODEL = tiny_model("mlp")
X = inputs_for(MODEL, 3)


def test_an_entry_is_read_from_the_function():
    entry = slopes.method
    assert (entry.name, entry.room, entry.summary, entry.result) == (
        "slopes",
        "own",
        "Slopes, for the tests.",
        "Attribution",
    )
    assert entry.positional == ("model", "x", "target")
    assert (entry.laws, entry.needs, entry.paper, entry.quick) == (
        ("dummy",),
        ("gradient",),
        "simonyan2014",
        {"count": 1},
    )
    options = {o.name: o for o in entry.options}
    assert options["fill"].help == "What stands for absent."
    assert options["share"].help == "Two numbers."
    assert options["norm"].choices == ("l1", "l2")
    assert options["mode"].choices == ("a", "b")
    assert (options["size"].kind, options["exact"].kind, options["mode"].kind) == ("int or none", "bool", "choice")
    assert {o["name"]: o["default"] for o in entry.as_json()["options"]}["fill"] == "zero"


def test_positional_parameters_come_from_the_vocabulary():
    with pytest.raises(BadOption, match="positional parameters come from model, x, target"):

        @method(paper="simonyan2014")
        def wrong(model: Model, image: Batch) -> Attribution:
            """Wrong."""
            raise NotImplementedError


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"wrt": "first"}, {"wrt": Site("first")}),
        ({"fill": "constant:0.5"}, {"fill": "constant:0.5"}),
        ({"count": "7"}, {"count": 7}),
        ({"count": 7.0}, {"count": 7}),
        ({"seed": str(2**60 + 1)}, {"seed": 2**60 + 1}),
        ({"seed": 2**60 + 1}, {"seed": 2**60 + 1}),
        ({"share": "0.25"}, {"share": 0.25}),
        ({"share": 1}, {"share": 1.0}),
        ({"exact": "true"}, {"exact": True}),
        ({"exact": "False"}, {"exact": False}),
        ({"norm": "l1"}, {"norm": "l1"}),
        ({"mode": "none"}, {"mode": None}),
        ({"mode": "a"}, {"mode": "a"}),
        ({"size": "none"}, {"size": None}),
        ({"size": "3"}, {"size": 3}),
    ],
)
def test_options_are_read_from_text(given, read):
    slopes(MODEL, X, 1, **given)
    for name, value in read.items():
        found = SEEN[name]
        assert (str(found) if isinstance(found, Fill) else found) == value
        assert isinstance(value, str) or type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "error", "what"),
    [
        ({"count": "7.5"}, BadOption, "expected count of slopes as int; got '7.5'"),
        ({"count": "many"}, BadOption, "as int"),
        ({"count": True}, BadOption, "as int"),
        ({"count": float("nan")}, BadOption, "as int"),
        ({"count": float("inf")}, BadOption, "as int"),
        ({"share": "nan"}, BadOption, "as float"),
        ({"share": []}, BadOption, "as float"),
        ({"exact": "maybe"}, BadOption, "as bool"),
        ({"norm": "l3"}, BadOption, "one of l1, l2; got 'l3'"),
        ({"norm": None}, BadOption, "one of l1, l2; got None"),
        ({"fill": "blurr"}, UnknownName, "nearest: blur"),
        ({"wrt": "a b"}, BadOption, "expected a place"),
        ({"cuont": 3}, UnknownName, "no option of slopes called 'cuont'; nearest: count"),
        ({"wrt": "frist"}, UnknownName, "nearest: first"),
    ],
)
def test_options_that_do_not_fit_are_refused(given, error, what):
    with pytest.raises(error, match=what):
        slopes(MODEL, X, 1, **given)


def test_calls_that_do_not_fit_are_refused():
    with pytest.raises(BadOption, match="takes model, x, target; got 4"):
        slopes(MODEL, X, 1, 2)
    with pytest.raises(BadOption, match="slopes needs x"):
        slopes(MODEL)
    with pytest.raises(BadOption, match=r"Model\(net, space=images\(224\)\)"):
        slopes(MODEL.module, X)
    with pytest.raises(NotPossible, match="works on images; tiny-mlp takes rows"):
        pictured(MODEL, X)
    with pytest.raises(UnknownName, match="nearest: gradient"):
        find("gradeint")


def test_a_result_says_how_it_was_made():
    model = tiny_model("mlp")
    made = slopes(model, X, "logit(0) - logit(1)", count=2, seed=5, fill=torch.zeros(4).double()).provenance
    assert (made.method, made.model, made.target, made.seed) == ("slopes", "tiny-mlp", "logit(0) - logit(1)", 5)
    assert made.options["count"] == 2
    assert made.options["wrt"] == "input"
    assert made.options["fill"].startswith("given")
    assert "seed" not in made.options
    assert (made.cost.forwards, made.cost.backwards) == (3, 3)
    assert len(made.model_fingerprint) == len(made.input_fingerprint) == 64
    assert set(made.versions) == {"cutaway", "torch", "python"}


def test_without_a_target_the_predicted_class_is_explained():
    expected = MODEL.run(X).output.argmax(1).tolist()
    made = slopes(MODEL, X)
    assert made.target in (str(Target.of(expected)), f"logit({expected[0]})")


def test_several_targets_of_one_input_give_a_map_each():
    found = slopes(MODEL, X[:1], [0, 1, 2])
    assert found.values.shape == (3, 4)
    assert torch.equal(found.values[1:2], slopes(MODEL, X[:1], 1).values)
    with pytest.raises(BadShape, match="one for each of 3 inputs; got 2"):
        slopes(MODEL, X, [0, 1])


def test_an_attribution_carries_what_it_explains():
    assert torch.equal(slopes(MODEL, X, 1).input, X)
    found = slopes(text_model(), ["the film was good", "dull"], 1)
    assert found.tokens == [["[CLS]", "the", "film", "was", "good"], ["[CLS]", "dull"]], "padding is left out"


def test_a_method_that_examines_makes_its_attribution_or_takes_it():
    by_default, by_name = examined(MODEL, X, target=1), examined(MODEL, X, "gradient", target=1)
    given = examined(MODEL, X, slopes(MODEL, X, 1))
    assert by_default["size"] == by_name["size"] == given["size"] > 0
    assert by_default.provenance.target == "logit(1)"
    with pytest.raises(BadShape, match="of these 3 inputs; got one of 2"):
        examined(MODEL, X, slopes(MODEL, X[:2], 1))
    with pytest.raises(BadOption, match="Attribution, the name of a method, or a function"):
        examined(MODEL, X, 3)


def test_an_explanation_can_be_made_again():
    result = find("gradient").function(MODEL, X, 1, wrt="first")
    again = explainer_of(result)(MODEL, X[:1], logit(2))
    assert torch.equal(again.values, find("gradient").function(MODEL, X[:1], 2, wrt="first").values)
    with pytest.raises(NotPossible, match="made by hand"):
        explainer_of(Attribution(values=X, target="logit(1)"))


def test_common_checks_are_notes():
    net = nets.seeded(nets.Mlp).train()
    model = Model(nn.DataParallel(net), rows(4))
    checks = slopes(model, X.float(), 1).checks
    assert {k: c.status for k, c in checks.items()} == {"mode": "note", "model": "note", "dtype": "note"}
    assert "float32 to float64" in checks["dtype"]
    assert net.training
    random = slopes(Model(nets.seeded(Random), rows(4)), X, 1).checks
    assert random["steady"].status == "warn"


def test_a_result_that_is_not_finite_is_refused_with_the_first_layer():
    model = Model(nets.seeded(Overflowing), rows(4))
    with pytest.raises(NotPossible, match="not finite .* 'blows'"):
        slopes(model, torch.ones(1, 4), 1)


def test_nothing_in_nothing_out():
    found = slopes(MODEL, X[:0])
    assert found.values.shape == (0, 4)
    assert found.checks["empty"].status == "note"
    assert slopes(MODEL, X[:0], wrt="first").values.shape == (0, 8)
    with pytest.raises(BadShape, match="at least one input for examined"):
        examined(MODEL, X[:0])


def test_passes_of_another_thread_are_not_counted():
    import threading
    import time

    class Slow(nn.Module):
        def forward(self, h):
            time.sleep(0.01)
            return h.relu()

    net = nets.seeded(nets.Mlp)
    net.act = Slow()
    model, costs = Model(net, rows(4)), []
    model.is_steady(X)
    work = [threading.Thread(target=lambda: costs.append(slopes(model, X, 1).provenance.cost)) for _ in range(3)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert [(c.forwards, c.backwards) for c in costs] == [(3, 3)] * 3


def test_the_catalogue_is_found_by_walking():
    assert "gradient" in catalogue()
    assert all(name == entry.name for name, entry in catalogue().items())
    assert find("input-x-gradient").name == "input_x_gradient" if "input_x_gradient" in catalogue() else True


@pytest.mark.parametrize("name", list(catalogue()))
def test_the_help_of_every_option_is_whole_sentences(name):
    """A colon in the second line of an option's help does not begin another option."""
    assert [o.name for o in catalogue()[name].options if not o.help.endswith((".", "`"))] == []


@pytest.mark.parametrize("name", ["gradient", "input_x_gradient", "deeplift", "integrated_gradients", "smoothgrad"])
def test_a_map_of_zeros_says_so(name):
    """A unit that is not active: its slope and its contributions are zero, and a picture would not tell."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU())
    nn.init.constant_(net[1].bias, -100.0)
    model = Model(net.eval(), images(2))
    said = cutaway.run(name, model, torch.rand(2, 3, 2, 2), target=1).checks["idle"]
    assert said.status == "warn"
    assert "2 of 2 maps are 0 everywhere" in said
    assert "idle" not in cutaway.run(name, tiny_model("conv"), inputs_for(tiny_model("conv"), 1), target=1).checks
