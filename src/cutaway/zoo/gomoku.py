"""gomoku: a policy-value network that taught itself four in a row on 6 x 6 cells (fetched once).

Its weights lie in a pickle of NumPy arrays. Only the file with the known checksum is read, by an unpickler that knows
stand-ins for the three names that rebuild an array and nothing else: no function of the file's choice is ever called.
"""

import io
import math
import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutaway.attribution.games import InARow
from cutaway.core.errors import BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.space import images
from cutaway.data.fetch import Collection
from cutaway.zoo.entries import Entry

SIDE, ROW = 6, 4
FILE = "best_policy_6_6_4.model"
FILES = Collection(
    "gomoku",
    homes=("https://raw.githubusercontent.com/junxiaosong/AlphaZero_Gomoku/master/",),
    sums={FILE: "00443477e3ad971406482a3c1517ca950c270e6e3d28221021a69d020dfdb176"},
)
# The network's parts in the order of the file's arrays, a weight and a bias for each.
_PARTS = ("conv1", "conv2", "conv3", "policy_conv", "policy", "value_conv", "value_hidden", "value_out")


class PolicyValueNet(nn.Module):
    """Three convolutions that see a position, and two heads: a logit for each move, and the expected result.

    Args:
        side: Cells along a side of the board.
        widths: Channels of the three convolutions.
    """

    def __init__(self, side: int = SIDE, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, widths[0], 3, padding=1)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 3, padding=1)
        self.conv3 = nn.Conv2d(widths[1], widths[2], 3, padding=1)
        self.policy_conv = nn.Conv2d(widths[2], 4, 1)
        self.policy = nn.Linear(4 * side * side, side * side)
        self.value_conv = nn.Conv2d(widths[2], 2, 1)
        self.value_hidden = nn.Linear(2 * side * side, 64)
        self.value_out = nn.Linear(64, 1)
        self.value = nn.Tanh()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of the moves, (n, cells), and the result expected for the player to move, (n, 1), from -1 to 1."""
        for conv in (self.conv1, self.conv2, self.conv3):
            x = torch.relu(conv(x))
        policy = self.policy(torch.relu(self.policy_conv(x)).flatten(1))
        hidden = torch.relu(self.value_hidden(torch.relu(self.value_conv(x)).flatten(1)))
        return {"policy": policy, "value": self.value(self.value_out(hidden))}


def load() -> Model:
    """The network with its published weights; classes are the cells, a1 to f6."""
    net = PolicyValueNet()
    arrays = read_arrays(FILES.path(FILE).read_bytes(), FILE)
    if len(arrays) != 2 * len(_PARTS):
        raise BadShape(f"{FILE}: expected {2 * len(_PARTS)} arrays; got {len(arrays)}.")
    state = {}
    for k, name in enumerate(_PARTS):
        weight, bias = (torch.from_numpy(a) for a in arrays[2 * k : 2 * k + 2])
        # They were trained with a true convolution, which turns the kernel by 180 degrees, and with x @ weight.
        state[f"{name}.weight"] = weight.flip(2, 3) if weight.ndim == 4 else weight.T
        state[f"{name}.bias"] = bias
    net.load_state_dict(state)
    classes = InARow(SIDE, SIDE, ROW).names
    return Model(net.eval(), images(SIDE, channels=4), classes=classes, name="gomoku", output="policy")


class _Type:
    """Stands for `numpy.dtype`: remembers what was asked for."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = code, b"="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Array:
    """Stands for `numpy.ndarray`: takes little-endian float32 and nothing else."""

    values: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        plain = isinstance(kind, _Type) and (kind.code, kind.order) == (b"f4", b"<")
        if not (plain and isinstance(data, bytes) and 4 * math.prod(shape) == len(data)):
            raise ValueError("an array that is not of little-endian float32")
        values = np.frombuffer(data, "<f4").reshape(shape, order="F" if fortran else "C")
        self.values = np.ascontiguousarray(values).copy()


def _rebuilt(*_: Any) -> _Array:
    return _Array()


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _rebuilt,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
}


class _Reader(pickle.Unpickler):
    """Finds the stand-ins and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in."""
        if (module, name) not in _STAND_INS:
            raise NotPossible(f"refused, since it asks for {module}.{name} and not only for arrays.")
        return _STAND_INS[module, name]


def read_arrays(content: bytes, name: str) -> list[np.ndarray]:
    """The float32 arrays of a pickled list, without ever calling what a pickle names.

    Raises:
        NotPossible: It asks for anything but arrays.
        BadShape: It is broken.
    """
    try:
        found = _Reader(io.BytesIO(content), encoding="bytes").load()
        arrays = [array.values for array in found if isinstance(array, _Array)]
    except NotPossible as fault:
        raise NotPossible(f"{name}: {fault}") from None
    except Exception as fault:  # a broken pickle can make the reader raise anything
        raise BadShape(f"{name}: broken, or no list of arrays ({type(fault).__name__}: {fault}).") from fault
    if not isinstance(found, list) or len(arrays) != len(found):
        raise BadShape(f"{name}: expected a list of arrays alone.")
    return arrays


MODELS = (Entry("gomoku", "policy-value net for four in a row, 6 x 6 (fetched)", load),)
