"""Shapley values from a sample of coalitions, each with its complement, none twice.

Only the odd part of a game matters, g(S) = (v(S) - v(not S)) / 2: the rest cancels in the Shapley value. In terms of
pairs, with the number of present players s,

    phi_i = sum over pairs of a_i(S) g(S) + (v(all) - v(nobody)) / k,    a_i = 2 (s-1)! (k-s)! / k! for i in S,
                                                                         a_i = -2 s! (k-s-1)! / k! for i not in S.

Pairs are drawn by size, as many of each size as there are or as fit (large weights are drawn completely first). An
estimate is the exact Shapley value of a simple game fitted to the sample, and what the sample says of the rest:

    regression   an additive game, by least squares with the weights of the sum above and the inclusion probabilities;
                 this is kernel Shapley
    smooth       the smoothest game through all values: a Gaussian process on the cube whose covariance r^h falls with
                 the number h of players in which two coalitions differ; r is the likeliest of a few
"""

import itertools
import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Estimate = Literal["smooth", "regression"]
# Sizes with at most so many pairs are listed and shuffled; of larger ones, random pairs are drawn until they are new.
_LISTED = 20_000
# How much of a game is of higher order: the mean order of its terms that the covariance expects.
_ORDERS = (1e-3, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 6.0)
# Pairs that a smooth game is fitted to at most; further ones tell how far it is off.
_FITTED = 1500
# Of the largest variance: far below what values in single precision are known to.
_JITTER = 1e-10


class Pairs:
    """Coalitions of up to half of k players, drawn without repetition; each stands for itself and its complement.

    More pairs are the same pairs and further ones.
    """

    def __init__(self, k: int, seed: int) -> None:
        self.k = k
        self._rng = np.random.default_rng(seed)
        half = k // 2
        # Of size k / 2, a coalition and its complement are both that size: the one with player 0 stands for both.
        self.population = [math.comb(k, s) if 2 * s < k else math.comb(k - 1, s - 1) for s in range(1, half + 1)]
        self._orders = [self._order(s) if n <= _LISTED else None for s, n in enumerate(self.population, start=1)]
        self._seen: list[set[bytes]] = [set() for _ in self.population]
        self.counts = [0] * half
        self.coalitions: Bool[Tensor, "m k"] = torch.zeros(0, k, dtype=torch.bool)

    def __len__(self) -> int:
        """How many were drawn."""
        return len(self.coalitions)

    def grow(self, total: int) -> Bool[Tensor, "m k"]:
        """Draw until there are `total` pairs, or all; the new ones."""
        wanted = _allotted(self.population, total)
        new = [self._draw(s, n) for s, (had, n) in enumerate(zip(self.counts, wanted, strict=True), start=1) if n > had]
        self.counts = wanted
        found = torch.from_numpy(np.concatenate(new)) if new else self.coalitions[:0]
        self.coalitions = torch.cat([self.coalitions, found])
        return found

    def _order(self, s: int) -> np.ndarray:
        fixed = int(2 * s == self.k)
        every = np.array(list(itertools.combinations(range(fixed, self.k), s - fixed)), dtype=np.int64)
        every = every.reshape(self.population[s - 1], s - fixed)
        chosen = np.zeros((len(every), self.k), dtype=bool)
        np.put_along_axis(chosen, every, True, axis=1)
        chosen[:, 0] |= bool(fixed)
        return chosen[self._rng.permutation(len(chosen))]

    def _draw(self, s: int, wanted: int) -> np.ndarray:
        had = self.counts[s - 1]
        order = self._orders[s - 1]
        if order is not None:
            return order[had:wanted]
        found: list[np.ndarray] = []
        while len(found) < wanted - had:
            chosen = np.zeros(self.k, dtype=bool)
            chosen[self._rng.choice(self.k, s, replace=False)] = True
            chosen = ~chosen if 2 * s == self.k and not chosen[0] else chosen
            if (key := chosen.tobytes()) not in self._seen[s - 1]:
                self._seen[s - 1].add(key)
                found.append(chosen)
        return np.stack(found)


def _allotted(population: list[int], total: int) -> list[int]:
    """How many pairs of each size: equally many of all sizes, as far as there are so many; a larger total has more."""
    counts = [0] * len(population)
    left = min(total, sum(population))
    while left:
        open_sizes = [i for i, n in enumerate(population) if counts[i] < n]
        step = max(1, min(left // len(open_sizes), *(population[i] - counts[i] for i in open_sizes)))
        for i in open_sizes[: left // step]:
            counts[i] += step
            left -= step
    return counts


class Estimated(NamedTuple):
    """Values with their standard errors, and the degrees of freedom behind these."""

    values: Float[Tensor, "k"]
    error: Float[Tensor, "k"]
    freedom: int


def estimate(pairs: Pairs, odd: Float[Tensor, "m"], change: float, how: Estimate = "smooth") -> Estimated:
    """Shapley values from the odd part of a game on some pairs.

    Args:
        pairs: Two of each size at least.
        odd: (v(S) - v(not S)) / 2 of each.
        change: v(all) - v(nobody), which the values sum to exactly.
        how: Which simple game is fitted.
    """
    k, sizes = pairs.k, pairs.coalitions.sum(1)
    weights = _weights(pairs.coalitions)
    if how == "regression":
        values, rest = _regression(pairs, odd, change)
        # Least squares leave residuals that are too small, as if there were k - 1 fewer of them.
        freedom = max(len(rest) - k + 1, 1)
        inflated = len(rest) / freedom
    else:
        values, rest = _smooth(pairs.coalitions, odd, change)
        freedom, inflated = max(len(rest) - len(pairs.counts), 1), 1.0
        beyond = torch.ones_like(rest, dtype=torch.bool)
        beyond[_spread_out(len(rest))] = False
        values = values + weights[beyond].T @ rest[beyond]
    variance = torch.zeros(k, dtype=torch.float64)
    for s, (count, population) in enumerate(zip(pairs.counts, pairs.population, strict=True), start=1):
        if count == population:
            continue
        parts = weights[sizes == s] * rest[sizes == s][:, None]
        if how == "smooth":
            # The fitted game goes through the sample; elsewhere it misses what it missed of each one left out.
            values = values + float(population - count) * parts.mean(0)
        variance += float(population - count) * (population / count) * parts.var(0) * inflated
    values = values + (change - values.sum()) / k
    return Estimated(values, variance.sqrt(), freedom)


def _weights(coalitions: Bool[Tensor, "m k"]) -> Float[Tensor, "m k"]:
    """a_i of each pair; see above."""
    k = coalitions.shape[1]
    inside = [0.0, *(2 / (k * math.comb(k - 1, s - 1)) for s in range(1, k + 1))]
    outside = [*(-2 / (k * math.comb(k - 1, s)) for s in range(k)), 0.0]
    sizes = coalitions.sum(1)
    table = torch.tensor([inside, outside], dtype=torch.float64)
    return torch.where(coalitions, table[0][sizes][:, None], table[1][sizes][:, None])


def _regression(pairs: Pairs, odd: Float[Tensor, "m"], change: float) -> tuple[Tensor, Tensor]:
    """An additive game by constrained least squares, and what it leaves."""
    k, sizes = pairs.k, pairs.coalitions.sum(1)
    z = pairs.coalitions.double() - 0.5
    kernel = torch.tensor(
        [
            n * (k - 1) / (math.comb(k, s) * s * (k - s) * max(m, 1))
            for s, (n, m) in enumerate(zip(pairs.population, pairs.counts, strict=True), start=1)
        ],
        dtype=torch.float64,
    )[sizes - 1]
    # With the sum fixed, only differences from equal shares are free: an orthonormal basis of them.
    basis = torch.linalg.qr(torch.cat([torch.ones(k, 1), torch.eye(k)[:, : k - 1]], dim=1).double()).Q[:, 1:]
    rest = odd - z.sum(1) * change / k
    scaled = kernel.sqrt()[:, None]
    free = torch.linalg.lstsq(scaled * (z @ basis), scaled * rest[:, None], driver="gelsd").solution[:, 0]
    values = basis @ free + change / k
    return values, odd - z @ values


def _smooth(coalitions: Bool[Tensor, "m k"], odd: Float[Tensor, "m"], change: float) -> tuple[Tensor, Tensor]:
    """Shapley values of the smoothest game through the values, and what it misses of each that is left out.

    The full coalition and the empty one are a pair like any other, but are never left out.
    """
    k = coalitions.shape[1]
    whole = torch.ones(1, k, dtype=torch.bool)
    fitted = torch.cat([whole, coalitions[_spread_out(len(coalitions))]])
    values = torch.cat([torch.tensor([change / 2], dtype=torch.float64), odd[_spread_out(len(coalitions))]])
    scale = float(values.abs().max())
    if scale == 0:
        return torch.zeros(k, dtype=torch.float64), torch.zeros_like(odd)
    apart = _apart(fitted, fitted)
    fits = [_fit(apart, values / scale, k, order) for order in _ORDERS]
    best = max(fits, key=lambda fit: fit.likelihood)
    rest = odd / scale - _covariance(_apart(coalitions, fitted), k, best.r) @ best.solved
    rest[_spread_out(len(coalitions))] = (best.solved / best.inverse)[1:]
    return scale * (best.solved @ _shapley_of_covariance(fitted, best.r)), scale * rest


def _spread_out(count: int) -> Int[Tensor, "m"]:
    """Which pairs a smooth game is fitted to: all, or equally many of each part."""
    return torch.arange(count) if count <= _FITTED else torch.arange(_FITTED) * count // _FITTED


class _Fit(NamedTuple):
    likelihood: float
    r: float
    solved: Float[Tensor, "m"]
    inverse: Float[Tensor, "m"]


def _apart(a: Bool[Tensor, "m k"], b: Bool[Tensor, "n k"]) -> Int[Tensor, "m n"]:
    """In how many players two coalitions differ."""
    x, y = 2.0 * a.double() - 1, 2.0 * b.double() - 1
    return ((a.shape[1] - x @ y.T) / 2).round().long()


def _covariance(apart: Int[Tensor, "m n"], k: int, r: float) -> Float[Tensor, "m n"]:
    """Of the odd parts of two coalitions: half of r^h - r^(k - h)."""
    powers = r ** torch.arange(k + 1, dtype=torch.float64)
    return ((powers - powers.flip(0)) / 2)[apart]


def _fit(apart: Int[Tensor, "m m"], values: Float[Tensor, "m"], k: int, order: float) -> _Fit:
    """The Gaussian process through the values, and how likely it makes them, its scale being free."""
    share = order / k
    r = (1 - share) / (1 + share)
    covariance = _covariance(apart, k, r)
    covariance.diagonal().mul_(1 + _JITTER).add_(_JITTER * share)
    root, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed):
        return _Fit(-math.inf, r, torch.zeros_like(values), torch.ones_like(values))
    inverse = torch.cholesky_inverse(root)
    solved = inverse @ values
    spread = max(float(values @ solved) / len(values), 1e-300)
    likelihood = -0.5 * len(values) * math.log(spread) - float(root.diagonal().log().sum())
    return _Fit(likelihood, r, solved, inverse.diagonal().clone())


def _shapley_of_covariance(coalitions: Bool[Tensor, "m k"], r: float) -> Float[Tensor, "m k"]:
    """Shapley values of each game S -> r^(players in which S differs from a coalition).

    The game is a product over players; with each present with probability t, a player of the coalition has the factor
    t + (1 - t) r, another t r + 1 - t. The Shapley value is the integral over t of the slope in that player's.
    """
    k, sizes = coalitions.shape[1], coalitions.sum(1)
    nodes, heights = np.polynomial.legendre.leggauss(k // 2 + 1)
    t, height = torch.from_numpy((nodes + 1) / 2), torch.from_numpy(heights / 2)
    own, other = t + (1 - t) * r, t * r + 1 - t
    p = torch.arange(k + 1, dtype=torch.float64)[:, None]
    inside = (1 - r) * (height * own ** (p - 1) * other ** (k - p)).sum(1)
    outside = -(1 - r) * (height * own**p * other ** (k - p - 1)).sum(1)
    return torch.where(coalitions, inside[sizes][:, None], outside[sizes][:, None])
