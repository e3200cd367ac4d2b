"""A user's own torch module as a `Model`: from an object, or from a factory in a Python file with weights beside it."""

import hashlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from torch import nn

from cutaway.core.errors import BadOption, BadShape, CutawayError, NotPossible, UnknownName, unknown_name
from cutaway.core.model import Model
from cutaway.core.space import Space
from cutaway.core.trace import ScoreKind
from cutaway.zoo.checkpoints import fill, read_state
from cutaway.zoo.options import classes_of, space_of


def module_model(
    module: nn.Module,
    *,
    space: Space | None = None,
    size: int | str | tuple[int, int] | None = None,
    channels: int = 3,
    mean: float | str | Sequence[float] = 0.0,
    std: float | str | Sequence[float] = 1.0,
    columns: int | str | Sequence[str] | None = None,
    classes: Any = None,
    weights: str | Path | None = None,
    name: str = "",
    output: str = "",
    scores: ScoreKind = "logits",
) -> Model:
    """A torch module with what its input and output mean.

    Args:
        module: The network; weights, if given, are put into it.
        space: Its input, as an object; or the next five options.
        size: Height and width of its images.
        channels: 3 for colour, 1 for grey.
        mean, std: Its own normalisation, in input units.
        columns: For rows of a table, instead of a size: how many, or their names.
        classes: Names, a text file with one per line, or "imagenet".
        weights: A `.safetensors` file, or a torch file with tensors only.
        name: What to call it.
        output: Which part of the output is meant, where there are several.
        scores: What the output is.
    """
    if scores not in ("logits", "probabilities", "values"):
        raise BadOption(f"expected scores as logits, probabilities or values; got {scores!r}.")
    if space is None:
        space = space_of(size=size, channels=channels, mean=mean, std=std, columns=columns)
    notes = []
    if weights is not None:
        notes = fill(module, read_state(weights), Path(weights).name)
        if Path(weights).suffix != ".safetensors":
            notes.append(
                f"{Path(weights).name} was read as tensors only; .safetensors is the safer form to keep weights in"
            )
    model = Model(module.eval(), space, classes=classes_of(classes), name=name, output=output, scores=scores)
    model.notes += notes
    return model


def made_by(spec: str) -> Model | nn.Module:
    """What a factory in a Python file makes. The file is run: it must be one that you trust.

    Args:
        spec: `path/net.py:factory`; the factory is a function or class without arguments, or a module.
    """
    file, _, factory = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UnknownName(f"no Python file at {file!r}. Give path/net.py:factory.")
    try:
        with _importable(path) as namespace:
            made = _found(namespace, factory, path.name)
    except CutawayError:
        raise
    except Exception as fault:  # the user's code may raise anything
        raise NotPossible(f"{path.name}:{factory} failed with {type(fault).__name__}: {fault}") from fault
    if not isinstance(made, nn.Module | Model):
        raise BadOption(f"expected {path.name}:{factory} to make a torch.nn.Module; got {type(made).__name__}.")
    return made


def _found(namespace: ModuleType, factory: str, file: str) -> Any:
    if not hasattr(namespace, factory):
        names = [name for name, value in vars(namespace).items() if not name.startswith("_") and callable(value)]
        raise unknown_name(f"name in {file} called", factory, names, "Give path/net.py:factory.")
    found = getattr(namespace, factory)
    return found if isinstance(found, nn.Module | Model) else found()


class _AsWritten(importlib.machinery.SourceFileLoader):
    """Runs a file as it is now; compiled code that Python keeps is taken for new for a second, and lies in the way."""

    def get_code(self, fullname: str) -> CodeType:
        """The file, compiled."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


@contextmanager
def _importable(path: Path) -> Iterator[ModuleType]:
    """The file as a module, which may import its neighbours."""
    path = path.resolve()
    name = f"cutaway_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadShape(f"{path.name}: expected a Python file, ending in .py.")
    spec.loader = _AsWritten(name, str(path))
    module = importlib.util.module_from_spec(spec)
    # Registered, since dataclasses look their own module up.
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(path.parent))
