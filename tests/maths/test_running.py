"""Mean and variance of rows that come a few at a time are those of all rows at once."""

import pytest
import torch
from torch.testing import assert_close

from cutaway.maths.running import Running


@pytest.mark.parametrize("sizes", [(12,), (1, 11), (5, 4, 3), (1,) * 12])
def test_blocks_give_what_all_rows_give(sizes):
    # Far from 0, where mean squares less squared means have no digits left.
    rows = 1e8 + torch.randn(12, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Running()
    for some in rows.split(sizes):
        found.add(some)
    assert found.count == 12
    assert_close(found.mean, rows.mean(0), rtol=1e-12, atol=0)
    assert_close(found.variance(), rows.var(0), rtol=1e-6, atol=0)
    assert_close(found.variance(unbiased=False), rows.var(0, unbiased=False), rtol=1e-6, atol=0)


def test_single_precision_is_added_up_in_double():
    found = Running()
    found.add(torch.ones(1, 2))
    assert found.mean.dtype == torch.float64
    assert found.variance().tolist() == [0, 0]
