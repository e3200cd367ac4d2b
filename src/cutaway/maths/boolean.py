"""The shortest OR of ANDs that is true on some patterns and false on others.

A pattern is a row of n booleans. A term is a row of n numbers: 1 where the variable must hold, 0 where it must not, -1
where it does not matter. Patterns that are in neither list may come out either way.

Up to `EXACT` variables all terms are compared, as a Karnaugh map does by eye and Quine and McCluskey do by table: a
term that is false on every pattern of the second list and becomes true on one of them with any variable less is prime,
and the cheapest set of primes that covers the first list is found by integer programming. Above, only some primes of
each pattern are tried (as Espresso does), and the cheapest set of those is found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int8
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

EXACT = 12
# Random orders in which the variables of a pattern are dropped, above that.
_ORDERS = 12
# Nodes of the search for the cheapest set of terms: a number, since a time would make the answer depend on the machine.
_NODES = 2_000


@dataclass(frozen=True)
class Form:
    """An OR of terms.

    Attributes:
        terms: (terms, n): 1, 0, or -1 where the variable does not matter.
        least: True if it is proven that no OR of ANDs has fewer terms, or as many with fewer variables in them.
    """

    terms: Int8[np.ndarray, "terms n"]
    least: bool

    def __call__(self, patterns: Bool[np.ndarray, "k n"]) -> Bool[np.ndarray, "k"]:
        """Whether each pattern makes it true."""
        return np.asarray(covers(self.terms, patterns).any(0))

    @property
    def literals(self) -> int:
        """How often a variable is written down."""
        return int((self.terms >= 0).sum())

    def text(self, names: Sequence[str]) -> str:
        """As words, such as `a AND NOT b OR c`."""
        if not len(self.terms):
            return "never"
        parts = []
        for term in self.terms:
            on, off = (np.flatnonzero(term == value).tolist() for value in (1, 0))
            words = [names[i] for i in on] + [f"NOT {names[i]}" for i in off]
            parts.append(" AND ".join(words) or "always")
        return " OR ".join(parts)


def minimised(on: Bool[np.ndarray, "k n"], off: Bool[np.ndarray, "m n"], *, seed: int = 0) -> Form:
    """The OR of ANDs with the fewest terms, and among those the fewest variables, that separates two lists of patterns.

    Args:
        on: Patterns on which it is to be true.
        off: Patterns on which it is to be false.
        seed: Of the orders that are tried above 12 variables.

    Raises:
        ValueError: A pattern is in both lists.
    """
    on, off = np.unique(on, axis=0), np.unique(off, axis=0)
    both = len(on) + len(off) - len(np.unique(np.concatenate([on, off]), axis=0))
    if both:
        raise ValueError(f"expected patterns that are true or false; {both} are in both lists.")
    n = on.shape[1]
    if not len(on):
        return Form(np.zeros((0, n), dtype=np.int8), least=True)
    if not len(off):
        return Form(np.full((1, n), -1, dtype=np.int8), least=True)
    primes = _all_primes(on, off) if n <= EXACT else _some_primes(on, off, np.random.default_rng(seed))
    chosen, proven = _cheapest(covers(primes, on), (primes >= 0).sum(1))
    return Form(_ordered(primes[chosen]), least=proven and n <= EXACT)


def covers(terms: Int8[np.ndarray, "terms n"], patterns: Bool[np.ndarray, "k n"]) -> Bool[np.ndarray, "terms k"]:
    """Which terms are true on which patterns."""
    # A term is false where one of its variables differs: counted for all pairs at once.
    wrong = (terms == 1).astype(np.float32) @ ~patterns.T + (terms == 0).astype(np.float32) @ patterns.T
    return np.asarray(wrong == 0)


def _all_primes(on: Bool[np.ndarray, "k n"], off: Bool[np.ndarray, "m n"]) -> Int8[np.ndarray, "primes n"]:
    """Every prime that is true on a pattern of `on`: a table of all 3^n terms, place 2 for "does not matter"."""
    n = on.shape[1]
    free, used = np.ones((2,) * n, dtype=bool), np.zeros((2,) * n, dtype=bool)
    free[tuple(off.T.astype(int))] = False
    used[tuple(on.T.astype(int))] = True
    for axis in range(n):
        free = np.concatenate([free, free.all(axis, keepdims=True)], axis)
        used = np.concatenate([used, used.any(axis, keepdims=True)], axis)
    prime = free & used
    for axis in range(n):
        larger = free.take([2], axis)
        prime &= np.concatenate([~larger, ~larger, np.ones_like(larger)], axis)
    found = np.argwhere(prime).astype(np.int8)
    return np.where(found == 2, -1, found).astype(np.int8)


def _some_primes(
    on: Bool[np.ndarray, "k n"], off: Bool[np.ndarray, "m n"], draw: np.random.Generator
) -> Int8[np.ndarray, "primes n"]:
    """Primes of each pattern, found by dropping its variables in several orders while no pattern of `off` fits."""
    n, found = on.shape[1], []
    for pattern in on:
        differs = pattern != off
        # First drop what tells few apart, and what few patterns of `on` share.
        shared = (pattern == on).mean(0) + differs.mean(0)
        orders = [np.argsort(shared, kind="stable"), *(draw.permutation(n) for _ in range(_ORDERS))]
        for order in orders:
            kept, told = np.ones(n, dtype=bool), differs.sum(1)
            for i in order:
                if not (differs[:, i] & (told == 1)).any():
                    kept[i] = False
                    told = told - differs[:, i]
            found.append(np.where(kept, pattern, -1).astype(np.int8))
    return np.unique(np.stack(found), axis=0)


def _cheapest(covering: Bool[np.ndarray, "terms k"], literals: np.ndarray) -> tuple[np.ndarray, bool]:
    """The terms of the cheapest cover, and whether it is proven that there is none cheaper."""
    cheapest_first = np.argsort(literals, kind="stable")
    # Of terms that cover the same, only the shortest.
    _, first = np.unique(np.packbits(covering[cheapest_first], axis=1), axis=0, return_index=True)
    kept = np.sort(cheapest_first[first])
    table, length = covering[kept], literals[kept]
    greedy = _greedy(table)
    # One term less is worth more than all variables of a cover with as many terms.
    cost = length + 1 + int(length.max()) * len(greedy)
    needed = LinearConstraint(csr_array(table.T.astype(float)), lb=1)
    options = {"mip_rel_gap": 0.0, "node_limit": _NODES}
    answer = milp(cost, integrality=np.ones(len(kept)), bounds=Bounds(0, 1), constraints=needed, options=options)
    if answer.x is None:
        return kept[greedy], False
    return kept[answer.x > 0.5], answer.status == 0


def _greedy(table: Bool[np.ndarray, "terms k"]) -> list[int]:
    """A cover by always taking the term that covers most of what is left."""
    left, chosen = np.ones(table.shape[1], dtype=bool), []
    while left.any():
        best = int((table & left).sum(1).argmax())
        chosen.append(best)
        left &= ~table[best]
    return chosen


def _ordered(terms: Int8[np.ndarray, "terms n"]) -> Int8[np.ndarray, "terms n"]:
    """Short terms first, then by what must hold, then by what must not."""
    keys = [((t >= 0).sum(), np.flatnonzero(t == 1).tolist(), np.flatnonzero(t == 0).tolist()) for t in terms]
    return terms[sorted(range(len(terms)), key=keys.__getitem__)]
