"""Meaningful perturbation: against the objective in one graph, planted truth, and its own warnings."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.attribution.meaningful import meaningful_perturbation
from cutaway.core.budget import limits
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.fill import gaussian_blur
from cutaway.core.model import Model
from cutaway.core.progress import Progress, reporting
from cutaway.core.space import images
from cutaway.testing.models import inputs_for, tiny_model


class Square(nn.Module):
    """Class 1 if a square is bright."""

    def __init__(self, where):
        super().__init__()
        self.where, self.factor = where, nn.Parameter(torch.tensor(12.0, dtype=torch.float64))

    def forward(self, x):
        inside = self.factor * (x[:, :, *self.where].mean((1, 2, 3)) - 0.5)
        return torch.stack([torch.zeros_like(inside), inside], 1)


def bright_square():
    where = (slice(8, 24), slice(24, 40))
    truth = torch.zeros(48, 48, dtype=torch.bool)
    truth[where] = True
    x = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    return Model(Square(where), images(48)), 0.8 + 0.2 * x, truth


@pytest.mark.parametrize("game", ["deletion", "preservation"])
def test_is_the_objective_of_the_paper_with_torchs_own_adam(game):
    """Reference: eq. 3 to 5 in one graph, without jitter and with one fill."""
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    deletes = game == "deletion"
    hidden = gaussian_blur(x, 2.0)
    cells = torch.full((1, 1, 16, 16), 0.0 if deletes else 1.0, dtype=x.dtype).requires_grad_()
    adam = torch.optim.Adam([cells], lr=0.1)
    for _ in range(8):
        wide = F.interpolate(cells, size=(16, 16), mode="bilinear", align_corners=False)
        mask = gaussian_blur(wide, 0.5).clamp(0, 1)
        score = model.module(model.space.normalised(mask * x + (1 - mask) * hidden)).softmax(1)[0, 1]
        across, down = cells[..., :, 1:] - cells[..., :, :-1], cells[..., 1:, :] - cells[..., :-1, :]
        edges = (F.pad(across, (0, 1)) ** 2 + F.pad(down, (0, 0, 0, 1)) ** 2 + 1e-12).pow(1.5).sum()
        size = (1 - cells).mean() if deletes else cells.mean()
        adam.zero_grad()
        (0.3 * size + 0.01 * edges + (score if deletes else -score)).backward()
        adam.step()
        cells.data.clamp_(0, 1)
    mask = gaussian_blur(cells.detach(), 0.5)
    found = meaningful_perturbation(model, x, 1, game=game, fills=("blur:2",), iterations=8, jitter=0)
    assert_close(found.values, 1 - mask if deletes else mask, atol=1e-6, rtol=0)


@pytest.mark.parametrize("game", ["deletion", "preservation"])
def test_a_planted_square_is_found(game):
    model, x, truth = bright_square()
    found = meaningful_perturbation(model, x, 1, game=game, fills=("zero", "constant:0.2"), iterations=150, jitter=2)
    values = found.values[0, 0]
    assert values[truth].mean() > 4 * values[~truth].mean()
    assert truth.flatten()[values.argmax()]
    assert found.checks["score"].status == "ok"
    assert found.checks["score"].value > 0.8
    assert float(found.extra["area"][0]) == pytest.approx(float(values.mean()))
    assert found.checks["area"].value < 0.3


def test_the_scores_are_those_of_the_hidden_image_under_each_fill():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    found = meaningful_perturbation(model, x, 1, fills=("zero", "mean"), iterations=5)
    mean = x.mean((2, 3), keepdim=True)
    pictures = torch.cat([x + found.values * (hidden - x) for hidden in (torch.zeros_like(x), mean)])
    assert_close(found.extra["scores"][0], model.predict(pictures)[:, 1])
    assert_close(found.score, model.predict(x)[:, 1])


def test_a_mask_that_works_with_one_fill_alone_is_called_an_artefact():
    """A thin mask of black darkens the square enough; grey would need all of it, for which the price is too high."""
    model, x, _ = bright_square()
    found = meaningful_perturbation(model, x, 1, fills=("zero", "constant:0.55"), iterations=100, size_weight=5.0)
    assert found.checks["fills"].status == "warn"
    assert "constant:0.55" in found.checks["fills"]


def test_a_fill_that_hides_nothing_is_named():
    """The image is as bright as one of the fills."""
    model, x, _ = bright_square()
    found = meaningful_perturbation(model, x, 1, fills=("zero", "constant:0.9"), iterations=60)
    assert "constant:0.9" in found.checks["idle"]
    assert found.checks["score"].status == "ok"


def test_a_network_that_nothing_moves_gives_an_empty_mask_and_says_so():
    model, x, _ = bright_square()
    with torch.no_grad():
        model.module.factor.zero_()
    found = meaningful_perturbation(model, x, 1, iterations=30)
    assert found.values.max() < 0.05
    assert {found.checks[name].status for name in ("score", "idle")} == {"warn"}


def test_the_probability_of_a_class_is_scored_unless_asked_otherwise():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    found = meaningful_perturbation(model, x, [0, 2], iterations=2)
    assert found.target == "[prob(0), prob(2)]"
    assert "score_kind" in found.checks
    assert meaningful_perturbation(model, x, 0, iterations=2, probability=False).target == "logit(0)"
    assert meaningful_perturbation(model, x, "logit(0) - logit(1)", iterations=2).target == "logit(0) - logit(1)"


def test_the_seed_decides_the_moves_and_the_noise():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    one, same, other = (meaningful_perturbation(model, x, 1, iterations=6, seed=s).values for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_progress_is_told():
    model, seen = tiny_model("conv"), []
    with reporting(seen.append):
        meaningful_perturbation(model, inputs_for(model, 1), 1, iterations=4)
    assert seen[-1] == Progress("meaningful_perturbation", 4, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fills": ()}, "at least one fill"),
        ({"iterations": 0}, "1 iteration or more"),
        ({"size_weight": -1.0}, "weights of 0 or more"),
        ({"jitter": -1}, "jitter of 0 pixels"),
        ({"game": "hide"}, "one of deletion, preservation"),
    ],
)
def test_options_outside_their_range_are_refused(options, words):
    model = tiny_model("conv")
    with pytest.raises(BadOption, match=words):
        meaningful_perturbation(model, inputs_for(model, 1), 1, **options)


def test_a_search_above_the_limit_is_refused():
    model = tiny_model("conv")
    with limits(forwards=50), pytest.raises(NotPossible, match="meaningful_perturbation of . .* would take about"):
        meaningful_perturbation(model, inputs_for(model, 1), 1)


def test_rows_have_no_masks():
    model = tiny_model("mlp")
    with pytest.raises(NotPossible, match="works on images"):
        meaningful_perturbation(model, inputs_for(model, 1), 1)


@pytest.mark.parametrize("game", ["deletion", "preservation"])
def test_shapes_are_found_by_what_they_do(game):
    """The mask lies on the shape, grown by 2 pixels, at least 1.6 times as much as chance would have it."""
    model, data = ct.load("shapes-cnn"), ct.data("shapes/test[0:12]")
    inside, chance, reached = [], [], []
    for k in range(0, 12, 2):
        found = meaningful_perturbation(model, data.x[k : k + 1], int(data.labels[k]), game=game, iterations=100)
        grown = F.max_pool2d(data.masks[k][None, None].float(), 5, stride=1, padding=2)[0, 0]
        inside.append(float((found.values[0, 0] * grown).sum() / found.values.sum()))
        chance.append(float(grown.mean()))
        reached.append(found.checks["score"].value)
    assert sum(inside) > 1.6 * sum(chance)
    assert sorted(reached)[1] > 0.9
