"""The default `cutaway explain` of one photo, as a user runs it: wall time, CPU seconds, peak memory of the process."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    # As many threads as the machine has: this is the user's wall time, not a comparison of methods.
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-m", "cutaway", "explain", "photos/chelsea", "--out", folder + "/out"]
    subprocess.run([sys.executable, "-c", "import cutaway.report.compose"], check=True, env=env)  # warms the disk
    started = time.perf_counter()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - started
used = resource.getrusage(resource.RUSAGE_CHILDREN)
figures = {
    "wall_seconds": round(wall, 1),
    "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
    "peak_mib": round(used.ru_maxrss / 1024),
    "cores": os.cpu_count(),
}
print("cutaway explain photos/chelsea:", ", ".join(f"{name} {value}" for name, value in figures.items()))
path = Path(__file__).parent / "results" / "explain.json"
path.write_text(json.dumps(figures, indent=1) + "\n")
