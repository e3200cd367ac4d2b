"""See inside trained networks: explain a prediction, test the explanation, fix what it shows.

import cutaway as ct

model = ct.load("efficientnet-lite0")
why = ct.run("integrated_gradients", model, ct.data("photos/chelsea"), target="tabby")
print(why.checks)
ct.report(why, "why.html")
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cutaway.core.model import Model
    from cutaway.core.space import images, latents, rows, tokens
    from cutaway.data import load as data
    from cutaway.plot import draw as plot
    from cutaway.report import write as report
    from cutaway.session.run import methods, run
    from cutaway.zoo import load

__all__ = ["Model", "data", "images", "latents", "load", "methods", "plot", "report", "rows", "run", "tokens"]

# Where each name lives. They are imported when first used, so that `import cutaway` does not wait for torch.
# data, plot and report are packages that can be called.
_HOMES = {
    "Model": "core.model:Model",
    "data": "data",
    "images": "core.space:images",
    "latents": "core.space:latents",
    "load": "zoo:load",
    "methods": "session.run:methods",
    "plot": "plot",
    "report": "report",
    "rows": "core.space:rows",
    "run": "session.run:run",
    "tokens": "core.space:tokens",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cutaway' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value: Any = importlib.import_module(f"cutaway.{module}")
    value = getattr(value, attribute) if attribute else value
    globals()[name] = value
    return value
