"""Compositional explanations: the formula of concepts that is true where a unit is on."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cutaway.core.batch import primary, size, take
from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset, Examples, first
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.layers import last_with_positions
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Table
from cutaway.core.site import Site
from cutaway.dissection.anchors import anchors
from cutaway.dissection.compositional_maps import (
    Maps,
    PictureMaps,
    WordMaps,
    WordThresholds,
    word_units,
)
from cutaway.dissection.compositional_search import Found, Scene, best_formulas
from cutaway.dissection.concepts import Vocabulary, vocabulary
from cutaway.dissection.places import last_over_words, unit_numbers
from cutaway.dissection.units import Thresholds
from cutaway.dissection.word_concepts import POSITION, word_vocabulary
from cutaway.engine.job import fold
from cutaway.engine.tails import Tail

# A unit is on at this share of all places, if nothing else is said: of pixels as in network dissection, of words more,
# since there are fewer of them.
_ON = {"image": 0.005, "tokens": 0.05}
# So many examples are looked at for what the annotations are like.
_FIRST = 64


@method(paper="mu2020", needs={"image", "tokens"}, quick={"resolution": 16, "length": 2, "beam": 2})
def compositional_explanation(
    model: Model,
    data: Dataset,
    *,
    site: Site | None = None,
    units: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
    quantile: float | None = None,
    length: int = 5,
    beam: int = 20,
    resolution: int = 56,
    seed: int = 0,
) -> Table:
    """The formula of concepts, with AND, OR and NOT, that is true where a unit is on, and how well it agrees.

    best L of IoU(M_u, L) = |M_u and L| / |M_u or L|,   L = c,  (L or c),  (L and c),  (L and not c)

    Places are pixels of pictures or words of texts, counted over the whole data set. Formulas grow by one concept at a
    time, and the best of each length are kept (beam search). Two forwards for each example; the search takes none.

    Args:
        site: The layer; the last with positions (for texts: with a row for each piece) if none is named.
        units: Numbers of the units that are explained, with `;` between them in a text; all if none is named.
        categories: Kinds of concepts: those that the data set is annotated with; for pictures `color` and `class`, as
            in network dissection; for texts `position`, `word` (the 100 most common) and `class`. All that the set has
            if none is named.
        quantile: Where each unit is cut; 0.995 for pictures and 0.95 for texts if not given.
        length: Concepts in a formula, at most. A NOT counts nothing.
        beam: Formulas that are kept at each length.
        resolution: Pixels are counted at this height and width, or at the picture's own where it is smaller.
        seed: Of the order in which the control deals out a unit's answers.

    Returns:
        A row for each unit: its formula, the IoU, the IoU of the best formula of each length, the highest that any
        formula of these concepts could have (`ceiling`), and what the search finds after the unit's answers were dealt
        out to other examples (`shuffled`). `extra` has the IoU by length, (units, length), for both.

    Raises:
        BadOption: An option out of range, or a unit or category that does not exist.
        NotPossible: The data set says nothing about what is where, or its maps would not fit into memory.

    Source: Mu and Andreas 2020, sections 2 and 3. Differs: thresholds are exact; ceilings and the shuffled control are
    shown; a formula is written down with its parts in alphabetical order.
    """
    on = _ON[model.space.kind] if quantile is None else 1 - quantile
    if not 0 < on < 1:
        raise BadOption(f"expected a quantile between 0 and 1, such as 0.995; got {quantile}.")
    if min(length, beam, resolution) < 1:
        raise BadOption(f"expected length, beam and resolution of at least 1; got {length}, {beam} and {resolution}.")
    seen = _seen(model, data, site, units, categories, 1 - on, resolution)
    names = _names(seen.words)
    found, shuffled, ceilings, sizes = [], [], [], []
    scene = Scene.of(seen.maps.labels, len(seen.words))
    deal = _dealt(seen.maps.real, model.space.kind, seed)
    for k in track(range(len(seen.units)), "formulas"):
        places = seen.maps.on(k)
        found.append(best_formulas(scene, places, length=length, beam=beam))
        shuffled.append(best_formulas(scene, deal[places], length=length, beam=beam))
        ceilings.append(scene.ceiling(places))
        sizes.append(len(places))
    return _table(seen, names, found, shuffled, ceilings, sizes)


@dataclass(frozen=True)
class _Seen:
    """What the data set showed.

    Attributes:
        units: Numbers of those that are explained.
        thresholds: Of these.
        words: The concepts.
        maps: Where both are.
        checks: What a reader has to know.
    """

    units: tuple[int, ...]
    thresholds: Tensor
    words: Vocabulary
    maps: Maps
    checks: dict[str, Check]


def _seen(
    model: Model,
    data: Dataset,
    site: Site | None,
    units: tuple[str, ...],
    categories: tuple[str, ...],
    quantile: float,
    resolution: int,
) -> _Seen:
    """Two looks at the data set: thresholds, then maps."""
    row = take(model.inputs(first(data)), slice(0, 1))
    texts = model.space.kind == "tokens"
    if texts:
        words, longest = word_vocabulary(model, data, categories)
        site = last_over_words(model, row) if site is None else site.whole
        checks = {"aligned": _aligned(model, data, site)}
        tails = fold(WordThresholds(str(site), quantile, longest), model, data, label="thresholds")
    else:
        assert isinstance(row, Tensor)
        words = vocabulary(data, categories)
        site = last_with_positions(model, row) if site is None else site.whole
        field, check = anchors(model, site, row)
        checks = {"anchored": check}
        tails = fold(Thresholds(str(site), quantile), model, data, label="thresholds")
    tail = tails.states["tail"]
    assert isinstance(tail, Tail)
    every = tail.quantile(quantile)
    chosen = unit_numbers(units, len(every), site)
    part = data[0 : min(len(data), _FIRST)]
    layers = tuple(_layers(part, category) for category in words.categories)
    given = str(site), chosen, every[list(chosen)], words, layers
    height, width = (1, longest) if texts else (min(resolution, side) for side in primary(row).shape[2:])
    work = WordMaps(*given, width) if texts else PictureMaps(*given, height, width, field.y, field.x)
    folded = fold(work, model, data, label="maps")
    maps = Maps.of(folded.states, len(chosen), sum(layers), height * width)
    if (blind := _blind(part, words)) is not None:
        checks["annotated"] = blind
    return _Seen(chosen, given[2], words, maps, {**checks, **folded.checks})


def _layers(part: Examples, category: str) -> int:
    """How many layers of labels a category has: concepts that lie over each other need several."""
    if category in part.concepts:
        return part.concepts[category].shape[1]
    return 2 if category == POSITION else 1


def _names(words: Vocabulary) -> list[str]:
    """Names of concepts; with the category before it where several categories have the name."""
    plain = [name for _, name in words.all]
    return [name if plain.count(name) == 1 else f"{category}:{name}" for category, name in words.all]


def _blind(part: Examples, words: Vocabulary) -> Check | None:
    """A warning if a category was not looked for everywhere, from the first examples."""
    missing = [c for c in words.categories if c in part.concepts and bool((part.concepts[c] < 0).any())]
    if not missing:
        return None
    text = f"Nobody looked for {', '.join(missing)} in some examples; there the concepts count as absent."
    return Check(text, "warn")


def _aligned(model: Model, data: Dataset, site: Site) -> Check:
    """Does the layer's row for a piece depend on that piece? A layer that reads backwards has its rows in that order.

    Raises:
        NotPossible: It does not.
    """
    x = take(model.inputs(data[0 : min(len(data), 16)]), slice(0, 16))
    longest = max(range(size(x)), key=lambda i: _pieces(take(x, slice(i, i + 1))))
    x = take(x, slice(longest, longest + 1))
    try:
        embedded = model.run(x, read=["input"])["input"]
    except (NotPossible, BadOption):
        return Check(f"Rows of {site} were taken to be in the order of the pieces; that could not be tried.", "note")
    count = _pieces(x)
    changed = embedded.repeat(count, 1, 1)
    places = torch.arange(count)
    changed[places, places] += 1 + embedded.abs().amax()
    repeated = {k: v.expand(count, -1) for k, v in x.items()} if isinstance(x, dict) else x.expand(count, -1)
    before = word_units(model, x, str(site))
    after = model.run(repeated, read=[str(site)], edit={"input": changed})[site].cpu()
    moved = (after.reshape(count, *before.shape[1:]) - before)[places, places].abs().amax(1) > 0
    if not bool(moved.all()):
        raise NotPossible(
            f"row {int((~moved).nonzero()[0])} of {site} does not depend on that piece of the text, so its rows are in "
            "another order (a layer that reads backwards?); name a layer whose rows follow the text."
        )
    return Check(f"Each row of {site} depends on the piece at its place, tried on a text of {count} pieces.", "ok")


def _pieces(x: object) -> int:
    """Pieces of one text without padding."""
    return int(x["attention_mask"].sum()) if isinstance(x, dict) and "attention_mask" in x else primary(x).shape[1]  # type: ignore[arg-type]  # a batch


def _dealt(real: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """For each place, another one: that of another picture, chosen at random for each picture; of texts, any word."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "tokens":
        return torch.randperm(int(real.sum()), generator=generator).numpy()
    examples, places = real.shape
    return (torch.randperm(examples, generator=generator).numpy()[:, None] * places + np.arange(places)).ravel()


def _table(
    seen: _Seen,
    names: list[str],
    found: list[list[Found]],
    shuffled: list[list[Found]],
    ceilings: list[float],
    sizes: list[int],
) -> Table:
    length = len(found[0])
    columns = ["unit", "formula", "IoU", "length", *(f"IoU {k}" for k in range(1, length + 1))]
    columns += ["ceiling", "shuffled", "places", "threshold"]
    rows = []
    for k, unit in enumerate(seen.units):
        best, control = found[k][-1], shuffled[k][-1]
        by_length = [f.iou for f in found[k]]
        formula = best.formula.text(names) if best.iou else "–"
        head = [unit, formula, best.iou, best.formula.length if best.iou else 0]
        rows.append([*head, *by_length, ceilings[k], control.iou, sizes[k], float(seen.thresholds[k])])
    curves = {
        name: torch.tensor([[f.iou for f in unit] for unit in lists], dtype=torch.float64)
        for name, lists in (("iou", found), ("shuffled", shuffled))
    }
    order = sorted(range(len(rows)), key=lambda k: -found[k][-1].iou)
    extra = {name: curve[order] for name, curve in curves.items()}
    checks = _checks(curves["iou"], curves["shuffled"], ceilings, sizes)
    return Table(columns=columns, rows=[rows[k] for k in order], extra=extra, checks={**checks, **seen.checks})


def _checks(iou: Tensor, shuffled: Tensor, ceilings: list[float], sizes: list[int]) -> dict[str, Check]:
    means, control = iou.mean(0).tolist(), float(shuffled[:, -1].mean())
    by_length = ", ".join(f"{value:.3f}" for value in means)
    text = (
        f"Mean IoU by length, from 1 to {len(means)} concepts: {by_length}; no formula of these concepts, however "
        f"long, could have more than {np.mean(ceilings):.3f}."
    )
    checks = {"by_length": Check(text, "ok", means[-1])}
    text = f"With answers dealt out to other examples the search still finds {control:.3f}"
    if means[-1] > 1.5 * control:
        checks["control"] = Check(f"{text}, so what it finds is in the units.", "ok", control)
    else:
        text = f"{text}, nearly as much as for the units themselves: the formulas say little here."
        checks["control"] = Check(text, "warn", control)
    if dead := sum(not count for count in sizes):
        text = f"{dead} of {len(sizes)} units are never above their threshold: they are constant there, mostly 0."
        checks["dead"] = Check(text, "warn", float(dead))
    return checks
