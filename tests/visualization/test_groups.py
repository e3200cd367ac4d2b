"""Groups of channels: planted factors come back, attributions and losses against sums written out."""

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.core.errors import BadOption
from cutaway.visualization.groups import activation_groups, factors


def planted(groups=4, positions=300, channels=30, noise=0.0):
    """Sparse places and channels with a little overlap, and their product."""
    draw = torch.Generator().manual_seed(0)
    places = torch.rand(positions, groups, generator=draw, dtype=torch.float64)
    places *= torch.rand(positions, groups, generator=draw) < 0.4
    parts = torch.rand(groups, channels, generator=draw, dtype=torch.float64)
    parts *= torch.rand(groups, channels, generator=draw) < 0.4
    rows = places @ parts
    return places, parts, rows + noise * torch.rand(rows.shape, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_planted_factors_come_back(noise):
    places, parts, rows = planted(noise=noise)
    found = factors(rows, 4)
    assert found.residual < 0.02 + 2 * noise
    alike = torch.nn.functional.normalize(parts, dim=1) @ found.channels.T
    assert (alike.max(1).values > 0.97).all()
    assert sorted(alike.argmax(1).tolist()) == [0, 1, 2, 3]
    where = torch.nn.functional.normalize(places, dim=0).T @ torch.nn.functional.normalize(found.places, dim=0)
    assert (where.max(1).values > 0.95).all()


def test_the_residual_is_that_of_the_product_and_parts_are_in_order():
    _, _, rows = planted(noise=0.3)
    found = factors(rows, 3)
    left = rows - found.places @ found.channels
    assert found.residual == pytest.approx(float(left.norm() / rows.norm()))
    assert torch.allclose(found.channels.norm(dim=1), torch.ones(3, dtype=torch.float64))
    held = found.places.sum(0) * found.channels.sum(1)
    assert held.tolist() == sorted(held.tolist(), reverse=True)
    # The best of all products of rank 3, which need not be non-negative, is not much better.
    values = torch.linalg.svdvals(rows)
    best = float(values[3:].norm() / rows.norm())
    assert best <= found.residual < 1.2 * best


def test_more_groups_leave_less():
    _, _, rows = planted(groups=6, noise=0.1)
    left = [factors(rows, k).residual for k in (1, 2, 4, 6)]
    assert left == sorted(left, reverse=True)


def test_attribution_and_loss_are_what_their_equations_say():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:2]").x
    found = activation_groups(model, x, 3, layer="relu4", groups=3, size=16)
    score, act, slope = model.gradient(x, 3, wrt="relu4")
    spatial, channels = found.extra["spatial"], found.extra["channels"]
    for i in range(2):
        for g in range(3):
            part = spatial[i, g][None] * channels[g][:, None, None]
            expected = sum(float((part[c] * slope[i, c]).sum()) for c in range(48))
            assert float(found.extra["attribution"][i, g]) == pytest.approx(expected, rel=1e-3, abs=1e-4)
            after = model.run(x[i : i + 1], edit={"relu4": act[i : i + 1] - part}).output[0, 3]
            assert float(found.extra["lost"][i, g]) == pytest.approx(float(score[i] - after), rel=1e-3, abs=1e-4)
    assert torch.allclose(found.extra["share"].sum(1), torch.ones(2))
    assert found.images.shape == (2 * 4, 3, 16, 16)


def test_one_set_of_groups_means_the_same_in_all_inputs():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:2]").x
    both = activation_groups(model, x, 3, layer="relu4", groups=3, size=16)
    apart = activation_groups(model, x, 3, layer="relu4", groups=3, size=16, together=False)
    alone = activation_groups(model, x[1:], 3, layer="relu4", groups=3, size=16)
    assert both.extra["channels"].shape == (3, 48)
    assert apart.extra["channels"].shape == (2, 3, 48)
    assert torch.allclose(apart.extra["channels"][1], alone.extra["channels"], atol=1e-4)
    assert apart.checks["residual"].value <= both.checks["residual"].value + 0.1


def test_icons_come_last():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:1]").x
    found = activation_groups(model, x, 3, layer="relu4", groups=2, icons=2, size=24)
    assert found.images.shape == (3 + 2, 3, 24, 24)
    assert found.captions[3:] == ["icon 0", "icon 1"]


def test_negative_activations_and_a_silent_layer_are_said():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:1]").x
    found = activation_groups(model, x, 3, layer="bn4", groups=2, size=16)
    assert found.checks["negative"].status == "warn"
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.constant_(net[0].bias, -100.0)
    found = activation_groups(ct.Model(net, ct.images(8)), torch.rand(1, 3, 8, 8), 0, layer="1", groups=2, size=16)
    assert not found.extra["spatial"].any()
    assert not found.extra["attribution"].any()


@pytest.mark.parametrize("groups", [0, 49])
def test_impossible_numbers_of_groups_are_refused(groups):
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:1]").x
    with pytest.raises(BadOption, match=r"expected 1 to 48 groups \(48 channels, 144 positions\)"):
        activation_groups(model, x, 3, layer="relu4", groups=groups)
