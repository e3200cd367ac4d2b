"""A linear model of the network around one input, from samples in which some parts are missing."""

from collections.abc import Sequence

import torch

from cutaway.attribution.lime_fit import Distance, Surrogate, surrogate
from cutaway.core.batch import Batch, join, size, take
from cutaway.core.budget import afford, partial
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.features import Features
from cutaway.core.fill import Fill, neutral
from cutaway.core.game import Game, play
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target
from cutaway.maths.statistics import spearman_brown

_NEUTRAL = neutral()
# Below this share of explained variance, a linear model is no picture of the network.
_FAITHFUL = 0.5
# Below this rank correlation, another draw would order the parts otherwise.
_STABLE = 0.8
# Samples that count, for each part; fewer leave most of the weights to chance.
_ENOUGH = 5


@method(
    paper="ribeiro2016",
    laws={"batch_independent", "linear_in_target", "same_for_equivalent_nets"},
    quick={"features": "auto:9", "samples": 64},
)
def lime(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: Features | str = "auto",
    wrt: Site = INPUT,
    fill: Fill = _NEUTRAL,
    samples: int = 1000,
    distance: Distance = "cosine",
    width: float = 0.25,
    ridge: float = 1.0,
    keep: int | None = None,
    seed: int = 0,
) -> Attribution:
    """Weights of a linear model that imitates the network while random parts of the input are missing.

    values = argmin over w, a of sum over samples z of pi(z) (target(z) - a - w . z)^2 + ridge |w|^2,
    pi(z) = exp(-d(z)^2 / width^2)

    z has a 1 for each part that is there. Half of the parts are missing on average; samples that miss few of them count
    more. Where `samples` is enough for all 2^k sets of parts, all are taken once, and nothing is random.

    Args:
        features: The parts: words, groups of columns, superpixels:50 or cells of an image, units of a layer.
        wrt: Where they are: the input, or a layer.
        fill: What is put in the place of missing parts.
        samples: Sets of parts, and so forwards, for each input.
        distance: d(z): one minus the cosine between z and all ones, or the share of missing parts, square root taken.
        width: Of the kernel, in units of d.
        ridge: Pull of the weights towards 0, in samples; 0 for none.
        keep: Weights for this many parts only, those that a lasso takes in first; all if not given.
        seed: Draws the samples; the same for each input.

    Returns:
        Weights in the target's unit: what a part adds while others come and go. Each entry of a part has the part's
        whole weight. `extra["error"]` is the standard error from the draw of the samples.

    Raises:
        BadOption: An option out of range, or too few samples for so many parts.

    Source: Ribeiro, Singh and Guestrin 2016, section 3. Differs: the target is explained as it is given, a logit by
    default and not a probability; columns of a table are there or missing, and not cut into intervals.
    """
    _check(samples, width, ridge, keep)
    made: list[Surrogate] = []
    maps, errors, games = [], [], []
    for i in range(size(x)):
        game = play(model, take(x, slice(i, i + 1)), target.row(i), features=features, fill=fill, wrt=wrt, seed=seed)
        if not i:
            afford(game.forwards(samples) * size(x), f"lime with {samples} samples")
        made.append(surrogate(game, samples, distance, width, ridge, keep, seed, f"lime {i + 1} of {size(x)}"))
        games.append(game)
        weights, error = (game.lay_out(v).to(dtype=model.dtype, device=model.device) for v in made[-1][:2])
        maps.append(weights)
        errors.append(error)
    done = samples - max(m.left for m in made)
    return Attribution(
        values=join(maps),
        target=str(target),
        wrt=str(wrt),
        unit="target",
        score=torch.tensor([game.full for game in games], dtype=model.dtype, device=model.device),
        players=[list(game.features.names) for game in games],
        extra={"error": join(errors), "player": join([game.owner[None] for game in games])},
        checks=_checks(games, made, done) | ({"partial": partial(done, samples, "samples")} if done < samples else {}),
    )


def _check(samples: int, width: float, ridge: float, keep: int | None) -> None:
    if samples < 4:
        raise BadOption(f"expected 4 samples or more, two for each half; got {samples}.")
    if not width > 0:
        raise BadOption(f"expected a kernel width above 0; got {width:g}.")
    if not ridge >= 0:
        raise BadOption(f"expected ridge of at least 0; got {ridge:g}.")
    if keep is not None and keep < 1:
        raise BadOption(f"expected to keep 1 part or more; got {keep}.")


def _honest(surrogate: Surrogate) -> float:
    """The share of variance that it explains, on samples left out of the fit where that means something."""
    return surrogate.fidelity if surrogate.outside != surrogate.outside else surrogate.outside


def _checks(games: Sequence[Game], made: Sequence[Surrogate], samples: int) -> dict[str, Check]:
    """How true the linear model is to the network, and how much of it is chance."""
    checks = {"parts": Check(games[0].describe(), "note", float(len(games[0])))}
    known = [m for m in made if m.fidelity == m.fidelity]
    if not known:
        return checks | {"fidelity": Check("The target is the same without any part: the map is flat.", "warn")}
    worst = min(known, key=_honest)
    good = _honest(worst) >= _FAITHFUL
    text = f"The linear model explains {worst.fidelity:.0%} of the target's weighted variance around the input"
    text += "" if len(made) == 1 else " where it explains least"
    if worst.outside == worst.outside:
        text += f", and {max(worst.outside, 0):.0%} on samples left out of the fit"
    more = "." if good else ". Parts act together in ways that no sum shows, or the samples are too few."
    checks["fidelity"] = Check(text + more, "ok" if good else "warn", _honest(worst))
    drawn = [m for m in known if m.halves == m.halves]
    if not drawn and all(m.outside != m.outside for m in known):
        text = f"All sets of {len(games[0])} parts were taken, so that nothing is left to chance."
        return checks | {"stability": Check(text, "ok")}
    halves = min((m.halves for m in drawn), default=1.0)
    repeatable = spearman_brown(halves) if halves > 0 else halves
    stable = repeatable >= _STABLE
    text = (
        f"Weights from two halves of the {samples:,} samples have rank correlation {halves:.2f}; with a repetition of "
        f"the whole, {repeatable:.2f} is expected."
    )
    more = "" if stable else " Another seed would order the parts otherwise; more samples would help."
    checks["stability"] = Check(text + more, "ok" if stable else "warn", halves)
    error, largest = (
        max(float(v.abs().max()) for v in vs) for vs in zip(*((m.error, m.weights) for m in known), strict=True)
    )
    checks["error"] = Check(
        f"The largest standard error is {error:.2g}; the largest weight is {largest:.2g}.", "note", error
    )
    counting = min(m.counting for m in known)
    if counting < _ENOUGH * max(map(len, games)):
        text = (
            f"The kernel lets no more than {counting:.0f} of {samples:,} samples count, for {max(map(len, games))} "
            "parts: a wider one, or more samples, would leave less to chance."
        )
        checks["counting"] = Check(text, "warn", counting)
    return checks
