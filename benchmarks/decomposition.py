"""Contextual decomposition beside its equations written out, beside bare forwards, and beside leaving parts out.

python benchmarks/decomposition.py
"""

import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cutaway as ct
from cutaway.attribution.decomposition import contextual_decomposition, decomposition_interaction
from cutaway.attribution.erasure import leave_one_out
from cutaway.core.model import Model
from harness import Contender, equal, figures, race, save

sys.path.extend(str(Path(__file__).parents[1] / part) for part in ("tests", "tests/core"))
from test_decomposed import slow_lstm

TEXT = "the plot is not very good but the cast is truly great"
OPINION = "logit(1) - logit(0)"
TOGETHER = 16


def written_out(model: Model, ids: Tensor, groups: Sequence[tuple[int, ...]]) -> Tensor:
    """The part of each group of words in the opinion, one number after the other, attention taken whole."""
    net = model.module
    words, weight = net.embedding(ids)[0].detach(), net.fc.weight[1] - net.fc.weight[0]
    found = []
    for group in groups:
        inside = [i in group for i in range(len(words))]
        left = slow_lstm(net.forwards, words, inside)
        right = slow_lstm(net.backwards, words.flip(0), inside[::-1])[::-1]
        part, rest = (
            torch.stack([torch.cat([one[k], other[k]]) for one, other in zip(left, right, strict=True)]) for k in (0, 1)
        )
        attention = net.attention((part + rest)[None], torch.ones(1, len(words), dtype=torch.bool))[0]
        found.append(weight @ (attention[:, None] * part).sum(0))
    return torch.stack(found).detach()


def bare(model: Model, x: Tensor, count: int) -> None:
    """Plain forwards of the network, in batches."""
    with torch.no_grad():
        for start in range(0, count, TOGETHER):
            model.module(x.expand(min(TOGETHER, count - start), *x.shape[1:]))


def told(title: str, contenders: list[Contender], parts: int, rounds: int) -> dict[str, Any]:
    """Race, with the forwards that cutaway's methods counted beside what they cannot do without."""
    found = figures(race(title, contenders, rounds=rounds))
    least = {"decomposition": 2 * parts + 1, "leave_one_out": parts + 1}
    for name, floor in least.items():
        for run in (run for run in contenders if name in run.name):
            spent = run.answer.provenance.cost.forwards
            found[run.name] |= {"forwards": spent, "floor": floor}
            print(f"  {run.name}: {spent} forwards; at least {floor}")
    return found


def of_words() -> dict[str, Any]:
    """All words and pairs of a sentence on the sentiment network, in double precision."""
    model = ct.load("sentiment-lstm")
    model.module.double().requires_grad_(False)
    ids = model.inputs(TEXT)["input_ids"]
    count = ids.shape[1]
    pairs = list(combinations(range(count), 2))
    groups = [*((i,) for i in range(count)), *pairs]
    first, second = map(list, zip(*pairs, strict=True))
    runs = [
        Contender("the equations, group by group", lambda: written_out(model, ids, groups)),
        Contender("cutaway decomposition_interaction", lambda: decomposition_interaction(model, TEXT, OPINION)),
        Contender("plain forwards, twice the groups", lambda: bare(model, ids, 2 * len(groups) + 1)),
    ]
    found = told(f"{count} words and {len(pairs)} pairs, sentiment-lstm", runs, len(groups), rounds=3)
    slow = runs[0].answer
    equal(
        runs[1].answer.values[first, second],
        slow[count:] - slow[first] - slow[second],
        tolerance=1e-9,
        what="pair terms",
    )
    alone = contextual_decomposition(model, TEXT, OPINION)
    equal(alone.values[0], slow[:count], tolerance=1e-9, what="single words")
    return found


def of_cells(name: str, x: Tensor, target: int, side: int, rounds: int) -> dict[str, Any]:
    """Each cell of an image."""
    model, count = ct.load(name), side**2
    model.module.requires_grad_(False)
    features = f"cells:{side}"
    runs = [
        Contender("leave_one_out", lambda: leave_one_out(model, x, target, features=features)),
        Contender("decomposition", lambda: contextual_decomposition(model, x, target, features=features)),
        Contender("plain forwards, twice the cells", lambda: bare(model, model.space.normalised(x), 2 * count + 1)),
    ]
    found = told(f"{count} cells, {name}", runs, count, rounds)
    law = runs[1].answer.checks["law"]
    print(f"  {law}")
    assert law.status == "ok", law
    return found


save(
    __file__,
    {
        "words and pairs, sentiment-lstm": of_words(),
        "49 cells, shapes-cnn": of_cells("shapes-cnn", ct.data("shapes/test").x[:1], 0, 7, rounds=5),
        "16 cells, efficientnet-lite0": of_cells("efficientnet-lite0", ct.data("photos/chelsea").x, 282, 4, rounds=2),
    },
)
