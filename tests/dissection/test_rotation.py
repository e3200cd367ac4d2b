"""The rotation test on planted units, which a rotation hurts, and on a basis that is like any other."""

import pytest
import torch
from scipy.linalg import expm, logm
from torch import nn

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, NotPossible
from cutaway.dissection import rotation as module
from cutaway.dissection.dissect import dissect
from cutaway.dissection.rotation import rotation_test
from cutaway.maths.rotations import fractional, random_rotation

SIZE, N, UNITS = 16, 16, 8


class Mixed(nn.Module):
    """Its units are the channels of the input, mixed by a matrix."""

    def __init__(self, matrix):
        super().__init__()
        self.mix = nn.Conv2d(UNITS, UNITS, 1, bias=False)
        self.mix.weight.data = matrix.view(UNITS, UNITS, 1, 1).clone()

    def forward(self, x):
        return self.mix(x).mean((2, 3))


def model(matrix=None):
    matrix = torch.eye(UNITS, dtype=torch.float64) if matrix is None else matrix
    return ct.Model(Mixed(matrix).double(), ct.images(SIZE, channels=UNITS))


def data(seed=0):
    """Each channel is a concept of its own, with a little noise; concepts lie over each other."""
    draw = torch.Generator().manual_seed(seed)
    there = torch.rand(N, UNITS, SIZE, SIZE, generator=draw) < 0.08
    noise = 0.2 * torch.rand(N, UNITS, SIZE, SIZE, generator=draw)
    labels = there.to(torch.int16) * torch.arange(1, UNITS + 1, dtype=torch.int16).view(-1, 1, 1)
    return Examples(
        x=(0.8 * there + noise).double(),
        names=[str(i) for i in range(N)],
        concepts={"thing": labels},
        concept_names={"thing": ("", *(f"thing {k}" for k in range(UNITS)))},
    )


OPTIONS = {"site": "mix", "quantile": 0.93, "resolution": SIZE}


def test_planted_units_lose_concepts_when_they_are_rotated():
    curve = rotation_test(model(), data(), steps=4, draws=5, **OPTIONS)
    unique = curve.y["unique detectors"]
    assert unique[0] == UNITS
    assert unique[-1] <= 0.8 * UNITS
    assert unique[1] >= unique[-1]
    assert curve.checks["basis"].status == "ok"
    assert curve.checks["basis"].value == pytest.approx(1 - float(unique[-1]) / UNITS)


def test_units_with_random_weights_lose_nothing():
    """They are as good as any directions: before and after, only chance decides how many concepts are met."""
    changes = []
    for seed in range(6):
        mixed = random_rotation(UNITS, torch.Generator().manual_seed(100 + seed))
        unique = rotation_test(model(mixed), data(), steps=1, draws=3, seed=seed, **OPTIONS).y["unique detectors"]
        changes.append(float(unique[1] - unique[0]))
    assert abs(sum(changes) / len(changes)) < 1


def test_each_share_is_the_dissection_of_a_rotated_network():
    """The slow way: the matrix power by logarithm and exponential, in a network of its own."""
    examples, steps = data(), 3
    q = random_rotation(UNITS, torch.Generator().manual_seed(7))
    found = rotation_test(model(), examples, steps=steps, draws=1, seed=7, **OPTIONS)
    for k in range(steps + 1):
        power = torch.from_numpy(expm(k / steps * logm(q.numpy())).real)
        assert torch.allclose(power, fractional(q, torch.tensor([k / steps], dtype=torch.float64))[0], atol=1e-8)
        table = dissect(model(power), examples, **OPTIONS)
        at = table.columns.index("detector")
        detectors = [row for row in table.rows if row[at]]
        assert found.y["detectors"][k] == len(detectors)
        assert found.y["unique detectors"][k] == len({row[1] for row in detectors})


def test_more_looks_for_less_memory_change_nothing(monkeypatch):
    whole = rotation_test(model(), data(), steps=2, draws=2, **OPTIONS)
    monkeypatch.setattr(module, "MOST_BYTES", 1)
    parts = rotation_test(model(), data(), steps=2, draws=2, **OPTIONS)
    assert all(torch.equal(values, parts.y[name]) for name, values in whole.y.items())
    assert parts.provenance.cost.forwards > whole.provenance.cost.forwards


def test_another_seed_is_another_rotation():
    curves = [rotation_test(model(), data(), steps=2, draws=1, seed=seed, **OPTIONS) for seed in range(5)]
    assert len({tuple(curve.y["unique detectors"].tolist()) for curve in curves}) > 1


def test_processes_change_nothing(tmp_path):
    options = {"site": "relu5", "resolution": 12, "steps": 1, "draws": 1}
    here = ct.run("rotation_test", "shapes-cnn", "shapes/test[0:16]", **options)
    there = ct.run("rotation_test", "shapes-cnn", "shapes/test[0:16]", study=tmp_path, workers=1, **options)
    # Another process may have other last digits in its activations.
    assert (here.y["detectors"] - there.y["detectors"]).abs().max() <= 1


def test_a_layer_without_detectors_has_nothing_to_lose():
    examples = data()
    empty = Examples(
        x=examples.x,
        names=examples.names,
        concepts={"thing": torch.zeros_like(examples.concepts["thing"])},
        concept_names=examples.concept_names,
    )
    assert rotation_test(model(), empty, steps=1, draws=1, **OPTIONS).checks["basis"].status == "note"


def test_bad_requests_are_refused():
    with pytest.raises(BadOption, match="steps, draws"):
        rotation_test(model(), data(), steps=0, **OPTIONS)
    with pytest.raises(BadOption, match="quantile"):
        rotation_test(model(), data(), site="mix", quantile=2)
    with pytest.raises(NotPossible, match="says nothing"):
        rotation_test(model(), Examples(x=data().x, names=data().names), **OPTIONS)
