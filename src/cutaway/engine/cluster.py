"""Shards over a Ray cluster (extra `ray`).

Each actor gets the job once, and so loads the network once; then it gets numbers of shards and sends finished parts
back. Ray runs things and is not trusted with the answer: parts are kept and merged here, exactly as for one process, so
an actor that dies, or a shard that is done twice, changes nothing. Nodes need no common disk.
"""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from cutaway.core.errors import NotPossible
from cutaway.engine.execution import Executor
from cutaway.engine.parcel import opened, parcel
from cutaway.engine.part import Part

if TYPE_CHECKING:
    from cutaway.engine.work import Job

# Times that actors may die without one shard being finished in between.
_DEATHS = 3
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
# For clusters that are started here. One for the life of the process, since Ray remembers the first that it was given.
_OWN_TOKEN = secrets.token_hex(32)


def cluster(address: str = "", workers: int | None = None) -> Executor:
    """An executor on Ray.

    Args:
        address: `host:port` of a cluster, whose token is in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH; empty for one that
            is started on this machine for the job, with a token of its own and without a dashboard.
        workers: Actors; one for each core of the cluster if not given.
    """

    def execute(job: "Job", wanted: Iterable[int]) -> Iterator[Part]:
        with _connected(address, workers) as ray:
            yield from _parts(ray, job, wanted, workers or max(1, int(ray.cluster_resources().get("CPU", 1))))

    return execute


@contextlib.contextmanager
def _connected(address: str, workers: int | None) -> Iterator[Any]:
    """Ray, connected; what was started for this is stopped.

    Raises:
        NotPossible: Ray is missing, has no token, or cannot be reached.
    """
    # Read when Ray starts. Its reports on usage go to a server of its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ["RAY_AUTH_MODE"] = "token"
    own_token = not address and not any(os.environ.get(name) for name in _TOKENS)
    if address and not any(os.environ.get(name) for name in _TOKENS):
        raise NotPossible(
            f"the cluster at {address} needs its token: set {' or '.join(_TOKENS)} to what its nodes were started with."
        )
    if own_token:
        os.environ["RAY_AUTH_TOKEN"] = _OWN_TOKEN
    try:
        try:
            import ray
        except ImportError as fault:
            raise NotPossible("running on Ray needs the extra `ray`: pip install 'cutaway[ray]'.") from fault
        if ray.is_initialized():
            yield ray
            return
        try:
            ray.init(
                address=address or "local",
                num_cpus=None if address else workers,
                include_dashboard=None if address else False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except Exception as fault:  # whatever its C++ parts say
            raise NotPossible(f"Ray could not be reached at {address or 'this machine'}: {fault}") from fault
        try:
            yield ray
        finally:
            ray.shutdown()
    finally:
        if own_token:
            del os.environ["RAY_AUTH_TOKEN"]


class _Looker:
    """In an actor: one job, opened once."""

    def __init__(self, job: bytes) -> None:
        self._job = opened(job)

    def do(self, index: int) -> bytes:
        """A finished part as bytes."""
        return self._job.do(index).packed()


def _parts(ray: Any, job: "Job", wanted: Iterable[int], workers: int) -> Iterator[Part]:
    looker, parcelled = ray.remote(num_cpus=1)(_Looker), ray.put(parcel(job))
    left, idle, deaths = [*wanted][::-1], list[Any](), 0
    busy: dict[Any, tuple[Any, int | None]] = {}

    def hire() -> None:
        # An actor that has no place yet, as when a node was lost, gets no shard: nobody else could take it over.
        actor = looker.remote(parcelled)
        busy[actor.__ray_ready__.remote()] = actor, None

    for _ in range(min(workers, len(job.shards))):
        hire()
    try:
        while left or any(index is not None for _, index in busy.values()):
            while idle and left:
                actor, shard = idle.pop(), left.pop()
                busy[actor.do.remote(shard)] = actor, shard
            (done,), _ = ray.wait(list(busy), num_returns=1)
            actor, index = busy.pop(done)
            try:
                answer = ray.get(done)
            except ray.exceptions.RayActorError as fault:
                deaths += 1
                if deaths == _DEATHS:
                    raise NotPossible(f"an actor died {deaths} times, last {_at(job, index)}: {fault}") from fault
                left += [] if index is None else [index]
                hire()
            except ray.exceptions.RayTaskError as fault:
                raise fault.cause or fault from None
            else:
                idle.append(actor)
                if index is not None:
                    deaths = 0
                    yield Part.unpacked(answer, elsewhere=True)
    finally:
        for actor in (*idle, *(actor for actor, _ in busy.values())):
            with contextlib.suppress(Exception):
                ray.kill(actor)


def _at(job: "Job", index: int | None) -> str:
    if index is None:
        return "before it had begun"
    return f"at shard {index} (examples {job.shards[index].start}-{job.shards[index].stop - 1})"
