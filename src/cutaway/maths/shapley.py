"""Shapley values of a game as numbers: from all its coalitions, or from a sample of them.

A coalition is a row of booleans, True for present. A table has the value of the coalition sum of 2^i over present i.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def all_coalitions(k: int) -> Bool[Tensor, "m k"]:
    """All 2^k coalitions of k players, in the order of a table."""
    return (torch.arange(2**k)[:, None] >> torch.arange(k) & 1).bool()


def how_many(k: int) -> float:
    """2^k, the number of coalitions of k players; infinite where no number holds it."""
    return math.inf if k > 1000 else 2.0**k


def shapley(table: Float[Tensor, "m"]) -> Float[Tensor, "k"]:
    """Shapley values from the values of all coalitions.

    phi_i = sum over S without i of |S|! (k - |S| - 1)! / k! (v(S and i) - v(S))
    """
    k = (len(table) - 1).bit_length()
    cube = table.double().view([2] * k)  # axis a is player k - 1 - a
    sizes = all_coalitions(k - 1).sum(1) if k > 1 else torch.zeros(1, dtype=torch.long)
    weights = torch.tensor([1 / (k * math.comb(k - 1, s)) for s in range(k)], dtype=torch.float64)[sizes]
    gains = torch.stack([(cube.select(k - 1 - i, 1) - cube.select(k - 1 - i, 0)).flatten() for i in range(k)])
    return gains @ weights


def interactions(table: Float[Tensor, "m"]) -> Float[Tensor, "k k"]:
    """Shapley interaction indices of all pairs from the values of all coalitions; the diagonal is nan.

    I_ij = sum over S without i, j of |S|! (k - |S| - 2)! / (k - 1)! (v(S,i,j) - v(S,i) - v(S,j) + v(S))
    """
    k = (len(table) - 1).bit_length()
    cube = table.double().view([2] * k)
    found = torch.full((k, k), math.nan, dtype=torch.float64)
    sizes = all_coalitions(k - 2).sum(1) if k > 2 else torch.zeros(1, dtype=torch.long)
    weights = torch.tensor([1 / ((k - 1) * math.comb(k - 2, s)) for s in range(k - 1)], dtype=torch.float64)[sizes]
    for i in range(k):
        for j in range(i):
            # i > j, so its axis comes first, and j's has moved up by one once it is gone.
            gain = cube.select(k - 1 - i, 1) - cube.select(k - 1 - i, 0)
            mixed = gain.select(k - 2 - j, 1) - gain.select(k - 2 - j, 0)
            found[i, j] = found[j, i] = mixed.flatten() @ weights
    return found
