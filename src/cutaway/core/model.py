"""A network with what its input and output mean: the one way in for every method."""

import contextlib
import itertools
import math
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from cutaway.core import shared
from cutaway.core.batch import Batch, join, select, size, take
from cutaway.core.borrow import borrowed
from cutaway.core.classes import class_index
from cutaway.core.decomposed.run import Parts, decomposed_run
from cutaway.core.decomposed.tensor import Gap, How
from cutaway.core.door import admitted
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.fingerprint import StateHash
from cutaway.core.layers import Layer, watched
from cutaway.core.operations import Census, Operation, Places, Rules
from cutaway.core.patched import Patched
from cutaway.core.recipe import Recipe
from cutaway.core.replay import Recorder
from cutaway.core.runner import Plan, Prefix, Runner
from cutaway.core.site import INPUT, OUTPUT, Site
from cutaway.core.slopes import Gradient, slopes
from cutaway.core.space import Space
from cutaway.core.taps import Edit
from cutaway.core.target import Target, TargetLike
from cutaway.core.text import Encoded
from cutaway.core.trace import ScoreKind, Trace

# Where only small activations are computed, more variants run at once.
_VARIANTS_PER_ROW = 4
_HOW = How()
Sites = Sequence[Site | str]
Edits = Mapping[Site, Edit] | Mapping[str, Edit]


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
        self.source: dict[str, Any] = {}  # what `cutaway.load` was called with, if it made this
        self.recipe: Recipe | None = None  # how it was trained, for methods that train it again
        self.module = self._unwrapped(module)
        self.space = space
        self.classes = tuple(classes) if classes is not None else None
        self.name = name or type(self.module).__name__
        self.scores: ScoreKind = scores
        self.tokenizer = tokenizer
        self._batch_size = batch_size
        self._state = StateHash(self.module)
        self._runner = Runner(
            self.module,
            space,
            name=self.name,
            output=tuple(part for part in output.split("/") if part),
            embedding=Site.of(embedding) if embedding else None,
            batch_size=batch_size,
            device=self.device,
            state=self._state,
        )
        self._lock = threading.RLock()
        self._borrowers = 0
        self.was_training = False
        self._steady: bool | None = None
        self._let_in: tuple[Callable[[], Any], Any] = (lambda: None, None)

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
        return self._runner.is_scripted

    @property
    def output(self) -> str:
        """Which part of what the network gives is its output, where there are several."""
        return "/".join(self._runner.output)

    @property
    def spent(self) -> Counter[str]:
        """Forwards and backwards of single inputs so far."""
        return self._runner.spent

    @property
    def fingerprint(self) -> str:
        """A hash of all parameters and buffers, the same on every machine."""
        return self._state.value()

    def class_index(self, name: int | str, width: int | None = None) -> int:
        """The output column of a class.

        Args:
            name: A number, a class name, or one of the synonyms that a name lists after commas.
            width: Number of columns, once the output has been seen.

        Raises:
            UnknownName: No class of that name.
            BadOption: A number outside the columns.
        """
        return class_index(name, self.classes, width, self.name)

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
        self._runner.check_hookable()
        batch = take(self.inputs(self.example() if x is None else x), slice(0, 1))
        with self.borrow(), watched(self.module) as watch:
            self.run(batch)
        return watch.layers()

    def census(self, x: Any = None) -> list[Operation]:
        """The operations that one forward meets, in order, with the module around each.

        Args:
            x: An input to run; a neutral one if not given.
        """
        self._runner.check_hookable()
        batch = take(self.inputs(self.example() if x is None else x), slice(0, 1))
        with self.borrow(), torch.no_grad():
            args, kwargs = self._runner.arguments(batch)
            census = Census(Places(self.module))
            with census:
                self.module(*args, **kwargs)
        return census.met

    def with_module(self, module: nn.Module) -> "Model":
        """Another network with the same input, output and names. What it spends is counted here, too."""
        other = Model(module, **{**self._described(), "batch_size": self._runner.chunk})
        other._runner.spent = self.spent
        if [type(m) for m in module.modules()] == [type(m) for m in self.module.modules()]:
            # Built alike, so it runs alike: this need not be found out again.
            other._steady = self._steady
            other._runner.learn(self._runner, 1.0, self._runner.chunk)
        return other

    def at_size(self, height: int, width: int) -> "Model":
        """The same network on images of another size; whether it takes them, a run will tell.

        What it spends is counted here, too, and what was learned about the network stays known.
        """
        if self.space.shape[1:] == (height, width):
            return self
        space = replace(self.space, shape=(self.space.shape[0], height, width))
        other = Model(self.module, **{**self._described(), "space": space})
        own = [size or 64 for size in self.space.shape[1:]]
        other._runner.learn(self._runner, height * width / math.prod(own), self._batch_size)
        return other

    def __reduce__(self) -> tuple[Callable[..., "Model"], tuple[Any, ...]]:
        """For another process of the same user: network and description, without what was learned while running."""
        return _described_by, (self.module, self._described(), self.source, self.notes)

    def _described(self) -> dict[str, Any]:
        """The arguments, beside the module, that make this model."""
        return {
            "space": self.space,
            "classes": self.classes,
            "name": self.name,
            "output": self.output,
            "scores": self.scores,
            "tokenizer": self.tokenizer,
            "embedding": str(self._runner.embedding or ""),
            "batch_size": self._batch_size,
        }

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
        known, stamp = self._let_in
        if known() is x and stamp is not None and stamp == _stamp(x):
            return cast(Batch, x)  # a method hands on what its own call was let in with
        with torch.inference_mode(False):
            batch = admitted(x, self.space, dtype=self.dtype, device=self.device, tokenizer=self.tokenizer)
        if isinstance(batch, Tensor | Encoded):
            self._let_in = weakref.ref(batch), _stamp(batch)
        return batch

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
                return self._runner.once(plan, rows, wanted, None, rules)[0]

        with self.borrow():
            times = _VARIANTS_PER_ROW if self._runner.is_narrow(plan) else 1
            parts = list(self._runner.chunks(plan.rows, chunk, times))
        return self._trace({site: join([part[site] for part in parts]).contiguous() for site in wanted})

    def gradient(
        self,
        x: Any,
        target: TargetLike,
        *,
        wrt: Site | str = INPUT,
        edit: Edits | None = None,
        rules: Rules | Callable[[slice], Rules] | None = None,
        prefix: Prefix | None = None,
    ) -> Gradient:
        """A target and its gradient at a place: one forward and one backward for each chunk of inputs.

        slope_i = d target_i / d value_i

        The graph begins at `wrt`: what lies before is run without one.

        Args:
            x, edit, prefix: As in `run`.
            target: What to differentiate.
            wrt: Where; `input` is the input in the user's units.
            rules: Rules that change the backward pass of operations, or a function that gives those for some rows of
                the batch. They end where the network does, unless they have an attribute `reach_target` that is true.

        Raises:
            NotPossible: The target does not depend on that place, or the network is not differentiable.
        """
        target, site = Target.of(target, self), Site.of(wrt)
        if edit is None and rules is None and prefix is None and (passes := shared.current()) is not None:
            return passes.gradient(self, x, target, site)
        return self.gradients(x, target, wrt=[site], edit=edit, rules=rules, prefix=prefix)[0]

    def gradients(
        self,
        x: Any,
        target: TargetLike,
        *,
        wrt: Sites,
        edit: Edits | None = None,
        rules: Rules | Callable[[slice], Rules] | None = None,
        prefix: Prefix | None = None,
    ) -> list[Gradient]:
        """As `gradient`, at several places with the same forward and backward.

        With more than one place, the graph begins at the input.

        Args:
            wrt: Where; at least one place.

        Raises:
            NotPossible: As in `gradient`, for any of the places; or one of them does not depend on the input.
        """
        target, sites = Target.of(target, self), [Site.of(site) for site in wrt]
        if rules is not None:
            self._runner.check_hookable()
        if any(t.is_inference() for t in itertools.islice(self._tensors(), 1)):
            raise NotPossible(
                f"{self.name} was built inside torch.inference_mode, so it has no gradients; build or load it outside."
            )
        plan = self._plan(x, edit, prefix)

        def chunk(rows: slice) -> list[Gradient]:
            some = rules(rows) if callable(rules) else rules
            return slopes(self, self._runner, plan, rows, target.take(rows), sites, some, self._trace)

        with self.borrow():
            parts = list(self._runner.chunks(plan.rows, chunk))
        at_each = zip(*parts, strict=True)
        return [Gradient(*(join(tensors).contiguous() for tensors in zip(*chunks, strict=True))) for chunks in at_each]

    def decomposed(
        self, x: Any, masks: Tensor, *, read: Sites = (OUTPUT,), how: How = _HOW, wrt: Site = INPUT
    ) -> Parts:
        """Run one input as the sum of what comes from a group of its entries and the rest, once for each group.

        Args:
            x: One input.
            masks: The entries of each group, booleans (k, ...) that fit an input as the network sees it: (k, 1, h, w)
                for an image, (k, columns) for a row, (k, tokens, 1) for the embedding of a text.
            read: Places to read.
            how: Choices between published rules.
            wrt: Where the entries are: the input, or a whole layer, whose activation the masks then fit.

        Raises:
            BadShape: More than one input.
            NotPossible: An operation has no rule; it is named, with its place.
        """
        batch, wanted = self.inputs(x), list(dict.fromkeys(Site.of(s).whole for s in read))
        if size(batch) != 1:
            raise BadShape(f"expected one input to decompose; got {size(batch)}.")

        def chunk(rows: slice) -> tuple[dict[Site, Any], Gap]:
            return decomposed_run(self._runner, batch, masks[rows], wanted, how, wrt)

        with self.borrow():
            runs = list(self._runner.chunks(len(masks), chunk))
        part, rest, whole = (
            self._trace({site: join([getattr(found[site], name) for found, _ in runs]) for site in wanted})
            for name in ("part", "rest", "whole")
        )
        return Parts(part, rest, whole, max((gap for _, gap in runs), key=lambda gap: gap.size))

    def prefix(self, x: Any, at: Site | str) -> Prefix:
        """Run one input and keep what lies before `at`, so that later runs can start there.

        Raises:
            BadShape: More than one input.
        """
        site, batch = self._runner.resolved(Site.of(at)).whole, self.inputs(x)
        if size(batch) != 1:
            raise BadShape(f"expected one input for a prefix; got {size(batch)}.")
        if site == INPUT:
            return Prefix(site, self._runner.primary(batch), batch, None)
        if Site.of(at).whole == INPUT:
            return Prefix(site, self.run(batch, read=[INPUT])[INPUT], batch, None)  # what is before is a table
        with self.borrow(), torch.no_grad():
            recorder = Recorder(list(batch.values()) if isinstance(batch, dict) else [batch])
            taps = self._runner.taps([site], {site: lambda t: t}, None, 1, arrived=lambda *_: recorder.cut())
            with taps, recorder:
                out = self._runner.forward(batch, lay_out=False)
            taps.check()
            self._runner.calls.update(taps.calls)
            value, output = taps.found[site], select(out, self._runner.output, self.name)
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
            with self.borrow(), torch.no_grad():
                self._steady = self._runner.look(take(x, slice(0, 1)), self._batch_size, self.device)
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
                with borrowed(self.module), self._state.hold():
                    yield
            finally:
                self._borrowers = 0

    # -- how it runs ---------------------------------------------------------------------------------------------------

    def _plan(self, x: Any, edit: Edits | None, prefix: Prefix | None) -> "Plan":
        edits = {Site.of(site): values for site, values in (edit or {}).items()}
        if any(site.module == "output" for site in edits):
            raise BadOption("expected an edit inside the network; the output is its end. Edit the last layer by name.")
        if prefix is None:
            batch = x if isinstance(x, Patched) else self.inputs(x)
            return Plan(batch, size(batch), edits, None)
        values = next((v for site, v in edits.items() if self._runner.resolved(site) == prefix.site), None)
        if not isinstance(values, Tensor):
            raise BadOption(
                f"expected edit={{{str(prefix.site)!r}: tensor}} with one row for each variant of the prefix."
            )
        return Plan(prefix.x, len(values), edits, prefix)

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
        modules = {site.module: m for site in found if (m := self._runner.module_at(site)) is not None}
        return Trace(found, modules, self.scores, self.class_index, len(self.classes or ()))

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


def _described_by(module: nn.Module, description: dict[str, Any], source: dict[str, Any], notes: list[str]) -> Model:
    """The inverse of `Model.__reduce__`."""
    model = Model(module, **description)
    model.source, model.notes = source, notes
    return model


def _stamp(batch: Any) -> Any:
    """What tells whether a batch holds what it held; None where nothing does."""
    tensors = [("", batch)] if isinstance(batch, Tensor) else list(batch.items())
    if any(t.is_inference() for _, t in tensors):
        return None
    return [(name, id(t), t._version) for name, t in tensors]
