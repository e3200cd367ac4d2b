"""Shards over processes of this machine.

Each process is started anew, gets the job once and then numbers of shards. It does not run the user's script again, so
a script needs no guard. One that dies takes no shard with it: the others' parts are kept, another one takes its place,
and a shard that kills its process again and again is named.
"""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import cloudpickle
import torch

from cutaway.core.errors import BadOption, NotPossible
from cutaway.engine.execution import Executor
from cutaway.engine.parcel import parcel
from cutaway.engine.part import Part
from cutaway.engine.worker import PART, receive, send

if TYPE_CHECKING:
    from cutaway.engine.work import Job

# Times that a shard may kill its process.
_DEATHS = 3


def processes(workers: int) -> Executor:
    """An executor with so many processes.

    Raises:
        BadOption: Fewer than one.
    """
    if workers < 1:
        raise BadOption(f"expected at least one process; got {workers}.")

    def execute(job: "Job", wanted: Iterable[int]) -> Iterator[Part]:
        team = _Team(job, workers)
        try:
            yield from team.parts(iter(wanted))
        finally:
            team.stop()

    return execute


class _Team:
    """Processes, each with a thread here that waits for it."""

    def __init__(self, job: "Job", workers: int) -> None:
        self._job, self._parcel = job, parcel(job)
        self._threads = max(1, torch.get_num_threads() // workers)
        self._workers = min(workers, len(job.shards))
        self._answers: queue.Queue[tuple[int, bytes | None]] = queue.Queue()
        self._numbers: queue.Queue[int | None] = queue.Queue()
        self._running: list[subprocess.Popen[bytes]] = []

    def parts(self, wanted: Iterator[int]) -> Iterator[Part]:
        """Finished parts. New numbers are drawn as processes become free."""
        for _ in range(self._workers):
            threading.Thread(target=self._tend, daemon=True).start()
        waiting, deaths = 0, dict[int, int]()
        for index in wanted:
            self._numbers.put(index)
            waiting += 1
            if waiting > self._workers:  # none waits for the coordinator, and a stop is soon
                yield from self._next(deaths)
                waiting -= 1
        while waiting:
            yield from self._next(deaths)
            waiting -= 1

    def _next(self, deaths: dict[int, int]) -> Iterator[Part]:
        """The next finished part; shards whose process died are tried again."""
        while True:
            index, answer = self._answers.get()
            if answer is not None and answer[:1] == PART:
                yield Part.unpacked(answer[1:], elsewhere=True)
                return
            if answer is not None:
                raise cloudpickle.loads(answer[1:])
            deaths[index] = deaths.get(index, 0) + 1
            if deaths[index] == _DEATHS:
                shard = self._job.shards[index]
                raise NotPossible(
                    f"a process died {_DEATHS} times while it looked at shard {index} (examples {shard.start}-"
                    f"{shard.stop - 1}); too little memory is the usual reason. Use fewer workers."
                )
            self._numbers.put(index)

    def _tend(self) -> None:
        """Keep one process at work."""
        process = None
        while (index := self._numbers.get()) is not None:
            process = process or self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                send(process.stdin, str(index).encode())
                answer = receive(process.stdout)
            except (OSError, ValueError):  # it died, or was stopped, while it was spoken to
                answer = None
            self._answers.put((index, answer))
            if answer is None:
                process = None

    def _started(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "cutaway.engine.worker"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment())
        self._running.append(process)
        assert process.stdin is not None
        try:
            for data in ("\0".join(sys.path).encode(), str(self._threads).encode(), self._parcel):
                send(process.stdin, data)
        except OSError:  # it died at once; whoever asks it will see
            pass
        return process

    def stop(self) -> None:
        """End all processes, whatever they are doing."""
        for _ in range(self._workers):
            self._numbers.put(None)
        for process in self._running:
            process.kill()
        for process in self._running:
            process.wait()
            for stream in (process.stdin, process.stdout):
                try:
                    if stream is not None:
                        stream.close()
                except OSError:  # unsent bytes for a process that is gone
                    pass


def _environment() -> dict[str, str]:
    """So that the new process finds cutaway where this one has it."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
