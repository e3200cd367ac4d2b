"""Jobs: a data set cut into shards, each looked at once, and their states merged in order."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

import cutaway
from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset, Examples
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.fingerprint import as_text, fingerprint
from cutaway.core.model import Model
from cutaway.core.progress import report
from cutaway.engine.execution import Execution, execution
from cutaway.engine.folder import JobFolder, Part
from cutaway.engine.state import State, States, merged

# Examples in memory at once, decoded.
BATCH = 32
# Examples in a shard: ten seconds of work or more for an ImageNet network on one core.
SHARD = 256


class Work(Protocol):
    """What a method does with a data set: a frozen dataclass, whose fields are all that it depends on."""

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Empty states.

        Args:
            model: The network.
            data: The whole set.
            examples: How many of them these states will see.
        """

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Take a batch in.

        Args:
            states: As `begin` made them; they are changed.
            model: The network.
            x: The examples as the network takes them.
            part: The examples with what is known about them.
            ids: The number of each in the whole set, (n,).
        """


@dataclass(frozen=True)
class Folded:
    """The answer of a job.

    Attributes:
        states: Merged over all shards that were done.
        seen: How many examples that were.
        examples: How many the data set has.
        checks: What a reader has to know: shards that were done again, files left out, a part that is missing.
    """

    states: dict[str, State]
    seen: int
    examples: int
    checks: dict[str, Check]


@dataclass(frozen=True)
class Job:
    """One work on one model and one data set.

    Attributes:
        work: What to do.
        model: The network.
        data: The set.
        shard: Examples in a shard.
    """

    work: Work
    model: Model
    data: Dataset
    shard: int = SHARD

    @cached_property
    def weights(self) -> str:
        """The hash of the weights when the job began."""
        return self.model.fingerprint

    @cached_property
    def id(self) -> str:
        """A hash of everything that the answer depends on."""
        values = {f.name: getattr(self.work, f.name) for f in dataclasses.fields(self.work)}  # type: ignore[arg-type]  # a dataclass
        about = {
            "work": f"{type(self.work).__module__}.{type(self.work).__qualname__}",
            "options": {name: _hashed(value) for name, value in values.items()},
            "model": self.weights,
            "space": repr(self.model.space),
            "data": self.data.fingerprint,
            "shard": self.shard,
            "cutaway": cutaway.__version__,
            "torch": str(torch.__version__),
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def shards(self) -> list[range]:
        """The manifest: which examples belong together."""
        n = len(self.data)
        return [range(start, min(start + self.shard, n)) for start in range(0, n, self.shard)]

    def do(self, index: int) -> Part:
        """Look at one shard.

        Raises:
            NotPossible: The weights are not those that the job began with.
        """
        shard = self.shards[index]
        before = Counter(self.model.spent)
        states = self.work.begin(self.model, self.data, len(shard))
        seen, notes = self.take_in(states, shard)
        if self.model.fingerprint != self.weights:
            raise NotPossible(
                f"the weights of {self.model.name} changed while shard {index} was looked at; leave the network alone "
                "while a job runs, and start it again."
            )
        spent = Counter(self.model.spent) - before
        return Part(self.id, index, shard.start, shard.stop, self.weights, seen, tuple(notes), dict(spent), states)

    def take_in(self, states: States, shard: range) -> tuple[int, list[str]]:
        """Bring some examples into states; how many there were, and what was said about their files."""
        seen, notes = 0, []
        with self.model.borrow():
            for start in range(shard.start, shard.stop, BATCH):
                part = self.data[start : min(start + BATCH, shard.stop)]
                notes += part.notes
                if len(part):
                    ids = torch.arange(start, start + len(part)) if part.ids is None else part.ids
                    self.work.update(states, self.model, self.model.inputs(part), part, ids)
                seen += len(part)
        return seen, notes


def fold(work: Work, model: Model, data: Dataset, *, label: str, shard: int = SHARD) -> Folded:
    """Have every shard of a data set looked at, where and how `execution` says, and merge the answers.

    Args:
        work: What to do with the examples.
        model: The network.
        data: The set.
        label: What to call it in the progress.
        shard: Examples in a shard.

    Raises:
        BadShape: The data set is empty, or nothing in it could be read.
        NotPossible: A shard cannot be done.
    """
    if not len(data):
        raise BadShape(f"expected at least one input; {data.source or 'the data set'} is empty.")
    job, how = Job(work, model, data, shard), execution()
    if how.folder is None:
        if how.partial:
            raise BadOption("a partial answer is made of finished shards; name the folder that keeps them.")
        return _in_memory(job, label)
    return _kept(job, how, label)


def _in_memory(job: Job, label: str) -> Folded:
    """Without files. Where the order of merging cannot matter, all shards share one set of states."""
    whole = job.work.begin(job.model, job.data, len(job.data))
    together = all(type(state).exact for state in whole.values())
    seen, notes = 0, list[str]()
    merged_parts: dict[str, State] | None = None
    report(label, 0, len(job.data))
    for index, shard in enumerate(job.shards):
        if together:
            count, said = job.take_in(whole, shard)
        else:
            part = job.do(index)
            count, said = part.seen, list(part.notes)
            merged_parts = dict(part.states) if merged_parts is None else merged(merged_parts, part.states)
        seen, notes = seen + count, notes + said
        report(label, shard.stop, len(job.data))
    return _answer(job, whole if together else merged_parts or whole, seen, notes, {})


def _kept(job: Job, how: Execution, label: str) -> Folded:
    """With a file for each finished shard, so that the job can be stopped and gone on with."""
    assert how.folder is not None
    folder = JobFolder(how.folder, job.id)
    checks: dict[str, Check] = {}
    with folder.at_work():
        folder.write_manifest(_manifest(job, how, label))
        parts, bad = folder.parts(len(job.shards), job.weights)
        if bad:
            text = f"{len(bad)} finished shards could not be read back and were done again: {'; '.join(bad)}."
            checks["damaged"] = Check(text, "warn", float(len(bad)))
        missing = [i for i in range(len(job.shards)) if i not in parts]
        if not how.partial and missing:
            _do_missing(job, how, folder, label, missing)
            parts, bad = folder.parts(len(job.shards), job.weights)
        lost = len(job.shards) - len(parts)
        if lost and not how.partial:
            raise NotPossible(f"{lost} of {len(job.shards)} shards could not be kept: {'; '.join(bad)}. Run it again.")
        if not parts:
            raise NotPossible(
                "no shard of this job is finished, so there is no partial answer. Run it for a while first."
            )
        return _folded(job, folder, parts, checks)


def _do_missing(job: Job, how: Execution, folder: JobFolder, label: str, missing: list[int]) -> None:
    before = len(job.shards) - len(missing)
    report(label, before, len(job.shards))
    for done, part in enumerate(how.executor(job, folder.wanted(missing)), start=1):
        job.model.spent.update(part.spent if part.elsewhere else {})
        folder.keep(part)
        folder.check_cancelled()
        report(label, before + done, len(job.shards))


def _folded(job: Job, folder: JobFolder, parts: Mapping[int, Any], checks: dict[str, Check]) -> Folded:
    whole: dict[str, State] | None = None
    seen, notes, examples = 0, list[str](), 0
    for index in sorted(parts):
        part = folder.read(parts[index])
        whole = dict(part.states) if whole is None else merged(whole, part.states)
        seen, notes, examples = seen + part.seen, notes + list(part.notes), examples + part.stop - part.start
    assert whole is not None
    if examples < len(job.data):
        text = f"Partial: {examples} of {len(job.data)} examples ({examples / len(job.data):.0%}) have been looked at."
        checks["coverage"] = Check(text, "warn", examples / len(job.data))
    return _answer(job, whole, seen, notes, checks)


def _answer(job: Job, states: dict[str, State], seen: int, notes: list[str], checks: dict[str, Check]) -> Folded:
    if not seen:
        raise BadShape(f"none of the {len(job.data)} examples of {job.data.source or 'the data set'} could be read.")
    for k, note in enumerate(dict.fromkeys(notes)):
        checks[f"data_{k}" if k else "data"] = Check(note, "note")
    return Folded(states, seen, len(job.data), checks)


def _manifest(job: Job, how: Execution, label: str) -> dict[str, Any]:
    return {
        "label": label,
        "job": job.id,
        "model": job.model.name,
        "weights": job.weights,
        "data": job.data.source,
        "examples": len(job.data),
        "shards": [[shard.start, shard.stop] for shard in job.shards],
        "recipe": dict(how.recipe),
    }


def _hashed(value: Any) -> Any:
    """A field of a work as text; tensors by their content."""
    if isinstance(value, Tensor):
        return fingerprint(value)
    if isinstance(value, Mapping):
        return {str(k): _hashed(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_hashed(v) for v in value]
    return as_text(value)
