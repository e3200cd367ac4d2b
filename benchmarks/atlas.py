"""What an activation atlas costs for each activation: laying out 10,000 to 100,000 of them, and whitening and cells."""

import time

import torch

from cutaway.visualization.atlas_layout import in_cells, laid_out, whitened
from harness import save

CHANNELS, KINDS = 112, 60
COUNTS = (10_000, 30_000, 100_000)


def points(count: int) -> torch.Tensor:
    """Activations of as many kinds, after a rectifier."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.rand(KINDS, CHANNELS, generator=generator) ** 4
    which = torch.randint(KINDS, (count,), generator=generator)
    return (kinds[which] + 0.15 * torch.randn(count, CHANNELS, generator=generator)).clamp(min=0)


def seconds(work: object) -> float:
    """CPU time."""
    started = time.process_time()
    work()  # type: ignore[operator]  # a function
    return time.process_time() - started


laid_out(points(5000), "umap", 0)  # numba compiles at the first use, for many points other things than for few
found = {}
for count in COUNTS:
    rows, places = points(count), []
    layout = seconds(lambda rows=rows, places=places: places.append(laid_out(rows, "umap", 0)))
    rest = seconds(lambda rows=rows, places=places: (whitened(rows), in_cells(places[0], 10, 10).mean(rows)))
    found[f"{count:,} activations"] = {
        "layout, s": round(layout, 2),
        "the rest, s": round(rest, 2),
        "layout of one, ms": round(1000 * layout / count, 3),
    }
    print(count, found[f"{count:,} activations"], flush=True)
save(__file__, {"layout": found})
