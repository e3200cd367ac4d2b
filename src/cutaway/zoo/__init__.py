"""Models by name, and models from users' files: what `cutaway.load` calls.

`efficientnet-lite0` and the small networks that cutaway trains itself are known by name. `net.py:factory` runs a user's
Python file, `hf:FOLDER` reads a Hugging Face text classifier, and a torch module or a fitted scikit-learn estimator is
taken as an object. Every model comes in eval mode, with a space in the user's units and class names.
"""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cutaway.core.errors import BadOption, unknown_name
from cutaway.core.model import Model


def load(source: Any, **options: Any) -> Model:
    """A model by name, from a file, or from an object.

    Args:
        source: A name that `names()` lists; `path/net.py:factory`; `hf:FOLDER`; a torch module; a scikit-learn
            estimator.
        **options: For one's own network: `size` (or `columns`, or `space`), `channels`, `mean`, `std`, `classes`,
            `weights`, `name`, `output`, `scores`. For an estimator: `columns`, `classes`, `name`. For a network trained
            by cutaway: `weights`.

    Returns:
        The model, ready for every method.
    """
    # Fresh weights are drawn before the trained ones replace them; the caller's random numbers stay what they were.
    with torch.random.fork_rng(devices=[]):
        maker = _maker(source)
        known = [name for name, p in inspect.signature(maker).parameters.items() if p.kind is p.KEYWORD_ONLY]
        for option in options:
            if option not in known:
                raise unknown_name(f"option of {_text(source)} called", option, known, "" if known else "It has none.")
        model = maker(**options)
    if isinstance(source, str):
        model.source = {"model": source, **options}
    return model


def names() -> list[tuple[str, str]]:
    """Name and one-line description of every model known by name."""
    from cutaway.zoo.entries import catalogue

    return [(entry.name, entry.summary) for entry in catalogue().values()]


def _maker(source: Any) -> Callable[..., Model]:
    """The function that makes the model, of keyword options only."""
    if isinstance(source, Model):
        return lambda: source
    if isinstance(source, nn.Module):
        from cutaway.zoo.adapters import module_model

        return partial(module_model, source)
    from cutaway.zoo.estimators import estimator_model, is_estimator

    return partial(estimator_model, source) if is_estimator(source) else _maker_from_text(str(source))


def _maker_from_text(text: str) -> Callable[..., Model]:
    if text.startswith("hf:"):
        from cutaway.zoo.huggingface import text_classifier

        return partial(text_classifier, text.removeprefix("hf:"))
    if text.rpartition(":")[0].endswith(".py"):
        from cutaway.zoo.adapters import made_by, module_model

        made = made_by(text)
        return (
            _maker(made)
            if isinstance(made, Model)
            else partial(module_model, made, name=Path(text.rpartition(":")[0]).stem)
        )
    if text.endswith((".py", ".pt", ".pth", ".safetensors", ".pkl", ".joblib")):
        raise BadOption(f"expected path/net.py:factory, with weights=FILE where needed; got {text!r}.")
    from cutaway.zoo.entries import catalogue

    entries = catalogue()
    if text not in entries:
        raise unknown_name("model", text, entries, "`cutaway models` lists all; path/net.py:factory loads your own.")
    return entries[text].load


def _text(source: Any) -> str:
    return source if isinstance(source, str) else type(source).__name__
