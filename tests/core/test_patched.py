"""Copies of an image that differ in a box each give what the whole copies give."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from cutaway.core.model import Model
from cutaway.core.patched import Patched
from cutaway.core.space import images
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.nets import seeded


def patched(size: int = 20, box: int = 4, copies: int = 5, channels: int = 3, seed: int = 0) -> Patched:
    """Copies of a random image with random boxes at random places."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(1, channels, size, size + 3, generator=generator, dtype=torch.float64)
    patch = torch.randn(copies, channels, box, box + 1, generator=generator, dtype=torch.float64)
    tops = torch.randint(size - box + 1, (copies,), generator=generator).tolist()
    lefts = torch.randint(size + 3 - box, (copies,), generator=generator).tolist()
    return Patched(clean, patch, tops, lefts)


def whole(p: Patched) -> torch.Tensor:
    """The copies in full, by explicit pasting; `p` stays as it is."""
    copies = p.clean.repeat(len(p.patch), 1, 1, 1)
    for copy, patch, top, left in zip(copies, p.patch, p.rows.starts, p.columns.starts, strict=True):
        copy[:, top : top + patch.shape[1], left : left + patch.shape[2]] = patch
    return copies


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


KERNEL, DEEP, SCALE = weights(6, 3, 3, 3), weights(3, 1, 5, 5), weights(1, 3, 1, 1)
MEANS, SPREADS = weights(3), weights(3).abs()
LOCAL = {
    "convolution": lambda x: F.conv2d(x, KERNEL),
    "padded convolution": lambda x: F.conv2d(x, KERNEL, bias=weights(6), padding=1),
    "strided convolution": lambda x: F.conv2d(x, KERNEL, stride=2, padding=1),
    "stride beyond the kernel": lambda x: F.conv2d(x, KERNEL, stride=4),
    "dilated convolution": lambda x: F.conv2d(x, KERNEL, padding=2, dilation=2),
    "depthwise convolution": lambda x: F.conv2d(x, DEEP, padding=2, groups=3),
    "one-sided stride": lambda x: F.conv2d(x, KERNEL, stride=(1, 2), padding=(0, 1)),
    "pointwise convolution": lambda x: F.conv2d(x, weights(4, 3, 1, 1)),
    "largest of a window": lambda x: F.max_pool2d(x, 3, 2, 1),
    "mean of a window": lambda x: F.avg_pool2d(x, 2),
    "mean of a padded window": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "zero padding": lambda x: F.pad(x, (0, 1, 2, 3)),
    "padding with a number": lambda x: F.pad(x, (1, 1, 1, 1), value=0.5),
    "normalisation": lambda x: F.batch_norm(x, MEANS, SPREADS, weights(3), weights(3), False),
    "relu": F.relu,
    "relu in place": lambda x: F.relu_(x.clone()),
    "scale and shift": lambda x: (x - 0.3) / SCALE,
    "skip": lambda x: x + F.conv2d(x, DEEP, padding=2, groups=3),
    "skip in place": lambda x: F.conv2d(x, DEEP, padding=2, groups=3).add_(F.relu(x)),
    "product of branches": lambda x: x * torch.sigmoid(F.max_pool2d(x, 3, 1, 1)),
    "concatenation": lambda x: torch.cat([x, F.conv2d(x, KERNEL, padding=1)], 1),
    "dropout at rest": lambda x: F.dropout(x, 0.5, training=False),
    "some copies": lambda x: x[1:4],
    "three layers": lambda x: F.conv2d(
        F.max_pool2d(F.conv2d(x, KERNEL, padding=1).relu(), 2), weights(2, 6, 3, 3), stride=2
    ),
}
OTHER = {
    "mean over positions": lambda x: x.mean((2, 3)),
    "flatten": lambda x: x.flatten(1),
    "transposed": lambda x: x.transpose(2, 3).contiguous(),
    "softmax over positions": lambda x: x.softmax(3),
    "reflection padding": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "same padding": lambda x: F.conv2d(x, KERNEL, padding="same"),
    "rounded up": lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    "resized": lambda x: F.interpolate(x, scale_factor=2.0),
    "group normalisation": lambda x: F.group_norm(x, 3),
    "batch statistics": lambda x: F.batch_norm(x, None, None, training=True),
    "concatenation of copies": lambda x: torch.cat([x, x]),
    "a mask over positions": lambda x: x * torch.linspace(0, 1, 20, dtype=torch.float64)[:, None],
    "gate": lambda x: x * x.mean((2, 3), keepdim=True),
    "an entry set": lambda x: _zeroed(x.clone()),
}


def _zeroed(x: torch.Tensor) -> torch.Tensor:
    x[:, 0] = 0
    return x + 1


@pytest.mark.parametrize("operation", LOCAL.values(), ids=LOCAL.keys())
@pytest.mark.parametrize("seed", range(4))
def test_an_operation_that_keeps_changes_local_works_on_boxes(operation, seed):
    p = patched(seed=seed)
    expected = operation(whole(p))
    found = operation(p)
    assert isinstance(found, Patched)
    assert found.is_local
    assert found.shape == expected.shape
    assert_close(whole(found), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("operation", OTHER.values(), ids=OTHER.keys())
def test_any_other_operation_works_on_the_whole(operation):
    p = patched()
    expected = operation(whole(p))
    found = operation(p)
    assert not isinstance(found, Patched)
    assert_close(found, expected, atol=1e-12, rtol=1e-12)


@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    box=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_any_convolution_reaches_the_right_entries(kernel, stride, padding, dilation, box, seed):
    p = patched(size=14, box=box, copies=3, seed=seed)
    weight = weights(2, 3, kernel, kernel)
    expected = F.conv2d(whole(p), weight, None, stride, padding, dilation)
    found = F.conv2d(p, weight, None, stride, padding, dilation)
    assert_close(found.full() if isinstance(found, Patched) else found, expected, atol=1e-12, rtol=1e-12)


def test_boxes_that_cover_most_of_the_image_become_the_whole():
    p = patched(box=18)
    assert not p.is_local
    assert type(F.relu(p)) is torch.Tensor


def test_a_change_in_place_after_the_whole_was_asked_for_is_kept():
    p = patched()
    flat = p.flatten(1)
    flat.zero_()
    assert not p.full().any()


def test_leaving_torch_takes_the_whole():
    assert (patched().numpy() == whole(patched()).numpy()).all()


def test_what_goes_around_the_rules_is_refused():
    with torch._C.DisableTorchFunction(), pytest.raises(NotImplementedError, match="without its rules"):
        patched() + 1


@pytest.mark.parametrize("name", ["conv", "residual", "concatenation", "gap_linear", "encoder", "lstm"])
@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_a_model_gives_the_same_from_boxes(name, batch_size):
    model = tiny_model(name, batch_size=batch_size)
    x = inputs_for(model, 1)
    copies = Patched(x, torch.zeros(5, 3, 4, 4, dtype=x.dtype), [0, 3, 6, 9, 12], [12, 0, 5, 5, 3])
    expected = model.run(whole(copies)).output
    assert_close(model.run(copies).output, expected, atol=1e-10, rtol=1e-10)


def test_inner_places_can_be_read_and_edited_from_boxes():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    copies = Patched(x, torch.zeros(2, 3, 4, 4, dtype=x.dtype), [0, 3], [12, 0])
    full, edit = whole(copies), {"conv1:1": 0.0}
    for given_x in (copies, full):
        trace = model.run(given_x, read=["relu1", "output"], edit=edit)
        if given_x is copies:
            found = trace
    assert_close(found["relu1"], trace["relu1"])
    assert_close(found.output, trace.output)


class Suspicious(nn.Module):
    """Treats a subclass of Tensor in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3))) * (1 if type(x) is torch.Tensor else 2)


class Foreign(Suspicious):
    """Leaves torch on the way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.from_numpy(x.numpy().mean((2, 3))))


@pytest.mark.parametrize("net", [Suspicious, Foreign])
def test_a_network_that_boxes_do_not_suit_gets_whole_images(net):
    model = Model(seeded(net), images(16))
    x = inputs_for(model, 1)
    copies = Patched(x, torch.zeros(3, 3, 4, 4, dtype=x.dtype), [0, 3, 6], [12, 0, 5])
    expected = model.run(whole(copies)).output
    assert_close(model.run(copies).output, expected)
