"""A job as bytes for another process of the same user.

Never read from a file or a request, since bytes like these carry code.
"""

import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import cloudpickle

from cutaway.core.errors import NotPossible

if TYPE_CHECKING:
    from cutaway.engine.work import Job


def parcel(job: "Job") -> bytes:
    """The job with its network and, where they are in memory, its examples.

    Raises:
        NotPossible: The network cannot be sent.
    """
    by_value = _unknown_elsewhere(job)
    for module in by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(job))
    except Exception as error:  # a network may hold anything: open files, locks, generators
        raise NotPossible(
            f"{job.model.name} cannot be sent to another process ({type(error).__name__}: {error}). "
            "Run the job in this process: workers=0."
        ) from error
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)


def opened(data: bytes) -> "Job":
    """The inverse of `parcel`."""
    job: Job = cloudpickle.loads(data)
    return job


def told(fault: Exception, where: str) -> bytes:
    """An error as bytes; one that cannot travel becomes a `RuntimeError` that says `where` it came from."""
    try:
        data = bytes(cloudpickle.dumps(fault))
        cloudpickle.loads(data)
    except Exception:  # a class may refuse either way
        data = bytes(cloudpickle.dumps(RuntimeError(where)))
    return data


def _unknown_elsewhere(job: "Job") -> list[ModuleType]:
    """Modules of the user's own that another process might not find: of the network's classes, and their neighbours.

    What is installed, and cutaway itself, is taken for granted on the other side; a file beside a script is not.
    """
    names = {type(m).__module__ for m in job.model.module.modules()} | {type(job.work).__module__}
    own = [sys.modules[name] for name in names if name in sys.modules and not _installed(sys.modules[name])]
    folders = {folder for module in own if (folder := _folder(module))}
    beside = [m for m in list(sys.modules.values()) if _folder(m) in folders and not _installed(m)]
    return [module for module in dict.fromkeys(own + beside) if module.__name__ != "__main__"]


def _installed(module: ModuleType) -> bool:
    """Part of Python, of an installed package, or of cutaway."""
    if module.__name__.partition(".")[0] == "cutaway":
        return True
    folder = _folder(module)
    return folder is None or any(folder.is_relative_to(home) for home in _HOMES)


def _folder(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve().parent if isinstance(file, str) else None


_HOMES = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
