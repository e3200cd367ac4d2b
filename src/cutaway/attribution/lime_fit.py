"""A weighted linear model of a game's values, and what it is worth: its fit, its error, its halves."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.attribution.erasure_parts import values_of
from cutaway.core.errors import BadOption
from cutaway.core.game import Game
from cutaway.maths.shapley import all_coalitions
from cutaway.maths.statistics import spearman

Distance = Literal["cosine", "euclidean"]
_MOST_PARTS = 4096


class Surrogate(NamedTuple):
    """The linear model of one input, and how far it can be relied on.

    Attributes:
        weights, error: One for each player.
        fidelity: Share of the weighted variance that it explains.
        outside: The same for each sample from a fit to the others; nan where all sets were taken.
        halves: Rank correlation of the weights from two halves of the samples; nan as before.
        counting: How many samples of equal weight would count as much.
        left: Samples that the time limit left undone.
    """

    weights: Float[Tensor, "k"]
    error: Float[Tensor, "k"]
    fidelity: float
    outside: float
    halves: float
    counting: float
    left: int = 0


def surrogate(
    game: Game,
    samples: int,
    distance: Distance,
    width: float,
    ridge: float,
    keep: int | None,
    seed: int,
    label: str,
) -> Surrogate:
    """The linear model of a game; see `attribution.lime` for its options.

    Raises:
        BadOption: Too few samples for so many players, or too many players.
    """
    k = len(game)
    if k > _MOST_PARTS:
        raise BadOption(
            f"expected at most {_MOST_PARTS:,} parts, since a system of as many equations is solved; got {k:,}. Choose "
            "larger ones: cells:7, superpixels:50."
        )
    everything = k <= 30 and 2**k <= samples
    z = all_coalitions(k) if everything else _drawn(k, samples, seed)
    scores = values_of(game, z, label, least=math.inf if everything else k + 1)
    left, z = len(z) - len(scores), z[: len(scores)]
    pi = kernel(z, distance, width)
    chosen = torch.arange(k) if keep is None or keep >= k else _first_in(z.double(), scores, pi, keep)
    cut = z[:, chosen].double()
    fit = _Fit(cut, scores, pi, ridge)
    weights, error = torch.zeros(k, dtype=torch.float64), torch.zeros(k, dtype=torch.float64)
    weights[chosen] = fit.weights
    nan = float("nan")
    if everything:
        return Surrogate(weights, error, fit.explained(cut, scores, pi), nan, nan, _counting(pi))
    error[chosen] = fit.error(cut, scores, pi)
    halves = [slice(start, None, 2) for start in (0, 1)]
    fits = [_Fit(cut[half], scores[half], pi[half], ridge, forced=True) for half in halves]
    outside = fit.explained(cut, scores, pi, left_out=True)
    same = float(spearman(fits[0].weights, fits[1].weights)) if len(chosen) > 1 else nan
    return Surrogate(weights, error, fit.explained(cut, scores, pi), outside, same, _counting(pi), left)


def _drawn(k: int, samples: int, seed: int) -> Bool[Tensor, "m k"]:
    """Random sets of players, the first of them all: each player is in half of the others."""
    z = torch.rand(samples, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) < 0.5
    z[0] = True
    return z


def kernel(z: Bool[Tensor, "m k"], distance: Distance, width: float) -> Float[Tensor, "m"]:
    """How much each sample counts: exp(-d^2 / width^2)."""
    there = z.double().mean(1)
    # The cosine of a vector of zeros and ones with all ones is the square root of its share of ones.
    d = 1 - there.sqrt() if distance == "cosine" else (1 - there).sqrt()
    return torch.exp(-((d / width) ** 2))


class _Fit:
    """Weighted ridge regression with an intercept that is not pulled."""

    def __init__(self, z: Tensor, scores: Tensor, pi: Tensor, ridge: float, *, forced: bool = False) -> None:
        self.at, self.level = pi @ z / pi.sum(), pi @ scores / pi.sum()
        centred = z - self.at
        self._gram = centred.T @ (pi[:, None] * centred) + ridge * torch.eye(z.shape[1], dtype=torch.float64)
        singular = torch.linalg.matrix_rank(self._gram, hermitian=True) < len(self._gram)
        if singular and not forced:
            raise BadOption(
                f"expected samples that tell {len(self._gram)} parts apart; {len(z)} of them do not, with this kernel. "
                "More samples, a wider kernel, fewer parts or a ridge above 0 would."
            )
        self._inverse = torch.linalg.pinv(self._gram, hermitian=True)
        self.weights = self._inverse @ (centred.T @ (pi * (scores - self.level)))

    def predicted(self, z: Tensor) -> Tensor:
        """The target that the linear model expects."""
        return self.level + (z - self.at) @ self.weights

    def explained(self, z: Tensor, scores: Tensor, pi: Tensor, *, left_out: bool = False) -> float:
        """Share of the samples' weighted variance that it explains; nan where there is none.

        With `left_out`, each sample is predicted by a fit to the others: its residual, divided by one minus its own
        pull on the fit.
        """
        spread = float(pi @ (scores - pi @ scores / pi.sum()) ** 2)
        residual = scores - self.predicted(z)
        if left_out:
            centred = z - self.at
            own = pi * (1 / pi.sum() + ((centred @ self._inverse) * centred).sum(1))
            residual = residual / (1 - own).clamp(min=1e-12)
        off = float(pi @ residual**2)
        # A target that varies by rounding alone has no variance to explain.
        flat = spread <= 1e-24 * float(pi @ scores**2)
        return float("nan") if flat else 1 - off / spread

    def error(self, z: Tensor, scores: Tensor, pi: Tensor) -> Tensor:
        """Standard errors over draws of the samples, whatever the form of the network (sandwich)."""
        pulls = (pi * (scores - self.predicted(z)))[:, None] * (z - self.at)
        freedom = max(len(z) - z.shape[1] - 1, 1)
        spread = self._inverse @ (pulls.T @ pulls) @ self._inverse * (len(z) / freedom)
        return spread.diagonal().clamp(min=0).sqrt()


def _first_in(z: Tensor, scores: Tensor, pi: Tensor, keep: int) -> Tensor:
    """The players that enter a lasso first as its penalty falls, in their own order."""
    from sklearn.linear_model import lars_path

    root = pi.sqrt()[:, None]
    centred = root * (z - pi @ z / pi.sum())
    wanted = root[:, 0] * (scores - pi @ scores / pi.sum())
    _, _, path = lars_path(centred.numpy(), wanted.numpy(), method="lasso")
    chosen = torch.zeros(0, dtype=torch.long)
    for weights in torch.from_numpy(path.copy()).T:
        active = weights.nonzero()[:, 0]
        if len(active) > keep:
            break
        chosen = active
    # Nothing is active where the target is flat: the first players stand for it, with weights of 0.
    return chosen if len(chosen) else torch.arange(keep)


def _counting(pi: Tensor) -> float:
    """How many samples of equal weight would count as much."""
    return float(pi.sum() ** 2 / (pi**2).sum())
