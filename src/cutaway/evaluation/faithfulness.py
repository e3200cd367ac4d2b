"""Does the model itself depend on what the map ranks highest? Replace it, and watch.

Both curves have controls that know nothing of the model. An order at random shows how fast the answer changes anyway;
edges and closeness to the centre show what a map that merely looks right would reach.
"""

from typing import Literal

from cutaway.core.batch import Batch
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Curve
from cutaway.evaluation.curves import Plan, measured
from cutaway.evaluation.verdict import curve_of

Score = Literal["probability", "target"]
_QUICK = {"fills": ("zero",), "steps": 8, "orders": 3}


@method(paper="petsiuk2018", laws={"oracle_beats_random"}, quick=_QUICK)
def deletion(
    model: Model,
    x: Batch,
    attribution: Attribution,
    *,
    fills: tuple[str, ...] = (),
    cells: int = 8,
    steps: int = 16,
    orders: int = 4,
    score: Score = "probability",
    seed: int = 0,
) -> Curve:
    """Replace what the map ranks highest, piece by piece: a faithful map makes the answer fall fast.

    area = integral over s in [0, 1] of p(x with the first share s of the pieces filled)

    Pieces are the cells of a grid, whole columns or words, ranked by the mean of the map's signed values. Pieces of
    equal rank come in random order.

    Args:
        fills: What replaces them, each with curves of its own. Empty: zero, blur and mean for pictures, zero and mean
            for rows, zero for text. The first one is in the verdict.
        cells: Pieces along each side of a picture; 0 replaces single pixels, as in the paper.
        steps: Points of a curve after the first.
        orders: Random orders to compare with.
        score: The probability of the explained class, or the explained target itself.
        seed: Draws the random orders and breaks ties.

    Returns:
        Curves over the share replaced: the map's, then the controls' (after the first fill, only chance's). Several
        inputs are averaged, with a 95 % bootstrap band; for one input, the band is the range of the random orders. The
        summary has the areas under all curves, in the unit of the score.

    Source: Petsiuk et al. 2018, section 4.1; regions as in Samek et al. 2017. Differs: cells rather than pixels,
    since a scattered order destroys a picture faster than a compact one, whatever it says; controls; several fills.
    """
    return _examined("deletion", model, x, attribution, Plan(fills, cells, steps, orders, score, seed))


@method(paper="petsiuk2018", laws={"oracle_beats_random"}, quick=_QUICK)
def insertion(
    model: Model,
    x: Batch,
    attribution: Attribution,
    *,
    fills: tuple[str, ...] = (),
    cells: int = 8,
    steps: int = 16,
    orders: int = 4,
    score: Score = "probability",
    seed: int = 0,
) -> Curve:
    """Show what the map ranks highest, piece by piece: a faithful map brings the answer back early.

    area = integral over s in [0, 1] of p(fill with the first share s of the pieces as in x)

    Pieces and orders are those of `deletion`.

    Args:
        fills: What stands for the pieces that are not yet shown, each with curves of its own. Empty: blur, zero and
            mean for pictures, zero and mean for rows, zero for text. The first one is in the verdict.
        cells: Pieces along each side of a picture; 0 inserts single pixels, as in the paper.
        steps: Points of a curve after the first.
        orders: Random orders to compare with.
        score: The probability of the explained class, or the explained target itself.
        seed: Draws the random orders and breaks ties.

    Returns:
        Curves over the share shown: the map's, then the controls'. Bands and summary as in `deletion`.

    Source: Petsiuk et al. 2018, section 4.1. Differs: cells rather than pixels; the blur is a whole Gaussian of 10
    pixels and not one of 5 cut to 11 pixels; controls; several fills.
    """
    return _examined("insertion", model, x, attribution, Plan(fills, cells, steps, orders, score, seed))


def _examined(
    kind: Literal["deletion", "insertion"], model: Model, x: Batch, attribution: Attribution, plan: Plan
) -> Curve:
    return curve_of(kind, measured(kind, model, x, attribution, plan))
