"""Network dissection: the concept that each unit of a layer agrees with most, over a whole data set."""

from torch import Tensor

from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset, first
from cutaway.core.errors import BadOption
from cutaway.core.layers import last_with_positions
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Table
from cutaway.core.site import Site
from cutaway.dissection.anchors import anchors
from cutaway.dissection.concepts import Vocabulary, vocabulary
from cutaway.dissection.detectors import DETECTS, Overlap, summary
from cutaway.dissection.units import Overlaps, Thresholds
from cutaway.engine.job import fold
from cutaway.engine.tails import Tail


@method(paper="bau2017", needs={"image"}, quick={"resolution": 16})
def dissect(
    model: Model,
    data: Dataset,
    *,
    site: Site | None = None,
    categories: tuple[str, ...] = (),
    quantile: float = 0.995,
    resolution: int = 112,
) -> Table:
    """Which concept each unit of a layer finds, and how well: its strongest places against places where the concept is.

    IoU(u, c) = sum |M_u and L_c| / sum |M_u or L_c|,   M_u = (enlarged a_u > T_u),   P(a_u > T_u) = 1 - quantile

    Sums run over the whole data set before they are divided, and over the pictures in which somebody looked for the
    category of c. T_u is the exact quantile over all positions of all pictures, before the enlargement, which is linear
    and anchored at the centres of receptive fields. Two forwards for each picture; no activation is stored.

    Args:
        site: The layer; the last with positions if none is named.
        categories: Kinds of concepts: those that the data set is annotated with, `color` for the colours of pixels,
            `class` for labels of whole pictures. All that the set has if none is named.
        quantile: Where each unit is cut.
        resolution: Pixels are counted at this height and width, or at the picture's own where it is smaller.

    Returns:
        A row for each unit: its best concept, the IoU, the best IoU that sets of these sizes could have (`ceiling`),
        the IoU of unrelated sets of these sizes (`chance`), and the best concept of each category.

    Raises:
        BadOption: A quantile outside 0 to 1, or a category that the data set does not have.
        NotPossible: The data set says nothing about what is where.

    Source: Bau et al. 2017, section 3.2. Differs: thresholds are exact, not estimated; ceilings and chance are shown.
    """
    words, site = vocabulary(data, categories), site_of(model, data, site, quantile)
    thresholds = thresholds_of(model, data, site, quantile)
    overlap, silent, checks = overlaps(model, data, site, words, thresholds, resolution)
    result = _table(overlap, thresholds, silent)
    return result.with_checks(**_checks(result, overlap, int(silent.sum())), **checks)


def site_of(model: Model, data: Dataset, site: Site | None, quantile: float) -> Site:
    """The layer that is meant, after a look at the quantile.

    Raises:
        BadOption: A quantile outside 0 to 1.
    """
    if not 0 < quantile < 1:
        raise BadOption(f"expected a quantile between 0 and 1, such as 0.995; got {quantile}.")
    return last_with_positions(model, model.inputs(first(data))) if site is None else site.whole


def thresholds_of(model: Model, data: Dataset, site: Site, quantile: float) -> Tensor:
    """The exact quantile of each unit over all positions of all pictures: a look at the data set."""
    tail = fold(Thresholds(str(site), quantile), model, data, label="thresholds").states["tail"]
    assert isinstance(tail, Tail)
    return tail.quantile(quantile)


def overlaps(
    model: Model, data: Dataset, site: Site, words: Vocabulary, thresholds: Tensor, resolution: int
) -> tuple[Overlap, Tensor, dict[str, Check]]:
    """How each unit agrees with each concept, which units are never above their thresholds, and checks: a look."""
    row = model.inputs(first(data))
    assert isinstance(row, Tensor)
    field, anchored = anchors(model, site, row)
    height, width = (min(resolution, side) for side in row.shape[2:])
    work = Overlaps(str(site), thresholds, words, height, width, field.y, field.x)
    counted = fold(work, model, data, label="overlaps")
    counts = {name: state.arrays()["values"] for name, state in counted.states.items()}
    overlap = Overlap.of(counts["both"], counts["concept"], counts["unit"], counts["pixels"], words)
    return overlap, counts["unit"].sum(1) == 0, {"anchored": anchored, **counted.checks}


def _table(overlap: Overlap, thresholds: Tensor, dead: Tensor) -> Table:
    names, (best, scores) = overlap.words.all, overlap.best()
    columns = ["unit", "concept", "category", "IoU", "ceiling", "chance", "detector", "threshold"]
    kinds = overlap.words.categories if len(overlap.words.categories) > 1 else ()
    columns += [part for category in kinds for part in (f"best {category}", f"{category} IoU")]
    of_kind = {category: overlap.best(category) for category in kinds}
    rows = []
    for u, k in enumerate(best.tolist()):
        score = float(scores[u])
        row = [u, names[k][1], names[k][0], score, float(overlap.ceiling[u, k]), float(overlap.chance[u, k])]
        row += [score > DETECTS, float(thresholds[u])]
        for category in kinds:
            which, value = of_kind[category]
            row += [names[int(which[u])][1], float(value[u])]
        rows.append(["–" if bool(dead[u]) and isinstance(cell, str) else cell for cell in row])
    ordered = [rows[u] for u in scores.sort(descending=True, stable=True).indices.tolist()]
    found = summary([(row[2], row[1]) for row in ordered], [row[3] for row in ordered]).by_category
    tally = {category: found.get(category, 0) for category in overlap.words.categories}
    return Table(columns=columns, rows=ordered, tally=tally, tally_label="detectors by category")


def _checks(table: Table, overlap: Overlap, dead: int) -> dict[str, Check]:
    found = summary([(row[2], row[1]) for row in table.rows], [row[3] for row in table.rows])
    checks = {"detectors": Check(str(found), "ok", float(found.detectors))}
    if dead:
        text = f"{dead} of {found.units} units are never above their threshold: they are constant there, mostly 0."
        checks["dead"] = Check(text, "warn", float(dead))
    reach = overlap.ceiling.amax(0)
    low = [name for (_, name), best in zip(overlap.words.all, reach.tolist(), strict=True) if best <= DETECTS]
    if low:
        shown = f"{', '.join(low[:6])}{' …' if len(low) > 6 else ''}"
        text = f"{len(low)} of {len(overlap.words)} concepts are too rare or too large for any unit to detect: {shown}."
        checks["ceilings"] = Check(text, "note", float(len(low)))
    return checks
