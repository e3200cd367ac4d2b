"""Has every shard of a data set looked at once, and merges their states in order."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.progress import report
from cutaway.engine.execution import Execution, execution
from cutaway.engine.folder import GROUP, JobFolder, Kept
from cutaway.engine.state import State, States
from cutaway.engine.state import fold as merge_all
from cutaway.engine.work import SHARD, Job, Work

__all__ = ["Folded", "Job", "Work", "fold"]


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
    how = execution()
    job = begun(work, model, data, shard, how)
    if how.folder is None:
        return _in_memory(job, label)
    folder = JobFolder(how.folder, job.id)
    with folder.at_work():
        kept, checks = finished(job, how, folder, label)
        while True:
            try:
                return _folded(job, folder, kept, checks)
            except FileNotFoundError:  # another process merged files meanwhile
                kept, _ = folder.parts(len(job.shards), job.weights)


def begun(work: Work, model: Model, data: Dataset, shard: int, how: Execution) -> Job:
    """A job, after refusing what cannot be done and fixing what it is about: weights and files as they are now.

    Raises:
        BadShape: The data set is empty.
        BadOption: A partial answer without a folder.
    """
    if not len(data):
        raise BadShape(f"expected at least one input; {data.source or 'the data set'} is empty.")
    if how.folder is None and how.partial:
        raise BadOption("a partial answer is made of finished shards; name the folder that keeps them.")
    job = Job(work, model, data, shard)
    _ = job.weights, job.parameters, job.stamps
    return job


def finished(job: Job, how: Execution, folder: JobFolder, label: str) -> tuple[list[Kept], dict[str, Check]]:
    """A readable file for each shard, after doing those that have none; of those that are done, if `how` says so.

    Raises:
        NotPossible: A shard cannot be done or kept, or none is done.
    """
    folder.write_manifest(_manifest(job, how, label))
    checks: dict[str, Check] = {}
    kept, bad = folder.parts(len(job.shards), job.weights)
    if bad:
        text = f"{len(bad)} finished shards could not be read back and were done again: {'; '.join(bad)}."
        checks["damaged"] = Check(text, "warn", float(len(bad)))
    missing = _missing(job, kept)
    if missing and not how.partial:
        _do(job, how, folder, label, missing)
        kept, bad = folder.parts(len(job.shards), job.weights)
        if lost := len(_missing(job, kept)):
            raise NotPossible(f"{lost} of {len(job.shards)} shards could not be kept: {'; '.join(bad)}. Run it again.")
    if not kept:
        raise NotPossible("no shard of this job is finished, so there is no partial answer. Run it for a while first.")
    return kept, checks


def _missing(job: Job, kept: list[Kept]) -> list[int]:
    there = {i for k in kept for i in range(k.index, k.stop)}
    return [i for i in range(len(job.shards)) if i not in there]


def _do(job: Job, how: Execution, folder: JobFolder, label: str, missing: list[int]) -> None:
    before = len(job.shards) - len(missing)
    report(label, before, len(job.shards))
    for done, part in enumerate(how.executor(job, folder.wanted(missing)), start=1):
        job.model.spent.update(part.spent if part.elsewhere else {})
        folder.keep(part)
        folder.compact(part.index, len(job.shards))
        folder.check_cancelled()
        report(label, before + done, len(job.shards))


def _in_memory(job: Job, label: str) -> Folded:
    """Without files. Where the order of merging cannot matter, all shards share one set of states."""
    whole = job.work.begin(job.model, job.data, len(job.data))
    together = all(type(state).exact for state in whole.values())
    seen, notes = 0, list[str]()
    report(label, 0, len(job.data))

    def shards() -> Iterator[tuple[int, States]]:
        nonlocal seen, notes
        for index, shard in enumerate(job.shards):
            states = whole if together else job.work.begin(job.model, job.data, len(shard))
            count, said = job.take_in(states, index)
            yield index, states
            seen, notes = seen + count, notes + said
            report(label, shard.stop, len(job.data))

    if together:
        for _ in shards():
            pass
    else:
        whole = in_order(shards())
    return _answer(job, whole, seen, notes, {})


def _folded(job: Job, folder: JobFolder, kept: list[Kept], checks: Mapping[str, Check]) -> Folded:
    seen, notes, examples, devices = 0, list[str](), 0, set[str]()

    def states() -> Iterator[tuple[int, States]]:
        nonlocal seen, notes, examples
        for part in map(folder.read, kept):
            yield part.index, part.states
            seen, notes, examples = seen + part.seen, notes + list(part.notes), examples + part.stop - part.start
            devices.update(part.device.split(", "))

    whole, checks = in_order(states()), dict(checks)
    if examples < len(job.data):
        text = f"Partial: {examples} of {len(job.data)} examples ({examples / len(job.data):.0%}) have been looked at."
        checks["coverage"] = Check(text, "warn", examples / len(job.data))
    if len(devices) > 1:
        text = f"Shards ran on {' and '.join(sorted(devices))}, which differ in the last digits of a network's numbers."
        checks["devices"] = Check(text, "note", float(len(devices)))
    return _answer(job, whole, seen, notes, checks)


def in_order(parts: Iterable[tuple[int, States]]) -> dict[str, State]:
    """States by the number of their shard, rising, merged in groups and then group by group.

    Always in this order, whether the files of a group were merged already or not.
    """
    groups = itertools.groupby(parts, key=lambda part: part[0] // GROUP)
    return merge_all(merge_all(states for _, states in group) for _, group in groups)


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
