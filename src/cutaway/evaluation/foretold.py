"""Do the values foretell by how much the answer changes? For sets of n entries, and for noise on all entries."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.core.batch import Batch, primary, repeat, size, take
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.fill import Fill
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution, Curve, Scores
from cutaway.core.site import INPUT
from cutaway.core.target import Target, logit, prob
from cutaway.evaluation.memory import remembered, reuse
from cutaway.evaluation.orders import control_scores, explained, over_input
from cutaway.evaluation.paired import CHANCE, interval, standing
from cutaway.evaluation.subject import Subject
from cutaway.maths.statistics import pearson

# Changed inputs held in memory at once.
_AT_ONCE = 32
# Random maps to compare with.
_MAPS = 4
_MAP = "this map"


@method(paper="ancona2018", laws={"oracle_beats_random"}, quick={"cells": 4, "points": 3, "samples": 12})
def sensitivity_n(
    model: Model,
    x: Batch,
    attribution: Attribution,
    *,
    fill: Fill | None = None,
    cells: int = 8,
    points: int = 8,
    samples: int = 100,
    seed: int = 0,
) -> Curve:
    """Compare the sum of the values of n regions with how far the score falls without them, for many sets of n.

    r_n = corr over random sets S with |S| = n of (sum_{i in S} values_i, target(x) - target(x without S))

    1 for every n if the values are contributions to a linear function; noise has 0. Sizes and signs count, where the
    curves of `deletion` see the order only.

    Args:
        fill: What stands for a removed region. None takes zero.
        cells: Regions along each side of a picture; 0 removes single pixels, as in the paper.
        points: How many values of n, evenly spaced in their logarithm from 1 to 80 % of the regions.
        samples: Random sets for each n, the same for all inputs and maps.
        seed: Draws the sets and the random maps.

    Returns:
        Correlation over n for the map, for its values shuffled, and for pictures for edges and closeness to the
        centre; with 95 % bootstrap bands over inputs. The summary has the means over n.

    Raises:
        BadOption: Options out of range.
        NotPossible: The map has no positions in the input; or no set of regions changes the target.

    Source: Ancona et al. 2018, section 3. Differs: cells rather than pixels, sets without replacement, controls.
    """
    if points < 1 or samples < 3:
        raise BadOption(f"expected points of 1 and samples of 3 or more; got points={points}, samples={samples}.")
    fill = Fill.of("zero") if fill is None else fill
    maps, target = over_input(model, x, attribution), explained(model, x, attribution)
    subjects = [Subject.of(model, take(x, slice(i, i + 1)), target.row(i), cells=cells) for i in range(size(x))]
    fewest = min(subject.players for subject in subjects)
    if fewest < 2:
        raise NotPossible("expected at least two regions, columns or words to remove some of; an input has one.")
    counts = torch.logspace(0, torch.tensor(0.8 * fewest).clamp(min=1).log10(), points).round().long().unique()
    rows = [
        _correlations(subject, values, fill, counts, samples, seed)
        for subject, values in track(list(zip(subjects, maps, strict=True)), "sensitivity-n")
    ]
    found = {name: torch.stack([row[name] for row, _ in rows]) for name in rows[0][0]}
    if found[_MAP].isnan().all():
        text = f"no set of regions, columns or words changes {target} with the fill {fill}; try another fill."
        raise NotPossible(text)
    curve = _curve(found, counts, str(target) if not target.rows else "the explained target")
    return curve.with_checks(**reuse("The falls of the target", sum(known for _, known in rows)))


def _correlations(
    subject: Subject, values: Tensor, fill: Fill, counts: Tensor, samples: int, seed: int
) -> tuple[dict[str, Float[Tensor, " points"]], bool]:
    """One input: the map's correlation for each n, and the controls'; and whether the falls were known already."""
    generator = torch.Generator().manual_seed(seed)
    gone = torch.cat([_sets(subject.players, n, samples, generator) for n in counts.tolist()])

    kin = _of_one_class(subject)
    names = tuple(map(str, kin))

    def fallen() -> Float[Tensor, "kin m"]:
        return _falls(subject, kin, subject.filled(fill, seed), gone)

    about = ("sensitivity", names, fill.text, tuple(counts.tolist()), subject.players, samples, seed)
    # A fill of the user's own has no text that tells it from another.
    given = fill.text.startswith("given")
    falls, known = (fallen(), False) if given else remembered(subject.model, subject.row, about, fallen)
    falls = falls[names.index(str(subject.target))].view(len(counts), samples)
    sums = subject.pooled(values) * subject.ids[subject.ids >= 0].bincount(minlength=subject.players)
    told = {_MAP: sums}
    told |= {f"shuffled {k}": sums[torch.randperm(len(sums), generator=generator)] for k in range(_MAPS)}
    told |= {
        name: subject.pooled(scores) for name, scores in control_scores(subject.model.space, subject.value).items()
    }
    found = {
        # A map that foretells no difference at all foretells nothing: 0, and not undefined.
        name: pearson((gone.double() @ one).view_as(falls), falls).nan_to_num(nan=0.0)
        for name, one in told.items()
    }
    still = falls.std(1) == 0
    found = {name: one.masked_fill(still, torch.nan) for name, one in found.items()}
    chance = torch.stack([found.pop(f"shuffled {k}") for k in range(_MAPS)]).mean(0)
    return {_MAP: found.pop(_MAP), CHANCE: chance} | found, known


def _sets(players: int, n: int, samples: int, generator: torch.Generator) -> Bool[Tensor, "samples players"]:
    order = torch.rand(samples, players, generator=generator).argsort(1).argsort(1)
    return order < n


def _of_one_class(subject: Subject) -> list[Target]:
    """A class's logit and its probability, where the target is one of them: maps of either share their forwards."""
    classes = subject.target.classes
    both = (
        [kind(classes[0]) for kind in (logit, prob)] if len(classes) == 1 and subject.model.scores == "logits" else []
    )
    return both if str(subject.target) in map(str, both) else [subject.target]


def _falls(
    subject: Subject, targets: Sequence[Target], filled: Tensor, gone: Bool[Tensor, "m players"]
) -> Float[Tensor, "targets m"]:
    different, which = gone.unique(dim=0, return_inverse=True)  # of one region, many sets are drawn twice
    after = [subject.seen(subject.without(part, filled), targets) for part in different.split(_AT_ONCE)]
    return (subject.seen(subject.value, targets) - torch.cat(after, 1))[:, which]


def _curve(found: dict[str, Float[Tensor, "n points"]], counts: Tensor, words: str) -> Curve:
    means = {name: rows.nanmean(1).nan_to_num() for name, rows in found.items()}
    place = standing(means[_MAP], {name: values for name, values in means.items() if name != _MAP})
    bands = {name: interval(rows.nan_to_num()) for name, rows in found.items()} if len(means[_MAP]) > 1 else {}
    mean = float(means[_MAP].mean())
    text = (
        f"The sum of the values of removed regions and the fall of {words} have a correlation of {mean:.2f}: "
        f"{place.sentence('more', '.2f')}."
    )
    ends = interval(means[_MAP]) if len(means[_MAP]) > 1 else None
    between = None if ends is None else (float(ends[0]), float(ends[1]))
    checks = {"verdict": Check(text, place.status, mean, between)}
    if undefined := int(found[_MAP].isnan().sum()):
        text = f"For {undefined} of {found[_MAP].numel()} sizes and inputs the target did not change; they count as 0."
        checks["undefined"] = Check(text, "warn", undefined)
    return Curve(
        title="Sensitivity-n",
        x=counts.double(),
        y={name: rows.nanmean(0).nan_to_num() for name, rows in found.items()},
        low={name: low for name, (low, _) in bands.items()},
        high={name: high for name, (_, high) in bands.items()},
        x_label="regions removed",
        y_label="correlation",
        summary={name: float(values.mean()) for name, values in means.items()},
        summary_label="mean correlation",
        better="higher",
        checks=checks,
    )


@method(paper="yeh2019", laws={"oracle_beats_random"}, quick={"samples": 24})
def infidelity(
    model: Model, x: Batch, attribution: Attribution, *, noise: float = 0.1, samples: int = 200, seed: int = 0
) -> Scores:
    """Add noise to the input, and compare what the values foretell as slopes with how the score changes.

    infidelity = mean over I of (sum_i I_i values_i - (target(x) - target(x - I)))^2,   I normal noise
    relative = infidelity of b * values / mean of the change squared,   b the factor that makes it lowest

    The factor makes maps of any unit comparable; the relative number is 0 if the map foretells every change and 1 if
    none.

    Args:
        noise: Its standard deviation, as a share of the range of a pixel; for a row, in standard deviations of the
            column as the space states them. Changed inputs are not clipped.
        samples: Random changes of each input, the same for all inputs.
        seed: Draws the changes and the random maps.

    Returns:
        Relative infidelity of the map and of its values shuffled, then infidelity as in the paper, in the square of the
        target's unit; for several inputs means, with 95 % bootstrap intervals.

    Raises:
        BadOption: Options out of range.
        NotPossible: The input is text; the map is not one number for each entry; or the target does not change.

    Source: Yeh et al. 2019, definition 2.1, with the factor of their section 2.2. Differs: relative to the change, and
    beside a control.
    """
    if not noise > 0 or samples < 2:
        raise BadOption(f"expected noise above 0 and samples of 2 or more; got noise={noise:g}, samples={samples}.")
    if model.space.kind == "tokens":
        raise NotPossible("infidelity changes numbers a little, and a text has none; use sensitivity_n.")
    if attribution.wrt != "input" or attribution.values.shape != primary(x).shape:
        raise NotPossible(
            f"infidelity needs one value for each entry of the input, {tuple(primary(x).shape)}; the map has "
            f"{tuple(attribution.values.shape)} at {attribution.wrt}. Use sensitivity_n."
        )
    target = explained(model, x, attribution)
    rows = [
        _infidelity(model, take(x, slice(i, i + 1)), target.row(i), attribution.values[i], noise, samples, seed)
        for i in track(range(size(x)), "infidelity")
    ]
    scores = _infidelities(torch.stack([numbers for numbers, _ in rows]), attribution.unit, noise)
    return scores.with_checks(**reuse("The changes of the target", sum(known for _, known in rows)))


def _infidelity(
    model: Model, row: Batch, target: Target, values: Tensor, noise: float, samples: int, seed: int
) -> tuple[Float[Tensor, " numbers"], bool]:
    """For one input: relative for the map, relative for shuffled maps, raw; and whether the changes were known."""
    value, generator = primary(row), torch.Generator().manual_seed(seed)
    scale = model.space.range if model.space.kind == "image" else torch.tensor(model.space.std, dtype=torch.float64)
    mine = values.detach().double().cpu().flatten()
    maps = torch.stack([mine, *(mine[torch.randperm(len(mine), generator=generator)] for _ in range(_MAPS))])
    drawn = generator.get_state()

    def changes() -> Iterator[Tensor]:
        generator.set_state(drawn)
        for start in range(0, samples, _AT_ONCE):
            count = min(_AT_ONCE, samples - start)
            step = noise * scale * torch.randn(count, *value.shape[1:], generator=generator, dtype=torch.float64)
            yield step.to(value)

    def falls() -> Float[Tensor, " samples"]:
        before = _target(model, row, target, value)[0]
        return torch.cat([before - _target(model, row, target, value - step) for step in changes()])

    # Drawing the noise a second time costs little beside the forwards, and holding it would cost memory.
    fall, known = remembered(model, row, ("infidelity", str(target), noise, samples, seed), falls)
    foretold = torch.cat([step.double().cpu().flatten(1) @ maps.T for step in changes()])
    if not fall.any():
        raise NotPossible(f"{target} does not change under noise of {noise:g}, so there is nothing to foretell.")
    own, common = foretold.square().sum(0), (foretold * fall[:, None]).sum(0)
    explained_share = torch.where(own > 0, common.square() / (own * fall.square().sum()), 0.0)
    raw = (foretold[:, 0] - fall).square().mean()
    return torch.stack([1 - explained_share[0], 1 - explained_share[1:].mean(), raw]), known


def _target(model: Model, row: Batch, target: Target, values: Tensor) -> Float[Tensor, " m"]:
    trace = model.run(repeat(row, len(values)), read=target.sites, edit={INPUT: values})
    found = target(trace).double().cpu().expand(len(values))
    if not torch.isfinite(found).all():
        raise NotPossible(f"{target} is not finite for a changed input; take less noise.")
    return found


def _infidelities(rows: Float[Tensor, "n numbers"], unit: str, noise: float) -> Scores:
    place = standing(rows[:, 0], {CHANCE: rows[:, 1]}, better="lower")
    mean = float(rows[:, 0].mean())
    text = (
        f"Under noise of {noise:g} the map leaves {mean:.0%} of the change of the target unforetold: "
        f"{place.sentence('less', '.0%')}."
    )
    checks = {"verdict": Check(text, place.status, mean)}
    if unit and "per" not in unit.split():
        text = (
            "The values are contributions and not slopes, while noise asks for slopes; sensitivity_n is the fairer "
            "test of them."
        )
        checks["unit"] = Check(text, "warn")
    low, high = interval(rows) if len(rows) > 1 else (torch.empty(0), torch.empty(0))
    return Scores(
        title="Infidelity",
        names=["relative infidelity", "of shuffled values", "infidelity"],
        values=rows.mean(0),
        low=low,
        high=high,
        unit="relative: share of the squared change; infidelity: target squared",
        better="lower",
        checks=checks,
    )
