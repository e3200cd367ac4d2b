"""The other end of `engine.local`: a process that takes a job, then numbers of shards, and hands back finished parts.

Everything goes through its standard input and output, as frames of 8 bytes of length and that many bytes. It ends when
its input does, so it never outlives its coordinator.
"""

import os
import queue
import signal
import sys
import threading
import traceback
from typing import IO

PART, FAULT = b"P", b"F"


def send(stream: IO[bytes], data: bytes) -> None:
    """Write one frame."""
    stream.write(len(data).to_bytes(8, "little"))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes | None:
    """Read one frame; None at the end."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    size = int.from_bytes(head, "little")
    data = stream.read(size)
    return data if len(data) == size else None


def main() -> None:
    """Serve one job until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a network prints must not get between the frames
    path, threads, job = (receive(source) or b"" for _ in range(3))
    sys.path[:] = path.decode().split("\0")
    numbers: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(source, numbers), daemon=True).start()
    _serve(answers, numbers, int(threads), job)


def _serve(answers: IO[bytes], numbers: "queue.Queue[bytes]", threads: int, data: bytes) -> None:
    import torch

    from cutaway.engine.parcel import opened

    torch.set_num_threads(threads)
    job = opened(data)
    while True:
        index = int(numbers.get())
        try:
            answer = PART + job.do(index).packed()
        except Exception as fault:  # handed over, whatever it is
            answer = FAULT + _told(fault)
        send(answers, answer)


def _told(fault: Exception) -> bytes:
    """An error as bytes, with where it came from; what cannot travel is told in words."""
    from cutaway.engine.parcel import told

    where = "".join(traceback.format_exception(fault))
    fault.add_note(f"In another process:\n{where}")
    return told(fault, where)


def _listen(source: IO[bytes], numbers: "queue.Queue[bytes]") -> None:
    """Take numbers in; at the end of the input, end the process, also in the middle of a shard."""
    while (number := receive(source)) is not None:
        numbers.put(number)
    os._exit(0)


if __name__ == "__main__":
    main()
