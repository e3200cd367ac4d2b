"""What all tests share: one thread, fixed seeds, and no network beyond this machine."""

import os

# Before torch is imported: two test processes with one thread each are faster on two cores than two thread pools.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import ipaddress
import random
import sys

import hypothesis
import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

# Shapes and types in the signatures of methods are checked while tests run, and only then. Before cutaway is imported.
CHECKED = ["cutaway.attribution", "cutaway.evaluation", "cutaway.maths", "cutaway.core.features"]
install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

torch.set_num_threads(1)

# The same examples in every run: a failure in CI is a failure here. Time limits are pytest's.
hypothesis.settings.register_profile("cutaway", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("cutaway")


def _is_loopback(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _no_network(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if not _is_loopback(host):
        raise OSError(f"tests have no network; something asked for {host!r}")


# An audit hook also sees what libraries in C ask for. It cannot be removed, and need not be.
sys.addaudithook(_no_network)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same global random state before each test. cutaway itself never draws from it."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 libraries under test draw from the legacy generator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
