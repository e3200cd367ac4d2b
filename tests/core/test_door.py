"""What comes in is checked once, and said in words when it does not fit."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cutaway.core.dataset import Examples
from cutaway.core.door import admitted
from cutaway.core.errors import BadOption, BadShape
from cutaway.core.space import Space, images, latents, rows, tokens
from cutaway.testing.models import text_model, tiny_model

IMAGES = images(16)
GOOD = torch.rand(2, 3, 16, 16)


def enter(x, space=IMAGES):
    return admitted(x, space, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (GOOD[0], r"Add a batch axis: x\[None\]"),
        (GOOD.permute(0, 2, 3, 1), r"x\.permute\(0, 3, 1, 2\)"),
        (GOOD[0].permute(1, 2, 0), r"x\.permute\(2, 0, 1\)\[None\]"),
        (GOOD[:, :1], "takes 3 channels, not 1"),
        (torch.rand(2, 4, 16, 16), "takes 3 channels, not 4"),
        (GOOD[..., :8], r"got \(2, 3, 16, 8\)"),
        (GOOD.mul(255).to(torch.uint8), r"Divide by 255"),
        (GOOD > 0.5, "got torch.bool"),
        (GOOD.to(torch.complex64), "got torch.complex64"),
        (GOOD * 255, "values from .* to 25"),
        (GOOD - 1, "Inputs are in the user's units"),
        (GOOD.to_sparse(), "dense"),
        ("photo.jpg", "got text"),
        (3.0, "got float"),
        ([1, 2], "got list"),
        (np.array(["a"]), "numbers; got an array of <U1"),
        (np.array([GOOD.numpy(), None], dtype=object), r"np\.stack"),
        ({}, "named tensors"),
        ({"x": GOOD, "y": torch.zeros(3)}, r"one batch axis; got x \(2, 3, 16, 16\), y \(3,\)"),
        ({"x": GOOD * 255}, "values from"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(x, what):
    with pytest.raises(BadShape, match=what):
        enter(x)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_number_that_is_not_finite_is_named(value):
    x = GOOD.clone()
    x[1, 2, 3, 4] = value
    x[1, 2, 3, 5] = value
    with pytest.raises(BadShape, match=r"at \[1, 2, 3, 4\] \(2 in all\)"):
        enter(x)
    with pytest.raises(BadShape, match=r"at \[1, 2, 3, 4\]"):
        enter({"x": x})


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: x.double(),
        lambda x: x.numpy(),
        lambda x: x.double().numpy(),
        lambda x: x.numpy().astype(">f4"),
        lambda x: x.flip(3).numpy()[..., ::-1],
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.cat([x, x])[::1][:2],
        lambda x: torch.nn.Parameter(x.clone()),
        lambda x: Examples(x, ["a", "b"]),
        lambda x: _read_only(x),
    ],
)
def test_every_memory_layout_gives_the_same_numbers(make):
    found = enter(make(GOOD))
    assert_close(found, GOOD)
    assert found.dtype == torch.float32
    assert not found.requires_grad


def _read_only(x):
    array = x.numpy().copy()
    array.flags.writeable = False
    return array


def test_an_expanded_tensor_is_taken():
    x = GOOD[:1, :, :, :1].expand(2, 3, 16, 16)
    assert_close(enter(x), x.clone())


def test_a_missing_size_means_any():
    space = Space("image", (3, None, None))
    assert enter(torch.rand(1, 3, 7, 9), space).shape == (1, 3, 7, 9)
    with pytest.raises(BadShape, match=r"images \(n, 3, any, any\) in \[0, 1\]"):
        enter(torch.rand(1, 7, 9), space)


def test_rows_and_latents():
    assert enter(torch.randn(3, 2), rows(["age", "income"])).shape == (3, 2)
    assert rows(2).names == ("x0", "x1")
    assert enter(torch.randn(3, 2) * 10, latents(2)).shape == (3, 2)  # a normal vector has no bounds
    with pytest.raises(BadShape, match=r"rows \(n, 2\)"):
        enter(torch.randn(3, 4), rows(2))


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (torch.zeros(2, 3), "as integers"),
        (torch.zeros(3, dtype=torch.long), "as integers"),
        (torch.full((1, 2), -1), "from 0 up; got -1"),
        (torch.zeros(2, 0, dtype=torch.long), "not one token"),
    ],
)
def test_token_ids_are_integers_from_0(x, what):
    with pytest.raises(BadShape, match=what):
        enter(x, tokens())


def test_text_is_tokenized_and_ids_are_taken():
    model = text_model()
    one, many = model.inputs("the film"), model.inputs(["the film", "a very good plot"])
    assert {k: tuple(v.shape) for k, v in one.items()} == {"input_ids": (1, 3), "attention_mask": (1, 3)}
    assert many["attention_mask"].sum(1).tolist() == [3, 5]
    assert_close(model.run(one["input_ids"]).output, model.run("the film").output)
    assert_close(model.run(many).output[:1], model.run("the film").output, rtol=1e-9, atol=1e-9)


def test_normalisation_is_the_models_own_business():
    model = tiny_model("conv")
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    assert_close(model.run(x).output, model.module((x - 0.4) / 0.5).detach())
    per_channel = images(16, mean=[0.1, 0.2, 0.3], std=[1, 2, 3])
    assert_close(per_channel.normalised(x)[:, 2], (x[:, 2] - 0.3) / 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: images(8, std=0.0),
        lambda: images(8, low=1, high=1),
        lambda: images(8, mean=[0, 0]),
        lambda: images(8, channels=1, std=[1, 1, 1]),
    ],
)
def test_a_space_that_cannot_be_is_refused(make):
    with pytest.raises(BadOption, match="expected"):
        make()


def test_examples_slice_together():
    found = Examples(GOOD, ["a", "b"], labels=torch.tensor([3, 4]), masks=torch.ones(2, 16, 16, dtype=torch.bool))
    second = found[1]
    assert (second.names, second.labels.tolist(), second.x.shape, len(second)) == (["b"], [4], (1, 3, 16, 16), 1)
    assert found[-1].names == ["b"]
    assert [e.names for e in found] == [["a"], ["b"]]
    assert found[:1].masks.shape == (1, 16, 16)
    with pytest.raises(BadShape, match="below 2"):
        found[2]
    with pytest.raises(BadShape, match="labels for 2 examples; got 1"):
        Examples(GOOD, ["a", "b"], labels=torch.tensor([1]))
