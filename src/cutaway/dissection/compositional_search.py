"""Formulas of concepts, and the search for the one that is true where a unit is on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
        """Where it is true, one boolean for each cell."""
        if self.kind == "atom":
            return scene.mask(self.atom)
        masks = [part.holds(scene) for part in self.parts]
        if self.kind == "or":
            return np.logical_or.reduce(masks)
        return np.logical_and.reduce([*masks, *(~part.holds(scene) for part in self.negated)])


@dataclass(frozen=True)
class Scene:
    """Which concepts are where.

    Places that have the same concepts are one cell: no formula tells them apart, so a search has to count cells alone,
    each by its size. Photos have a few thousand cells in a million places.

    Attributes:
        cell: The cell of each place, (places,).
        labels: (layers, cells): the number of a concept that is there, -1 for none. A concept stands at most once in a
            cell, in whatever layer, so that counts of labels are counts of places.
        sizes: How many places each cell has, (cells,).
        atoms: How many concepts there are.
    """

    cell: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    atoms: int

    @classmethod
    def of(cls, labels: np.ndarray, atoms: int) -> "Scene":
        """From the concepts at each place, (layers, places)."""
        code = np.zeros(labels.shape[1], dtype=np.int64)
        for layer in np.sort(labels, axis=0):
            # Numbered anew after each layer, so that the numbers stay small.
            code = np.unique(code * (atoms + 1) + layer + 1, return_inverse=True)[1]
        _, some, sizes = np.unique(code, return_index=True, return_counts=True)
        return cls(code, labels[:, some].astype(np.int64), sizes, atoms)

    def mask(self, atom: int) -> np.ndarray:
        """In which cells a concept is."""
        return np.asarray((self.labels == atom).any(0))

    def share(self, places: np.ndarray) -> np.ndarray:
        """How many of some places lie in each cell."""
        return np.bincount(self.cell[places], minlength=len(self.sizes))

    def counts(self, numbers: np.ndarray, mask: np.ndarray | slice = slice(None)) -> np.ndarray:
        """At how many places each concept is, of so many in each cell: one look at each layer for all concepts."""
        found, weights = np.zeros(self.atoms, dtype=np.int64), numbers[mask]
        for layer in self.labels:
            # As floats, which hold whole numbers exactly far beyond any number of places.
            found += np.bincount(layer[mask] + 1, weights, minlength=self.atoms + 1)[1:].astype(np.int64)
        return found

    def ceiling(self, on: np.ndarray) -> float:
        """The highest IoU that any AND, OR and AND NOT of the concepts can have, of whatever length.

        A formula is true on whole cells. Its IoU, sum m / (|M| + sum (n - m)) over them, is highest for some of the
        cells with the largest share m / n of places where the unit is on, so only their order has to be looked at.
        """
        named = (self.labels >= 0).any(0)
        both, sizes = self.share(on)[named], self.sizes[named]
        order = np.argsort(-both / sizes, kind="stable")
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
    """A formula with the cells where it is true, how many places those have, and how many of these are the unit's."""

    formula: Formula
    mask: np.ndarray
    both: int
    size: int


@dataclass(frozen=True)
class _Unit:
    """A unit: where it is on.

    Attributes:
        places: How many places those are.
        share: How many of them lie in each cell.
        both: How many of them each concept has.
        sizes: How many of all places each concept has.
    """

    places: int
    share: np.ndarray
    both: np.ndarray
    sizes: np.ndarray

    def iou(self, both: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Of formulas of these sizes that have so many places with the unit in common."""
        return np.asarray(both / np.maximum(self.places + sizes - both, 1))


def best_formulas(scene: Scene, on: np.ndarray, *, length: int, beam: int) -> list[Found]:
    """The best formula of each length up to a largest one; a shorter one again where no longer one is better.

    Each step joins each formula that was kept with each concept by OR, AND and AND NOT, and keeps the best, of those
    that are true at the same places the first. Sizes of all these follow from two counts, at the places of the formula
    and at those that it shares with the unit.

    Args:
        scene: Where the concepts are.
        on: The places where the unit is on.
        length: Concepts in a formula, at most.
        beam: Formulas that are kept at each length.
    """
    share = scene.share(on)
    unit = _Unit(len(on), share, scene.counts(share), scene.counts(scene.sizes))
    iou = unit.iou(unit.both, unit.sizes)
    order = [int(atom) for atom in np.argsort(-iou, kind="stable")[:beam]]
    held = [_Held(Formula("atom", a), scene.mask(a), int(unit.both[a]), int(unit.sizes[a])) for a in order]
    best = [Found(held[0].formula, float(iou[order[0]]))]
    while len(best) < length:
        held, highest = _longer(scene, unit, held, beam)
        best.append(Found(held[0].formula, highest) if highest > best[-1].iou else best[-1])
    return best


def _longer(scene: Scene, unit: _Unit, held: list[_Held], beam: int) -> tuple[list[_Held], float]:
    """The best formulas with one concept more, the best first, and its IoU; 0 if there are none."""
    hits, sizes = (np.zeros((len(held), 3, scene.atoms), dtype=np.int64) for _ in range(2))
    for k, old in enumerate(held):
        shared, shared_on = scene.counts(scene.sizes, old.mask), scene.counts(unit.share, old.mask)
        hits[k] = old.both + unit.both - shared_on, shared_on, old.both - shared_on
        sizes[k] = old.size + unit.sizes - shared, shared, old.size - shared
    iou = unit.iou(hits, sizes)
    # What changes no place says nothing new.
    iou[sizes == np.array([old.size for old in held])[:, None, None]] = -1
    chosen: dict[bytes, _Held] = {}
    for place in _best_first(iou.ravel(), 4 * beam):
        k, how, atom = (int(i) for i in np.unravel_index(place, iou.shape))
        if iou[k, how, atom] <= 0 or len(chosen) == beam:
            break
        mask, other = held[k].mask, scene.mask(atom)
        mask = mask | other if how == 0 else mask & (other if how == 1 else ~other)
        # Of formulas that are true in the same cells, the first is enough: whatever grows from one grows from another.
        if (cells := mask.tobytes()) not in chosen:
            formula = held[k].formula.joined(("or", "and", "and not")[how], atom)
            chosen[cells] = _Held(formula, mask, int(hits[k, how, atom]), int(sizes[k, how, atom]))
    return list(chosen.values()), max(float(iou.max(initial=0)), 0.0)


def _best_first(values: np.ndarray, few: int) -> Iterator[int]:
    """Numbers of the values, the highest first and equal ones in their order. A few are sorted before all others."""
    least = np.partition(values, -few)[-few] if few < len(values) else -np.inf
    for part in (values >= least, values < least):
        (numbers,) = np.nonzero(part)
        yield from (int(n) for n in numbers[np.argsort(-values[numbers], kind="stable")])
