"""Options that several commands share: which model, which inputs, where results go."""

import functools
import os
import sys
import webbrowser
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click

from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption
from cutaway.core.model import Model
from cutaway.data import join, load
from cutaway.data.texts import written
from cutaway.zoo import load as load_model

Command = Callable[..., Any]
MODEL, TEXT_MODEL = "efficientnet-lite0", "sentiment-lstm"
_OWN = {
    "weights": "Weights of your own network: a .safetensors or .pt file.",
    "size": "Size of its input images in pixels: 224 or 240x320.",
    "channels": "Channels of its input images: 3 or 1.",
    "columns": "For a table instead of images: how many columns, or their names with commas between.",
    "mean": "What it subtracts from its inputs, in input units: 0.485,0.456,0.406.",
    "std": "What it divides them by: 0.229,0.224,0.225.",
    "classes": "A text file with one class name per line, or `imagenet`.",
}


def with_model(command: Command, *, argument: bool = False, taken: Collection[str] = ()) -> Command:
    """Add the options that name a model; the command receives `model: Model`.

    Args:
        command: What gets them.
        argument: The model can also be named without `--model`.
        taken: Names that mean something else to the command; the model's option is then called `--model-size`.
    """

    @functools.wraps(command)
    def loaded(model: str | None, named: str | None = None, **given: Any) -> Any:
        own = {name: value for name in _OWN if (value := given.pop(f"model_{name}")) is not None}
        wanted = named or model or (TEXT_MODEL if given.get("text") else MODEL)
        return command(model=load_model(wanted, **own), **given)

    for name, text in reversed(_OWN.items()):
        loaded = click.option(f"--{'model-' if name in taken else ''}{name}", f"model_{name}", help=text)(loaded)
    if argument:
        loaded = click.argument("named", metavar="[MODEL]", required=False)(loaded)
    about = "A name from `cutaway models`, net.py:function for your own, hf:FOLDER for a text classifier."
    return click.option("--model", show_default=f"{MODEL}; {TEXT_MODEL} for --text", help=about)(loaded)


def with_text(command: Command) -> Command:
    """Add `--text`; the command receives `text: tuple[str, ...]`."""
    about = "The text itself, for a model that reads text; again for more."
    return click.option("--text", multiple=True, metavar="TEXT", help=about)(command)


def with_output(command: Command) -> Command:
    """Add `--study`, `--open`."""
    command = click.option("--open", "open_it", is_flag=True, help="Show the result in a browser.")(command)
    return click.option(
        "--study",
        default="cutaway-study",
        show_default=True,
        type=click.Path(path_type=Path),
        help="Folder that keeps results; the same request is answered from there.",
    )(command)


def examples(names: tuple[str, ...], texts: tuple[str, ...], model: Model) -> Examples:
    """All inputs that a command was given, by name or as text, in one set."""
    if not names and not texts:
        raise BadOption("expected an input: a photo, a data set (`cutaway data`) or a file; or --text 'a fine film'.")
    if texts and model.space.kind != "tokens":
        raise BadOption(f"expected {model.space.describe()} for {model.name}; got --text. Choose a --model for text.")
    return join([*(load(name, space=model.space) for name in names), *map(written, texts)])


def with_workers(command: Command) -> Command:
    """Add the options of methods that look at a whole data set."""
    about = "Answer from what an interrupted run has finished, and say how much that is."
    command = click.option("--partial", is_flag=True, help=about)(command)
    about = "Processes that share the work (0: this one), `ray` for a Ray cluster here, `ray:HOST:PORT` for another."
    return click.option("--workers", default="0", show_default=True, help=about)(command)


def whole_set(names: tuple[str, ...]) -> str:
    """The one data set that a command was given; it is read as it is needed."""
    if len(names) != 1:
        raise BadOption(f"expected one data set or folder (`cutaway data` lists sets); got {len(names)}.")
    return names[0]


def show(path: Path) -> None:
    """Open a page in a browser, where there is a display; a browser in the terminal would hold the command up."""
    if not sys.platform.startswith("linux") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(path.resolve().as_uri())
