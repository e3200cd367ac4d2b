"""Units taken out of classifiers whose use of them is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, UnknownName
from cutaway.core.result import Table
from cutaway.dissection.ablation import unit_ablation, units_of
from cutaway.dissection.dissect import dissect
from cutaway.maths.proportions import paired_change
from cutaway.testing.models import text_model, tiny_model

CLASSES, UNITS, N = 3, 10, 60
NAMES = ("red", "green", "blue")


class Planted(nn.Module):
    """Units 0, 1, 2 are the channels; the others are noise that nobody uses."""

    def __init__(self):
        super().__init__()
        self.units = nn.Conv2d(3, UNITS, 1, bias=False)
        with torch.no_grad():
            self.units.weight[:3] = torch.eye(3).view(3, 3, 1, 1)

    def forward(self, x):
        h = self.units(x)
        return 20 * h[:, :3].mean((2, 3)) + 0.0 * h.sum((1, 2, 3))[:, None]


def made(seed=0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(N) % CLASSES
    x = 0.2 * torch.rand(N, 3, 6, 6, generator=draw)
    x[torch.arange(N), labels] += 0.6
    torch.manual_seed(1)
    model = ct.Model(Planted(), ct.images(6), classes=NAMES)
    return model, Examples(x=x, names=[str(i) for i in range(N)], labels=labels, classes=NAMES)


def rows_of(table):
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_a_class_is_lost_with_its_unit_and_with_no_other():
    model, data = made()
    table = unit_ablation(model, data, site="units", units=("1",), draws=6)
    rows = rows_of(table)
    assert [row[0] for row in table.rows[:2]] == ["all", "green"]
    assert (rows["green"]["accuracy"], rows["green"]["without"], rows["green"]["change"]) == (1, 0, -1)
    assert rows["red"]["change"] == rows["blue"]["change"] == 0
    assert rows["all"]["change"] == pytest.approx(-1 / 3)
    assert rows["all"]["low"] < -1 / 3 < rows["all"]["high"] < 0
    assert table.checks["effect"].status == "ok" or rows["all"]["as bad"] > 1 / 7  # unit 0 or 2 may be drawn


def test_a_unit_that_nobody_uses_changes_nothing():
    model, data = made()
    table = unit_ablation(model, data, site="units", units=("7",), draws=6)
    assert rows_of(table)["all"]["change"] == 0
    assert rows_of(table)["all"]["p change"] == 0
    assert table.checks["effect"].status == "note"


def test_without_names_each_unit_is_taken_out_alone():
    model, data = made()
    table = unit_ablation(model, data, site="units")
    rows = rows_of(table)
    assert {row[0] for row in table.rows[:3]} == {0, 1, 2}
    assert [rows[u]["hurts most"] for u in range(3)] == list(NAMES)
    assert all(rows[u]["change"] == pytest.approx(-1 / 3) for u in range(3))
    assert all(rows[u]["p change"] == 0 for u in range(3, UNITS))


def slow(net, x, labels, off, value):
    """Every picture through the whole network, with the units overwritten by a hook."""

    def edit(module, args, output):
        output = output.clone()
        for unit in off:
            output[:, unit] = value[unit]
        return output

    handle = dict(net.named_modules())["conv2"].register_forward_hook(edit)
    with torch.no_grad():
        probability = net(x).softmax(1)
    handle.remove()
    return probability.argmax(1) == labels, probability[torch.arange(len(x)), labels]


@pytest.mark.parametrize("instead", ["zero", "mean"])
def test_equals_whole_forwards_with_a_hook(instead):
    model = tiny_model("conv")
    x = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = torch.arange(12) % model.run(x).output.shape[1]
    data = Examples(x=x, names=[""] * 12, labels=labels)
    table = rows_of(unit_ablation(model, data, site="conv2", units=("0", "2"), instead=instead, draws=2))
    act = model.run(x, read=["conv2"])["conv2"]
    value = act.mean((0, 2, 3)) if instead == "mean" else torch.zeros(act.shape[1], dtype=act.dtype)
    seen = (x - 0.4) / 0.5
    before, p_before = slow(model.module, seen, labels, (), value)
    after, p_after = slow(model.module, seen, labels, (0, 2), value)
    assert table["all"]["accuracy"] == pytest.approx(float(before.double().mean()))
    assert table["all"]["without"] == pytest.approx(float(after.double().mean()))
    assert table["all"]["probability"] == pytest.approx(float(p_before.mean()))
    assert table["all"]["p change"] == pytest.approx(float((p_after - p_before).mean()), abs=1e-9)
    for k in range(int(labels.max()) + 1):
        mine = labels == k
        row = table[model.class_name(k)]
        assert row["change"] == pytest.approx(float((after[mine].double() - before[mine].double()).mean()))
        assert row["p change"] == pytest.approx(float((p_after - p_before)[mine].mean()), abs=1e-9)


def test_units_come_from_a_dissection():
    model, data = made()
    where = (data.x.argmax(1, keepdim=True) + 1).to(torch.int16)
    data = replace(data, concepts={"paint": where}, concept_names={"paint": ("", *NAMES)})
    table = dissect(model, data, site="units", categories=("paint",), quantile=0.7)
    assert units_of(table, "blue", 1) == ("2",)
    found = unit_ablation(model, data, site="units", concept="blue", top=1, draws=3)
    assert rows_of(found)["blue"]["without"] <= 0.5
    with pytest.raises(BadOption, match="no unit has 'pink'"):
        unit_ablation(model, data, site="units", concept="pink")


def test_the_best_units_of_a_concept_come_first_from_any_category():
    columns = ["unit", "concept", "IoU", "best color", "color IoU"]
    table = Table(
        columns=columns, rows=[[4, "dog", 0.2, "red", 0.1], [1, "red", 0.15, "red", 0.15], [2, "–", 0.0, "–", 0.0]]
    )
    assert units_of(table, "red", 5) == ("1", "4")
    assert units_of(table, "red", 1) == ("1",)


def test_labels_are_matched_by_the_names_of_classes():
    model, data = made()
    turned = Examples(x=data.x, names=data.names, labels=2 - data.labels, classes=NAMES[::-1])
    same = [unit_ablation(model, d, site="units", units=("0",), draws=2) for d in (data, turned)]
    assert same[0].rows == same[1].rows
    other = Examples(x=data.x, names=data.names, labels=data.labels, classes=("a", "b", "c"))
    with pytest.raises(UnknownName):
        unit_ablation(model, other, site="units", units=("0",), draws=2)


def test_without_labels_the_networks_own_answers_stand_for_them():
    model, data = made()
    table = unit_ablation(model, data.x, site="units", units=("0",), draws=2)
    assert rows_of(table)["all"]["accuracy"] == 1
    assert table.checks["labels"].status == "note"


def test_texts_lose_units_at_all_their_words():
    table = unit_ablation(text_model(), ["a good film", "was bad", "the plot was dull"], draws=2)
    assert len(table.rows) == 8
    means = unit_ablation(text_model(), ["a good film", "was bad"], units=("1", "3"), instead="mean", draws=2)
    assert means.rows[0][0] == "all"


def test_processes_change_nothing(tmp_path):
    options = {"site": "relu5", "units": ("1", "2"), "draws": 3}
    here = ct.run("unit_ablation", "shapes-cnn", "shapes/test[0:24]", **options)
    there = ct.run("unit_ablation", "shapes-cnn", "shapes/test[0:24]", study=tmp_path, workers=1, **options)
    assert [row[:3] for row in here.rows] == [row[:3] for row in there.rows]


def test_the_interval_of_a_change_holds_it_as_often_as_it_says():
    draw, n, inside = np.random.default_rng(0), 60, 0
    p_lost, p_gained = 0.2, 0.05
    for _ in range(2000):
        lost, gained, _ = draw.multinomial(n, [p_lost, p_gained, 1 - p_lost - p_gained])
        low, high = paired_change(*(torch.tensor(float(v)) for v in (gained, lost, n)))
        inside += float(low) <= p_gained - p_lost <= float(high)
    assert 0.93 < inside / 2000 < 0.98
    # Bonett and Price, written out for 3 gained and 12 lost of 60.
    low, high = paired_change(*(torch.tensor(v).double() for v in (3.0, 12.0, 60.0)))
    p, q = 4 / 62, 13 / 62
    reach = 1.959964 * ((p + q - (p - q) ** 2) / 62) ** 0.5
    assert (float(low), float(high)) == pytest.approx((p - q - reach, p - q + reach), abs=1e-6)


def test_bad_requests_are_refused():
    model, data = made()
    with pytest.raises(BadOption, match="units or a concept"):
        unit_ablation(model, data, site="units", units=("0",), concept="red")
    with pytest.raises(BadOption, match="from 0 to 9"):
        unit_ablation(model, data, site="units", units=("10",))
    with pytest.raises(BadOption, match="at least one unit and one random set"):
        unit_ablation(model, data, site="units", draws=0)
