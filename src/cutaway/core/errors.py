"""What can go wrong, in four kinds, each with a stable code.

Every message says what was expected, what came, and what to do. The command line prints the message alone and exits
with 2; a server sends `as_json()`.
"""

import difflib
from collections.abc import Iterable


class CutawayError(Exception):
    """Any refusal by cutaway. The message is the documentation."""

    code = "CUT-100"

    def as_json(self) -> dict[str, str]:
        """The error as data, for a report or a server."""
        return {"code": self.code, "kind": type(self).__name__, "message": str(self)}


class UnknownName(CutawayError):
    """A layer, class, method, model, data set or option by a name that does not exist."""

    code = "CUT-101"


class BadShape(CutawayError):
    """A tensor, image or table of the wrong shape, type or content."""

    code = "CUT-102"


class BadOption(CutawayError):
    """An option outside its range or in contradiction to another."""

    code = "CUT-103"


class NotPossible(CutawayError):
    """A request that this model, method or machine cannot fulfil."""

    code = "CUT-104"


def unknown_name(kind: str, name: object, known: Iterable[str], more: str = "") -> UnknownName:
    """An `UnknownName` that lists the five nearest known names.

    Args:
        kind: What was looked for, as the reader calls it: "layer", "class".
        name: What came.
        known: All names that would have been right.
        more: A closing sentence: where to find the whole list.
    """
    known = list(known)
    shown = str(name) if len(str(name)) <= 80 else f"{str(name)[:80]}..."
    near = difflib.get_close_matches(str(name), known, n=5, cutoff=0.4) or known[:5]
    nearest = f"; nearest: {', '.join(near)}" if near else ""
    return UnknownName(f"no {kind} {shown!r}{nearest}. {more}".strip())
