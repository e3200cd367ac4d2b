"""Who took relevance on its way down: biases, stabilisers and constants, by operation."""

from collections import Counter
from dataclasses import dataclass, field

from cutaway.core.model import Model
from cutaway.core.operations import Call, Operation


@dataclass
class Entry:
    """What one operation did with the relevance of all inputs together.

    Attributes:
        rule: Its name, for an operation with weights.
        came: Relevance that came in.
        biases: What biases and constants took.
        lost: What went nowhere.
    """

    operation: Operation
    rule: str
    came: float = 0.0
    biases: float = 0.0
    lost: float = 0.0


@dataclass
class Chunk:
    """What happened to the inputs that ran together.

    Attributes:
        begun: The model's count of forwards, which tells a chunk from its second try.
        start: Relevance that it began with.
    """

    begun: int
    start: float = 0.0
    entries: list[Entry] = field(default_factory=list)


@dataclass
class Ledger:
    """All chunks of a run; one that ran out of memory is forgotten when it is tried again.

    Attributes:
        held: Names of operations whose factors, weights or spreads were held constant.
        shared: Products of which each signal got the same share.
    """

    model: Model
    held: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)
    _chunks: dict[int, Chunk] = field(default_factory=dict)

    @property
    def _now(self) -> Chunk:
        done, begun = self.model.spent["backwards"], self.model.spent["forwards"]
        if done not in self._chunks or self._chunks[done].begun != begun:
            self._chunks[done] = Chunk(begun)
        return self._chunks[done]

    def begin(self, start: float) -> None:
        """Relevance begins at the target."""
        self._now.start = start

    def write(self, call: Call, rule: str = "", came: float = 0.0, biases: float = 0.0, lost: float = 0.0) -> None:
        """Add an entry."""
        self._now.entries.append(Entry(Operation(call.name, call.site), rule, came, biases, lost))

    @property
    def start(self) -> float:
        """Relevance that all inputs began with."""
        return sum(chunk.start for chunk in self._chunks.values())

    @property
    def entries(self) -> list[Entry]:
        """One for each operation that took part, in each chunk."""
        return [entry for chunk in self._chunks.values() for entry in chunk.entries]

    def taken(self) -> tuple[float, float]:
        """What biases and constants took, and what was lost, in all."""
        return sum(e.biases for e in self.entries), sum(e.lost for e in self.entries)

    def places(self) -> dict[str, tuple[float, float, float]]:
        """For each place: what came in, what biases and constants took there, and what was lost; over all inputs."""
        found: dict[str, tuple[float, float, float]] = {}
        for e in self.entries:
            name = e.operation.site or "the top of the network"
            came, biases, lost = found.get(name, (0.0, 0.0, 0.0))
            found[name] = came + e.came, biases + e.biases, lost + e.lost
        return found

    def rules(self) -> Counter[str]:
        """How often each rule acted on each kind of operation, for the last inputs."""
        last = max(self._chunks, default=None)
        entries = [] if last is None else self._chunks[last].entries
        return Counter(f"{e.operation.name} by {e.rule}" for e in entries if e.rule)
