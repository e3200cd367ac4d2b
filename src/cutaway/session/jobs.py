"""Jobs over whole data sets: where they run, and what became of those that were begun."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cutaway.core import atomic
from cutaway.core.errors import BadOption, NotPossible, unknown_name
from cutaway.core.result import Result, Table
from cutaway.engine.cluster import cluster
from cutaway.engine.execution import Execution, Executor, executing, here
from cutaway.engine.folder import BAD, MANIFEST, finished, is_at_work
from cutaway.engine.folder import cancel as ask_to_stop
from cutaway.engine.local import processes
from cutaway.store import Study

JOBS = "jobs"


@contextlib.contextmanager
def jobs_run(study: Study | None, workers: int | str, partial: bool, recipe: Mapping[str, Any]) -> Iterator[None]:
    """Run the jobs of the methods called inside with these workers, keeping shards in the study."""
    executor = _executor(workers)
    with contextlib.ExitStack() as stack:
        folder = Path(study.path) / JOBS if study is not None else None
        if folder is None and executor is not here:
            with atomic.explained("make a temporary folder"):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cutaway-")))
        stack.enter_context(executing(Execution(executor, folder, partial, recipe)))
        yield


def _executor(workers: int | str) -> Executor:
    """Who does the work.

    Raises:
        BadOption: Neither a number of processes nor Ray.
    """
    text = str(workers)
    if text in ("0", ""):
        return here
    if text.isdigit():
        return processes(int(text))
    kind, _, address = text.partition(":")
    if kind != "ray":
        raise BadOption(f"expected workers as a number of processes, 'ray' or 'ray:HOST:PORT'; got {workers!r}.")
    return cluster(address)


def jobs(study: str | Path) -> Table:
    """The jobs that a study has begun: what they look at, how far they are, and whether somebody works on them now."""
    rows = []
    for path in _folders(study):
        about = _about(path)
        done, shards = len(finished(path)), len(about["shards"])
        state = "running" if is_at_work(path) else "finished" if done >= shards else "stopped"
        bad = len(list((path / BAD).glob("*"))) if (path / BAD).is_dir() else 0
        rows.append([path.name[:12], about["label"], about["model"], about["data"], f"{done} of {shards}", state, bad])
    columns = ["job", "what", "model", "data", "shards", "state", "damaged"]
    return Table(title="jobs", columns=columns, rows=rows)


def resume(study: str | Path, job: str, *, workers: int | str = 0, partial: bool = False) -> Result:
    """Run the method that began a job again; finished shards are not done twice.

    Raises:
        UnknownName: No such job.
        NotPossible: The job was begun with objects that have no text form.
    """
    from cutaway.session.run import run

    about = _about(_found(study, job))
    recipe = about["recipe"]
    if not recipe.get("source") or not about["data"]:
        raise NotPossible(
            f"job {job} was begun with a model or data in memory; make the same call from Python to go on with it."
        )
    from cutaway.zoo import load

    source = dict(recipe["source"])
    model = load(source.pop("model"), **source)
    options = recipe["options"]
    return run(recipe["method"], model, about["data"], study=study, workers=workers, partial=partial, **options)


def cancel(study: str | Path, job: str) -> None:
    """Ask whoever works on a job to stop after the shard at hand.

    Raises:
        NotPossible: Nobody does.
    """
    path = _found(study, job)
    if not is_at_work(path):
        raise NotPossible(f"nobody works on job {job} now; its finished shards are kept.")
    ask_to_stop(path)


def clean(study: str | Path, job: str | None = None) -> list[str]:
    """Remove the files of a job, or of all that nobody works on. Their results are not touched.

    Returns:
        The jobs that were removed.
    """
    wanted = [_found(study, job)] if job else [path for path in _folders(study) if not is_at_work(path)]
    for path in wanted:
        if is_at_work(path):
            raise NotPossible(f"somebody works on job {job} now; cancel it first.")
        with atomic.explained(f"remove {path}"):
            shutil.rmtree(path)
    return [path.name[:12] for path in wanted]


def _folders(study: str | Path) -> list[Path]:
    root = Path(study) / JOBS
    found = [path for path in root.iterdir() if (path / MANIFEST).is_file()] if root.is_dir() else []
    return sorted(found, key=lambda path: (path / MANIFEST).stat().st_mtime)


def _found(study: str | Path, job: str) -> Path:
    fitting = [path for path in _folders(study) if job and path.name.startswith(job)]
    if len(fitting) != 1:
        known = [path.name[:12] for path in _folders(study)]
        raise unknown_name("job", job, known, f"`cutaway jobs --study {study}` lists all.")
    return fitting[0]


def _about(path: Path) -> dict[str, Any]:
    with atomic.explained(f"read {path / MANIFEST}"):
        text = (path / MANIFEST).read_text(encoding="utf-8")
    try:
        about = json.loads(text)
        _ = about["label"], about["model"], about["data"], about["shards"], about["recipe"]
    except (KeyError, TypeError, ValueError) as fault:
        raise NotPossible(f"{path / MANIFEST} is no manifest of a job ({fault}); remove the folder.") from fault
    return dict(about)
