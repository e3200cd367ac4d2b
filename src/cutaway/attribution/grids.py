"""Random smooth masks over an image, and what is known of them without drawing any."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class Masks:
    """Smooth random masks; each is a function of the seed and its number alone.

    A coarse grid of zeros and ones is enlarged, one cell too wide, by linear interpolation; a window of the image's
    size is cut from it at a random place, so that no pixel lies at a fixed place of its cell.

    Args:
        count: How many.
        cells: Cells of the grid along each side.
        keep: Probability of a one, which is also the mean of every pixel.
        height, width: Of the image.
        seed: Draws them.
    """

    def __init__(self, count: int, *, cells: int, keep: float, height: int, width: int, seed: int) -> None:
        # One row of draws for each mask, in order: more masks are the same masks and further ones.
        draws = torch.rand(count, cells * cells + 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.keep = keep
        self._grids = (draws[:, :-2] < keep).float().view(count, 1, cells, cells)
        self._size = (height, width)
        self._cell = (-(-height // cells), -(-width // cells))
        self._shifts = (draws[:, -2:] * torch.tensor(self._cell)).long()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._grids)

    def __getitem__(self, which: slice) -> Float[Tensor, "m h w"]:
        """Some masks, with entries from 0 (hidden) to 1 (shown)."""
        cells = self._grids.shape[-1]
        enlarged = [(cells + 1) * cell for cell in self._cell]
        large = F.interpolate(self._grids[which], size=enlarged, mode="bilinear", align_corners=False)[:, 0]
        (height, width), shifts = self._size, self._shifts[which].tolist()
        return torch.stack([m[y : y + height, x : x + width] for m, (y, x) in zip(large, shifts, strict=True)])

    def covariance(self) -> tuple[Float[Tensor, "h h"], Float[Tensor, "w w"]]:
        """What two pixels of a mask have in common, as the product of a factor for the rows and one for the columns.

        Cov(m[y, x], m[y', x']) = keep (1 - keep) rows[y, y'] columns[x, x']

        For a given shift, a mask is linear in its independent cells, and the same for rows as for columns; the shifts
        are equally likely.
        """
        cells = self._grids.shape[-1]
        factors = []
        for size, cell in zip(self._size, self._cell, strict=True):
            units = torch.eye(cells, dtype=torch.float64)[None]
            share = F.interpolate(units, size=(cells + 1) * cell, mode="linear", align_corners=False)[0]
            common = torch.zeros(size, size, dtype=torch.float64)
            for shift in range(cell):
                cut = share[:, shift : shift + size]
                common += cut.T @ cut / cell
            factors.append(common)
        return factors[0], factors[1]


def averaging(pieces: int, length: int) -> Float[Tensor, "pieces length"]:
    """The matrix that averages a line over nearly equal pieces."""
    return F.adaptive_avg_pool1d(torch.eye(length, dtype=torch.float64)[None], pieces)[0].T
