import pytest
import torch

from cutaway.maths.proportions import wilson


@pytest.mark.parametrize("n", [5, 8, 20, 100])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_the_interval_of_a_share_covers_it_in_nine_of_ten_repeats(n, share):
    """Exact: the binomial probability of all numbers of hits whose interval holds the share."""
    hits = torch.arange(n + 1, dtype=torch.float64)
    low, high = wilson(hits, torch.full_like(hits, n))
    chances = torch.distributions.Binomial(n, torch.tensor(share, dtype=torch.float64)).log_prob(hits).exp()
    assert float(chances[(low <= share) & (share <= high)].sum()) >= 0.9


def test_hits_without_a_miss_still_have_an_interval():
    low, high = wilson(torch.tensor(6.0), torch.tensor(6.0))
    assert float(low) == pytest.approx(0.61, abs=0.01)
    assert float(high) == pytest.approx(1.0)
