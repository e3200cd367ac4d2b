"""A method that is added appears everywhere, with no list edited."""

import json
import sys

import pytest
import torch

import cutaway as ct
import cutaway.attribution
from cutaway.cli import main
from cutaway.core.catalogue import catalogue
from cutaway.report import compose

METHOD = '''
"""A method that a newcomer adds."""

from cutaway.core.batch import Batch
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.target import Target


@method(paper="simonyan2014", laws={"batch_independent"}, needs={"gradient"})
def squared_gradient(model: Model, x: Batch, target: Target, *, power: float = 2.0) -> Attribution:
    """How strongly the target reacts to each entry, whatever the direction.

    values_i = |d target / d x_i| ** power

    Args:
        power: The exponent.

    Returns:
        Sizes without a sign.

    Source: Simonyan et al. 2014.
    """
    score, _, slope = model.gradient(x, target)
    return Attribution(values=slope.abs() ** power, target=str(target), signed=False, score=score)
'''


@pytest.fixture
def added(tmp_path, monkeypatch):
    (tmp_path / "newcomer.py").write_text(METHOD)
    monkeypatch.setattr(cutaway.attribution, "__path__", [*cutaway.attribution.__path__, str(tmp_path)])
    catalogue.cache_clear()
    yield
    sys.modules.pop("cutaway.attribution.newcomer", None)
    catalogue.cache_clear()


@pytest.mark.usefixtures("added")
def test_a_new_method_appears_everywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = ct.data("digits/test[0]")
    result = ct.run("squared_gradient", "digits-cnn", x, target=3, power="1")
    slope = ct.run("gradient", "digits-cnn", x, target=3)
    assert torch.allclose(result.values, slope.values.abs())
    assert "squared_gradient" in [row[0] for row in ct.methods().rows]

    assert main(["methods", "--json"]) == 0
    entry = next(e for e in json.loads(capsys.readouterr().out) if e["name"] == "squared_gradient")
    assert entry["options"][0]["help"] == "The exponent."
    assert main(["run", "squared-gradient", "--help"]) == 0
    assert "--power" in capsys.readouterr().out
    assert main(["run", "squared-gradient", "--model", "digits-cnn", "--x", "digits/test[0]", "--power", "1"]) == 0
    assert "squared_gradient" in [m.name for m in compose.chosen("all")]
    assert (
        ct.run("deletion", "digits-cnn", x, "squared_gradient").provenance.options["attribution"].startswith("squared")
    )
