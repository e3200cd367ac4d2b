"""Options that several commands share: which model, which inputs, where results go."""

import functools
import os
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cutaway.core.dataset import Examples
from cutaway.core.model import Model
from cutaway.data import join, load
from cutaway.zoo import load as load_model

Command = Callable[..., Any]
MODEL = "efficientnet-lite0"
_OWN = {
    "weights": "Weights of your own network: a .safetensors or .pt file.",
    "size": "Size of its input images in pixels: 224 or 240x320.",
    "channels": "Channels of its input images: 3 or 1.",
    "columns": "For a table instead of images: how many columns, or their names with commas between.",
    "mean": "What it subtracts from its inputs, in input units: 0.485,0.456,0.406.",
    "std": "What it divides them by: 0.229,0.224,0.225.",
    "classes": "A text file with one class name per line, or `imagenet`.",
}


def with_model(command: Command, *, argument: bool = False) -> Command:
    """Add the options that name a model; the command receives `model: Model`.

    Args:
        command: What gets them.
        argument: The model can also be named without `--model`.
    """

    @functools.wraps(command)
    def loaded(model: str, named: str | None = None, **given: Any) -> Any:
        own = {name: given.pop(name) for name in _OWN}
        return command(model=load_model(named or model, **{k: v for k, v in own.items() if v is not None}), **given)

    for name, text in reversed(_OWN.items()):
        loaded = click.option(f"--{name}", help=text)(loaded)
    if argument:
        loaded = click.argument("named", metavar="[MODEL]", required=False)(loaded)
    about = "A name from `cutaway models`, net.py:function for your own, hf:FOLDER for a text classifier."
    return click.option("--model", default=MODEL, show_default=True, help=about)(loaded)


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


def examples(names: tuple[str, ...], model: Model) -> Examples:
    """All inputs that a command was given, in one set."""
    return join([load(name, space=model.space) for name in names])


def show(path: Path) -> None:
    """Open a page in a browser, where there is a display; a browser in the terminal would hold the command up."""
    if not sys.platform.startswith("linux") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(path.resolve().as_uri())
