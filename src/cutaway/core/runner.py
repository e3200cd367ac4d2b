"""The machinery under `Model.run`: chunks, taps, replays and layouts, for one network."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cutaway.core.batch import Batch, repeat, select, take
from cutaway.core.errors import NotPossible, unknown_name
from cutaway.core.fingerprint import StateHash
from cutaway.core.fused import Fusion, Misfit, is_watched
from cutaway.core.linear import Linears
from cutaway.core.operations import Places, Rules, UnderRules
from cutaway.core.pace import Widest, keep_freed_memory, rows_at_once
from cutaway.core.patched import Patched
from cutaway.core.replay import Diverged, Recorded, Replayer
from cutaway.core.site import INPUT, OUTPUT, Site
from cutaway.core.space import Space
from cutaway.core.taps import Edit, Stop, Taps, apply_edit


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


class Plan(NamedTuple):
    """What to run: the input, how many rows come out, and what changes on the way."""

    x: Batch
    rows: int
    edits: dict[Site, Edit]
    prefix: Prefix | None


class Runner:
    """Runs one network on batches that were checked, and remembers what it learns about it.

    Args:
        module: The network.
        space: What one input is.
        name: Of the model, for messages.
        output: Path to the output tensor, where the network gives several.
        embedding: Place that stands for `input`, for tokens.
        batch_size: Inputs in one forward; None chooses by device.

    Attributes:
        spent: Forwards and backwards of single inputs so far.
        calls: How often each tapped module runs in a forward, once that is known.
        chunk: Inputs in one forward.
        widest: Bytes of the largest activation of one input.
        channels_last: True if batches of images run with their channels innermost.
        layouts_agree: True if that gives the same gradient to the last bit, so that all passes run so. Elsewhere a
            rounding error might choose another of several equal maxima in a pool, and with it another slope.
    """

    def __init__(
        self,
        module: nn.Module,
        space: Space,
        *,
        name: str,
        output: tuple[str, ...],
        embedding: Site | None,
        batch_size: int | None,
        device: torch.device,
        state: StateHash,
    ) -> None:
        self.module = module
        self.space = space
        self.name = name
        self.output = output
        self.embedding = embedding
        self.device = device
        self.spent: Counter[str] = Counter()
        self.calls: dict[str, int] = {}
        self.chunk = batch_size or rows_at_once(device)
        self.widest = 0
        self.channels_last = False
        self.layouts_agree = False
        self.fusion = Fusion(module, state)
        self.linears_pay = False
        self._boxes_hold: bool | None = None

    @property
    def is_scripted(self) -> bool:
        """True for a TorchScript module, which takes no hooks."""
        return isinstance(self.module, torch.jit.ScriptModule)

    def chunks(self, rows: int, work: Callable[[slice], Any], times: int = 1) -> Iterator[Any]:
        """Work through the rows in chunks, `times` as many at once, and in smaller ones when memory runs out."""
        start = 0
        while start < rows or (rows == 0 and start == 0):
            stop = min(rows, start + self.chunk * times)
            try:
                yield work(slice(start, stop))
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if self.chunk == times == 1:
                    raise NotPossible(f"not enough memory for one input of {self.name}: {error}") from error
                self.chunk, times = (self.chunk // 2, times) if self.chunk > 1 else (1, times // 2)
                continue
            start = max(stop, 1)

    def once(
        self, plan: "Plan", rows: slice, wanted: Sequence[Site], leaf: Site | None, rules: Rules | None
    ) -> tuple[dict[Site, Tensor], Tensor | None]:
        """One forward of one chunk: what was read, and the tensor at `leaf` with a graph from there on."""
        count = rows.stop - rows.start
        replay = plan.prefix if plan.prefix is not None and plan.prefix.calls is not None else None
        edits = {site: _rows_of(values, rows, plan.rows) for site, values in plan.edits.items()}
        if replay is not None and leaf is None and self.channels_last:
            edits = {site: _channels_last(values) for site, values in edits.items()}
        batch = take(plan.x, rows) if plan.prefix is None else repeat(plan.x, count)
        if isinstance(batch, Patched):
            plain = not (leaf or edits or rules) and wanted == [OUTPUT]
            batch = batch if plain and self._holds_boxes(batch) else batch.full()
        many = plan.rows > self.chunk
        try:
            return self._tapped(batch, count, edits, wanted, leaf, rules, replay, many)
        except Diverged:
            return self._tapped(repeat(plan.x, count), count, edits, wanted, leaf, rules, None, many)
        except Misfit as misfit:
            self.spent["forwards"] -= count
            self.fusion.does_not_fit(misfit.hooked)
            return self.once(plan, rows, wanted, leaf, rules)
        except RuntimeError as error:
            if not self.refuses_layout(error):
                raise
            return self.once(plan, rows, wanted, leaf, rules)

    def refuses_layout(self, error: RuntimeError) -> bool:
        """Was it the layout with channels innermost that failed? Then it is not used again."""
        refused = self.channels_last and "view size is not compatible" in str(error)
        self.channels_last = self.channels_last and not refused
        return refused

    def is_narrow(self, plan: "Plan") -> bool:
        """Are the activations small: boxes of an image, or what comes after a place that is late?"""
        if plan.prefix is None or plan.prefix.calls is None:
            return isinstance(plan.x, Patched)
        return 8 * plan.prefix.value.numel() * plan.prefix.value.element_size() <= self.widest

    def _holds_boxes(self, x: Patched) -> bool:
        """Does this network give from boxes what it gives from whole images? Looked at once for each model."""
        if self._boxes_hold is None and x.is_local:
            try:
                whole = x[:1]
                assert isinstance(whole, Patched)
                outputs = (self.forward(one) for one in (x[:1], whole.full()))
                self._boxes_hold = _same(*(select(out, self.output, self.name) for out in outputs))
            except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NotPossible):
                self._boxes_hold = False
        return bool(self._boxes_hold)

    def _runs_channels_last(self, batch: Batch, output: Tensor) -> bool:
        """Does this network take images with the channels innermost, which the CPU convolves faster?

        Not in double precision, where that took up to 1.5 times as long. In single precision a forward took 0.5 to 0.96
        times as long, with the backward 0.7 to 0.9, and 1.07 for one image on ResNet-18.
        """
        if not isinstance(batch, Tensor) or batch.ndim != 4 or batch.device.type != "cpu":
            return False
        if batch.dtype == torch.double:
            return False
        try:
            seen = self._seen(batch, lay_out=False).contiguous(memory_format=torch.channels_last)
            return _same(select(self.module(seen), self.output, self.name), output)
        except RuntimeError:
            return False

    def _slopes_agree(self, row: Batch) -> bool:
        """Is the gradient of one input in this layout that of the usual one, to the last bit?"""
        slopes: list[Tensor] = []
        try:
            with torch.enable_grad():
                for lay_out in (_channels_last, torch.clone):
                    leaf = self.primary(row).detach().requires_grad_()
                    output = select(self.module(lay_out(self.space.normalised(leaf))), self.output, self.name)
                    sums = torch.linspace(-1, 1, output.numel()) * output.flatten()
                    slopes += torch.autograd.grad(sums.sum(), leaf)
        except RuntimeError:  # no gradient, or not in this layout
            return False
        return torch.equal(*slopes)

    def _tapped(
        self,
        batch: Batch,
        count: int,
        edits: Mapping[Site, Edit],
        wanted: Sequence[Site],
        leaf: Site | None,
        rules: Rules | None,
        replay: Prefix | None,
        many: bool,
    ) -> tuple[dict[Site, Tensor], Tensor | None]:
        batch, found = self._at_input(batch, edits, wanted, leaf)
        inner = {self.resolved(s): v for s, v in edits.items() if self.resolved(s).module != "input"}
        reads = {s: self.resolved(s) for s in wanted if s not in (INPUT, OUTPUT) or self.resolved(s) != s}
        cut = self.resolved(leaf) if leaf is not None else None
        player = Replayer(replay.calls, count) if replay is not None and replay.calls is not None else None
        stop = self.calls if OUTPUT not in wanted else None
        output = None
        with contextlib.ExitStack() as around:
            around.enter_context(torch.set_grad_enabled(leaf is not None))
            taps = self.taps(
                list(reads.values()),
                inner,
                None if cut == INPUT else cut,
                count,
                stop=stop,
                arrived=_live(player, replay),
            )
            around.enter_context(taps)
            # Made before there is any other mode, which it would take for somebody who watches.
            fused = self.fusion.run(self.channels_last, many) if cut != INPUT else contextlib.nullcontext()
            if leaf is None and self.linears_pay and not is_watched():
                around.enter_context(Linears())  # first, so that other modes see the operations that they know
            around.enter_context(UnderRules(rules, Places(self.module)) if rules else fused)
            if player is not None:
                around.enter_context(player)
            self.spent["forwards"] += count
            with contextlib.suppress(Stop):
                # A replay answers the operations of the recorded run, laid out as there, so there may be no others.
                output = self.forward(batch, lay_out=player is None)
                taps.check()
                self.calls.update(taps.calls)
        found |= {name: taps.found[place] for name, place in reads.items()}
        if OUTPUT in wanted:
            found[OUTPUT] = select(output, self.output, self.name)
        return found, found.get(INPUT) if cut == INPUT else taps.found[cut] if cut is not None else None

    def _at_input(
        self, batch: Batch, edits: Mapping[Site, Edit], wanted: Sequence[Site], leaf: Site | None
    ) -> tuple[Batch, dict[Site, Tensor]]:
        """Edit, read and cut at the input itself; for tokens, the input is the embedding, a place like any other."""
        if self.resolved(INPUT) != INPUT:
            return batch, {}
        x = self.primary(batch)
        for site, values in edits.items():
            if site.whole == INPUT:
                x = apply_edit(x, site, values, None)
        if leaf == INPUT:
            x = x.detach().requires_grad_()
        found = {INPUT: x} if INPUT in wanted or leaf == INPUT else {}
        return (x if isinstance(batch, Tensor) else {**batch, next(iter(batch)): x}), found

    def look(self, row: Batch, batch_size: int | None, device: torch.device) -> bool:
        """Learn from one input how this network runs best, and whether it answers the same alone and in a batch."""
        keep_freed_memory()
        with Linears() as linears, Widest() as widest, self.fusion.learner() as learner:
            alone = select(self.forward(row), self.output, self.name)
        self.fusion.learn(learner)
        pair = select(self.forward(repeat(row, 2)), self.output, self.name)
        self.widest = widest.bytes
        self.chunk = batch_size or rows_at_once(device, widest.bytes)
        self.linears_pay = linears.pays(self.chunk)
        # Zero for what is not finite: that is not the same as random.
        pair, alone = torch.nan_to_num(pair), torch.nan_to_num(alone)
        close = 1e-4 * (1 + float(alone.abs().max()) if alone.numel() else 1.0)
        self.channels_last = self._runs_channels_last(repeat(row, 2), pair)
        self.layouts_agree = self.channels_last and self._slopes_agree(row)
        return bool(((pair - alone).abs() <= close).all())

    def learn(self, other: "Runner", area: float, batch_size: int | None) -> None:
        """Take over what a runner of this network, or one built alike, knows, for inputs `area` times as large."""
        self.spent, self.calls = other.spent, other.calls
        self.channels_last, self.layouts_agree = other.channels_last, other.layouts_agree
        self.linears_pay = other.linears_pay
        self.fusion = other.fusion if other.module is self.module else self.fusion
        self.widest = round(other.widest * area)
        self.chunk = batch_size or rows_at_once(self.device, self.widest)

    def forward(self, batch: Batch, *, lay_out: bool = True) -> Any:
        """The network on a batch; images may be laid out with their channels innermost."""
        args, kwargs = self.arguments(batch, lay_out)
        return self.module(*args, **kwargs)

    def arguments(self, batch: Batch, lay_out: bool = True) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """What the network is called with, normalised."""
        # Clone: an operation in place at the entrance would write into the caller's memory, or into a leaf.
        if isinstance(batch, Tensor):
            return (self._seen(batch, lay_out),), {}
        first, *others = batch
        return (), {first: self._seen(batch[first], lay_out)} | {name: batch[name].clone() for name in others}

    def _seen(self, x: Tensor, lay_out: bool) -> Tensor:
        seen = x if self.space.kind == "tokens" else self.space.normalised(x)
        pays = self.layouts_agree or (len(x) > 1 and not torch.is_grad_enabled())
        if lay_out and self.channels_last and pays:
            seen = _channels_last(seen)
        return x.clone() if seen is x else seen

    def taps(self, read: list[Site], edits: Mapping[Site, Edit], leaf: Site | None, rows: int, **more: Any) -> Taps:
        """Hooks for one forward, once their places are known to exist."""
        for site in [*read, *edits, *([leaf] if leaf else [])]:
            self.module_at(site, required=True)
        stop = more.pop("stop", None)
        return Taps(self.module, read=read, edits=edits, leaf=leaf, rows=rows, stop=stop, **more)

    def resolved(self, site: Site) -> Site:
        """The module behind the name `input` where that is an embedding."""
        if site.module != "input" or self.embedding is None:
            if site.module == "input" and self.space.kind == "tokens":
                raise NotPossible(
                    f"{self.name} has no embedding place, so its input has no gradient; pass embedding=... to Model."
                )
            return site
        at = self.embedding
        return Site(at.module, at.call, at.part, site.unit, site.head, site.position)

    def module_at(self, site: Site, *, required: bool = False) -> nn.Module | None:
        """The module at a place; None at the input and the output.

        Raises:
            UnknownName: No such layer.
        """
        if site.module in ("input", "output"):
            return None
        if required:
            self.check_hookable()
        try:
            return self.module.get_submodule(site.module)
        except AttributeError:
            names = [path for path, _ in self.module.named_modules(remove_duplicate=False) if path]
            more = f"`cutaway layers {self.name}` lists all {len(names)}."
            raise unknown_name(f"layer in {self.name} called", site.module, names, more) from None

    def check_hookable(self) -> None:
        """Refuse a network that cannot be looked into."""
        if self.is_scripted:
            raise NotPossible(
                f"{self.name} is a scripted module and cannot be looked into; what works: methods that only run it "
                "(occlusion, rise, insertion, deletion) and gradients at the input. "
                "Pass the original nn.Module for the rest."
            )

    def primary(self, batch: Batch) -> Tensor:
        """The tensor that `input` means: the batch, or the first entry of a dictionary."""
        return batch if isinstance(batch, Tensor) else next(iter(batch.values()))


def _channels_last(values: Any) -> Any:
    many = isinstance(values, Tensor) and values.ndim == 4 and values.shape[1] > 1
    return values.contiguous(memory_format=torch.channels_last) if many else values


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


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
