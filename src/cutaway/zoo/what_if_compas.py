"""what-if-compas: the What-If Tool's network that repeats COMPAS ratings, 12-200-50-25-1, read from its own file.

The weights are not cutaway's to ship: they are read from CUTAWAY_DATA, or fetched once. The file is the row of float32
numbers that TensorFlow.js wrote: for each layer a kernel (inputs, outputs) and a bias.
"""

import itertools

import numpy as np
import torch
from torch import nn

from cutaway.core.errors import BadShape
from cutaway.core.model import Model
from cutaway.core.space import rows
from cutaway.data.what_if import CLASSES, COLUMNS, FILES, NAME
from cutaway.zoo.entries import Entry

SIZES = (len(COLUMNS), 200, 50, 25, 1)


def load() -> Model:
    """The network, from rows in the user's units to one logit for high risk; the last sigmoid is left to the model."""
    path = FILES.path("group1-shard1of1.bin")
    numbers = torch.from_numpy(np.frombuffer(path.read_bytes(), "<f4").copy())
    layers = list(itertools.pairwise(SIZES))
    if len(numbers) != sum((a + 1) * b for a, b in layers):
        raise BadShape(f"{path.name}: expected {sum((a + 1) * b for a, b in layers):,} numbers; got {len(numbers):,}.")
    parts: list[nn.Module] = []
    for a, b in layers:
        kernel, bias, numbers = numbers.split([a * b, b, len(numbers) - (a + 1) * b])
        linear = nn.Linear(a, b)
        linear.load_state_dict({"weight": kernel.view(a, b).T.contiguous(), "bias": bias})
        parts += [linear, nn.ReLU()]
    space = rows(COLUMNS, low=0.0, high=120.0)
    return Model(nn.Sequential(*parts[:-1]).eval(), space, classes=CLASSES, name=NAME)


MODELS = (Entry(NAME, "COMPAS ratings from twelve columns, the What-If Tool's network (fetched)", load),)
