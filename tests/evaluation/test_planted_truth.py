"""Scores of a map on a network whose reason is known: the truth must win, and a constant map must not pass."""

import pytest
import torch

from cutaway.core.method import find
from cutaway.testing.planted import box_model, bright, made, oracle

BOX = {"region": "0,12,4,16"}
CASES = {
    "pointing_game": BOX,
    "energy_in_region": BOX,
    "deletion": {"fills": "zero", "cells": 4},
    "insertion": {"fills": "zero", "cells": 4},
    "pixel_flipping": {"fills": "zero", "cells": 4},
    "sensitivity_n": {"cells": 4},
    "infidelity": {},
}
COUNT = 6


def quality(name, values):
    found = find(name).function(box_model(), bright(COUNT), made(values), **CASES[name])
    number = float(found.values[0]) if hasattr(found, "values") else next(iter(found.summary.values()))
    return number if found.better == "higher" else -number, found.checks["verdict"].status


@pytest.mark.parametrize("name", CASES)
def test_the_true_reason_beats_random_maps_and_its_own_opposite(name):
    truth = oracle(COUNT) * bright(COUNT)
    best, status = quality(name, truth)
    assert status == "ok"
    generator = torch.Generator().manual_seed(0)
    others = [torch.rand(truth.shape, generator=generator, dtype=torch.float64) for _ in range(5)]
    for values in (*others, 1 - oracle(COUNT)):
        assert quality(name, values)[0] < best
    # All places of a constant map are equal, and their order is random: it may meet the true cell first by luck.
    assert quality(name, torch.ones_like(truth))[0] <= best


@pytest.mark.parametrize("name", CASES)
def test_a_constant_map_never_passes(name):
    assert quality(name, torch.ones(COUNT, 3, 16, 16))[1] in ("warn", "fail")
