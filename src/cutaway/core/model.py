"""A network with what its input and output mean: the one way in for every method."""

import contextlib
import hashlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cutaway.core.batch import Batch, join, repeat, select, size, take
from cutaway.core.borrow import borrowed
from cutaway.core.door import admitted
from cutaway.core.errors import BadOption, BadShape, NotPossible, unknown_name
from cutaway.core.operations import Census, Operation, Places, Rules, UnderRules
from cutaway.core.overflow import first_overflow
from cutaway.core.pace import Widest, keep_freed_memory, rows_at_once
from cutaway.core.patched import Patched
from cutaway.core.replay import Diverged, Recorded, Recorder, Replayer
from cutaway.core.site import INPUT, OUTPUT, Site
from cutaway.core.space import Space
from cutaway.core.taps import Edit, Stop, Taps, apply_edit, batch_axis, batch_second
from cutaway.core.target import Target, TargetLike
from cutaway.core.trace import ScoreKind, Trace

# Where only small activations are computed, more variants run at once.
_VARIANTS_PER_ROW = 4
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
        module: The network. It is borrowed: after every call it is what it was. Wrappers of `DataParallel` and
            `torch.compile` are looked through; a scripted module can be run, but not looked into.
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
        self._batch_size = batch_size
        self._chunk = batch_size or rows_at_once(self.device)
        self._widest = 0
        self._calls: dict[str, int] = {}
        self._lock = threading.RLock()
        self._borrowers = 0
        self.was_training = False
        self._steady: bool | None = None
        self._boxes_hold: bool | None = None
        self._channels_last = False
        self._print: tuple[tuple[tuple[int, int, int, float], ...], str] | None = None

    def __repr__(self) -> str:
        """Name, input and size."""
        count = sum(p.numel() for p in self.module.parameters())
        return f"Model({self.name}: {self.space.describe()}, {count:,} parameters)"

    # -- what it is ----------------------------------------------------------------------------------------------------

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
        state = sorted((name, t) for name, t in self.module.state_dict().items() if isinstance(t, Tensor))
        key = tuple(_sum_of_bits(t) for _, t in state)
        if self._print is None or self._print[0] != key:
            digest = hashlib.sha256()
            for name, t in state:
                digest.update(name.encode())
                digest.update(_bytes(t).data)
            self._print = (key, digest.hexdigest())
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
            raise unknown_name(
                "class", name, [], f"{self.name} has no class names; give a number, or classes=[...] to Model."
            )
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
        batch = take(self.inputs(self.example() if x is None else x), slice(0, 1))
        shapes: dict[str, tuple[int, ...] | None] = {}
        calls: Counter[str] = Counter()
        second = batch_second(self.module)

        def seen(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                calls[path] += 1
                with contextlib.suppress(BadShape, NotPossible):
                    tensor = select(output, (), path)
                    axis = batch_axis(module, Site(path), tensor, 1, second)
                    shapes[path] = tuple(tensor.movedim(axis, 0).shape[1:])

            return hook

        modules = [(path, module) for path, module in self.module.named_modules() if path]
        with self.borrow(), contextlib.ExitStack() as hooks:
            for path, module in modules:
                hooks.callback(module.register_forward_hook(seen(path)).remove)
            self.run(batch)
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
        with self.borrow(), torch.no_grad(), Places(self.module) as places:
            args, kwargs = self._arguments(batch)
            census = Census(places)
            with census:
                self.module(*args, **kwargs)
        return census.met

    def with_module(self, module: nn.Module) -> "Model":
        """Another network with the same input, output and names. What it spends is counted here, too."""
        other = Model(
            module,
            self.space,
            classes=self.classes,
            name=self.name,
            output="/".join(self._output),
            scores=self.scores,
            tokenizer=self.tokenizer,
            embedding=str(self._embedding or ""),
            batch_size=self._chunk,
        )
        other.spent = self.spent
        return other

    def example(self) -> Any:
        """An input in the middle of the space, or a short text."""
        if self.space.kind == "tokens":
            return (
                ["an example"]
                if self.tokenizer is not None
                else torch.ones(1, self.space.shape[0] or 4, dtype=torch.long)
            )
        middle = (self.space.low + self.space.high) / 2
        return torch.full((1, *(s or 64 for s in self.space.shape)), middle, dtype=self.dtype, device=self.device)

    # -- running -------------------------------------------------------------------------------------------------------

    def inputs(self, x: Any) -> Batch:
        """A batch that this model can run, checked; see `core.door`."""
        with torch.inference_mode(False):
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
            x: A batch in the space's units, or copies of one image that differ in a box each (`core.patched`); None
                with `prefix`, whose input is used.
            read: Places to read. Without "output" among them, the forward ends where the last one was seen.
            edit: New values by place: a tensor (one per input, or one for all), a number, or a function of the old
                values.
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
            parts = list(self._chunks(plan.rows, chunk, _VARIANTS_PER_ROW if self._is_narrow(plan) else 1))
        return self._trace({site: join([part[site] for part in parts]).contiguous() for site in wanted})

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
        if any(t.is_inference() for t in itertools.islice(self._tensors(), 1)):
            raise NotPossible(
                f"{self.name} was built inside torch.inference_mode, so it has no gradients; build or load it outside."
            )
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
        site, batch = self._resolved(Site.of(at)).whole, self.inputs(x)
        if size(batch) != 1:
            raise BadShape(f"expected one input for a prefix; got {size(batch)}.")
        if site == INPUT:
            return Prefix(site, self._primary(batch), batch, None)
        with self.borrow(), torch.no_grad():
            recorder = Recorder(list(batch.values()) if isinstance(batch, dict) else [batch])
            with self._taps([site], {site: lambda t: t}, None, 1, arrived=lambda *_: recorder.cut()) as taps, recorder:
                out = self._forward(batch, lay_out=False)
            taps.check()
            self._calls.update(taps.calls)
            value, output = taps.found[site], select(out, self._output, self.name)
            calls = None if recorder.overwritten else recorder.recording()
            prefix = Prefix(site, value.clone(), batch, calls)
            return (
                prefix
                if calls is not None and self._reproduces(prefix, output)
                else Prefix(site, prefix.value, batch, None)
            )

    def is_steady(self, x: Batch) -> bool:
        """True if the same input gives the same output twice, alone and in a batch. Looked at once for each model."""
        if self._steady is None:
            row = take(x, slice(0, 1))
            keep_freed_memory()
            with self.borrow(), torch.no_grad():
                with Widest() as widest:
                    alone = select(self._forward(row), self._output, self.name)
                pair = select(self._forward(repeat(row, 2)), self._output, self.name)
                self._widest = widest.bytes
                self._chunk = self._batch_size or rows_at_once(self.device, widest.bytes)
                # Zero for what is not finite: that is not the same as random.
                pair, alone = torch.nan_to_num(pair), torch.nan_to_num(alone)
                close = 1e-4 * (1 + float(alone.abs().max()) if alone.numel() else 1.0)
                self._steady = bool(((pair - alone).abs() <= close).all())
                self._channels_last = self._runs_channels_last(repeat(row, 2), pair)
        return self._steady

    @contextlib.contextmanager
    def borrow(self) -> Iterator[None]:
        """Hold the network for a while; see `core.borrow`. Nested use is free; another thread waits."""
        with self._lock:
            if self._borrowers:
                yield
                return
            self._borrowers, self.was_training = 1, self.module.training
            try:
                with borrowed(self.module):
                    yield
            finally:
                self._borrowers = 0

    # -- how it runs ---------------------------------------------------------------------------------------------------

    def _plan(self, x: Any, edit: Edits | None, prefix: Prefix | None) -> "_Plan":
        edits = {Site.of(site): values for site, values in (edit or {}).items()}
        if any(site.module == "output" for site in edits):
            raise BadOption("expected an edit inside the network; the output is its end. Edit the last layer by name.")
        if prefix is None:
            batch = x if isinstance(x, Patched) else self.inputs(x)
            return _Plan(batch, size(batch), edits, None)
        values = next((v for site, v in edits.items() if self._resolved(site) == prefix.site), None)
        if not isinstance(values, Tensor):
            raise BadOption(
                f"expected edit={{{str(prefix.site)!r}: tensor}} with one row for each variant of the prefix."
            )
        return _Plan(prefix.x, len(values), edits, prefix)

    def _chunks(self, rows: int, work: Callable[[slice], Any], times: int = 1) -> Iterator[Any]:
        """Work through the rows in chunks, `times` as many at once, and in smaller ones when memory runs out."""
        start = 0
        while start < rows or (rows == 0 and start == 0):
            stop = min(rows, start + self._chunk * times)
            try:
                yield work(slice(start, stop))
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if self._chunk == times == 1:
                    raise NotPossible(f"not enough memory for one input of {self.name}: {error}") from error
                self._chunk, times = (self._chunk // 2, times) if self._chunk > 1 else (1, times // 2)
                continue
            start = max(stop, 1)

    def _slope(self, plan: "_Plan", rows: slice, target: Target, site: Site, rules: Rules | None) -> Gradient:
        found, leaf = self._once(plan, rows, list(target.sites), site.whole, rules)
        assert leaf is not None
        score = target(self._trace(found)).expand(len(leaf))
        if not score.requires_grad:
            raise NotPossible(f"{target} does not depend on {site} in {self.name} in a way that can be differentiated.")
        if not torch.isfinite(score).all():
            # Its slope may well be finite, and would look like an answer.
            where = first_overflow(self, take(plan.x, rows) if plan.prefix is None else plan.x)
            raise NotPossible(f"{target} is not finite on this input of {self.name}: {where}.")
        try:
            (slope,) = torch.autograd.grad(score.sum(), leaf, allow_unused=True)
        except RuntimeError as error:
            if "inplace operation" not in str(error):
                raise
            raise NotPossible(
                f"{self.name} has no gradient: it overwrites an activation that its backward pass needs. Replace the "
                "operation in place (x += y, relu_, inplace=True) by an ordinary one. "
                f"torch says: {str(error).split(' Hint:')[0]}"
            ) from error
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
        replay = plan.prefix if plan.prefix is not None and plan.prefix.calls is not None else None
        edits = {site: _rows_of(values, rows, plan.rows) for site, values in plan.edits.items()}
        if replay is not None and leaf is None and self._channels_last:
            edits = {site: _channels_last(values) for site, values in edits.items()}
        batch = take(plan.x, rows) if plan.prefix is None else repeat(plan.x, count)
        if isinstance(batch, Patched):
            plain = not (leaf or edits or rules) and wanted == [OUTPUT]
            batch = batch if plain and self._holds_boxes(batch) else batch.full()
        try:
            return self._tapped(batch, count, edits, wanted, leaf, rules, replay)
        except Diverged:
            return self._tapped(repeat(plan.x, count), count, edits, wanted, leaf, rules, None)
        except RuntimeError as error:
            if not self._channels_last or "view size is not compatible" not in str(error):
                raise
            self._channels_last = False
            return self._once(plan, rows, wanted, leaf, rules)

    def _is_narrow(self, plan: "_Plan") -> bool:
        """Are the activations small: boxes of an image, or what comes after a place that is late?"""
        if plan.prefix is None or plan.prefix.calls is None:
            return isinstance(plan.x, Patched)
        return 8 * plan.prefix.value.numel() * plan.prefix.value.element_size() <= self._widest

    def _holds_boxes(self, x: Patched) -> bool:
        """Does this network give from boxes what it gives from whole images? Looked at once for each model."""
        if self._boxes_hold is None and x.is_local:
            try:
                whole = x[:1]
                assert isinstance(whole, Patched)
                outputs = (self._forward(one) for one in (x[:1], whole.full()))
                self._boxes_hold = _same(*(select(out, self._output, self.name) for out in outputs))
            except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NotPossible):
                self._boxes_hold = False
        return bool(self._boxes_hold)

    def _runs_channels_last(self, batch: Batch, output: Tensor) -> bool:
        """Does this network take images with the channels innermost, which the CPU convolves faster?"""
        if not isinstance(batch, Tensor) or batch.ndim != 4 or batch.device.type != "cpu":
            return False
        try:
            seen = self._seen(batch, lay_out=False).contiguous(memory_format=torch.channels_last)
            return _same(select(self.module(seen), self._output, self.name), output)
        except RuntimeError:
            return False

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
        inner = {self._resolved(s): v for s, v in edits.items() if self._resolved(s).module != "input"}
        reads = {s: self._resolved(s) for s in wanted if s not in (INPUT, OUTPUT) or self._resolved(s) != s}
        cut = self._resolved(leaf) if leaf is not None else None
        player = Replayer(replay.calls, count) if replay is not None and replay.calls is not None else None
        stop = self._calls if OUTPUT not in wanted else None
        output = None
        with contextlib.ExitStack() as around:
            around.enter_context(torch.set_grad_enabled(leaf is not None))
            taps = self._taps(
                list(reads.values()),
                inner,
                None if cut == INPUT else cut,
                count,
                stop=stop,
                arrived=_live(player, replay),
            )
            around.enter_context(taps)
            if rules:
                around.enter_context(UnderRules(rules, around.enter_context(Places(self.module))))
            if player is not None:
                around.enter_context(player)
            self.spent["forwards"] += count
            with contextlib.suppress(Stop):
                # A replay answers the operations of the recorded run, laid out as there, so there may be no others.
                output = self._forward(batch, lay_out=player is None)
                taps.check()
                self._calls.update(taps.calls)
        found |= {name: taps.found[place] for name, place in reads.items()}
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
        return (x if isinstance(batch, Tensor) else {**batch, next(iter(batch)): x}), found

    def _forward(self, batch: Batch, *, lay_out: bool = True) -> Any:
        args, kwargs = self._arguments(batch, lay_out)
        return self.module(*args, **kwargs)

    def _arguments(self, batch: Batch, lay_out: bool = True) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        # Clone: an operation in place at the entrance would write into the caller's memory, or into a leaf.
        if isinstance(batch, Tensor):
            return (self._seen(batch, lay_out),), {}
        first, *others = batch
        return (), {first: self._seen(batch[first], lay_out)} | {name: batch[name].clone() for name in others}

    def _seen(self, x: Tensor, lay_out: bool) -> Tensor:
        seen = x if self.space.kind == "tokens" else self.space.normalised(x)
        if lay_out and self._channels_last and len(x) > 1 and not torch.is_grad_enabled():
            seen = _channels_last(seen)
        return x.clone() if seen is x else seen

    def _taps(self, read: list[Site], edits: Mapping[Site, Edit], leaf: Site | None, rows: int, **more: Any) -> Taps:
        for site in [*read, *edits, *([leaf] if leaf else [])]:
            self._module_at(site, required=True)
        stop = more.pop("stop", None)
        return Taps(self.module, read=read, edits=edits, leaf=leaf, rows=rows, stop=stop, **more)

    def _reproduces(self, prefix: Prefix, output: Tensor) -> bool:
        """Does continuing from the recorded place give the recorded output, for each of two rows?"""
        try:
            again = self.run(None, prefix=prefix, edit={prefix.site: torch.cat([prefix.value] * 2)}).output
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            return False
        return bool(
            again.shape[1:] == output.shape[1:] and torch.allclose(again, output.expand_as(again), rtol=1e-4, atol=1e-5)
        )

    def _trace(self, found: dict[Site, Tensor]) -> Trace:
        modules = {site.module: m for site in found if (m := self._module_at(site)) is not None}
        return Trace(found, modules, self.scores, self.class_index, len(self.classes or ()))

    def _resolved(self, site: Site) -> Site:
        """The module behind the name `input` where that is an embedding."""
        if site.module != "input" or self._embedding is None:
            if site.module == "input" and self.space.kind == "tokens":
                raise NotPossible(
                    f"{self.name} has no embedding place, so its input has no gradient; pass embedding=... to Model."
                )
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
                f"{self.name} is a scripted module and cannot be looked into; what works: methods that only run it "
                "(occlusion, rise, insertion, deletion) and gradients at the input. "
                "Pass the original nn.Module for the rest."
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
            self.notes.append(
                "torch.compile was looked through: the original module, with the same weights, is explained."
            )
            return self._unwrapped(original)
        return module


def _channels_last(values: Any) -> Any:
    many = isinstance(values, Tensor) and values.ndim == 4 and values.shape[1] > 1
    return values.contiguous(memory_format=torch.channels_last) if many else values


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


class _Plan(NamedTuple):
    """What to run: the input, how many rows come out, and what changes on the way."""

    x: Batch
    rows: int
    edits: dict[Site, Edit]
    prefix: Prefix | None


def _sum_of_bits(t: Tensor) -> tuple[int, int, int, float]:
    """A cheap sign that a tensor is what it was; the version alone misses changes through `.data`."""
    data = _bytes(t)
    whole = len(data) // 8 * 8
    # Wrapping sums of 8 bytes at a time: 20 times faster than a checksum, and only a swap through `.data` escapes them.
    total = int(np.add.reduce(data[:whole].view(np.int64))) + int(np.add.reduce(data[whole:], dtype=np.int64))
    # The sum of values as well: an even number of changed signs leaves the sum of bits as it was.
    return t.data_ptr(), 0 if t.is_inference() else t._version, total, float(t.sum())


def _bytes(t: Tensor) -> np.ndarray:
    t = t.detach().cpu()
    # NumPy has fewer floating-point types than torch; the bits are what counts.
    t = t if t.dtype in (torch.float32, torch.float64, torch.int64) else t.contiguous().flatten().view(torch.uint8)
    return np.ascontiguousarray(t.numpy()).reshape(-1).view(np.uint8)


def _rows_of(values: Edit, rows: slice, total: int) -> Edit:
    """The share of an edit that belongs to a chunk: its rows, where it has as many axes as what it replaces."""
    if not isinstance(values, Tensor):
        return values
    given = values.clone() if values.is_inference() else values  # autograd refuses such tensors
    return lambda old: given[rows] if given.ndim == old.ndim and len(given) == total else given


def _live(player: Replayer | None, prefix: Prefix | None) -> Callable[[Site, Tensor], None] | None:
    if player is None or prefix is None:
        return None
    return lambda site, _: player.go_live() if site == prefix.site else None


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
    )
