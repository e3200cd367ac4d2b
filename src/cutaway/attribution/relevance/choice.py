"""Which rule an operation gets: composites by name, exceptions by place, both as text."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cutaway.attribution.relevance.weights import (
    Rule,
    alpha_beta,
    epsilon,
    flat,
    gamma,
    wsquare,
    zbox,
    zplus,
)
from cutaway.core.errors import BadOption, NotPossible, UnknownName, unknown_name
from cutaway.core.operations import Call
from cutaway.core.rules import kind_of
from cutaway.core.space import Space

# For one kind of operation with weights each: convolutions, all others, and those that see the input itself.
_COMPOSITES = {
    "epsilon_plus": ("zplus", "epsilon", ""),
    "epsilon_plus_flat": ("zplus", "epsilon", "flat"),
    "epsilon_gamma_box": ("gamma:0.25", "epsilon", "zbox"),
    "epsilon_alpha2_beta1": ("alpha_beta:2,1", "epsilon", ""),
    "epsilon_alpha2_beta1_flat": ("alpha_beta:2,1", "epsilon", "flat"),
}
_SIZES: dict[str, tuple[Callable[..., Rule], int, int]] = {
    "epsilon": (epsilon, 0, 2),
    "gamma": (gamma, 0, 1),
    "alpha_beta": (alpha_beta, 2, 2),
    "zplus": (zplus, 0, 0),
    "flat": (flat, 0, 0),
    "wsquare": (wsquare, 0, 0),
}
# Wider bounds than this say that nothing is known of a column.
_BOUNDLESS = 1e6
# What may be chosen for any operation, by its name: hand relevance on entry by entry, use its own slope, or cut it off.
PLAIN = ("pass", "gradient", "hold")


@dataclass
class Choice:
    """The rule for each operation.

    Attributes:
        convolution, other, first: Rules of the composite; `first` is for operations that see the input itself.
        places: Exceptions by module path; they hold for all that lies inside.
        operations: Exceptions by the name of an operation.
    """

    convolution: Rule
    other: Rule
    first: Rule | None
    places: Mapping[str, Rule]
    operations: Mapping[str, Rule | str]
    met: set[str] = field(default_factory=set)

    def for_weights(self, call: Call, is_convolution: bool, is_first: bool) -> Rule:
        """The rule for an operation with weights: the exception for the nearest place around it, or the composite's."""
        path = call.site
        while path:
            if path in self.places:
                self.met.add(path)
                return self.places[path]
            path = path.rpartition(".")[0]
        if isinstance(chosen := self.operations.get(call.name), Rule):
            self.met.add(call.name)
            return chosen
        if is_first and self.first is not None and is_convolution:
            return self.first
        return self.convolution if is_convolution else self.other

    def plain(self, call: Call) -> str:
        """What the user chose for every operation of this name; empty for nothing."""
        chosen = self.operations.get(call.name, "")
        if not isinstance(chosen, str) or not chosen:
            return ""
        self.met.add(call.name)
        return chosen

    def check_all_met(self) -> None:
        """Refuse exceptions for what was never there.

        Raises:
            UnknownName: A place or operation that the run did not meet.
        """
        missing = {*self.places, *self.operations} - self.met
        if missing:
            name = sorted(missing)[0]
            raise UnknownName(
                f"the rule names {name!r}, but no operation of that name, and no operation with weights in a module of "
                "that name, lies between the place of attribution and the target. `cutaway layers` lists the modules."
            )


def parsed(text: str, space: Space, module_paths: set[str]) -> Choice:
    """A choice from its text: `epsilon_plus`, `gamma:0.1`, `epsilon_plus; features.0 = zbox; cumsum = gradient`.

    Raises:
        BadOption: Not of that form, or numbers that a rule cannot have.
        UnknownName: No such rule.
    """
    first, *rest = [part.strip() for part in text.split(";")]
    if first in _COMPOSITES:
        of_convolution, of_other, of_first = _COMPOSITES[first]
        convolution, other = _rule(of_convolution, space), _rule(of_other, space)
        start = _rule(of_first, space) if of_first else None
    else:
        convolution = other = _rule(first, space)
        start = None
    places: dict[str, Rule] = {}
    operations: dict[str, Rule | str] = {}
    for part in filter(None, rest):
        place, equals, name = (piece.strip() for piece in part.partition("="))
        if not (place and equals and name):
            raise BadOption(f"expected PLACE = RULE after a semicolon; got {part!r}.")
        if name in PLAIN:
            operations[place] = name
        elif place in module_paths:
            places[place] = _rule(name, space)
        elif kind_of(place) in ("linear", "product"):
            operations[place] = _rule(name, space)
        else:
            raise unknown_name("module for a rule called", place, sorted(module_paths), "`cutaway layers` lists all.")
    return Choice(convolution, other, start, places, operations)


def _rule(text: str, space: Space) -> Rule:
    name, _, given = text.partition(":")
    if name == "zbox" and not given:
        if space.kind == "tokens" or space.range > _BOUNDLESS:
            raise NotPossible(f"zbox needs bounds of the input; here it is {space.describe()}. Use wsquare or flat.")
        return zbox(*_bounds(space))
    if name not in _SIZES:
        known = [*_COMPOSITES, *_SIZES, "zbox"]
        raise unknown_name("rule called", name, known, "A composite comes first, a rule may follow a place.")
    make, least, most = _SIZES[name]
    numbers = [float(n) for n in given.split(",")] if re.fullmatch(r"[-+.\deE]+(,[-+.\deE]+)*", given) else []
    if not least <= len(numbers) <= most or (given and not numbers):
        raise BadOption(f"expected {name}{_form(least, most)} as a rule; got {text!r}.")
    if any(n < 0 for n in numbers):
        raise BadOption(f"expected numbers of 0 or more in a rule; got {text!r}.")
    if name == "epsilon" and len(numbers) == 2 and numbers[1] > 1:
        raise BadOption(f"expected a part of the bias of at most 1; got {text!r}.")
    if name == "alpha_beta" and abs(numbers[0] - numbers[1] - 1) > 1e-9:
        raise BadOption(f"expected alpha - beta = 1, so that relevance is conserved; got {text!r}.")
    return make(*numbers)


def _form(least: int, most: int) -> str:
    return {
        (0, 0): "",
        (0, 1): " or a number after a colon",
        (0, 2): " or numbers after a colon",
        (2, 2): ":ALPHA,BETA",
    }[least, most]


def _bounds(space: Space) -> tuple[Tensor, Tensor]:
    """The lowest and highest input that the network can see, channel by channel."""
    view = (1, -1, *(1 for _ in space.shape[1:]))
    mean, std = (torch.tensor(v, dtype=torch.float64).view(view) for v in (space.mean, space.std))
    return (space.low - mean) / std, (space.high - mean) / std
