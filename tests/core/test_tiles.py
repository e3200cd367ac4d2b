"""Coalitions of cells, put together at an early layer: the answers of whole forwards, or none at all."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cutaway.core import game as games
from cutaway.core import receptive, tiles
from cutaway.core.features import entries
from cutaway.core.fill import Fill
from cutaway.core.game import play
from cutaway.core.model import Model
from cutaway.core.space import images
from cutaway.core.target import Target, unit
from cutaway.testing.nets import seeded


class Net(nn.Module):
    """Two convolutions with small fields, a wider one, and a linear end."""

    def __init__(self, way: str = "plain") -> None:
        super().__init__()
        self.way = way
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.second = nn.Conv2d(6, 5, 3, padding=1)
        self.gate = nn.Linear(6, 6)
        self.third = nn.Conv2d(5, 4, 7, stride=2, padding=3)
        self.end = nn.Linear(4 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, by the way that was chosen."""
        early = self.first(x).relu()
        if self.way == "gated":
            early = early * self.gate(early.mean((2, 3))).sigmoid()[:, :, None, None]
        late = self.third(self.second(early).relu())
        scores = self.end(late.flatten(1).tanh())
        return scores + x.mean((1, 2, 3))[:, None] if self.way == "around" else scores


def game_of(
    way: str = "plain", features: str = "cells:4", target: Target | int = 1, fill: str = "blur:3"
) -> games.Game:
    model = Model(seeded(lambda: Net(way), seed=3), images(32))
    row = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return play(model, row, Target.of(target, model), features=features, fill=Fill.of(fill))


def some(game: games.Game, count: int = 80) -> Tensor:
    return torch.rand(count, len(game), generator=torch.Generator().manual_seed(1)) < 0.5


def whole(game: games.Game, coalitions: Tensor) -> Tensor:
    """The same values by whole forwards, one at a time."""
    return torch.cat([game._score(entries(game._owner, row[None])) for row in coalitions])


@pytest.mark.parametrize("features", ["cells:4", "cells:3", "cells:5"])
@pytest.mark.parametrize("fill", ["zero", "blur:3", "noise"])
def test_values_are_those_of_whole_forwards(features, fill):
    game = game_of(features=features, fill=fill)
    assert (game._shortcut() is not None) == (game.draws == 1)
    coalitions = some(game)
    assert_close(game._computed(coalitions), whole(game, coalitions), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("way", "shorter"), [("gated", True), ("around", False)])  # up to the gate
def test_a_network_that_looks_around_the_layer_is_run_whole(way, shorter):
    game = game_of(way)
    assert (game._shortcut() is not None) == shorter
    coalitions = some(game)
    assert_close(game._computed(coalitions), whole(game, coalitions), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("features", ["cells:16", "pixels"])
def test_parts_smaller_than_a_field_are_run_whole(features):
    assert game_of(features=features)._shortcut() is None


def test_a_target_inside_the_first_layers_is_read_from_whole_forwards():
    game = game_of(target=unit("first:2@0,0"))
    coalitions = some(game)
    assert_close(game._computed(coalitions), whole(game, coalitions), rtol=1e-11, atol=1e-11)


def test_few_coalitions_are_not_worth_it(monkeypatch):
    def fail(*args: object) -> None:
        raise AssertionError("looked for a layer")

    monkeypatch.setattr(games, "tiles", fail)
    game = game_of()
    game(some(game, games._WORTH - 1))


def test_coalitions_are_counted_over_calls(monkeypatch):
    looked = []
    monkeypatch.setattr(games, "tiles", lambda *args: looked.append(1))
    game = game_of(features="cells:5")
    for _ in range(games._WORTH // 16):
        assert not looked
        game(some(game, 16))
    assert looked == [1]


def test_a_network_is_traced_once_for_each_size_of_picture(monkeypatch):
    traced = []

    def fields(*args: object) -> object:
        traced.append(args)
        return receptive.receptive_fields(*args)

    monkeypatch.setattr(tiles, "receptive_fields", fields)
    game = game_of()
    for features in ("cells:4", "cells:3"):
        again = play(game.place.model, game.place.row, Target.of(1, game.place.model), features=features)
        assert again._shortcut() is not None
    assert len(traced) == 1


def test_a_network_that_changed_since_it_was_traced_gives_no_wrong_values():
    game = game_of()
    assert game._shortcut() is not None
    second = game.place.model.module.second
    second.dilation, second.padding = (3, 3), (3, 3)  # of the same shape, with a wider field
    again = play(game.place.model, game.place.row, Target.of(1, game.place.model), features="cells:4")
    coalitions = some(again)
    assert_close(again._computed(coalitions), whole(again, coalitions), rtol=1e-11, atol=1e-11)


def test_pixels_of_nobody_stay():
    ids = torch.arange(32)[:, None] // 8 * 4 + torch.arange(32)[None] // 8
    ids[8:16, 8:16] = -1
    model = Model(seeded(Net, seed=3), images(32))
    row = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    game = play(model, row, Target.of(1, model), features=ids, fill=Fill.of("zero"))
    assert game._shortcut() is not None
    coalitions = some(game)
    assert_close(game._computed(coalitions), whole(game, coalitions), rtol=1e-11, atol=1e-11)
