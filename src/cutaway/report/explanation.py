"""What the page of `cutaway explain` shows, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from cutaway.core.result import Attribution, Pictures, Ranking, Result, Table

Kind = Literal["image", "tokens", "row"]


@dataclass(frozen=True)
class MapExplanation:
    """One method's map with the evidence for and against it.

    Attributes:
        attribution: The map; its first input is shown.
        sentence: The verdict in one plain sentence; a `Check` brings its status along.
        evidence: Results of tests by their names. In a `Curve`, the first series is the method's own and the others
            are controls.
        python: The lines that make the map.
        shell: The same on the command line.
    """

    attribution: Attribution
    sentence: str = ""
    evidence: Mapping[str, Result] = field(default_factory=dict)
    python: str = ""
    shell: str = ""


@dataclass(frozen=True)
class InputExplanation:
    """One photo, text or row: what the model answered and why.

    Attributes:
        name: How the user calls it.
        image: Of a photo, what the model saw, (3, height, width) in [0, 1]; empty for anything else.
        predictions: Classes with their probabilities, the highest first.
        target: What the maps explain, in text form.
        maps: One per method.
        units: The strongest units of some layers.
        summary: A plain paragraph; made from the rest where it is empty.
        text: The text, where it is one.
        columns: Names and values, where it is a row.
        trust: The verdicts on the maps in one table, as `cutaway.run("trust", ...)` gives it.
    """

    name: str
    image: Tensor
    predictions: list[tuple[str, float]]
    target: str
    maps: Sequence[MapExplanation]
    units: Sequence[Ranking | Pictures] = field(default_factory=list)
    summary: str = ""
    text: str = ""
    columns: Sequence[tuple[str, float]] = ()
    trust: Table | None = None

    @property
    def kind(self) -> Kind:
        """What it is."""
        return "row" if self.columns else "tokens" if self.text else "image"


@dataclass(frozen=True)
class Explanation:
    """The whole page.

    Attributes:
        inputs: One section each, all of one kind.
        model: Name of the model.
        limits: What these pictures cannot tell, a sentence each.
        provenance: How the page was made: names and values.
        python: The lines that make the page.
        shell: The same on the command line.
        title: Of the page; made from the rest where it is empty.
        notes: What the reader should know first: methods left out, files that could not be read.
    """

    inputs: list[InputExplanation]
    model: str = ""
    limits: list[str] = field(default_factory=list)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    python: str = ""
    shell: str = ""
    title: str = ""
    notes: list[str] = field(default_factory=list)
