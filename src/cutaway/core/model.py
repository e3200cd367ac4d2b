"""A network with what its input and output mean: the one way in for every method."""

import contextlib
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cutaway.core.batch import Batch, join, repeat, select, size, take
from cutaway.core.borrow import borrowed
from cutaway.core.door import admitted
from cutaway.core.errors import BadOption, BadShape, NotPossible, unknown_name
from cutaway.core.operations import Census, Operation, Places, Rules, UnderRules
from cutaway.core.replay import Diverged, Recorded, Recorder, Replayer
from cutaway.core.site import INPUT, OUTPUT, Site
from cutaway.core.space import Space
from cutaway.core.taps import Edit, Stop, Taps, apply_edit
from cutaway.core.target import Target, TargetLike
from cutaway.core.trace import ScoreKind, Trace

# On two cores a batch of 8 is as fast per image as any; larger ones only cost memory. A GPU wants more at once.
_ROWS_AT_ONCE = {"cpu": 8}
Sites = Sequence[Site | str]
Edits = Mapping[Site, Edit] | Mapping[str, Edit]


class Gradient(NamedTuple):
    """A target and its slope at a place: `score` (n,), `value` and `slope` shaped like the activation there."""

    score: Tensor
    value: Tensor
    slope: Tensor


class Layer(NamedTuple):
    """A place that can be read: its path, module type, output shape without the batch axis, parameters, and calls."""

    site: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    calls: int


@dataclass(frozen=True)
class Prefix:
    """One input's forward up to a place, ready to be continued from there.

    Attributes:
        site: The place.
        value: The activation there, (1, ...).
        x: The input, one row.
        calls: The recorded operations; None where replaying does not reproduce this network, which is then run in full.
    """

    site: Site
    value: Tensor
    x: Batch
    calls: list[Recorded] | None


class Model:
    """Any `nn.Module`, its input `Space`, and the names of its classes.

    Args:
        module: The network. It is borrowed: after every call it is what it was. Wrappers of `DataParallel` and `torch.compile`
            are looked through; a scripted module can be run, but not looked into.
        space: What one input is; the normalisation happens here, so every explanation is in the user's units.
        classes: Class names in the order of the output's columns.
        name: What to call it in results.
        output: Which part of the output is meant, where it has several: "logits", "0".
        scores: What the output is: logits, probabilities, or other values.
        tokenizer: Turns texts into token ids, for a token space.
        embedding: Place of the token embedding; the place called `input` is its output.
        batch_size: Inputs in one forward; None chooses by device.

    Raises:
        BadOption: Not a module, or two classes given the same number.
    """

    def __init__(
        self,
        module: nn.Module,
        space: Space,
        *,
        classes: Sequence[str] | None = None,
        name: str = "",
        output: str = "",
        scores: ScoreKind = "logits",
        tokenizer: Any = None,
        embedding: str = "",
        batch_size: int | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise BadOption(f"expected a torch.nn.Module; got {type(module).__name__}.")
        self.notes: list[str] = []
        self.module = self._unwrapped(module)
        self.space = space
        self.classes = tuple(classes) if classes is not None else None
        self.name = name or type(self.module).__name__
        self.scores: ScoreKind = scores
        self.tokenizer = tokenizer
        self.spent: Counter[str] = Counter()
        self._output = tuple(part for part in output.split("/") if part)
        self._embedding = Site.of(embedding) if embedding else None
        self._chunk = batch_size or _ROWS_AT_ONCE.get(self.device.type, 64)
        self._calls: dict[str, int] = {}
        self._lock = threading.RLock()
        self._borrowers = 0
        self._steady: bool | None = None
        self._print: tuple[tuple[tuple[int, int], ...], str] | None = None

    def __repr__(self) -> str:
        """Name, input and size."""
        count = sum(p.numel() for p in self.module.parameters())
        return f"Model({self.name}: {self.space.describe()}, {count:,} parameters)"

    # -- what it is ------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next((t.device for t in self._tensors()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' floating-point type."""
        return next((t.dtype for t in self._tensors() if t.is_floating_point()), torch.get_default_dtype())

    @property
    def is_scripted(self) -> bool:
        """True for a TorchScript module, which takes no hooks."""
        return isinstance(self.module, torch.jit.ScriptModule)

    @property
    def fingerprint(self) -> str:
        """A hash of all parameters and buffers, the same on every machine."""
        state = sorted(self.module.state_dict().items())
        versions = tuple((t.data_ptr(), t._version) for _, t in state if isinstance(t, Tensor))
        if self._print is None or self._print[0] != versions:
            digest = hashlib.sha256()
            for name, t in state:
                digest.update(name.encode())
                if isinstance(t, Tensor):
                    digest.update(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            self._print = (versions, digest.hexdigest())
        return self._print[1]

    def class_index(self, name: int | str, width: int | None = None) -> int:
        """The output column of a class.

        Args:
            name: A number, a class name, or one of the synonyms that a name lists after commas.
            width: Number of columns, once the output has been seen.

        Raises:
            UnknownName: No class of that name.
            BadOption: A number outside the columns.
        """
        count = width if width is not None else len(self.classes) if self.classes else None
        if isinstance(name, int):
            if name < 0 or (count is not None and name >= count):
                valid = f"0 to {count - 1}" if count is not None else "0 up"
                raise BadOption(f"expected a class of {self.name} from {valid}; got {name}.")
            return name
        if not self.classes:
            raise unknown_name("class", name, [], f"{self.name} has no class names; give a number, or classes=[...] to Model.")
        wanted = name.strip().lower()
        for match in (lambda c: c.lower() == wanted, lambda c: wanted in [s.strip().lower() for s in c.split(",")]):
            found = [i for i, c in enumerate(self.classes) if match(c)]
            if len(found) == 1:
                return found[0]
            if found:
                raise BadOption(f"{name!r} names {len(found)} classes of {self.name}: {found[:5]}; give the number.")
        raise unknown_name("class", name, self.classes, f"{self.name} has {len(self.classes)} classes.")

    def class_name(self, index: int) -> str:
        """The name of an output column; its number where it has no name."""
        return self.classes[index] if self.classes and index < len(self.classes) else str(index)

    def layers(self, x: Any = None) -> list[Layer]:
        """All places that can be read, in the order of the module tree, with shapes from one forward.

        Args:
            x: An input to run; a neutral one if not given.

        Raises:
            NotPossible: The module is scripted and cannot be looked into.
        """
        self._hookable()
        shapes: dict[str, tuple[int, ...] | None] = {}
        calls: Counter[str] = Counter()

        def seen(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                calls[path] += 1
                with contextlib.suppress(BadShape, NotPossible):
                    shapes[path] = tuple(select(output, (), path).shape[1:])

            return hook

        modules = [(path, module) for path, module in self.module.named_modules() if path]
        handles = [module.register_forward_hook(seen(path)) for path, module in modules]
        try:
            self.run(self.example() if x is None else x)
        finally:
            for handle in handles:
                handle.remove()
        return [
            Layer(path, type(m).__name__, shapes.get(path), sum(p.numel() for p in m.parameters()), calls[path])
            for path, m in modules
        ]

    def census(self, x: Any = None) -> list[Operation]:
        """The operations that one forward meets, in order, with the module around each.

        Args:
            x: An input to run; a neutral one if not given.
        """
        self._hookable()
        batch = take(self.inputs(self.example() if x is None else x), slice(0, 1))
        with self.borrow(), torch.no_grad(), Places(self.module) as places, Census(places) as census:
            self._forward(batch)
        return census.met

    def example(self) -> Any:
        """An input in the middle of the space, or a short text."""
        if self.space.kind == "tokens":
            return ["an example"] if self.tokenizer is not None else torch.ones(1, self.space.shape[0] or 4, dtype=torch.long)
        middle = (self.space.low + self.space.high) / 2
        return torch.full((1, *(s or 64 for s in self.space.shape)), middle, dtype=self.dtype, device=self.device)

    # -- running ---------------------------------------------------------------------------------------------------------

    def inputs(self, x: Any) -> Batch:
        """A batch that this model can run, checked; see `core.door`."""
        return admitted(x, self.space, dtype=self.dtype, device=self.device, tokenizer=self.tokenizer)

    def predict(self, x: Any) -> Tensor:
        """Class probabilities, (n, classes)."""
        return self.run(x).probabilities

    def run(
        self,
        x: Any,
        *,
        read: Sites = (OUTPUT,),
        edit: Edits | None = None,
        rules: Rules | None = None,
        prefix: Prefix | None = None,
    ) -> Trace:
        """Run the network without gradients, reading and changing activations on the way.

        Args:
            x: A batch in the space's units; None with `prefix`, whose input is used.
            read: Places to read. Without "output" among them, the forward ends where the last one was seen.
            edit: New values by place: a tensor (one per input, or one for all), a number, or a function of the old values.
            rules: Rules on operations, by name; they act on the backward pass and so do nothing here but be checked.
            prefix: Continue from this place, with the values that `edit` gives there, one row each.

        Returns:
            The activations by place; `.output` and `.probabilities` where the output was read.

        Raises:
            UnknownName: No such layer.
            NotPossible: A layer did not run, or the network cannot be looked into.
        """
        plan = self._plan(x, edit, prefix)
        wanted = list(dict.fromkeys(Site.of(s).whole for s in read))

        def chunk(rows: slice) -> dict[Site, Tensor]:
            with torch.no_grad():
                return self._once(plan, rows, wanted, None, rules)[0]

        with self.borrow():
            parts = list(self._chunks(plan.rows, chunk))
        return self._trace({site: join([part[site] for part in parts]) for site in wanted})

    def gradient(
        self,
        x: Any,
        target: TargetLike,
        *,
        wrt: Site | str = INPUT,
        edit: Edits | None = None,
        rules: Rules | None = None,
        prefix: Prefix | None = None,
    ) -> Gradient:
        """A target and its gradient at a place: one forward and one backward for each chunk of inputs.

        slope_i = d target_i / d value_i

        The graph begins at `wrt`: what lies before is run without one.

        Args:
            x, edit, prefix: As in `run`.
            target: What to differentiate.
            wrt: Where; `input` is the input in the user's units.
            rules: Rules that change the backward pass of operations.

        Raises:
            NotPossible: The target does not depend on that place, or the network is not differentiable.
        """
        target, site = Target.of(target, self), Site.of(wrt)
        plan = self._plan(x, edit, prefix)

        def chunk(rows: slice) -> Gradient:
            return self._slope(plan, rows, target.take(rows), site, rules)

        with self.borrow():
            parts = list(self._chunks(plan.rows, chunk))
        return Gradient(*(join([part[k] for part in parts]) for k in range(3)))

    def prefix(self, x: Any, at: Site | str) -> Prefix:
        """Run one input and keep what lies before `at`, so that later runs can start there.

        Raises:
            BadShape: More than one input.
        """
        site, batch = Site.of(at).whole, self.inputs(x)
        if size(batch) != 1:
            raise BadShape(f"expected one input for a prefix; got {size(batch)}.")
        if site == INPUT:
            return Prefix(site, self._primary(batch), batch, None)
        with self.borrow(), torch.no_grad():
            recorder = Recorder(list(batch.values()) if isinstance(batch, dict) else [batch])
            with self._taps([site], {site: lambda t: t}, None, 1, arrived=lambda *_: recorder.cut()) as taps, recorder:
                out = self._forward(batch)
            taps.check()
            self._calls.update(taps.calls)
            value, output = taps.found[site], select(out, self._output, self.name)
            calls = None if recorder.overwritten else recorder.recording()
            prefix = Prefix(site, value.clone(), batch, calls)
            return prefix if calls is not None and self._reproduces(prefix, output) else Prefix(site, prefix.value, batch, None)

    def is_steady(self, x: Batch) -> bool:
        """True if the same input gives the same output twice, alone and in a batch. Looked at once for each model."""
        if self._steady is None:
            row = take(x, slice(0, 1))
            with self.borrow(), torch.no_grad():
                alone, pair = (select(self._forward(repeat(row, n)), self._output, self.name) for n in (1, 2))
            close = 1e-4 * (1 + float(alone.abs().max()) if alone.numel() else 1.0)
            self._steady = bool(((pair - alone).abs() <= close).all())
        return self._steady

    @contextlib.contextmanager
    def borrow(self) -> Iterator[None]:
        """Hold the network for a while; see `core.borrow`. Nested use is free; another thread waits."""
        with self._lock:
            if self._borrowers:
                yield
                return
            self._borrowers = 1
            try:
                with borrowed(self.module):
                    yield
            finally:
                self._borrowers = 0

    # -- how it runs -----------------------------------------------------------------------------------------------------

    def _plan(self, x: Any, edit: Edits | None, prefix: Prefix | None) -> "_Plan":
        edits = {Site.of(site): values for site, values in (edit or {}).items()}
        if any(site.module == "output" for site in edits):
            raise BadOption("expected an edit inside the network; the output is its end. Edit the last layer by name.")
        if prefix is None:
            batch = self.inputs(x)
            return _Plan(batch, size(batch), edits, None)
        values = next((v for site, v in edits.items() if site == prefix.site), None)
        if not isinstance(values, Tensor):
            raise BadOption(f"expected edit={{{str(prefix.site)!r}: tensor}} with one row for each variant of the prefix.")
        return _Plan(prefix.x, len(values), edits, prefix)

    def _chunks(self, rows: int, work: Callable[[slice], Any]) -> Iterator[Any]:
        """Work through the rows in chunks, and in smaller ones when memory runs out."""
        start = 0
        while start < rows or (rows == 0 and start == 0):
            stop = min(rows, start + self._chunk)
            try:
                yield work(slice(start, stop))
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if self._chunk == 1:
                    raise NotPossible(f"not enough memory for one input of {self.name}: {error}") from error
                self._chunk = max(1, self._chunk // 2)
                continue
            start = max(stop, 1)

    def _slope(self, plan: "_Plan", rows: slice, target: Target, site: Site, rules: Rules | None) -> Gradient:
        found, leaf = self._once(plan, rows, list(target.sites), site.whole, rules)
        assert leaf is not None
        score = target(self._trace(found)).expand(len(leaf))
        if not score.requires_grad:
            raise NotPossible(f"{target} does not depend on {site} in {self.name} in a way that can be differentiated.")
        (slope,) = torch.autograd.grad(score.sum(), leaf, allow_unused=True)
        if slope is None:
            raise NotPossible(f"{target} does not depend on {site}: that place comes after what the target reads.")
        self.spent["backwards"] += len(leaf)
        index = site.index(leaf, self._module_at(site))
        return Gradient(score.detach(), leaf.detach()[index], slope[index])

    def _once(
        self, plan: "_Plan", rows: slice, wanted: Sequence[Site], leaf: Site | None, rules: Rules | None
    ) -> tuple[dict[Site, Tensor], Tensor | None]:
        """One forward of one chunk: what was read, and the tensor at `leaf` with a graph from there on."""
        count = rows.stop - rows.start
        edits = {site: _rows_of(values, rows, plan.rows) for site, values in plan.edits.items()}
        replay = plan.prefix if plan.prefix is not None and plan.prefix.calls is not None else None
        batch = take(plan.x, rows) if plan.prefix is None else repeat(plan.x, count)
        try:
            return self._tapped(batch, count, edits, wanted, leaf, rules, replay)
        except Diverged:
            return self._tapped(repeat(plan.x, count), count, edits, wanted, leaf, rules, None)

    def _tapped(
        self,
        batch: Batch,
        count: int,
        edits: Mapping[Site, Edit],
        wanted: Sequence[Site],
        leaf: Site | None,
        rules: Rules | None,
        replay: Prefix | None,
    ) -> tuple[dict[Site, Tensor], Tensor | None]:
        batch, found = self._at_input(batch, edits, wanted, leaf)
        inner = {self._resolved(s): v for s, v in edits.items() if self._resolved(s) != INPUT}
        reads = {self._resolved(s): s for s in wanted if s not in (INPUT, OUTPUT) or self._resolved(s) != s}
        cut = self._resolved(leaf) if leaf is not None else None
        player = Replayer(replay.calls, count) if replay is not None and replay.calls is not None else None
        stop = self._calls if OUTPUT not in wanted else None
        output = None
        with contextlib.ExitStack() as around:
            around.enter_context(torch.set_grad_enabled(leaf is not None))
            taps = self._taps(list(reads), inner, None if cut == INPUT else cut, count, stop=stop, arrived=_live(player, replay))
            around.enter_context(taps)
            if rules:
                around.enter_context(UnderRules(rules, around.enter_context(Places(self.module))))
            if player is not None:
                around.enter_context(player)
            self.spent["forwards"] += count
            with contextlib.suppress(Stop):
                output = self._forward(batch)
                taps.check()
                self._calls.update(taps.calls)
        found |= {name: taps.found[place] for place, name in reads.items()}
        if OUTPUT in wanted:
            found[OUTPUT] = select(output, self._output, self.name)
        return found, found.get(INPUT) if cut == INPUT else taps.found[cut] if cut is not None else None

    def _at_input(
        self, batch: Batch, edits: Mapping[Site, Edit], wanted: Sequence[Site], leaf: Site | None
    ) -> tuple[Batch, dict[Site, Tensor]]:
        """Edit, read and cut at the input itself; for tokens, the input is the embedding, a place like any other."""
        if self._resolved(INPUT) != INPUT:
            return batch, {}
        x = self._primary(batch)
        for site, values in edits.items():
            if site.whole == INPUT:
                x = apply_edit(x, site, values, None)
        if leaf == INPUT:
            x = x.detach().requires_grad_()
        found = {INPUT: x} if INPUT in wanted or leaf == INPUT else {}
        passed = x.clone() if found else x
        return (passed if isinstance(batch, Tensor) else {**batch, next(iter(batch)): passed}), found

    def _forward(self, batch: Batch) -> Any:
        if isinstance(batch, Tensor):
            return self.module(batch if self.space.kind == "tokens" else self.space.normalised(batch))
        if self.space.kind == "tokens":
            return self.module(**batch)
        first = next(iter(batch))
        return self.module(**{**batch, first: self.space.normalised(batch[first])})

    def _taps(self, read: list[Site], edits: Mapping[Site, Edit], leaf: Site | None, rows: int, **more: Any) -> Taps:
        for site in [*read, *edits, *([leaf] if leaf else [])]:
            self._module_at(site, required=True)
        stop = more.pop("stop", None)
        return Taps(self.module, read=read, edits=edits, leaf=leaf, rows=rows, stop=stop, **more)

    def _reproduces(self, prefix: Prefix, output: Tensor) -> bool:
        """Does continuing from the recorded place give the recorded output, for each of two rows?"""
        try:
            again = self.run(None, prefix=prefix, edit={prefix.site: repeat(prefix.value, 2)}).output
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            return False
        return bool(again.shape[1:] == output.shape[1:] and torch.allclose(again, output.expand_as(again), rtol=1e-4, atol=1e-5))

    def _trace(self, found: dict[Site, Tensor]) -> Trace:
        modules = {site.module: m for site in found if (m := self._module_at(site)) is not None}
        return Trace(found, modules, self.scores, self.class_index)

    def _resolved(self, site: Site) -> Site:
        """The module behind the name `input` where that is an embedding."""
        if site.module != "input" or self._embedding is None:
            if site.module == "input" and self.space.kind == "tokens":
                raise NotPossible(f"{self.name} has no embedding place, so its input has no gradient; pass embedding=... to Model.")
            return site
        at = self._embedding
        return Site(at.module, at.call, at.part, site.unit, site.head, site.position)

    def _module_at(self, site: Site, *, required: bool = False) -> nn.Module | None:
        if site.module in ("input", "output"):
            return None
        if required:
            self._hookable()
        try:
            return self.module.get_submodule(site.module)
        except AttributeError:
            names = [path for path, _ in self.module.named_modules(remove_duplicate=False) if path]
            more = f"`cutaway layers {self.name}` lists all {len(names)}."
            raise unknown_name(f"layer in {self.name} called", site.module, names, more) from None

    def _hookable(self) -> None:
        if self.is_scripted:
            raise NotPossible(
                f"{self.name} is a scripted module and cannot be looked into; what works: methods that only run it (occlusion, "
                "rise, insertion, deletion) and gradients at the input. Pass the original nn.Module for the rest."
            )

    def _primary(self, batch: Batch) -> Tensor:
        return batch if isinstance(batch, Tensor) else next(iter(batch.values()))

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.module.parameters()
        yield from self.module.buffers()

    def _unwrapped(self, module: nn.Module) -> nn.Module:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            self.notes.append(f"{type(module).__name__} was looked through: the module inside is explained.")
            return self._unwrapped(module.module)
        original = getattr(module, "_orig_mod", None)
        if isinstance(original, nn.Module):
            self.notes.append("torch.compile was looked through: the original module, with the same weights, is explained.")
            return self._unwrapped(original)
        return module


class _Plan(NamedTuple):
    """What to run: the input, how many rows come out, and what changes on the way."""

    x: Batch
    rows: int
    edits: dict[Site, Edit]
    prefix: Prefix | None


def _rows_of(values: Edit, rows: slice, total: int) -> Edit:
    """The share of an edit that belongs to a chunk."""
    return values[rows] if isinstance(values, Tensor) and values.ndim and len(values) == total else values


def _live(player: Replayer | None, prefix: Prefix | None) -> Callable[[Site, Tensor], None] | None:
    if player is None or prefix is None:
        return None
    return lambda site, _: player.go_live() if site == prefix.site else None


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text
