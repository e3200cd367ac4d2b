"""Formulas of concepts, and the search for the one that is true where a unit is on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

Kind = Literal["atom", "or", "and"]


@dataclass(frozen=True)
class Formula:
    """A concept, an OR of formulas, or an AND of formulas of which some are negated. Equal if only the order differs.

    Attributes:
        kind: Which of these.
        atom: The concept's number; -1 for the others.
        parts: The formulas that are joined.
        negated: Those that must not hold.
    """

    kind: Kind
    atom: int = -1
    parts: frozenset["Formula"] = frozenset()
    negated: frozenset["Formula"] = frozenset()

    @property
    def length(self) -> int:
        """How many concepts it is made of; a NOT counts nothing."""
        return 1 if self.kind == "atom" else sum(part.length for part in (*self.parts, *self.negated))

    def joined(self, how: Literal["or", "and", "and not"], atom: int) -> "Formula":
        """With one concept more."""
        new, kind = frozenset([Formula("atom", atom)]), "or" if how == "or" else "and"
        mine = self.parts if self.kind == kind else frozenset([self])
        not_mine = self.negated if self.kind == kind else frozenset[Formula]()
        if how == "and not":
            return Formula("and", -1, mine, not_mine | new)
        return Formula("or" if how == "or" else "and", -1, mine | new, not_mine)

    def text(self, names: Sequence[str]) -> str:
        """As words, such as `(red OR blue) AND NOT stripes`."""
        if self.kind == "atom":
            return names[self.atom]
        texts = (part.text(names) if part.kind == "atom" else f"({part.text(names)})" for part in self.parts)
        parts = sorted(texts, key=lambda text: (not text.startswith("("), text))
        nots = sorted(f"NOT {part.text(names)}" for part in self.negated)
        return f" {self.kind.upper()} ".join([*parts, *nots])

    def holds(self, scene: "Scene") -> np.ndarray:
        """Where it is true, one boolean for each place."""
        if self.kind == "atom":
            return scene.mask(self.atom)
        masks = [part.holds(scene) for part in self.parts]
        if self.kind == "or":
            return np.logical_or.reduce(masks)
        return np.logical_and.reduce([*masks, *(~part.holds(scene) for part in self.negated)])


@dataclass(frozen=True)
class Scene:
    """Which concepts are where.

    Attributes:
        labels: (layers, places): the number of a concept that is there, -1 for none. A concept stands at most once at a
            place, in whatever layer, so that counts of labels are counts of places.
        atoms: How many concepts there are.
    """

    labels: np.ndarray
    atoms: int

    def mask(self, atom: int) -> np.ndarray:
        """Where a concept is."""
        return np.asarray((self.labels == atom).any(0))

    def counts(self, places: np.ndarray | slice = slice(None)) -> np.ndarray:
        """At how many of some places each concept is: one look at each layer, however many concepts there are."""
        found = np.zeros(self.atoms, dtype=np.int64)
        for layer in self.labels:
            found += np.bincount(layer[places] + 1, minlength=self.atoms + 1)[1:]
        return found

    @cached_property
    def sizes(self) -> np.ndarray:
        """At how many places each concept is."""
        return self.counts()

    @cached_property
    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """One number for all places that no formula tells apart, -1 where no concept is; and how many those are."""
        code = np.zeros(self.labels.shape[1], dtype=np.int64)
        for layer in np.sort(self.labels, axis=0):
            # Numbered anew after each layer, so that the numbers stay small.
            code = np.unique(code * (self.atoms + 1) + layer + 1, return_inverse=True)[1]
        nothing = (self.labels < 0).all(0)
        cell = np.where(nothing, -1, code)
        return cell, np.bincount(cell + 1, minlength=int(cell.max(initial=-1)) + 2)[1:]

    def ceiling(self, on: np.ndarray) -> float:
        """The highest IoU that any AND, OR and AND NOT of the concepts can have, of whatever length.

        A formula is true on whole cells. Its IoU, sum m / (|M| + sum (n - m)) over them, is highest for some of the
        cells with the largest share m / n of places where the unit is on, so only their order has to be looked at.
        """
        cell, sizes = self.cells
        both = np.bincount(cell[on] + 1, minlength=len(sizes) + 1)[1:]
        order = np.argsort(-both / np.maximum(sizes, 1), kind="stable")
        together = both[order].cumsum()
        iou = together / np.maximum(len(on) + sizes[order].cumsum() - together, 1)
        return float(iou.max(initial=0.0))


@dataclass(frozen=True)
class Found:
    """A formula and how well it agrees with a unit."""

    formula: Formula
    iou: float


@dataclass(frozen=True)
class _Held:
    """A formula with the places where it is true, and how many of those are the unit's."""

    formula: Formula
    mask: np.ndarray
    both: int
    size: int


def best_formulas(scene: Scene, on: np.ndarray, *, length: int, beam: int) -> list[Found]:
    """The best formula of each length up to a largest one; a shorter one again where no longer one is better.

    Each step joins each formula that was kept with each concept by OR, AND and AND NOT, and keeps the best. Sizes of
    all these follow from two counts, at the places of the formula and at those that it shares with the unit.

    Args:
        scene: Where the concepts are.
        on: The places where the unit is on, rising.
        length: Concepts in a formula, at most.
        beam: Formulas that are kept at each length.
    """
    both = scene.counts(on)
    iou = both / np.maximum(len(on) + scene.sizes - both, 1)
    order = np.argsort(-iou, kind="stable")[:beam]
    held = [_Held(Formula("atom", int(a)), scene.mask(int(a)), int(both[a]), int(scene.sizes[a])) for a in order]
    best = [Found(held[0].formula, float(iou[order[0]]))]
    while len(best) < length:
        held = _longer(scene, on, both, held, beam)
        found = max((Found(h.formula, _iou(h, on)) for h in held), key=lambda f: f.iou, default=best[-1])
        best.append(found if found.iou > best[-1].iou else best[-1])
    return best


def _iou(held: _Held, on: np.ndarray) -> float:
    return held.both / max(len(on) + held.size - held.both, 1)


def _longer(scene: Scene, on: np.ndarray, both: np.ndarray, held: list[_Held], beam: int) -> list[_Held]:
    """The best formulas with one concept more."""
    hits, sizes = (np.zeros((len(held), 3, scene.atoms), dtype=np.int64) for _ in range(2))
    for k, old in enumerate(held):
        shared = scene.counts(np.flatnonzero(old.mask))
        shared_on = scene.counts(on[old.mask[on]])
        hits[k] = old.both + both - shared_on, shared_on, old.both - shared_on
        sizes[k] = old.size + scene.sizes - shared, shared, old.size - shared
    iou = hits / np.maximum(len(on) + sizes - hits, 1)
    # What changes no place says nothing new.
    iou[sizes == np.array([old.size for old in held])[:, None, None]] = -1
    chosen: dict[Formula, _Held] = {}
    for place in np.argsort(-iou, axis=None, kind="stable"):
        k, how, atom = (int(i) for i in np.unravel_index(place, iou.shape))
        if iou[k, how, atom] <= 0 or len(chosen) == beam:
            break
        formula = held[k].formula.joined(("or", "and", "and not")[how], atom)
        if formula not in chosen:
            mask, other = held[k].mask, scene.mask(atom)
            mask = mask | other if how == 0 else mask & (other if how == 1 else ~other)
            chosen[formula] = _Held(formula, mask, int(hits[k, how, atom]), int(sizes[k, how, atom]))
    return list(chosen.values())
