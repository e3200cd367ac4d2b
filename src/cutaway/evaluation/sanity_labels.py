"""Does the map depend on what the labels taught? Compare it with that of a network that learned permuted labels."""

from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check, Status
from cutaway.core.errors import BadOption, BadShape, UnknownName
from cutaway.core.method import explainer_of, method
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Scores
from cutaway.evaluation.orders import condensed, explained
from cutaway.evaluation.paired import interval
from cutaway.evaluation.sanity import SAME, SLOW
from cutaway.evaluation.similarity import SIGNED, SIZES, similarities
from cutaway.evaluation.weights import copied


@method(paper="adebayo2018")
def label_randomization(
    model: Model, x: Batch, attribution: Attribution, *, other: Model | str | Callable[[Model], Model] | None = None
) -> Scores:
    """Explain with a network that learned permuted labels by heart: a map of what labels teach must be another one.

    similarity = mean over inputs of similarity(map of f, map of g),   g trained on permuted labels

    The map is made again with its own method and options, for the same target. It costs one map of the second network.

    Args:
        other: The network trained on permuted labels: a model, the .safetensors file that `cutaway train NAME --labels
            permuted` wrote, or a function that makes it from the model. It has the same input and classes.

    Returns:
        Similarity of the two maps: rank correlation with sign and of sizes; for pictures SSIM and the correlation of
        histograms of oriented gradients; means over the inputs, with a 95 % bootstrap interval.

    Raises:
        BadOption: There is no other network, or it has the same weights.
        BadShape: The weights do not fit the network.

    Source: Adebayo et al. 2018, section 4. Differs: training is the caller's, so any recipe will do.
    """
    target, second = explained(model, x, attribution), _other(model, other)
    original, again = condensed(attribution), condensed(explainer_of(attribution)(second, x, target))
    signed = attribution.signed and bool((original < 0).any())
    rows = similarities(original, again, signed=signed)
    intervals = [interval(v) for v in rows.values()]
    return Scores(
        title="Label randomization",
        names=list(rows),
        values=torch.stack([v.nanmean() for v in rows.values()]),
        low=torch.stack([low for low, _ in intervals]) if len(original) > 1 else torch.empty(0),
        high=torch.stack([high for _, high in intervals]) if len(original) > 1 else torch.empty(0),
        unit="similarity, 1 for equal maps",
        better="lower",
        checks=_verdict(rows, attribution) | _answers(model, second, x),
    )


def _other(model: Model, other: Model | str | Callable[[Model], Model] | None) -> Model:
    if other is None:
        raise BadOption(
            "expected other=, the network trained on permuted labels; `cutaway train digits-cnn --labels permuted` "
            "makes that of one of cutaway's own networks."
        )
    if isinstance(other, str):
        second = _with_weights(model, other)
    else:
        made = other if isinstance(other, Model) else other(model)
        if not isinstance(made, Model):
            raise BadOption(f"expected other= to be, or to give, a Model; got {type(made).__name__}.")
        if made.space != model.space:
            raise BadOption(f"expected a network of {model.space.describe()}; got one of {made.space.describe()}.")
        second = model.with_module(made.module)
    if second.fingerprint == model.fingerprint:
        raise BadOption("expected a network trained on permuted labels; the other one has the same weights.")
    return second


def _with_weights(model: Model, path: str) -> Model:
    """A copy of the model with the weights of a file."""
    if not Path(path).is_file():
        raise UnknownName(f"no weights file at {path!r}.")
    try:
        state = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise BadShape(f"{path}: expected a .safetensors file; {error}") from error
    second = copied(model)
    try:
        second.module.load_state_dict(state)
    except RuntimeError as error:
        raise BadShape(f"{path} does not fit {model.name}: {str(error).splitlines()[-1].strip()}") from error
    return second


def _verdict(rows: dict[str, Tensor], attribution: Attribution) -> dict[str, Check]:
    means = {name: float(values.nanmean()) for name, values in rows.items()}
    size = means[SIZES]
    sign = abs(means.get(SIGNED, size))  # a map turned upside down shows the same
    name = " of ".join(filter(None, ["map", attribution.provenance.method.replace("_", " ")]))
    if size != size or sign != sign:
        text = "One of the two maps has one value everywhere, so there is nothing to compare."
        return {"verdict": Check(text, "note")}
    said, status = _judged(size, sign)
    numbers = f"{means[SIGNED]:.2f}, of sizes {size:.2f}" if SIGNED in means else f"{size:.2f}"
    text = f"After training on permuted labels the {name} {said} (rank correlation {numbers})."
    return {"verdict": Check(text, status, max(size, sign))}


def _judged(size: float, sign: float) -> tuple[str, Status]:
    if size >= SLOW > sign:
        return "keeps its sizes, which come from the input, and not its signs", "warn"
    if max(size, sign) >= SAME:
        return "is nearly the same: it does not show what the labels taught", "fail"
    if max(size, sign) >= SLOW:
        return "is similar: part of it does not come from what the labels taught", "warn"
    return "is another one: it reacts to what was learned", "ok"


def _answers(model: Model, second: Model, x: Batch) -> dict[str, Check]:
    """Two networks that give the same answers have hardly learned different things."""
    if model.scores == "values":
        return {}
    before, after = (m.run(x).scores.argmax(1) for m in (model, second))
    same, count = int((before == after).sum()), len(before)
    text = f"The two networks put {same} of {count} inputs into the same class"
    if count > 4 and same > count / 2:
        text += ": was the other one really trained on permuted labels, and are these inputs new to it?"
        return {"answers": Check(text, "warn", same / count)}
    return {"answers": Check(f"{text}.", "note", same / count)}
