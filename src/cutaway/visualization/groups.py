"""What a layer says in a few words: groups of channels that are active together, and where each group is."""

import warnings
from dataclasses import dataclass

import torch
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Pictures
from cutaway.core.site import Site
from cutaway.core.target import Target, direction
from cutaway.visualization.ascend import ascended
from cutaway.visualization.places import checked_size, grid_of, grid_site, lit, photos, resized
from cutaway.visualization.removal import Variants, agreement, without

# Colours of groups in the picture of all of them, distinct for all common kinds of colour vision (Tol's bright scheme).
_COLOURS = torch.tensor(
    [[68, 119, 170], [238, 102, 119], [34, 136, 51], [204, 187, 68], [102, 204, 238], [170, 51, 119], [187, 187, 187]]
)
_ROUNDS, _ENOUGH = 500, 1e-5


@method(paper="olah2018", needs={"gradient", "image"}, quick={"groups": 2, "size": 16})
def activation_groups(
    model: Model,
    x: Batch,
    target: Target,
    *,
    layer: Site | None = None,
    groups: int = 6,
    together: bool = True,
    icons: int = 0,
    size: int = 112,
    seed: int = 0,
) -> Pictures:
    """A layer in a few groups of channels: what each stands for, where it is, and what it does for a class.

    a(x, p) ~ sum over groups g of s_g(x, p) f_g,   s and f >= 0, the nearest in squares (NMF), |f_g| = 1

    attribution_g = sum over p of s_g(p) f_g . (d target / d a(p))

    The attribution is linear; beside it stands what the target really loses when the group's part s_g f_g is taken out
    of the activation. One forward, a backward that ends at the layer, and a forward from the layer on for each group.
    With icons, a forward and a backward for each group and step.

    Args:
        layer: A place with positions; the last if none is named.
        groups: How many; no more than channels or positions.
        together: One set of groups for all inputs, so that a group means the same in each; otherwise each input has
            groups of its own.
        icons: Steps of the optimisation that makes a picture of each group's direction f_g; 0 for none.
        size: Pixels along the longer side of a picture.
        seed: Of the icons, and of the singular vectors that the search for groups starts from.

    Returns:
        For each input: all groups in colour, then for each group where it is, with its number and attribution; last the
        icons. `extra` has `spatial` (n, groups, height, width), `channels` (groups, channels), or (n, groups, channels)
        if not together, and (n, groups) `share` of what all groups hold, `attribution`, and `lost` without the group.

    Raises:
        BadOption: Fewer than one group, or more than channels or positions.

    Source: Olah et al. 2018 (neuron groups), Lee and Seung 1999 for NMF. Differs: the search starts from singular
    vectors; groups come in falling order of their share.
    """
    assert isinstance(x, Tensor)
    checked_size(size)
    site = grid_site(model, x, layer)
    grid_of(model, x[:1], site)
    score, act, slope = model.gradient(x, target, wrt=site)
    _check(groups, act, together, icons)
    parts = [act] if together else list(act.split(1))
    found = [factors(part.movedim(1, 3).flatten(0, 2), groups, seed) for part in parts]
    height, width = act.shape[2:]
    spatial = torch.cat([f.places.view(-1, height, width, groups).movedim(3, 1) for f in found]).to(act)
    channels = torch.stack([f.channels for f in found]).to(act)
    each = channels.expand(len(x), -1, -1)
    attribution = torch.einsum("nghw,ngc,nchw->ng", spatial, each, slope)
    lost = torch.stack(
        [_lost(model, x[i : i + 1], target.row(i), site, act[i], spatial[i], each[i], score[i]) for i in range(len(x))]
    )
    order = Order(spatial, each, attribution, lost)
    pictures, captions = _pictures(model, x, order, size)
    if icons:
        more, names = _icons(model, site, channels, icons, pictures.shape[2:], seed)
        pictures, captions = torch.cat([pictures, more]), captions + names
    return Pictures(
        title=f"{groups} groups of {site}, for {target}",
        images=pictures,
        captions=captions,
        columns=min(groups + 1, 7),
        extra={
            "spatial": spatial,
            "channels": channels[0] if together else channels,
            "share": order.shares,
            "attribution": attribution,
            "lost": lost,
        },
        checks=_checks(act, found, order, site),
    )


@dataclass(frozen=True)
class Factors:
    """A non-negative matrix as a product of two narrow ones.

    Attributes:
        places: (rows, groups).
        channels: (groups, columns), rows of length 1.
        residual: Length of what is left, as a share of the length of the matrix.
        settled: Whether the search ended before its last round.
    """

    places: Tensor
    channels: Tensor
    residual: float
    settled: bool


def factors(rows: Tensor, groups: int, seed: int = 0) -> Factors:
    """The nearest product of two non-negative matrices, groups in falling order of their share of the total.

    Args:
        rows: (positions, channels); what is below 0 counts as 0.
        groups: How many.
        seed: Of the search for the singular vectors that it starts from.
    """
    matrix = rows.detach().cpu().double().clamp(min=0)
    if not matrix.any():
        return Factors(
            torch.zeros(len(matrix), groups).double(), torch.zeros(groups, matrix.shape[1]).double(), 0, True
        )
    # In coordinate descent nothing is random; its rounds end when a round gains too little.
    search = NMF(groups, init="nndsvda", max_iter=_ROUNDS, tol=_ENOUGH, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the result says it in a check
        places = torch.from_numpy(search.fit_transform(matrix.numpy()))
    channels = torch.from_numpy(search.components_)
    lengths = channels.norm(dim=1)
    places, channels = places * lengths, channels / lengths.clamp(min=torch.finfo(torch.float64).tiny)[:, None]
    order = (places.sum(0) * channels.sum(1)).sort(descending=True, stable=True).indices
    residual = float((matrix - places @ channels).norm() / matrix.norm())
    return Factors(places[:, order], channels[order], residual, search.n_iter_ < _ROUNDS)


@dataclass(frozen=True)
class Order:
    """The groups of all inputs: `spatial` (n, g, h, w), `channels` (n, g, c), `attribution` and `lost` (n, g)."""

    spatial: Tensor
    channels: Tensor
    attribution: Tensor
    lost: Tensor

    @property
    def shares(self) -> Tensor:
        """How much of what all groups hold is in each, (n, g)."""
        held = self.spatial.sum((2, 3)) * self.channels.sum(2)
        return held / held.sum(1, keepdim=True).clamp(min=torch.finfo(held.dtype).tiny)


def _check(groups: int, act: Tensor, together: bool, icons: int) -> None:
    positions = act.shape[2] * act.shape[3] * (len(act) if together else 1)
    most = min(act.shape[1], positions)
    if not 1 <= groups <= most or icons < 0:
        raise BadOption(
            f"expected 1 to {most} groups ({act.shape[1]} channels, {positions} positions) and icons from 0; "
            f"got {groups} and {icons}."
        )


def _lost(
    model: Model, x: Tensor, target: Target, site: Site, act: Tensor, spatial: Tensor, channels: Tensor, score: Tensor
) -> Tensor:
    """What the target of one input loses without each group, (groups,)."""
    parts = torch.einsum("ghw,gc->gchw", spatial, channels)
    return score - without(model, x, target, site, Variants(act[None], parts, 0))


def _pictures(model: Model, x: Tensor, order: Order, size: int) -> tuple[Tensor, list[str]]:
    """All groups over each input in colour, then each by itself."""
    shown = photos(model, x).float()
    longer = max(shown.shape[2:])
    shown = resized(shown, *(max(8, round(side * size / longer)) for side in shown.shape[2:]))
    groups = order.spatial.shape[1]
    # One scale for a group over all inputs where it is the same group.
    alike = len(order.channels) > 1 and bool((order.channels == order.channels[:1]).all())
    top = order.spatial.detach().cpu().float().amax((2, 3), keepdim=True)
    top = top.amax(0, keepdim=True).expand_as(top) if alike else top
    light = order.spatial.detach().cpu().float() / top.clamp(min=torch.finfo(torch.float32).tiny)
    pictures, captions = [], []
    for i, photo in enumerate(shown):
        pictures.append(_coloured(photo, light[i]))
        captions.append(f"input {i}" if len(x) > 1 else "all groups")
        for g in range(groups):
            pictures.append(lit(photo, light[i, g]))
            captions.append(f"{g}: {float(order.attribution[i, g]):+.2g}")
    return torch.stack(pictures), captions


def _coloured(photo: Tensor, light: Tensor) -> Tensor:
    """A grey photo under the colour of the group that is strongest at each cell, the more the stronger it is."""
    strength, which = light.max(0)
    colours = (_COLOURS.float() / 255)[which % len(_COLOURS)].movedim(2, 0)
    film = resized((1 - strength * (1 - colours))[None], *photo.shape[1:])[0]
    grey = photo.mean(0, keepdim=True).expand(3, -1, -1)
    return (0.3 + 0.7 * grey) * film


def _icons(
    model: Model, site: Site, channels: Tensor, icons: int, shape: torch.Size, seed: int
) -> tuple[Tensor, list[str]]:
    """A picture of each group's direction, with the numbers of its strongest channels."""
    rows = [(i, g, row) for i, set_ in enumerate(channels) for g, row in enumerate(set_) if row.any()]
    aims = [direction(site, row) for _, _, row in rows]
    made = photos(model, ascended(model, aims, size=max(shape), steps=icons, seed=seed, label="icons")).float()
    many = len(channels) > 1
    names = [f"icon {f'#{i} ' if many else ''}{g}" for i, g, _ in rows]
    return resized(made, *shape), names


def _checks(act: Tensor, found: list[Factors], order: Order, site: Site) -> dict[str, Check]:
    residual = max(f.residual for f in found)
    text = f"The groups leave out {residual:.0%} of the length of the activation at {site}"
    text += "." if len(found) == 1 else ", for the input that they fit least."
    checks = {"residual": Check(text, "ok" if residual < 0.5 else "note", residual)}
    negative = float(act.double().clamp(max=0).square().sum() / act.double().square().sum().clamp(min=1e-300))
    if negative:
        text = (
            f"{negative:.0%} of the squares at {site} are of negative entries, which groups cannot hold; they count as"
        )
        checks["negative"] = Check(
            f"{text} 0. Better is a layer after a rectifier.", "warn" if negative > 0.1 else "note", negative
        )
    if not all(f.settled for f in found):
        checks["settled"] = Check(f"The search for groups was stopped after {_ROUNDS} rounds.", "warn")
    linear, real = list(order.attribution), list(order.lost)
    return checks | agreement(linear, real, "groups")
