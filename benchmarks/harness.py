"""Contenders side by side in one process: interleaved, one thread, CPU seconds and peak memory, equal answers asserted.

    python benchmarks/gradients.py

prints a table, and writes it as JSON beside the script's name in `benchmarks/results/`.
"""

import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import cutaway

torch.set_num_threads(1)
RESULTS = Path(__file__).parent / "results"


@dataclass
class Contender:
    """One way to get an answer.

    Attributes:
        name: Whose it is and with which settings.
        run: Gives the answer.
        seconds: CPU seconds of each counted run.
        peak: Highest memory above the start of a run, in MiB.
        answer: Of the last run.
    """

    name: str
    run: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0
    answer: Any = None


def race(
    title: str, contenders: list[Contender], *, rounds: int = 5, note: str = "", warm_up: bool = True
) -> dict[str, Contender]:
    """Run all contenders in turn, `rounds` times after one warm-up, and print their figures."""
    for turn in range(0 if warm_up else 1, rounds + 1):
        for contender in contenders:
            _forget_peak()
            before, started = _memory("VmRSS"), time.process_time()
            contender.answer = contender.run()
            spent = time.process_time() - started
            contender.peak = max(contender.peak, _memory("VmHWM") - before)
            if turn:
                contender.seconds.append(spent)
    _tell(title, contenders, note)
    return {c.name: c for c in contenders}


def equal(a: torch.Tensor, b: torch.Tensor, *, tolerance: float, what: str) -> None:
    """Assert that two answers agree, and print by how much they differ."""
    off = float((a - b).abs().max()) / max(float(b.abs().max()), 1e-30)
    print(f"  largest difference of {what}: {off:.1e} of the largest value")
    assert off <= tolerance, f"{what}: {off} > {tolerance}"


def save(script: str, figures: dict[str, Any]) -> None:
    """Keep the figures of a script, with what they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    about = {
        "cutaway": cutaway.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": 1,
    }
    path = RESULTS / f"{Path(script).stem}.json"
    path.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")


def figures(contenders: dict[str, Contender]) -> dict[str, dict[str, float]]:
    """Least and median CPU seconds and peak memory by contender."""
    return {
        c.name: {
            "least": round(min(c.seconds), 4),
            "median": round(statistics.median(c.seconds), 4),
            "peak_mib": round(c.peak, 1),
        }
        for c in contenders.values()
    }


def _tell(title: str, contenders: list[Contender], note: str) -> None:
    print(f"\n{title}{f'  ({note})' if note else ''}")
    print(f"  {'':44}{'least':>9}{'median':>9}{'ratio':>8}{'peak MiB':>10}")
    first = statistics.median(contenders[0].seconds)
    for c in contenders:
        median = statistics.median(c.seconds)
        print(f"  {c.name:44}{min(c.seconds):9.3f}{median:9.3f}{median / first:8.2f}{c.peak:10.0f}")


def _forget_peak() -> None:
    # Not Linux, or not allowed: the peak is then that of the whole run.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _memory(field_: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_):
            return int(line.split()[1]) / 1024
    return 0.0
