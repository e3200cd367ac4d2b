"""Packages that can be called.

`cutaway.plot` is a function for users and a package for developers. Importing anything from the package puts the
package in the function's place, so the package itself answers the call.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package whose call is that of one of its functions."""

    _function: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function that the package stands for."""
        return self._function(*args, **kwargs)


def make_callable(package: str, function: Callable[..., Any]) -> None:
    """Let a package be called like `function`: in its `__init__.py`, `make_callable(__name__, draw)`."""
    module = sys.modules[package]
    module.__class__ = CallablePackage
    module.__dict__["_function"] = function
