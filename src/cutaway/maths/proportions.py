"""Intervals for shares, and for the change of a share when the same things are counted twice."""

from jaxtyping import Float
from scipy.special import ndtri
from torch import Tensor


def wilson(hits: Float[Tensor, "*k"], n: Float[Tensor, "*k"], *, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """The ends of an interval for a share of n independent cases (Wilson 1927). From 0 to 1 if there are none.

    Args:
        hits: Cases that count.
        n: All cases.
        level: How often the interval holds the true share.
    """
    z2 = float(ndtri(0.5 + level / 2)) ** 2
    centre = (hits + z2 / 2) / (n + z2)
    reach = (z2 * (hits * (n - hits) / n.clamp_min(1) + z2 / 4)).sqrt() / (n + z2)
    return (centre - reach).clamp_min(0), (centre + reach).clamp_max(1)


def paired_change(
    gained: Float[Tensor, "*k"], lost: Float[Tensor, "*k"], n: Float[Tensor, "*k"], *, level: float = 0.95
) -> tuple[Tensor, Tensor]:
    """The ends of an interval for the change of a share, from cases that were counted before and after.

    p - q  +-  z sqrt((p + q - (p - q)^2) / (n + 2)),   p = (gained + 1) / (n + 2),   q = (lost + 1) / (n + 2)

    One case more of either kind keeps the interval honest where few cases changed.

    Args:
        gained: Cases that count after and did not count before.
        lost: Cases that counted before and do not count after.
        n: All cases.
        level: How often the interval holds the true change.

    Source: Bonett and Price 2012.
    """
    z = float(ndtri(0.5 + level / 2))
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    reach = z * ((p + q - (p - q).square()) / (n + 2)).sqrt()
    return (p - q - reach).clamp_min(-1), (p - q + reach).clamp_max(1)
