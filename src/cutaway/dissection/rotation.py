"""The rotation test of network dissection: do the units themselves carry the concepts, or any directions?"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset, Examples, first
from cutaway.core.errors import BadOption
from cutaway.core.layers import last_with_positions
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Curve
from cutaway.core.site import Site
from cutaway.dissection.anchors import anchors
from cutaway.dissection.concepts import vocabulary
from cutaway.dissection.detectors import Overlap, Summary, summary
from cutaway.dissection.units import Overlaps, Thresholds, activations, rotated
from cutaway.engine.job import Folded, fold
from cutaway.engine.state import State, States
from cutaway.engine.tails import Tail, room_for
from cutaway.maths.rotations import fractional, random_rotation

# Bytes of thresholds' tails that are kept at once; rotations beyond that take further looks at the data set.
MOST_BYTES = 1_000_000_000


@method(paper="bau2017", needs={"image"}, quick={"resolution": 16, "steps": 1, "draws": 1})
def rotation_test(
    model: Model,
    data: Dataset,
    *,
    site: Site | None = None,
    categories: tuple[str, ...] = (),
    quantile: float = 0.995,
    resolution: int = 112,
    steps: int = 5,
    draws: int = 3,
    seed: int = 0,
) -> Curve:
    """How many concepts the units of a layer detect, and how many remain when the units are mixed by a rotation.

    a_share(x, p) = Q^share a(x, p),   Q a random rotation, share = 0, 1 / steps, ..., 1

    The rotated layer holds the same information: a linear layer that follows could undo Q. If concepts belong to the
    units and not to any directions, unique detectors are lost on the way. All rotations share two forwards for each
    picture, as long as their tails fit into 1 GB; each has its own exact thresholds.

    Args:
        site: The layer; the last with positions if none is named.
        categories: Kinds of concepts, as in `dissect`; all that the set has if none is named.
        quantile: Where each unit is cut.
        resolution: Pixels are counted at this height and width, or at the picture's own where it is smaller.
        steps: Parts of the way from no rotation to the whole.
        draws: Random rotations.
        seed: Of the rotations.

    Returns:
        Unique detectors (different concepts with a unit of IoU above 0.04) and all detectors, by the share of the
        rotation: the mean over the rotations, with the least and the most as a band.

    Raises:
        BadOption: An option out of range, or a category that the data set does not have.
        NotPossible: The data set says nothing about what is where.

    Source: Bau et al. 2017, section 4.2 (the change of basis). Differs: several rotations, and their least and most.
    """
    if not 0 < quantile < 1:
        raise BadOption(f"expected a quantile between 0 and 1, such as 0.995; got {quantile}.")
    if min(steps, draws, resolution) < 1:
        raise BadOption(f"expected steps, draws and resolution of at least 1; got {steps}, {draws} and {resolution}.")
    words = vocabulary(data, categories)
    row = model.inputs(first(data))
    assert isinstance(row, Tensor)
    site = last_with_positions(model, row) if site is None else site.whole
    field, anchored = anchors(model, site, row)
    act = activations(model, row, str(site))
    rotations = _rotations(act.shape[1], steps, draws, seed)
    height, width = (min(resolution, side) for side in row.shape[2:])
    blank = Overlaps(str(site), torch.empty(0), words, height, width, field.y, field.x)
    counted: list[Summary] = []
    group = _fitting(act.shape[1], act.shape[2] * act.shape[3] * len(data), quantile)
    for some in track(rotations.split(group), "rotations"):
        found, folded = _dissected(model, data, blank, some.to(act.dtype), quantile)
        counted += found
    return _curve(counted, steps, draws, {"anchored": anchored, **folded.checks})


@dataclass(frozen=True)
class Tails:
    """The tails of all rotated units, as `units.Thresholds` for the units as they are.

    Attributes:
        site: The layer.
        quantile: That will be asked for.
        rotation: (rotations * units, units).
    """

    site: str
    quantile: float
    rotation: Tensor

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Room for the tails of so many examples, or of all if that is less."""
        kept = Thresholds(self.site, self.quantile).begin(model, data, examples)["tail"]
        assert isinstance(kept, Tail)
        return {"tail": Tail.empty(len(self.rotation), int(kept.room))}

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Take in all positions."""
        tail = states["tail"]
        assert isinstance(tail, Tail)
        tail.update(rotated(activations(model, x, self.site), self.rotation).transpose(0, 1).flatten(1))


def _rotations(units: int, steps: int, draws: int, seed: int) -> Tensor:
    """No rotation first, then for each draw the parts of the way, (1 + draws * steps, units, units)."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    turned = [fractional(random_rotation(units, generator), shares) for _ in range(draws)]
    return torch.cat([torch.eye(units, dtype=torch.float64)[None], *turned])


def _fitting(units: int, positions: int, quantile: float) -> int:
    """How many rotations fit into memory at once."""
    each = Tail.empty(1, 1).kept.element_size() * units * room_for(quantile, positions)
    return max(1, MOST_BYTES // (2 * each))


def _dissected(
    model: Model, data: Dataset, blank: Overlaps, rotations: Tensor, quantile: float
) -> tuple[list[Summary], Folded]:
    """What some rotations come to: thresholds, then overlaps, of all their units side by side."""
    count, units = rotations.shape[:2]
    stacked = rotations.flatten(0, 1)
    tail = fold(Tails(blank.site, quantile, stacked), model, data, label="thresholds").states["tail"]
    assert isinstance(tail, Tail)
    work = replace(blank, thresholds=tail.quantile(quantile), rotation=stacked)
    folded = fold(work, model, data, label="overlaps")
    counts = {name: state.arrays()["values"] for name, state in folded.states.items()}
    overlap = Overlap.of(counts["both"], counts["concept"], counts["unit"], counts["pixels"], blank.words)
    best, iou = overlap.best()
    names = blank.words.all
    found = []
    for k in range(count):
        part = slice(k * units, (k + 1) * units)
        found.append(summary([names[c] for c in best[part].tolist()], iou[part].tolist()))
    return found, folded


def _curve(counted: list[Summary], steps: int, draws: int, checks: dict[str, Check]) -> Curve:
    before, after = counted[0], counted[1:]
    series = {
        name: torch.tensor(
            [[pick(before), *(pick(after[d * steps + k]) for k in range(steps))] for d in range(draws)],
            dtype=torch.float64,
        )
        for name, pick in (("unique detectors", lambda s: s.unique), ("detectors", lambda s: s.detectors))
    }
    unique = series["unique detectors"]
    return Curve(
        x=torch.arange(steps + 1, dtype=torch.float64) / steps,
        y={name: values.mean(0) for name, values in series.items()},
        low={name: values.amin(0) for name, values in series.items()},
        high={name: values.amax(0) for name, values in series.items()},
        x_label="share of a random rotation",
        y_label="of all units of the layer",
        summary={name: float(values[:, -1].mean()) for name, values in series.items()},
        summary_label="left after the whole rotation",
        checks={"detectors": Check(str(before), "ok", float(before.detectors)), "basis": _verdict(unique), **checks},
    )


def _verdict(unique: Tensor) -> Check:
    """In a sentence, from unique detectors (draws, steps + 1)."""
    before, ends = int(unique[0, 0]), unique[:, -1]
    text = f"{before} unique detectors before a rotation, {float(ends.mean()):.3g} after"
    if before == 0:
        return Check(f"{text}: no unit detects a concept here, so there is nothing to lose.", "note", 0.0)
    lost = 1 - float(ends.mean()) / before
    text = f"{text} ({lost:+.0%} lost)" if lost < 0 else f"{text} ({lost:.0%} lost)"
    if int(ends.max()) < before:
        return Check(f"{text}: all {len(ends)} rotations have fewer; concepts belong to the units.", "ok", lost)
    return Check(f"{text}: a rotation has as many; concepts belong to any directions as much.", "warn", lost)
