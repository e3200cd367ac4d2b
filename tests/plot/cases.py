"""Results of every shape, with plain words, with attacks for words, and with odd content."""

import torch
from torch import Tensor

from cutaway.core.checks import Check
from cutaway.core.result import (
    Attribution,
    Curve,
    Matrix,
    Pictures,
    Points,
    Ranking,
    Result,
    Scores,
    Table,
    Tree,
)

HOSTILE = [
    "<img src=x onerror=\"document.title='run'\">",
    "</script><script>document.title='run'</script>",
    "\"><svg onload=alert(1)>'",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "\u202egnp.exe\u202c \u2066x",
    "\x1b[31mred\x1b[0m \x00 \x7f",
    "$\\frac{a}{$ \\undefined $x_",
    "line\nbreak\ttab",
    "javascript:alert(1)",
    "日本語 🐈 \ud800",
    "x" * 3000,
    "",
]


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def image() -> Tensor:
    return torch.rand(2, 3, 20, 30, generator=rng())


def over_image(**changes: object) -> Attribution:
    values = torch.randn(2, 3, 20, 30, generator=rng())
    return Attribution(**{"values": values, "target": 'logit("cat")', "unit": "logit", "input": image(), **changes})


def tree(words: list[str], **more: object) -> Tree:
    """Words joined from the left, one at a time."""
    k = len(words)
    members = [[i] for i in range(k)] + [list(range(i + 1)) for i in range(1, k)]
    parents = [k, *range(k, 2 * k - 1), *range(k + 1, 2 * k - 1), -1] if k > 1 else [-1]
    levels = [0] * k + list(range(1, k))
    values = torch.randn(len(members), generator=rng(), dtype=torch.float64)
    return Tree(names=words, members=members, parents=parents, levels=levels, values=values, **more)


def regions() -> Tensor:
    return torch.arange(20)[:, None] // 10 * 2 + torch.arange(30) // 15


def results(words: list[str]) -> dict[str, Result]:
    """A result of every shape and kind, with these words wherever a word can stand."""
    a, b = words[:2]
    checks = {
        name[:20]: Check(name, status) for name, status in zip(words, ("ok", "note", "warn", "fail"), strict=False)
    }
    tokens = [[*words, "end"]]
    x = torch.linspace(0, 1, 5)
    made = {
        "image": over_image(title=a, target=b, score=torch.ones(2)),
        "unsigned layer": over_image(title=a, wrt=b, signed=False, values=torch.rand(2, 8, 3, 3)),
        "map without image": over_image(input=torch.empty(0), unit=a),
        "grey image": over_image(values=torch.randn(1, 1, 8, 8), input=torch.rand(1, 1, 8, 8)),
        "tokens": Attribution(title=a, target=b, values=torch.randn(1, len(tokens[0])), tokens=tokens, unit=a),
        "tokens by dimension": Attribution(target=b, values=torch.randn(1, len(tokens[0]), 4), tokens=tokens),
        "rows": Attribution(
            title=a, target=b, values=torch.randn(2, 3), input=torch.rand(2, 3), tokens=[[a, b, "c"]] * 2
        ),
        "units": Attribution(target=a, values=torch.randn(1, 40), wrt=b),
        "scores": Scores(title=a, names=words, values=torch.randn(len(words)), unit=b, better="higher"),
        "intervals": Scores(names=["a"], values=torch.zeros(1), low=-torch.ones(1), high=torch.ones(1)),
        "curve": Curve(
            title=a,
            x=x,
            y={word: x**k for k, word in enumerate(words)},
            low={a: x - 1},
            high={a: x + 1},
            summary=dict.fromkeys(words, 0.5),
            summary_label=a,
            x_label=b,
            y_label=a,
        ),
        "named curve": Curve(x=torch.arange(len(words)), y={"a": torch.ones(len(words))}, x_names=words),
        "table": Table(
            title=a, columns=[a, b, "n"], rows=[[w, None, k] for k, w in enumerate(words)] + [[True, 1e-9, 2.5]]
        ),
        "matrix": Matrix(title=a, values=torch.randn(2, len(words)), row_names=[a, b], column_names=words, unit=a),
        "points": Points(title=a, positions=torch.randn(len(words), 2), names=words, groups=words, axes=[a, b]),
        "points in space": Points(positions=torch.randn(9, 3), names=list("abcdefghi"), axes=[a, b, "c"]),
        "pictures": Pictures(title=a, images=torch.rand(len(words), 3, 9, 7), captions=words),
        "tree": tree(words, title=a, target=b, unit=a),
        "tree of words": tree(words[:4], target=b, sequence=True),
        "tree of regions": tree(words[:4], title=b, input=image()[0], regions=regions()),
        "ranking": Ranking(title=a, names=words, values=torch.arange(len(words)).flip(0).float(), unit=b, site=a),
    }
    return {name: result.with_checks(**checks) for name, result in made.items()}


CASES = list(results(["a", "b"]))

ODD: list[Result] = [
    over_image(values=torch.zeros(1, 3, 4, 4), input=torch.zeros(1, 3, 4, 4)),
    over_image(values=torch.full((1, 1, 4, 4), float("nan"))),
    over_image(values=torch.tensor([[[[1.0, float("inf")], [float("-inf"), float("nan")]]]])),
    over_image(values=torch.empty(0, 3, 4, 4), input=torch.empty(0, 3, 4, 4)),
    over_image(values=torch.randn(1, 1, 4, 4), input=200 * torch.rand(1, 5, 4, 4)),
    over_image(values=torch.randn(1, 3, 4, 400), input=torch.rand(1, 3, 4, 400)),
    over_image(values=torch.randn(1, 3, 900, 700), input=torch.rand(1, 3, 900, 700)),
    Attribution(values=torch.zeros(1, 3), target="", tokens=[["a", "b", "c"]]),
    Attribution(values=torch.zeros(1, 9), target="", tokens=[["a", "b", "c"]]),
    Scores(names=[], values=torch.empty(0)),
    Scores(names=["a"], values=torch.tensor([float("nan")])),
    Curve(x=torch.zeros(1), y={"a": torch.zeros(1)}),
    Curve(x=torch.arange(3.0), y={"a": torch.tensor([1, float("nan"), 3])}),
    Curve(x=torch.arange(3.0), y={"a": torch.full((3,), float("nan"))}),
    Curve(x=torch.empty(0), y={}),
    Table(columns=["a"], rows=[]),
    Table(columns=["a"], rows=[[i] for i in range(2000)]),
    Matrix(values=torch.full((2, 2), float("nan")), row_names=["a", "b"], column_names=["a", "b"]),
    Matrix(values=torch.rand(100, 3), row_names=[str(i) for i in range(100)], column_names=list("abc"), signed=False),
    Points(positions=torch.empty(0, 2)),
    Points(positions=torch.rand(5000, 2), groups=[str(i % 20) for i in range(5000)]),
    Pictures(images=torch.empty(0, 3, 4, 4), captions=[]),
    Pictures(images=torch.rand(70, 3, 4, 4), captions=["x"] * 70),
    Ranking(names=[], values=torch.empty(0)),
    tree(["alone"]),
    tree([str(i) for i in range(60)], sequence=True),
    tree(["a", "b"], regions=torch.tensor([[0, 1], [1, -1]])),
    Ranking(names=[str(i) for i in range(50)], values=torch.linspace(1, -1, 50)),
]
