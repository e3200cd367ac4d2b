import pytest
import torch
from torch.testing import assert_close

from cutaway.core.errors import BadOption, BadShape, UnknownName
from cutaway.core.fill import Fill, gaussian_blur, sample
from cutaway.core.space import images, rows

SPACE = images((5, 4), mean=[0.1, 0.2, 0.3], std=1.0)
X = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def fill(what, x=X, space=SPACE, **more):
    return Fill.of(what)(x, space, **more)


def test_known_answers():
    assert_close(fill("zero"), torch.zeros_like(X))
    assert_close(fill("mean")[1, 2], X[1, 2].mean().expand(5, 4))
    assert_close(fill("mean", x := torch.tensor([[1.0, 3.0]]), rows(2)), torch.full_like(x, 2.0))
    assert_close(fill("neutral")[0, :, 0, 0], torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    assert_close(SPACE.normalised(fill("neutral")), torch.zeros_like(X))
    assert_close(fill("constant:0.5"), torch.full_like(X, 0.5))
    assert_close(fill(0.25), torch.full_like(X, 0.25))
    assert_close(fill("constant:1,0,0.5")[1, :, 2, 3], torch.tensor([1, 0, 0.5], dtype=torch.float64))
    assert_close(fill("farthest"), torch.where(X > 0.5, 0.0, 1.0).double())
    assert_close(fill(X[1]), X[1].expand_as(X))
    assert_close(fill(X.flip(0)), X.flip(0))
    assert_close(fill(lambda x, space, generator: x / 2), X / 2)


def test_noise_fills_the_interval_and_follows_its_generator():
    space = images(64, low=-1, high=3)
    x = torch.zeros(1, 3, 64, 64)
    found = fill("noise", x, space)
    assert (float(found.min()) > -1, float(found.max()) < 3) == (True, True)
    assert abs(float(found.mean()) - 1) < 0.05
    assert abs(float(found.std()) - 4 / 12**0.5) < 0.05
    again = fill("noise", x, space, generator=torch.Generator().manual_seed(0))
    other = fill("noise", x, space, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found, again)
    assert not torch.equal(found, other)


def test_gaussian_adds_its_share_of_the_range_and_stays_inside():
    space = images(64, low=-1, high=1)
    x = torch.zeros(1, 3, 64, 64)
    assert abs(float(fill("gaussian:0.1", x, space).std()) - 0.2) < 0.01
    assert float(fill("gaussian:5", x, space).abs().max()) == 1
    assert_close(fill("gaussian:0", x, space), x)


def test_blur_keeps_the_mean_of_a_flat_picture_and_matches_scipy():
    from scipy.ndimage import gaussian_filter

    flat = torch.full((1, 1, 9, 9), 0.7, dtype=torch.float64)
    assert_close(gaussian_blur(flat, 2.0), flat)
    picture = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    expected = gaussian_filter(picture[0, 0].numpy(), 2.0, mode="mirror", radius=6)
    assert_close(gaussian_blur(picture, 2.0)[0, 0], torch.from_numpy(expected))
    assert fill("blur:50").shape == X.shape  # wider than the picture
    assert fill("blur:2", torch.rand(1, 3, 1, 4)).shape == (1, 3, 1, 4)


def test_a_sample_is_one_of_the_examples():
    pool = torch.stack([torch.full((3, 5, 4), v) for v in (0.1, 0.5, 0.9)])
    found = Fill.of(sample(pool))(torch.zeros(20, 3, 5, 4), SPACE)
    assert set(found[:, 0, 0, 0].tolist()) == {pool[k, 0, 0, 0].item() for k in range(3)}


@pytest.mark.parametrize(
    "what", ["zero", "neutral", "mean", "constant:0.5", "noise", "gaussian:0.1", "farthest", "blur:1"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_shape_type_and_text_are_kept(what, dtype):
    found = Fill.of(what)
    assert Fill.of(str(found)).text == what == str(found)
    values = found(X.to(dtype), SPACE)
    assert (values.shape, values.dtype) == (X.shape, dtype)


@pytest.mark.parametrize("number", [1 / 3, 0.1234567891, 1e-9])
def test_numbers_keep_all_their_digits(number):
    text = str(Fill.of(number))
    assert float(Fill.of(text)(X, SPACE).max()) == number


def test_a_fill_without_a_text_form_says_so():
    assert all(str(Fill.of(f)).startswith("given") for f in (X, lambda x, s, g: x, sample(X)))


@pytest.mark.parametrize(
    ("what", "error", "match"),
    [
        ("blurr", UnknownName, "nearest: blur"),
        ("blur:0", BadOption, "more than 0 pixels"),
        ("blur:nan", BadOption, "more than 0"),
        ("blur:x", BadOption, "expected numbers"),
        ("zero:3", BadOption, "expected numbers"),
        ("constant", BadOption, "after 'constant:'"),
        ("gaussian:-1", BadOption, "at least 0"),
        ("constant:1,2", BadShape, "1 or 3 numbers"),
        ("constant:1.5", BadShape, "bounds 0 to 1; got 1.5"),
        ("constant:nan", BadShape, "finite"),
        (X * 2 + 1, BadShape, "user's units"),
        (torch.zeros(3, 4, 4), BadShape, r"shape \(2, 3, 5, 4\); given gave \(1, 3, 4, 4\)"),
        (lambda x, s, g: x[:, :2], BadShape, "shape"),
    ],
)
def test_what_cannot_be_a_fill_is_refused(what, error, match):
    with pytest.raises(error, match=match):
        fill(what)


def test_blur_is_for_images():
    with pytest.raises(BadShape, match="images to blur"):
        fill("blur:1", torch.zeros(2, 4), rows(4))


def test_inner_activations_have_no_bounds():
    act = torch.zeros(2, 7, 3, 3)
    assert_close(fill(torch.full_like(act, 9.0), act), torch.full_like(act, 9.0))
