"""A finished shard, or several that were merged, as one file that says what it is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import safetensors
import safetensors.torch

from cutaway.engine.state import State, States, fold


@dataclass(frozen=True)
class Part:
    """A finished shard, or a run of them.

    Attributes:
        job: The job's id.
        index, start, stop: Which shard, and its examples; of a run, the first shard.
        weights: Hash of the network that looked at it.
        seen: Examples that could be read.
        notes: What was said about their files.
        spent: Network passes.
        states: What was kept.
        device: Where the network ran.
        shards: How many shards it holds.
        elsewhere: True if another process spent the passes.
    """

    job: str
    index: int
    start: int
    stop: int
    weights: str
    seen: int
    notes: tuple[str, ...]
    spent: Mapping[str, int]
    states: States = field(repr=False)
    device: str = "cpu"
    shards: int = 1
    elsewhere: bool = False

    @property
    def name(self) -> str:
        """How the file's name begins: the shard, or the first and the last of a run."""
        last = self.index + self.shards - 1
        return f"{self.index:06d}" if self.shards == 1 else f"{self.index:06d}-{last:06d}"

    def packed(self) -> bytes:
        """The part as a safetensors file: the same bytes wherever it was made."""
        arrays = {f"{name}/{key}": t for name, s in self.states.items() for key, t in s.arrays().items()}
        header = {
            "job": self.job,
            "index": self.index,
            "start": self.start,
            "stop": self.stop,
            "weights": self.weights,
            "seen": self.seen,
            "notes": list(self.notes),
            "spent": dict(sorted(self.spent.items())),
            "device": self.device,
            "shards": self.shards,
            "kinds": {name: type(state).__name__ for name, state in sorted(self.states.items())},
        }
        return safetensors.torch.save(arrays, {"cutaway": json.dumps(header, sort_keys=True)})

    @classmethod
    def unpacked(cls, data: bytes, *, elsewhere: bool = False) -> "Part":
        """The inverse of `packed`.

        Raises:
            ValueError: These bytes are no part.
        """
        try:
            size = int.from_bytes(data[:8], "little")
            header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["cutaway"])
            kinds, arrays = header.pop("kinds"), safetensors.torch.load(data)
            grouped: dict[str, dict[str, Any]] = {name: {} for name in kinds}
            for key, tensor in arrays.items():
                name, _, inner = key.rpartition("/")
                grouped[name][inner] = tensor
            states = {name: State.kinds[kind].of(grouped[name]) for name, kind in kinds.items()}
            return cls(**header | {"notes": tuple(header["notes"])}, states=states, elsewhere=elsewhere)
        except (KeyError, TypeError, ValueError, UnicodeDecodeError, safetensors.SafetensorError) as error:
            raise ValueError(f"no part of a job ({error})") from error


def joined(parts: Sequence[Part]) -> Part:
    """Neighbouring shards as one part, merged in their order."""
    return replace(
        parts[0],
        stop=parts[-1].stop,
        seen=sum(part.seen for part in parts),
        notes=tuple(note for part in parts for note in part.notes),
        spent={kind: sum(part.spent.get(kind, 0) for part in parts) for part in parts for kind in part.spent},
        states=fold(part.states for part in parts),
        device=", ".join(sorted({part.device for part in parts})),
        shards=sum(part.shards for part in parts),
    )
