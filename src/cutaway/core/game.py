"""The game behind every perturbation: what the target is when only some of an input's parts are there.

    game = play(model, row, target, features="cells:4", fill=Fill.of("blur:5"), wrt=INPUT, seed=0)
    game.features.names, len(game)          who plays: `Features`, with the player of each entry (-1: nobody, always on)
    game(coalitions)                        (m, k) booleans, True for present, to (m,) float64 on the CPU
    game.full, game.empty                   v(all) and v(nobody)
    game.spread(values)                     (k,) to the entries of one input, (1, ...): sums are kept
    game.lay_out(values)                    the same, each entry with its player's whole value
    game.describe()                         a sentence for a check: "There are 16 players; where one is absent, ..."
    afford(game.forwards(m) * size(x), "name of 16 players")     before the first call; `core.budget`

One game belongs to one input (one row) and one target (`target.row(i)`). Forwards run in bounded chunks through the
model's cached prefix, so at a layer only what follows it is computed, and of many coalitions of cells of a picture only
what follows the first layers (`core.tiles`); for up to 16 players no coalition is run twice. A random fill is drawn
`draws` times, the same for each coalition, and averaged: the game itself is then fixed.
"""

import functools
import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.core.batch import Batch, primary
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.features import Features, entries
from cutaway.core.fill import Fill, neutral
from cutaway.core.model import Model
from cutaway.core.players import FeaturesLike, Place, place_of, players_at
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target
from cutaway.core.tiles import continued, tiles
from cutaway.core.tokens import without_tokens

_NEUTRAL = neutral()
# Bytes of variants in memory at once: a few batches of images.
_BYTES = 16 * 2**20
_MOST_ROWS = 256
# Up to so many players, the value of every coalition that was run is kept.
_KEPT = 16
# Once so many coalitions were asked for, it pays to look for a layer that can be put together for any of them: so many
# cost about as much as looking does.
_WORTH = 64
# Draws of a random fill that are averaged.
DRAWS = 8
# Fills that say nothing of an activation: they ask for the bounds of the input.
_INPUT_ONLY = ("noise", "gaussian", "farthest", "sample")

# From which entries are on, for m variants, to the target on each.
Score = Callable[[Tensor], Tensor]


class Game:
    """The target on one input when only the players of a coalition are there: a function of (m, k) booleans.

    Attributes:
        features: The players.
        place: Where they are.
        fill: What stands for those that are absent.
        draws: How many fills each coalition is averaged over; more than one for a random fill only.
        absent: The activation with everybody absent, (draws, ...); None where tokens are exchanged instead.
    """

    def __init__(
        self,
        score: Score,
        features: Features,
        place: Place,
        fill: Fill,
        draws: int = 1,
        absent: Tensor | None = None,
        shortcut: Callable[[], Score | None] = lambda: None,
    ) -> None:
        self.features, self.place, self.fill, self.draws, self.absent = features, place, fill, draws, absent
        self._score, self._shortcut = score, functools.cache(shortcut)
        owner = place.owner(features)
        self._owner = owner
        shown = owner.expand(place.shape) if features.units else owner
        if not place.wrt.is_whole:
            shown = shown[place.index[1:]]
        # A text has one number for each token.
        self._shown = shown[:, 0] if place.kind == "tokens" else shown
        k = len(features)
        self._known = torch.zeros(2**k if k <= _KEPT else 0, dtype=torch.bool)
        self._values = torch.zeros(len(self._known), dtype=torch.float64)
        self._ends: dict[bool, float] = {}
        self._asked = 0

    def __len__(self) -> int:
        """The number of players."""
        return len(self.features)

    @property
    def full(self) -> float:
        """The value when all are there: the target on the input itself."""
        return self._end(True)

    @property
    def empty(self) -> float:
        """The value when nobody is there."""
        return self._end(False)

    def forwards(self, coalitions: float) -> float:
        """How many forwards that many new coalitions cost."""
        return coalitions * self.draws

    @property
    def owner(self) -> Int[Tensor, "*entries"]:
        """The player of each entry as it is shown, -1 for nobody."""
        return self._shown

    def __call__(self, coalitions: Bool[Tensor, "m k"]) -> Float[Tensor, "m"]:
        """The value of each coalition.

        Raises:
            BadShape: Another number of players.
            NotPossible: The target is not finite there.
        """
        if coalitions.ndim != 2 or coalitions.shape[1] != len(self):
            raise BadShape(f"expected coalitions of {len(self)} players, (m, {len(self)}); got {coalitions.shape}.")
        coalitions = coalitions.bool().cpu()
        if len(self) > _KEPT:
            values = self._computed(coalitions)
            self._note_ends(coalitions, values)
            return values
        codes = coalitions.long() @ (1 << torch.arange(len(self)))
        new = torch.unique(codes[~self._known[codes]])
        if len(new):
            self._values[new] = self._computed((new[:, None] >> torch.arange(len(self)) & 1).bool())
            self._known[new] = True
        return self._values[codes]

    def with_ends(self, coalitions: Bool[Tensor, "m k"]) -> Float[Tensor, "m"]:
        """The values of some coalitions; in the same batch, those of all and of nobody, which are then known."""
        ends = torch.tensor([[True], [False]]).expand(2, len(self))
        return self(torch.cat([coalitions.bool().cpu(), ends]))[:-2]

    def lay_out(self, values: Float[Tensor, "k"]) -> Tensor:
        """The whole value of its player at each entry, (1, ...); 0 where nobody is."""
        return torch.cat([values, values.new_zeros(1)])[self._shown][None]

    def spread(self, values: Float[Tensor, "k"]) -> Tensor:
        """The value of each player in equal parts on its entries, so that sums are kept, (1, ...)."""
        sizes = torch.bincount(self._shown[self._shown >= 0].flatten(), minlength=len(self))
        return self.lay_out(values / sizes.to(values))

    def describe(self) -> str:
        """Who plays, and what stands for those who are absent."""
        k = len(self)
        draws = f", the mean of {self.draws} draws" if self.draws > 1 else ""
        who = f"The one player is {self.features.names[0]!r}" if k == 1 else f"There are {k} players"
        return f"{who}; where one is absent, there is {self.fill}{draws}."

    def _note_ends(self, coalitions: Bool[Tensor, "m k"], values: Float[Tensor, "m"]) -> None:
        """The values of all and of nobody, where they were among others that were asked for."""
        for present, rows in ((True, coalitions.all(1)), (False, ~coalitions.any(1))):
            if present not in self._ends and bool(rows.any()):
                self._ends[present] = float(values[rows][0])

    def _end(self, present: bool) -> float:
        if present not in self._ends:
            self._ends[present] = float(self(torch.full((1, len(self)), present))[0])
        return self._ends[present]

    def _computed(self, coalitions: Bool[Tensor, "m k"]) -> Float[Tensor, "m"]:
        size = self.place.model.dtype.itemsize * math.prod(self.place.shape) + 8 * self._owner.numel()
        step = max(1, min(_MOST_ROWS, _BYTES // (size * self.draws)))
        step = step // 8 * 8 or step
        values = torch.zeros(len(coalitions), dtype=torch.float64)
        self._asked += len(coalitions)
        short = self._shortcut() if self._asked >= _WORTH else None
        for start in range(0, len(coalitions), step):
            some = coalitions[start : start + step]
            values[start : start + step] = short(some) if short else self._score(entries(self._owner, some))
        if bad := int((~torch.isfinite(values)).sum()):
            raise NotPossible(f"the target is not finite on {bad} of {len(values)} coalitions of {len(self)} players.")
        return values


def play(
    model: Model,
    row: Batch,
    target: Target,
    *,
    features: FeaturesLike = "auto",
    fill: Fill = _NEUTRAL,
    wrt: Site = INPUT,
    seed: int = 0,
    draws: int = DRAWS,
) -> Game:
    """The game of one input; nothing of it is run yet.

    Args:
        model, row: One input, as the model takes it (with its batch axis).
        target: The target of this input.
        features: The players; see `core.players`.
        fill: What stands for absent ones. At a layer, and for the embedding of a text, `neutral` is 0 and `mean` is
            each unit's mean over its positions.
        wrt: The input, a layer, or part of one ("conv3:12": the positions of one unit).
        seed: Draws a random fill.
        draws: Of a random fill.

    Raises:
        BadOption, BadShape, NotPossible, UnknownName: Players, a fill or a place that this input does not have.
    """
    if draws < 1:
        raise BadOption(f"expected 1 draw of the fill or more; got {draws}.")
    draws = draws if fill.random else 1
    if fill.of_tokens:
        if wrt != INPUT or model.space.kind != "tokens":
            raise BadOption(
                f"{fill} changes the tokens of a text; expected a fill of numbers here, such as zero or mean."
            )
        place = place_of(model, row, wrt)
        changed = without_tokens(model, row, fill.text)
        return Game(lambda on: changed(on[..., 0], target), players_at(features, place), place, fill)
    prefix = model.prefix(row, wrt.whole)
    place = place_of(model, row, wrt, prefix.value)
    gone = _absent(model, row, prefix.value, place, fill, seed, draws)
    # Where absent players look like present ones, all coalitions are one, and rounding must not tell them apart.
    alike = bool((gone == prefix.value).all())

    def score(on: Tensor) -> Tensor:
        """Each variant once for each draw, and their mean."""
        some = on[:1] if alike else on
        variants = torch.where(some.to(prefix.value.device)[:, None], prefix.value[None], gone[None]).flatten(0, 1)
        trace = model.run(None, read=target.sites, edit={wrt.whole: variants}, prefix=prefix)
        values: Tensor = target(trace).expand(len(variants)).double().view(len(some), draws).mean(1)
        return values.expand(len(on))

    players = players_at(features, place)

    def shortcut() -> Score | None:
        if place.kind != "image" or draws > 1 or alike or not isinstance(row, Tensor):
            return None
        owner = place.owner(players)
        made = tiles(model, row, target, players, gone, lambda some: score(entries(owner, some)).cpu())
        return made and (lambda some: continued(model, made, some, target))

    return Game(score, players, place, fill, draws, gone, shortcut)


def _absent(model: Model, row: Batch, act: Tensor, place: Place, fill: Fill, seed: int, draws: int) -> Tensor:
    """What stands for each entry that is absent, shaped like the activation; one row for each draw."""
    generator = torch.Generator().manual_seed(seed)
    many = act.expand(draws, *act.shape[1:])
    if place.wrt.module == "input" and model.space.kind != "tokens":
        filled = fill(many, model.space, generator)
        others = {} if isinstance(row, Tensor) else {k: v.expand(draws, *v.shape[1:]) for k, v in row.items()}
        return primary(model.inputs(filled if isinstance(row, Tensor) else {**others, next(iter(row)): filled}))
    name = str(fill).partition(":")[0].split()[0]
    if name in _INPUT_ONLY:
        raise BadOption(f"expected a fill that fits an activation: zero, mean, constant:0.5; got {fill}.")
    if name == "neutral":
        return torch.zeros_like(many)
    # A fill takes channels at axis 1, as an image has them.
    return fill(many.movedim(place.axis, 1), model.space, generator).movedim(1, place.axis)
