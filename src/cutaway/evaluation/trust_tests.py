"""The tests behind a verdict: what each asks, what it fits, what it takes; the one that tells most comes first."""

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cutaway.core.budget import BACKWARD
from cutaway.core.catalogue import Method, catalogue, find
from cutaway.core.checks import Status
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.result import Cost

_NOTHING: Mapping[str, Any] = types.MappingProxyType({})


class Test(NamedTuple):
    """A test of explanations, as a verdict uses it.

    Attributes:
        name: In the catalogue.
        head: What its number is, over a column.
        said: What it found, in a few words, by status; `{parts}` are regions, words or columns.
        kinds: Of input that it fits.
        repeats: How many maps it makes again, in their quick form; 0 for a test of the map as it is.
        forwards: Of one input, for the first map of it and for every other one; an estimate.
        faithful: True if it asks whether the model uses what the map ranks highest.
        sign: -1 where its number is the better the more it is below zero.
        options: Those that a verdict runs it with.
    """

    name: str
    head: str
    said: Mapping[Status, str]
    kinds: tuple[str, ...] = ("image", "row", "tokens")
    repeats: int = 0
    forwards: tuple[int, int] = (2, 2)
    faithful: bool = False
    sign: int = 1
    options: Mapping[str, Any] = _NOTHING

    def effort(self, rough: Cost, inputs: int, *, first: bool) -> float:
        """About how much work it is, in forwards; see `effort_of`."""
        return self.repeats * effort_of(rough) + inputs * self.forwards[0 if first else 1]

    def why_not(self, laws: Sequence[str], region: object) -> str:
        """Why the test has no meaning for a map that keeps these laws; empty if it has."""
        if self.name == "completeness" and "complete" not in laws:
            return "the map does not claim that its values add up"
        if region is None and any(option.name == "region" for option in find(self.name).options):
            return "no region is known that the map should point at"
        return ""

    def fits(self, kind: str) -> bool:
        """True if it is a test for this kind of input."""
        needed = {"image", "tokens", "row"} & set(find(self.name).needs)
        return kind in self.kinds and (not needed or kind in needed)


def effort_of(cost: Cost) -> float:
    """Work in forwards: a backward pass is about two."""
    return cost.forwards + BACKWARD * cost.backwards


def _said(ok: str, note: str, warn: str, fail: str) -> Mapping[Status, str]:
    return types.MappingProxyType({"ok": ok, "note": note, "warn": warn, "fail": fail})


# In the order in which a limited time is spent. docs/methods/trust.md says why, with what was measured.
TESTS = (
    Test(
        "completeness",
        "sum, gap",
        _said("its values add up", "its values add up", "its values nearly add up", "its values do not add up"),
    ),
    Test(
        "energy_in_region",
        "region, share on it",
        _said(
            "it points at the region",
            "it points at the region no more than edges or the centre do",
            "it points at the region no more than chance does",
            "it points at the region less than chance does",
        ),
        kinds=("image",),
        forwards=(0, 0),
    ),
    Test(
        "pointing_game",
        "pointing, hits",
        _said(
            "its highest pixel is on the region",
            "its highest pixel is on the region, as that of edges or the centre is",
            "its highest pixel is on the region no more often than by chance",
            "its highest pixel is beside the region",
        ),
        kinds=("image",),
        forwards=(0, 0),
    ),
    Test(
        "parameter_randomization",
        "random weights, kept",
        _said(
            "it changes when what the model learned is wiped out",
            "it does not clearly stay when what the model learned is wiped out",
            "it changes only slowly when what the model learned is wiped out",
            "it hardly changes when what the model learned is wiped out",
        ),
        repeats=3,
        forwards=(4, 4),
    ),
    Test(
        "insertion",
        "insertion, above chance",
        _said(
            "its top {parts} alone bring the answer back",
            "its top {parts} alone bring the answer back, but no sooner than edges or the centre do",
            "its top {parts} alone bring back little more than chance",
            "its top {parts} alone bring back less than random ones",
        ),
        forwards=(320, 46),
        faithful=True,
    ),
    Test(
        "deletion",
        "deletion, below chance",
        _said(
            "the answer falls when its top {parts} are removed",
            "the answer falls when its top {parts} are removed, but no sooner than without edges or the centre",
            "removing its top {parts} does little more than chance",
            "removing its top {parts} does less than removing random ones",
        ),
        forwards=(320, 46),
        faithful=True,
        sign=-1,
    ),
    Test(
        "word_deletion",
        "words, fall without",
        _said(
            "the answer falls when its top words are deleted",
            "the answer falls when its top words are deleted",
            "deleting its top words does little more than chance",
            "deleting its top words does less than deleting random ones",
        ),
        kinds=("tokens",),
        forwards=(120, 120),
        faithful=True,
    ),
    Test(
        "stability",
        "noise, kept",
        _said(
            "small noise leaves it as it is",
            "small noise moves single values at most",
            "small noise changes it",
            "small noise makes another map of it",
        ),
        kinds=("image", "row"),
        repeats=4,
        forwards=(5, 5),
    ),
    Test(
        "sensitivity_n",
        "sums, foretell falls",
        _said(
            "its values foretell how far the answer falls",
            "its values foretell how far the answer falls, but no better than edges or the centre",
            "its values foretell how far the answer falls no better than chance",
            "its values foretell how far the answer falls worse than chance",
        ),
        forwards=(240, 0),
        options=types.MappingProxyType({"points": 6, "samples": 40}),
    ),
)
_KNOWN = {test.name: test for test in TESTS}
_MAKES_AGAIN = {"max_sensitivity": 3, "fragility_top_k": 60, "fragility_mass_center": 60, "fragility_targeted": 60}


def chosen_tests(names: Sequence[str], kind: str) -> list[Test]:
    """The tests of these names, in the order of a verdict; all that fit a kind of input if none is named.

    Raises:
        UnknownName: No such method.
        BadOption: A method that examines no map.
        NotPossible: A test that does not fit the kind of input.
    """
    found = [named_test(name.strip()) for name in names if name.strip()]
    for test in found:
        if not test.fits(kind):
            raise NotPossible(f"{test.name} is no test for {_PLURAL.get(kind, kind)}; it fits {_fitting(test)}.")
    order = [test.name for test in TESTS]
    found.sort(key=lambda test: order.index(test.name) if test.name in order else len(order))
    return found or [test for test in TESTS if test.fits(kind)]


_PLURAL = {"image": "images", "tokens": "text", "row": "rows", "latent": "latent vectors"}


def _fitting(test: Test) -> str:
    return " and ".join(noun for kind, noun in _PLURAL.items() if test.fits(kind))


def named_test(name: str) -> Test:
    """A test by its name; one that a verdict has no words for is named by itself."""
    entry = find(name)
    if "attribution" not in entry.positional:
        tests = ", ".join(e.name for e in catalogue().values() if "attribution" in e.positional)
        raise BadOption(f"expected tests that examine a map: {tests}; got {entry.name}.")
    words = entry.name.replace("_", " ")
    for_it, against = f"{words} speaks for it", f"{words} speaks against it"
    other = Test(
        entry.name,
        words,
        _said(for_it, for_it, against, against),
        repeats=_MAKES_AGAIN.get(entry.name, 0),
        forwards=(100, 100),
        faithful=entry.name == "pixel_flipping",
    )
    return _KNOWN.get(entry.name, other)


METHODS: dict[str, tuple[str, ...]] = {
    "image": (
        "gradient",
        "input_x_gradient",
        "smoothgrad",
        "integrated_gradients",
        "guided_backprop",
        "grad_cam",
        "occlusion",
        "rise",
    ),
    "tokens": ("gradient", "input_x_gradient", "integrated_gradients", "occlusion", "kernel_shapley"),
    "row": ("gradient", "input_x_gradient", "integrated_gradients", "occlusion", "kernel_shapley"),
}


def explains(entry: Method) -> bool:
    """True for a method that makes a map for a target by itself, and not out of other methods' maps."""
    return entry.result == "Attribution" and "target" in entry.positional and entry.room != "evaluation"


def methods_of(what: Sequence[str | Callable[..., Any] | Any], kind: str) -> list[Any]:
    """What should be examined: methods of the catalogue by name, `all` of them, and what is no name as it came.

    Without any, the usual methods for a kind of input. The usual ones come first among all.

    Raises:
        UnknownName: No such method.
        BadOption: A method that explains no prediction, or one that is named twice.
        NotPossible: A kind of input that has no usual methods.
    """
    named = [one.strip() if isinstance(one, str) else one for one in what if one != ""]
    if not named and kind not in METHODS:
        raise NotPossible(f"there are no usual methods for {kind} inputs; name some: methods='gradient;occlusion'.")
    if named == ["all"]:
        usual = METHODS.get(kind, ())
        every = [entry.name for entry in catalogue().values() if explains(entry)]
        named = [*usual, *(name for name in every if name not in usual)]
    found = [find(one) if isinstance(one, str) else one for one in named or METHODS[kind]]
    for one in found:
        if isinstance(one, Method) and not explains(one):
            raise BadOption(f"expected methods that explain a prediction; {one.name} gives {one.result}.")
    names = [one.name for one in found if isinstance(one, Method)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadOption(f"expected each method once; {twice} came twice.")
    return found
