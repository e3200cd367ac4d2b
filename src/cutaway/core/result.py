"""The nine shapes of an answer, each with its provenance and its checks.

A shape has one drawing, one JSON form and one web component, so a new method never touches an interface.
"""

import contextlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from cutaway.core.checks import Check
from cutaway.core.errors import BadShape

Better = Literal["higher", "lower", ""]


@dataclass(frozen=True)
class Cost:
    """What a result took: network passes over single examples, and seconds."""

    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Provenance:
    """Everything needed to make the result again.

    Attributes:
        method: Name in the catalogue.
        options: Options as text or numbers, exactly as `cutaway.run` takes them.
        model: Name of the model.
        model_fingerprint: Hash of its weights.
        model_source: What `cutaway.load` was called with, where the model came from there: `model` and the options.
        input: How the input was named, if it was.
        input_fingerprint: Hash of the input.
        target: The explained scalar, in text form.
        seed: Seed of every random choice; None where nothing is random.
        versions: Versions of cutaway, torch and Python.
        cost: Passes and seconds spent.
        created: Time of day in UTC, ISO 8601.
    """

    method: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    model_fingerprint: str = ""
    model_source: Mapping[str, Any] = field(default_factory=dict)
    input: str = ""
    input_fingerprint: str = ""
    target: str = ""
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    cost: Cost = Cost()
    created: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["options"] = dict(self.options)
        data["model_source"] = dict(self.model_source)
        data["versions"] = dict(self.versions)
        data["cost"] = {f.name: getattr(self.cost, f.name) for f in fields(self.cost)}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Provenance":
        """The inverse of `as_json`."""
        return cls(**{**data, "cost": Cost(**data["cost"])})


@dataclass(frozen=True, kw_only=True)
class Result:
    """What all nine shapes share.

    Attributes:
        title: A few words for a heading.
        checks: Named sentences on how far the result can be trusted.
        provenance: How it was made.
    """

    title: str = ""
    checks: Mapping[str, Check] = field(default_factory=dict)
    provenance: Provenance = Provenance()

    shapes: ClassVar[dict[str, type["Result"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Result.shapes[cls.__name__] = cls

    def with_checks(self, **checks: Check) -> Self:
        """The same result with more checks; one of the same name is replaced."""
        return replace(self, checks={**self.checks, **checks})

    def arrays(self) -> dict[str, Tensor]:
        """The tensors of the result, by field name (`field/key` inside a mapping)."""
        found: dict[str, Tensor] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                found[f.name] = value
            elif isinstance(value, Mapping):
                found |= {f"{f.name}/{key}": v for key, v in value.items() if isinstance(v, Tensor)}
        return found

    def as_json(self) -> dict[str, Any]:
        """Everything except the tensors."""
        data: dict[str, Any] = {"shape": type(self).__name__}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "provenance":
                data[f.name] = value.as_json()
            elif f.name == "checks":
                data[f.name] = {k: c.as_json() for k, c in value.items()}
            elif isinstance(value, Mapping):
                data[f.name] = {k: v for k, v in value.items() if not isinstance(v, Tensor)}
            elif not isinstance(value, Tensor):
                data[f.name] = _plain(value)
        return data

    @staticmethod
    def from_parts(data: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> "Result":
        """The inverse of `as_json` and `arrays`."""
        values: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in data.items() if k != "shape"}
        values["provenance"] = Provenance.from_json(values["provenance"])
        values["checks"] = {k: Check.from_json(c) for k, c in values["checks"].items()}
        for name, tensor in arrays.items():
            head, _, key = name.partition("/")
            if key:
                values.setdefault(head, {})[key] = tensor
            else:
                values[head] = tensor
        return Result.shapes[data["shape"]](**values)

    def _repr_html_(self) -> str:
        """The drawing in a notebook."""
        return _drawing(self)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


# The room above (cutaway.plot) puts its renderer here when it is imported; the core imports nothing above itself.
_renderer: list[Callable[[Result], str]] = []


def set_renderer(render: Callable[[Result], str]) -> None:
    """Let notebooks draw results with `render`."""
    _renderer[:] = [render]


def _drawing(result: Result) -> str:
    if not _renderer:
        # By name, since the core imports nothing above itself: importing the plots registers their renderer.
        with contextlib.suppress(ImportError):
            importlib.import_module("cutaway.plot")
    if _renderer:
        return _renderer[0](result)
    rows = "".join(f"<li>{_escape(name)}: {_escape(check)}</li>" for name, check in result.checks.items())
    return f"<b>{_escape(result.title or type(result).__name__)}</b><ul>{rows}</ul>"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@dataclass(frozen=True, kw_only=True)
class Attribution(Result):
    """How much each entry of a place mattered for a target. Positive values raise the target.

    Attributes:
        values: Shaped like the activation at `wrt`, batch axis first; with one channel where the method takes all
            channels of a position together.
        target: The explained scalar, in text form.
        wrt: The place attributed; `input` is the pixel, the column, or the embedding of a token.
        unit: What a value is measured in: the target's unit for a contribution, `target per input unit` for a slope.
        score: The target on each input, (n,).
        input: The explained inputs, for drawing; empty where there is nothing to draw over.
        tokens: The pieces of text of each input, where the input is text; the columns, where it is a row.
        texts: The original texts, where the input came as text.
        offsets: Where each piece begins and ends in its text; (0, 0) for special pieces. Empty where unknown.
        players: The names of what was switched on and off together, for each input, where there was such a thing;
            `extra["player"]` has the number of the player that owns each entry (-1: nobody). Where `values` has equal
            parts of that player's value on its entries, `extra["whole"]` has the whole of it.
        signed: False where only the size of a value has a meaning.
        extra: Further tensors of the method, by name (a standard error, masks kept).
    """

    values: Tensor
    target: str
    wrt: str = "input"
    unit: str = ""
    score: Tensor = field(default_factory=lambda: torch.empty(0))
    input: Tensor = field(default_factory=lambda: torch.empty(0))
    tokens: list[list[str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    offsets: list[list[list[int]]] = field(default_factory=list)
    players: list[list[str]] = field(default_factory=list)
    signed: bool = True
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    # The user's own function behind a map that no method of the catalogue made. It goes with the object and is not
    # stored.
    explain: ClassVar[Callable[..., "Attribution"] | None] = None


@dataclass(frozen=True, kw_only=True)
class Scores(Result):
    """A few named numbers, each with an interval where there is one.

    Attributes:
        names: One per number.
        values: (k,), float64.
        low, high: Ends of the interval of each number, (k,); empty where there is none.
        unit: Of all numbers.
        better: Which direction is good, if one is.
    """

    names: list[str]
    values: Tensor
    low: Tensor = field(default_factory=lambda: torch.empty(0))
    high: Tensor = field(default_factory=lambda: torch.empty(0))
    unit: str = ""
    better: Better = ""

    def __getitem__(self, name: str) -> float:
        """The number of that name."""
        return float(self.values[self.names.index(name)])


@dataclass(frozen=True, kw_only=True)
class Curve(Result):
    """One or more series over a common axis.

    Attributes:
        x: Positions, (points,).
        y: Series by name, each (points,).
        low, high: Bands by series name, each (points,); a series without a band is absent.
        x_label, y_label: Axis labels with units.
        summary: One number per series (an area), by name.
        summary_label: What that number is.
        better: Which direction of the summary is good, if one is.
        x_names: Names of the positions where they are not numbers (layers).
    """

    x: Tensor
    y: Mapping[str, Tensor]
    low: Mapping[str, Tensor] = field(default_factory=dict)
    high: Mapping[str, Tensor] = field(default_factory=dict)
    x_label: str = ""
    y_label: str = ""
    summary: Mapping[str, float] = field(default_factory=dict)
    summary_label: str = ""
    better: Better = ""
    x_names: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Table(Result):
    """Rows and columns of text and numbers.

    Attributes:
        columns: Column names with units.
        rows: One list per row, of strings, numbers, booleans and None.
        tally: How many rows are of each kind, where they have kinds; drawn as bars above the rows.
        tally_label: What is counted there.
        extra: Tensors that belong to the rows (inputs that were made), by name.
    """

    columns: list[str]
    rows: list[list[Any]]
    tally: Mapping[str, int] = field(default_factory=dict)
    tally_label: str = ""
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise BadShape(f"expected rows of {len(self.columns)} cells ({', '.join(self.columns)}); got {row}.")


@dataclass(frozen=True, kw_only=True)
class Matrix(Result):
    """A number for each pair of a row and a column thing.

    Attributes:
        values: (rows, columns); nan where undefined.
        row_names, column_names: Labels.
        unit: Of an entry.
        signed: True where zero is the middle of the scale.
        low, high: Ends of the interval of each entry, (rows, columns); empty where there is none.
        sequence: True if rows and columns are the same things in the order of a text, and the matrix is symmetric: it
            is then drawn as arcs over the words as well.
    """

    values: Tensor
    row_names: list[str]
    column_names: list[str]
    unit: str = ""
    signed: bool = True
    low: Tensor = field(default_factory=lambda: torch.empty(0))
    high: Tensor = field(default_factory=lambda: torch.empty(0))
    sequence: bool = False


@dataclass(frozen=True, kw_only=True)
class Points(Result):
    """Things placed in two or three dimensions.

    Attributes:
        positions: (n, 2) or (n, 3).
        names: One per point.
        groups: One label per point, for colour; empty for one colour.
        axes: A name per dimension.
        joined: Groups whose points are steps of one thing, joined by a line in their order.
    """

    positions: Tensor
    names: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    axes: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Pictures(Result):
    """Images with captions.

    Attributes:
        images: (n, 3, height, width), in [0, 1].
        captions: One per image.
        columns: Pictures per line; 0 lets the page choose.
        headings: One above each line of pictures; empty for none.
        extra: The numbers behind the pictures, by name.
    """

    images: Tensor
    captions: list[str]
    columns: int = 0
    headings: list[str] = field(default_factory=list)
    extra: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ranking(Result):
    """Things in order, best first.

    Attributes:
        names: One per thing.
        values: Their scores in descending order, (k,).
        unit: Of a score.
        site: The place that the things belong to, where they are units.
    """

    names: list[str]
    values: Tensor
    unit: str = ""
    site: str = ""


@dataclass(frozen=True, kw_only=True)
class Tree(Result):
    """Things that are joined step by step until all are one group, with a score for each group.

    Attributes:
        names: One per thing.
        members: The things of each group: first the single things in order, then groups of them, all of them last.
        parents: The group that each is joined into; -1 for the last.
        levels: The step in which each group came about; 0 for single things.
        values: The score of each group, (groups,).
        target: What the scores are parts of, in text form.
        unit: Of a score.
        sequence: True if the things stand in the order of a text.
        input: The picture (channels, height, width) that the things are regions of; else empty.
        regions: The thing that each pixel belongs to, (height, width), -1 for none; else empty.
    """

    names: list[str]
    members: list[list[int]]
    parents: list[int]
    levels: list[int]
    values: Tensor
    target: str = ""
    unit: str = ""
    sequence: bool = False
    input: Tensor = field(default_factory=lambda: torch.empty(0))
    regions: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        k, groups = len(self.names), len(self.members)
        if not k or not groups == len(self.parents) == len(self.levels) == len(self.values):
            raise BadShape(
                f"expected members, a parent, a level and a value for each group of at least one thing; got {groups}, "
                f"{len(self.parents)}, {len(self.levels)} and {len(self.values)}."
            )
        single, last = self.members[:k] == [[i] for i in range(k)], sorted(self.members[-1]) == list(range(k))
        joined = all(
            i < up and set(self.members[i]) < set(self.members[up]) and self.levels[i] < self.levels[up]
            for i, up in enumerate(self.parents[:-1])
        )
        if not (single and last and joined and self.parents[-1] == -1):
            raise BadShape("expected the single things first, groups before those that they are joined into, all last.")

    def at(self, level: int) -> list[int]:
        """The groups that there are after a step."""
        joined = [up >= 0 and self.levels[up] <= level for up in self.parents]
        return [i for i, begin in enumerate(self.levels) if begin <= level and not joined[i]]
