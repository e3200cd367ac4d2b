"""Layer-wise relevance propagation."""

import torch
from torch import Tensor

from cutaway.attribution.relevance.choice import parsed
from cutaway.attribution.relevance.ledger import Ledger
from cutaway.attribution.relevance.passing import Passing
from cutaway.attribution.relevance.start import beginning
from cutaway.attribution.relevance.weighing import NeedsWhole
from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.errors import NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.rules import ForEveryOperation
from cutaway.core.site import INPUT, Site
from cutaway.core.slopes import Gradient
from cutaway.core.target import Target

# Relevance that no operation accounts for: above this share, something went unseen.
_UNACCOUNTED = 1e-3


@method(
    paper="bach2015",
    laws={"batch_independent", "conserves", "dummy", "linear_in_target", "symmetric"},
    needs={"gradient"},
)
def lrp(model: Model, x: Batch, target: Target, *, rule: str = "epsilon_plus", wrt: Site = INPUT) -> Attribution:
    """Hand the target down through the network, operation by operation, to the entries that made it up.

    R_i = sum over j of (share of i in what made y_j) * R_j,   beginning with R = target at the output

    What a share is, the rule says: z_ij / y_j for `epsilon`, z_ij⁺ / sum of z_ij⁺ for `zplus`. The method's page lists
    all rules, and what each operation does. One forward and one backward pass for each input; rules other than
    `epsilon` run an operation again with other weights.

    Args:
        rule: A composite (`epsilon_plus`, `epsilon_gamma_box`), or one rule for all weights (`epsilon:0.01`, `zplus`),
            then exceptions after semicolons: `epsilon_plus; features.0 = flat; cumsum = gradient`.
        wrt: Where to attribute.

    Returns:
        Relevance in the target's unit, shaped like the activation at `wrt`. With what biases took, it sums to the
        target. `extra["place/conv1"]` has a row of three for each module, over all inputs: the relevance that came in,
        how much of it biases and constants took there, and how much was lost.

    Raises:
        NotPossible: An operation on the way has no rule.

    Source: Bach et al. 2015, equations 51 to 60; Montavon et al. 2019 for composites. Differs: rules act on operations,
    not on modules; no denominator is moved away from 0 unless a number is given.
    """
    modules = {path for path, _ in model.module.named_modules() if path}
    choice = parsed(rule, model.space, modules)
    for whole in (False, True):
        ledger = Ledger(model)
        passing = Passing(choice, model.space, ledger, whole=whole)
        try:
            found = model.gradient(x, beginning(target, ledger, whole), wrt=wrt, rules=ForEveryOperation(passing))
            break
        except NeedsWhole:
            continue
    choice.check_all_met()
    if not passing.arrived:
        raise NotPossible(f"no operation between {wrt} and {target} mixes entries, so there is nothing to hand down.")
    return Attribution(
        values=found.slope,
        target=str(target),
        wrt=str(wrt),
        unit="target",
        score=found.score,
        extra={f"place/{name}": torch.tensor([row], dtype=torch.float64) for name, row in ledger.places().items()},
        checks=_checks(found, ledger, wrt.is_whole),
    )


def _checks(found: Gradient, ledger: Ledger, is_whole: bool) -> dict[str, Check]:
    checks = {"rules": _told_rules(ledger)}
    if is_whole:
        checks |= _conservation(found, ledger)
    if ledger.held:
        listed = ", ".join(sorted(ledger.held))
        text = (
            f"Held constant: gates, attention weights and spreads ({listed}). What they depend on gets nothing for it."
        )
        checks["held"] = Check(text, "note")
    if ledger.shared:
        text = f"Products of two signals gave each half: {', '.join(sorted(ledger.shared))}."
        checks["products"] = Check(text, "note")
    return checks


def _conservation(found: Gradient, ledger: Ledger) -> dict[str, Check]:
    """Where the target went: into the values, into biases, or nowhere."""
    score, kept, start = _sum(found.score), _sum(found.slope), ledger.start
    biases, lost = ledger.taken()
    scale = max(float(found.score.double().abs().sum()), abs(start), 1e-300)
    gap = abs(start - kept - biases - lost) / scale
    over = ", over all inputs" if len(found.score) > 1 else ""
    told = f"Of {start:.4g}{over}: values {kept:.4g}, biases and constants {biases:.4g}, lost {lost:.4g}."
    if gap > _UNACCOUNTED:
        told += f" The rest, {gap:.1%}, is not accounted for: part of a result was cut off from its input."
    little = abs(biases) + abs(lost) > scale / 2
    if little:
        told += " What biases took or was lost outweighs what is left, so the values tell little of the target."
    checks = {"conservation": Check(told, "warn" if little or gap > _UNACCOUNTED else "ok", gap)}
    if abs(score - start) > _UNACCOUNTED * scale:
        text = (
            f"The target ({score:.4g}) is not linear in what it reads; slope times value ({start:.4g}) is handed down."
        )
        checks["start"] = Check(text, "note", start - score)
    gone = {name: biases + lost for name, (_, biases, lost) in ledger.places().items()}
    place = max(gone, key=lambda name: abs(gone[name]), default="")
    if place and gone[place]:
        share = abs(gone[place]) / scale
        text = f"Least is conserved at {place}: {gone[place]:.3g} was taken by biases and constants, or lost."
        checks["worst_place"] = Check(text, "warn" if share > 1 else "note", share)
    return checks


def _told_rules(ledger: Ledger) -> Check:
    counts = ledger.rules()
    listed = ", ".join(f"{name}{f' {times} times' if times > 1 else ''}" for name, times in sorted(counts.items()))
    return Check(f"Rules: {listed or 'none for weights'}.", "ok", float(counts.total()))


def _sum(values: Tensor) -> float:
    return float(values.double().sum())
