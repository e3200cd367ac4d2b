"""What is found out about the units of one layer, kept as a file for each, from which pages can be made at any time.

LAYER/00012.png     the picture that raises unit 12
LAYER/00012.json    the rest; written last, so where it is, all of the unit is there
examples/00041.jpg  an example, shared by all units and layers that show it
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from cutaway.core import atomic
from cutaway.core.batch import join
from cutaway.core.dataset import Dataset
from cutaway.core.errors import BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.progress import report
from cutaway.core.receptive import Field, receptive_field
from cutaway.core.site import OUTPUT, Site, unit_axis
from cutaway.core.target import Target, unit
from cutaway.engine.extremes import Best
from cutaway.plot import heat
from cutaway.report.files import slug
from cutaway.report.views import MOST_PIXELS, TINY
from cutaway.visualization.ascend import ascended, shown, sized_for
from cutaway.visualization.places import photos

# Units whose pictures are made together, and which are lost together when the run is stopped.
TOGETHER = 8
# Classes named on either side, and the change of a score, as a share of the largest score, that counts as none.
_NAMED, _NOTHING = 3, 1e-6
EXAMPLES = "examples"
Record = dict[str, Any]


@dataclass(frozen=True)
class Wishes:
    """What a site shows of each unit.

    Attributes:
        steps: Of the search for its picture; 0 leaves pictures out.
        size: Of that picture, in pixels along a side.
        k: Examples.
        seed: Of the search.
    """

    steps: int
    size: int
    k: int
    seed: int


@dataclass(frozen=True)
class Extremes:
    """The strongest examples of a layer's units, and their lowest activations."""

    highest: Best
    lowest: Best


class Layer:
    """The units of one layer.

    Args:
        model: A network of images.
        data: Where examples come from; None for none.
        name: The place.
        root: The folder of the site.
        wishes: What is shown.
        row: One input.
    """

    def __init__(self, model: Model, data: Dataset | None, name: str, root: Path, wishes: Wishes, row: Tensor) -> None:
        site = Site.of(name)
        trace = model.run(row, read=[site])
        act = trace[site]
        axis = unit_axis(act, trace.module(site))
        self.name, self.slug, self.total = name, folder_name(name), act.shape[axis]
        self.folder = root / self.slug
        self.picture = (row.shape[2], row.shape[3])
        self._model, self._data, self._root, self._wishes, self._axis = model, data, root, wishes, axis
        self._width = act.shape[3] if act.ndim == 4 and axis == 1 else 0
        self.field = _field_of(model, site, row) if self._width else None
        self._classifies = _classifies(model, row)

    def record(self, number: int) -> Record | None:
        """What is kept of a unit; None where that is missing or cannot be read."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._path(number, ".json").read_text("utf-8"))
            if not self._wishes.steps or self._path(number, ".png").is_file():
                return dict(found)
        return None

    def make(self, units: Iterable[int], extremes: Extremes | None) -> None:
        """Find out about those of the units of which nothing is kept, some at a time."""
        wanted = list(units)
        missing = [u for u in wanted if self.record(u) is None]
        if not missing:
            return
        atomic.make_folder(self.folder, mode=0o777)
        label, before = f"units of {self.name}", len(wanted) - len(missing)
        report(label, before, len(wanted))
        for start in range(0, len(missing), TOGETHER):
            some = missing[start : start + TOGETHER]
            self._make_together(some, extremes)
            report(label, before + start + len(some), len(wanted))

    def _make_together(self, units: list[int], extremes: Extremes | None) -> None:
        found: dict[int, Record] = {u: {"unit": u} for u in units}
        if self._wishes.steps:
            for u, (picture, activation) in zip(units, self._pictures(units), strict=True):
                found[u]["picture"] = activation
                path = self._path(u, ".png")
                atomic.write_bytes(path, _encoded(picture, "PNG"), overwrite=True, mode=atomic.SHARED)
        if extremes is not None:
            self._add_examples(found, extremes)
        for u, record in found.items():
            text = json.dumps(record, indent=1)
            atomic.write_text(self._path(u, ".json"), text, overwrite=True, mode=atomic.SHARED)

    def _pictures(self, units: list[int]) -> list[tuple[Tensor, float]]:
        """For each unit a picture that raises it, and the highest activation that the picture gives it."""
        wishes, aims = self._wishes, [Target.of(unit(f"{self.name}:{u}")) for u in units]
        label = f"pictures of {self.name}"
        made = ascended(self._model, aims, size=wishes.size, steps=wishes.steps, seed=wishes.seed, label=label)
        with shown(self._model, aims, wishes.size) as sized:
            act = sized.run(sized_for(sized, made), read=[self.name])[self.name]
        peaks = act.movedim(self._axis, 1).flatten(2).amax(2) if act.ndim > 2 else act
        return [(photos(self._model, made[i : i + 1])[0], float(peaks[i, u])) for i, u in enumerate(units)]

    def _add_examples(self, found: dict[int, Record], extremes: Extremes) -> None:
        """Range, strongest examples, and what the unit does there; each example is read once."""
        best = extremes.highest
        chosen = {}
        for u, record in found.items():
            record["highest"], record["lowest"] = float(best.values[u, 0]), -float(extremes.lowest.values[u, 0])
            # Where nothing is above 0, the strongest are only the first of many that are alike.
            chosen[u] = [r for r in range(int(best.found[u].sum())) if best.values[u, r] > 0]
            record["examples"] = []
        numbers = list(dict.fromkeys(int(best.ids[u, r]) for u, ranks in chosen.items() for r in ranks))
        if not numbers:
            return
        x, about = self._read(numbers)
        trace = self._model.run(x) if self._classifies else None
        for u, ranks in chosen.items():
            rows = [numbers.index(int(best.ids[u, r])) for r in ranks]
            for row, rank in zip(rows, ranks, strict=True):
                example = {**about[row], "activation": float(best.values[u, rank]), **self._where(best, u, rank)}
                if trace is not None:
                    example["predicted"] = self._model.class_name(int(trace.probabilities[row].argmax()))
                found[u]["examples"].append(example)
            if trace is not None and rows and Site.of(self.name) != OUTPUT:
                found[u]["effects"] = self._effects(u, x[rows], trace.scores[rows])

    def _read(self, numbers: list[int]) -> tuple[Tensor, list[Record]]:
        """Examples by number, as the network takes them and with what is known of them; their pictures are kept."""
        assert self._data is not None
        rows, about = [], []
        folder = atomic.make_folder(self._root / EXAMPLES, mode=0o777)
        for number in numbers:
            part = self._data[number : number + 1]
            if not len(part):
                text = f"example {number} of {self._data.source or 'the data set'} was there before and cannot be read."
                raise BadShape(text)
            x = self._model.inputs(part)
            assert isinstance(x, Tensor)
            kind = "PNG" if max(self.picture) <= TINY else "JPEG"
            path = folder / f"{number:05d}.{'png' if kind == 'PNG' else 'jpg'}"
            if not path.exists():
                data = _encoded(photos(self._model, x)[0], kind)
                atomic.write_bytes(path, data, overwrite=True, mode=atomic.SHARED)
            label = None if part.labels is None else int(part.labels[0])
            names = part.classes or self._model.classes or ()
            known = "" if label is None or label < 0 else names[label] if label < len(names) else str(label)
            rows.append(x)
            about.append({"number": number, "name": part.names[0], "file": path.name, "label": known})
        return join(rows), about

    def _where(self, best: Best, number: int, rank: int) -> Record:
        """The position of a peak, and what it sees: left, top, width and height in pixels, also beyond the border."""
        if not self._width:
            return {}
        y, x = divmod(int(best.places[number, rank]), self._width)
        if self.field is None:
            return {"position": [y, x]}
        sees = []
        for axis, i in ((self.field.x, x), (self.field.y, y)):
            sees.append(axis.first + i * axis.step - (axis.size - 1) / 2)
        return {"position": [y, x], "sees": [*sees, self.field.x.size, self.field.y.size]}

    def _effects(self, number: int, x: Tensor, before: Tensor) -> list[list[Any]]:
        """How much the unit adds to class scores on its examples: with it, less with it set to 0; on average.

        The classes that it raises most, that it lowers most, and the one that most of these examples are taken for.
        """
        after = self._model.run(x, edit={f"{self.name}:{number}": 0.0}).scores
        added = (before - after).double().mean(0)
        least = _NOTHING * float(before.abs().max())
        order = added.sort(descending=True, stable=True).indices.tolist()
        usual = int(before.argmax(1).mode().values)
        named = [c for c in order[:_NAMED] if added[c] > least] + [c for c in order[-_NAMED:] if added[c] < -least]
        named += [usual] if named and usual not in named else []
        only = len(added) == 1  # a single score stands for the second of two classes
        return [[self._model.class_name(c + only), float(added[c])] for c in named]

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number:05d}{suffix}"


def folder_name(layer: str) -> str:
    """A short folder name for a layer, which no other layer has."""
    name = slug(layer)
    return name if name == layer else f"{name}-{hashlib.sha256(layer.encode()).hexdigest()[:6]}"


def _classifies(model: Model, row: Tensor) -> bool:
    try:
        return model.scores != "values" and model.run(row).scores.ndim == 2
    except (BadShape, NotPossible):
        return False


def _field_of(model: Model, site: Site, row: Tensor) -> Field | None:
    try:
        return receptive_field(model, site, row)
    except NotPossible:
        return None


def _encoded(picture: Tensor, kind: str) -> bytes:
    image = Image.fromarray(heat.photo(picture))
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    with io.BytesIO() as file:
        image.save(file, kind, **({"quality": 85} if kind == "JPEG" else {}))
        return file.getvalue()
