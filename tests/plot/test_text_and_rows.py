"""Marked text in place, bars of columns, and steps from a baseline to a score."""

import math
import re

import pytest
import torch

import cutaway as ct
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.result import Attribution, Provenance
from cutaway.plot import attribution, bars, describe, draw, tokens, waterfall

TEXT = "Good,  film\nthat 's it $5 <b>"
OFFSETS = [[0, 0], [0, 4], [4, 5], [7, 11], [12, 16], [17, 19], [20, 22], [23, 25], [0, 0]]
PIECES = ["[CLS]", "good", ",", "film", "that", "'s", "it", "##five", "[SEP]"]


def text(values=None, **changes):
    values = torch.linspace(-1, 1, len(PIECES))[None] if values is None else values
    return Attribution(
        values=values, target="t", unit="target", tokens=[PIECES], texts=[TEXT], offsets=[OFFSETS], **changes
    )


def row(**changes):
    made = {
        "values": torch.tensor([[2.0, 0.5, -0.25, 0.25]]),
        "input": torch.tensor([[30.0, 0.0, 1.0, 0.0]]),
        "tokens": [["age", "job=a", "job=b", "rate=x"]],
        "target": "logit(1)",
        "unit": "target",
        "score": torch.tensor([3.0]),
        "extra": {"change": torch.tensor([2.6])},
        "provenance": Provenance(method="integrated_gradients"),
    }
    return Attribution(**{**made, **changes})


def plain(html):
    return re.sub(r"<[^>]+>", "", html).replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'")


def test_the_original_is_shown_letter_by_letter():
    shown = "".join(run.text for run in tokens.runs(text(), 0) if not run.special)
    assert shown == TEXT
    body, aside = tokens.marked(text(), 0).split("</p>")[:2]
    assert plain(body) == TEXT
    assert plain(aside) == "special pieces: [CLS][SEP]"
    assert '<span class="ct-unseen"> &lt;b&gt;</span>' in body, "what no piece covers is pale"


def test_each_piece_has_its_own_value():
    found = {run.text: run.value for run in tokens.runs(text(), 0) if run.value is not None}
    values = torch.linspace(-1, 1, len(PIECES)).double().tolist()
    assert list(found) == ["Good", ",", "film", "that", "'s", "it", "$5", "[CLS]", "[SEP]"]
    assert [found["Good"], found["$5"], found["[CLS]"]] == [values[1], values[7], values[0]]


def test_pieces_that_share_a_letter_are_one():
    shared = Attribution(
        values=torch.tensor([[1.0, 2.0, 4.0, 8.0]]),
        target="t",
        tokens=[["ð", "Ł", "Ġ", "x"]],
        texts=["🐈x"],
        offsets=[[[0, 1], [0, 1], [0, 1], [1, 2]]],
    )
    assert [(run.text, run.value) for run in tokens.runs(shared, 0)] == [("🐈", 7.0), ("x", 8.0)]


def test_slopes_of_an_embedding_are_shown_by_their_size():
    values = torch.zeros(1, len(PIECES), 2)
    values[0, 1], values[0, 2] = torch.tensor([3.0, -4.0]), torch.tensor([-1.0, -1.0])
    slopes = Attribution(
        values=values, target="t", unit="target per input unit", tokens=[PIECES], texts=[TEXT], offsets=[OFFSETS]
    )
    assert tokens.per_token(slopes, 0)[1] == 5
    assert tokens.per_token(slopes, 0)[2] == pytest.approx(math.sqrt(2))
    assert not tokens.scale_of(slopes, 0).signed
    assert "ct-minus" not in tokens.marked(slopes, 0) + tokens.legend(slopes)
    assert tokens.per_token(text(values=values), 0)[1] == -1, "contributions are summed"


def test_the_largest_piece_is_called_as_it_stands():
    assert "the largest at 'Good'" in describe(text(values=torch.tensor([[0.0, 9, 0, 0, 0, 0, 0, 0, 0]])))
    assert "the largest at '[SEP]'" in describe(text())


def test_units_of_a_layer_are_no_pieces_of_the_text():
    units = text(values=torch.zeros(1, 2), wrt="fc")
    assert attribution.kind_of(units) == "row"
    assert bars.names(units, 0) == ["fc:0", "fc:1"]


def test_a_long_text_breaks_between_words():
    long = "wonderful " * 40
    offsets = [[10 * k, 10 * k + 9] for k in range(40)]
    made = Attribution(
        values=torch.ones(1, 40), target="t", tokens=[["wonderful"] * 40], texts=[long], offsets=[offsets]
    )
    placed = tokens._laid_out(tokens.runs(made, 0))
    assert max(column + len(run.text) for _, column, run in placed) <= tokens.COLUMNS
    assert placed[-1][0] == math.ceil(40 / 7) - 1
    assert draw(made).get_size_inches()[1] > draw(text()).get_size_inches()[1]


def test_a_one_hot_group_is_one_bar_where_values_add_up():
    assert [(bar.name, bar.value) for bar in bars.columns(row(), 0)] == [
        ("age = 30", 2.0),
        ("job = b", 0.25),
        ("rate=x = 0", 0.25),
    ]
    apart = row(provenance=Provenance(method="occlusion"))
    assert [bar.name for bar in bars.columns(apart, 0)] == ["age = 30", "job=a = 0", "job=b = 1", "rate=x = 0"]
    together = row(
        values=torch.tensor([[2.0, 0.5, 0.5, 0.1]]), provenance=Provenance(method="lime", options={"features": "auto"})
    )
    assert [(bar.name, round(bar.value, 3)) for bar in bars.columns(together, 0)] == [
        ("age = 30", 2.0),
        ("job = b", 0.5),
        ("rate=x = 0", 0.1),
    ]
    nobody = row(input=torch.tensor([[30.0, 0.0, 0.0, 0.0]]))
    assert bars.columns(nobody, 0)[1].name == "job = none of its columns"


def test_steps_lead_from_the_baseline_to_the_score():
    steps = waterfall.steps(row(), 0)
    assert [step.name for step in steps] == ["age = 30", "job = b", "rate=x = 0", "not explained"]
    assert steps[0].start == pytest.approx(0.4)
    assert [a.end for a in steps[:-1]] == [b.start for b in steps[1:]]
    assert steps[-1].end == pytest.approx(3.0)
    assert steps[-1].value == pytest.approx(0.1)
    exact = waterfall.steps(row(extra={"change": torch.tensor([2.5])}), 0)
    assert "not explained" not in [step.name for step in exact]


def test_many_columns_end_in_one_step_for_the_rest():
    many = row(values=torch.arange(30.0)[None], input=torch.ones(1, 30), tokens=[[]], score=torch.tensor([435.0]))
    many = row(values=many.values, input=many.input, tokens=[], score=many.score, extra={})
    steps = waterfall.steps(many, 0)
    assert len(steps) == waterfall.MOST_STEPS + 1
    assert steps[-1].name == "16 other columns"
    assert steps[-1].end == 435


def test_a_waterfall_is_drawn_where_values_add_up_and_refused_elsewhere():
    assert waterfall.fits(row())
    assert "steps of what mattered" in describe(row())
    assert "on the baseline" in [t.get_text() for t in draw(row()).axes[0].get_yticklabels()]
    assert "on the baseline" not in [t.get_text() for t in draw(row(), form="bars").axes[0].get_yticklabels()]
    for other in (row(provenance=Provenance(method="occlusion")), row(score=torch.empty(0)), text()):
        with pytest.raises(NotPossible, match="add up"):
            draw(other, form="waterfall")
    with pytest.raises(BadOption, match="auto, bars or waterfall"):
        draw(row(), form="cake")


def test_the_steps_of_a_real_row_end_at_its_score():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    model = ct.Model(net, ct.rows(["a", "b=x", "b=y"], low=-1, high=1))
    x = torch.tensor([[0.5, 1.0, 0.0]]).double()
    steps = waterfall.steps(ct.run("integrated_gradients", model, x, target=1), 0)
    assert steps[0].start == pytest.approx(float(net(torch.zeros(1, 3).double())[0, 1].detach()))
    assert steps[-1].end == pytest.approx(float(net(x)[0, 1].detach()))


# -- units of a layer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (1, 5, 3)])
@pytest.mark.parametrize("spread", [True, False])
def test_units_of_a_layer_are_bars_with_their_whole_values(shape, spread):
    """Each has one value for all of its positions: over an image or a text, they would add up to an even colour."""
    axis = 1 if len(shape) == 4 else 2
    sizes = [1] * len(shape)
    sizes[axis] = 3
    whole = torch.tensor([0.5, -2.0, 1.0]).view(sizes).expand(shape)
    count = whole.numel() // 3
    made = Attribution(
        values=whole / count if spread else whole,
        target="logit(1)",
        wrt="conv3",
        players=[["0", "1", "2"]],
        tokens=[["a", "b", "c", "d", "e"]],
        extra={"player": torch.arange(3).view(sizes).expand(shape), **({"whole": whole} if spread else {})},
    )
    assert attribution.kind_of(made) == "row"
    assert [(bar.name, bar.value) for bar in bars.columns(made, 0)] == [
        ("conv3:0", 0.5),
        ("conv3:1", -2.0),
        ("conv3:2", 1.0),
    ]
    assert "values from −2 to 1" in describe(made)
    assert "'conv3:2'" in describe(made)
    draw(made)


def test_positions_of_a_layer_stay_a_map():
    owner = torch.arange(4).view(1, 1, 2, 2)
    made = Attribution(
        values=torch.rand(1, 1, 2, 2), target="logit(1)", wrt="conv3", players=[list("abcd")], extra={"player": owner}
    )
    assert attribution.kind_of(made) == "image"
