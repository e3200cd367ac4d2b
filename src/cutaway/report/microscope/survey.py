"""One site in one folder: what it shows, how far it is, and going on with it."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

import cutaway
from cutaway.core import atomic
from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset, first
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.layers import last_with_positions
from cutaway.core.model import Model
from cutaway.core.site import Site
from cutaway.engine.execution import Execution, executing
from cutaway.engine.extremes import Best
from cutaway.engine.job import Folded, fold
from cutaway.engine.strongest import Strongest
from cutaway.report.lines import model_options
from cutaway.report.microscope import pages
from cutaway.report.microscope.units import Extremes, Layer, Record, Wishes
from cutaway.report.page import GENERATOR

NOTE, JOBS = "microscope.json", "jobs"
_PART = re.compile(r"(\d+)|(\d*):(\d*)")


def begun(
    model: Model,
    data: Dataset | None,
    out: str | Path,
    *,
    layers: Sequence[str] = (),
    units: str = "",
    steps: int = 128,
    size: int = 96,
    k: int = 9,
    seed: int = 0,
) -> "Survey":
    """A site that is begun, or gone on with, after everything that can be refused was; see `microscope`."""
    if model.space.kind != "image":
        raise NotPossible(f"the microscope shows networks of images; {model.name} takes {model.space.describe()}.")
    if steps < 0 or size < 8 or k < 1:
        raise BadOption(f"expected steps from 0, a size from 8 and k from 1; got {steps}, {size} and {k}.")
    if data is None and not steps:
        raise BadOption("without data and without steps there is nothing to show; name data, or steps from 1.")
    row = model.inputs(model.example() if data is None else first(data))
    assert isinstance(row, Tensor)
    wanted = tuple(dict.fromkeys(map(str, layers))) or (str(last_with_positions(model, row)),)
    if bad := [layer for layer in wanted if not Site.of(layer).is_whole]:
        raise BadOption(f"expected whole layers, and units by themselves; got {', '.join(bad)}.")
    folder, wishes = Path(out), Wishes(steps, size, k, seed)
    found = [Layer(model, data, layer, folder, wishes, row) for layer in wanted]
    chosen = {layer.name: chosen_units(units, layer.total, layer.name) for layer in found}
    _claim(folder, model, data, wishes)
    return Survey(model, data, folder, wishes, found, chosen, row)


def chosen_units(text: str, total: int, layer: str) -> list[int]:
    """Numbers of units from a text such as `0:16` or `3,17`, rising; all of an empty one.

    Raises:
        BadOption: Not such a text, or a unit that the layer does not have.
    """
    wanted: set[int] = set() if text.strip() else set(range(total))
    for part in filter(None, (p.strip() for p in re.split("[,;]", text))):
        found = _PART.fullmatch(part)
        if found is None or (found[1] and int(found[1]) >= total):
            raise BadOption(f"expected units of {layer} from 0 to {total - 1}, as '0:16' or '3,17'; got {part!r}.")
        wanted |= {int(found[1])} if found[1] else set(range(total)[slice(_whole(found[2]), _whole(found[3]))])
    if not wanted:
        raise BadOption(f"expected units of {layer} from 0 to {total - 1}, as '0:16' or '3,17'; got {text!r}.")
    return sorted(wanted)


def _whole(text: str) -> int | None:
    return int(text) if text else None


def _claim(folder: Path, model: Model, data: Dataset | None, wishes: Wishes) -> None:
    """Make the folder, with a note of what it holds.

    Raises:
        BadOption: It holds something else.
    """
    asked = {
        "made by": f"cutaway {cutaway.__version__}",
        "network": model.name,
        "weights": model.fingerprint,
        "input": repr(model.space),
        "data": "" if data is None else data.fingerprint,
        **asdict(wishes),
    }
    atomic.make_folder(folder, mode=0o777)
    note = folder / NOTE
    with atomic.explained(f"read {folder}"):
        # A file that an interrupted write left behind is nobody's.
        others = [path for path in folder.iterdir() if not path.name.startswith(atomic.TEMPORARY)]
        known = _read(note) if note.exists() else None
    if known is None and others:
        raise BadOption(
            f"expected an empty folder for the site, or one that it was begun in; {folder} holds other files."
        )
    if known is None:
        atomic.write_text(note, json.dumps(asked, indent=1), mode=atomic.SHARED)
    elif changed := [name for name, value in asked.items() if known.get(name) != value]:
        raise BadOption(
            f"{folder} holds a site that differs in {', '.join(changed)}; name another folder, or remove this one."
        )


def _read(note: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(note.read_text("utf-8")))
    except ValueError:
        return {}


class Survey:
    """The units of some layers, and the pages on them.

    Args:
        model: A network of images.
        data: Where examples come from; None for none.
        folder: Of the site.
        wishes: What is shown of each unit.
        layers: Those of this run.
        units: Numbers of units by layer.
        row: One input.
    """

    def __init__(
        self,
        model: Model,
        data: Dataset | None,
        folder: Path,
        wishes: Wishes,
        layers: list[Layer],
        units: dict[str, list[int]],
        row: Tensor,
    ) -> None:
        self._model, self._data, self._folder, self._wishes = model, data, folder, wishes
        self._layers, self._units, self._row = layers, units, row
        self._checks: dict[str, Check] = {}

    @property
    def total(self) -> int:
        """How many units this run is about."""
        return sum(map(len, self._units.values()))

    @property
    def done(self) -> int:
        """Of how many of them everything is known."""
        return sum(layer.record(u) is not None for layer in self._layers for u in self._units[layer.name])

    def fill(self) -> None:
        """Find out what is missing. Stopped at any time, it goes on from there."""
        folded = self._folded()
        for layer in self._layers:
            layer.make(self._units[layer.name], None if folded is None else _extremes(folded, layer.name))

    def _folded(self) -> Folded | None:
        """The strongest examples of all units: one look at the data set, whose finished parts are kept."""
        if self._data is None:
            return None
        work = Strongest(tuple(layer.name for layer in self._layers), self._wishes.k, ("maximum", "minimum"))
        with executing(Execution(folder=self._folder / JOBS)):
            folded = fold(work, self._model, self._data, label="strongest examples")
        self._checks = folded.checks
        return folded

    def write(self) -> Path:
        """Pages on all units of which something is kept, and the first page, which comes last."""
        shown = []
        for layer in self._every_layer():
            found = {u: record for u in range(layer.total) if (record := layer.record(u)) is not None}
            if found:
                shown.append(self._write_layer(layer, found))
        about = [
            ("network", f"{self._model.name}: {self._model.space.describe()}"),
            (
                "examples",
                "none" if self._data is None else f"{self._data.source or 'given'}, {len(self._data)} looked at",
            ),
            ("pictures", pages.about_pictures(self._wishes)),
            *((name.replace("_", " "), str(check)) for name, check in self._checks.items()),
        ]
        shell = self._shell_line([card["name"] for card in shown])
        return self._page(self._folder / "index.html", pages.first_page(self._model.name, shown, about, shell))

    def _shell_line(self, layers: list[str]) -> str:
        """The command that makes all units of these layers; nothing for a network or data without a name."""
        source = "" if self._data is None else self._data.source
        if not self._model.source or (self._data is not None and not source):
            return ""
        words = ["cutaway", "microscope", *model_options(self._model.source, {"size"})]
        words += [*(("--x", source) if source else ()), "--layers", ";".join(layers), "--out", str(self._folder)]
        return shlex.join(
            [*words, *(w for name, value in asdict(self._wishes).items() for w in (f"--{name}", str(value)))]
        )

    def _every_layer(self) -> list[Layer]:
        """Those of this run, and those that were asked for earlier; noted down for later."""
        names = [layer.name for layer in self._layers]
        note = self._folder / NOTE
        known = _read(note)
        earlier = [name for name in known.get("layers", []) if name not in names]
        order = [name for name in known.get("layers", []) if name in earlier] + names
        if order != known.get("layers"):
            atomic.write_text(
                note, json.dumps({**known, "layers": order}, indent=1), overwrite=True, mode=atomic.SHARED
            )
        by_name = {layer.name: layer for layer in self._layers}
        for name in earlier:
            by_name[name] = Layer(self._model, self._data, name, self._folder, self._wishes, self._row)
        return [by_name[name] for name in order]

    def _write_layer(self, layer: Layer, found: dict[int, Record]) -> dict[str, Any]:
        order = list(found)
        for i, u in enumerate(order):
            near = order[i - 1] if i else None, order[i + 1] if i + 1 < len(order) else None
            self._page(layer.folder / pages.file_of(u), pages.unit_page(layer, found[u], near, self._wishes))
        self._page(layer.folder / "index.html", pages.layer_page(layer, found, self._wishes))
        return pages.layer_card(layer, found, self._wishes)

    def _page(self, path: Path, html: str) -> Path:
        return atomic.write_text(path, html, overwrite=True, ours=GENERATOR, mode=atomic.SHARED, sync=False)


def _extremes(folded: Folded, layer: str) -> Extremes:
    highest, lowest = (folded.states[f"{end} {layer}"] for end in ("maximum", "minimum"))
    assert isinstance(highest, Best)
    assert isinstance(lowest, Best)
    return Extremes(highest, lowest)
