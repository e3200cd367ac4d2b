import ast
import shlex

import pytest

from cutaway.core.result import Provenance
from cutaway.report.lines import python_line, shell_line

MADE = Provenance(
    method="rise",
    options={"cells": 7, "fill": "blur:5", "soft_max": True, "steps": [1, 2], "wrt": None},
    model="shapes-cnn",
    input="shapes/test[0:1]",
    target="logit(\"red 'square'\")",
    seed=3,
)


def test_the_python_lines_name_everything():
    tree = ast.parse(python_line(MADE))
    call = tree.body[-1].value
    assert [ast.unparse(argument) for argument in call.args] == ["'rise'", "model", "x"]
    given = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    assert given == {**MADE.options, "target": MADE.target, "seed": 3}


def test_the_shell_line_survives_a_shell():
    assert shlex.split(shell_line(MADE)) == [
        *("cutaway", "run", "rise", "--model", "shapes-cnn", "--x", "shapes/test[0:1]", "--target", MADE.target),
        *("--cells", "7", "--fill", "blur:5", "--soft-max", "--steps", "1;2", "--seed", "3"),
    ]


@pytest.mark.parametrize("line", [python_line, shell_line])
def test_a_result_made_by_hand_has_no_line(line):
    assert line(Provenance()) == ""


def test_an_examined_explanation_is_named_by_its_method():
    made = Provenance(method="deletion", options={"attribution": "rise(cells=7) 3f2a91"}, model="m", input="x")
    assert "attribution='rise'" in python_line(made)
    assert "--attribution rise" in shell_line(made)
