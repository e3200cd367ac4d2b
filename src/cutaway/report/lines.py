"""The Python lines and the shell line that make a result again."""

import shlex
from collections.abc import Collection, Mapping
from typing import Any

from cutaway.core.result import Provenance


def python_line(made: Provenance) -> str:
    """Python that makes the result again; a name that provenance does not know stays a placeholder."""
    if not made.method:
        return ""
    model = f"cutaway.load({load_arguments(_source(made))})" if made.model else "..."
    x = f"cutaway.data({made.input!r})" if made.input else "..."
    arguments = [repr(made.method), "model", "x"]
    arguments += [f"target={made.target!r}"] if made.target else []
    arguments += [f"{name}={value!r}" for name, value in _options(made).items()]
    arguments += [f"seed={made.seed}"] if made.seed is not None and "seed" not in made.options else []
    return f"import cutaway\n\nmodel = {model}\nx = {x}\nresult = cutaway.run({', '.join(arguments)})"


def _source(made: Provenance) -> dict[str, Any]:
    """What the model was loaded with; its name where that is all that is known."""
    return dict(made.model_source) or ({"model": made.model} if made.model else {})


def load_arguments(source: Mapping[str, Any]) -> str:
    """The arguments of `cutaway.load` in Python, from what it was called with."""
    options = [f"{name}={value!r}" for name, value in source.items() if name != "model"]
    return ", ".join([repr(source["model"]), *options])


def model_options(source: Mapping[str, Any], taken: Collection[str] = ()) -> list[str]:
    """The same as options of the command line; those whose name a method took for its own begin with `model-`."""
    named = {name: f"--{'model-' if name in taken else ''}{name}" for name in source}
    return [word for name, value in source.items() for word in (named[name], str(value))]


def given_as(source: str, *option: str) -> list[str]:
    """An input's source on the command line; a text goes by the option of its own."""
    return ["--text", source.removeprefix("text:")] if source.startswith("text:") else [*option, source]


def shell_line(made: Provenance) -> str:
    """The same for a shell."""
    if not made.method:
        return ""
    words = ["cutaway", "run", made.method]
    words += model_options(_source(made), made.options)
    words += given_as(made.input, "--x") if made.input else []
    words += ["--target", made.target] if made.target else []
    for name, value in _options(made).items():
        words += _option(name, value)
    words += ["--seed", str(made.seed)] if made.seed is not None and "seed" not in made.options else []
    return " ".join(shlex.quote(word) for word in words)


def _options(made: Provenance) -> dict[str, Any]:
    """The options as `cutaway.run` takes them; an examined explanation is named by the method that made it."""
    options = dict(made.options)
    if "attribution" in options:
        # Its provenance reads "method(options) fingerprint".
        options["attribution"] = str(options["attribution"]).partition("(")[0]
    return options


def _option(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, list | tuple):
        return [f"--{flag}", ";".join(map(str, value))]
    return [] if value is None else [f"--{flag}", str(value)]
