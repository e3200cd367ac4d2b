import pytest
import safetensors.torch
import torch
from scipy.stats import spearmanr
from torch import nn

from cutaway.core.errors import BadOption, BadShape, UnknownName
from cutaway.core.model import Model
from cutaway.core.space import images
from cutaway.data import load as load_data
from cutaway.evaluation.orders import edges
from cutaway.evaluation.sanity_labels import label_randomization
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.zoo import load
from cutaway.zoo.train import train


def edge_map(model, x, target):
    return torch.stack([edges(picture) for picture in x])[:, None].expand_as(x)


def test_the_numbers_are_those_of_two_maps_made_by_hand():
    """Reference: the two gradients, and SciPy's rank correlation of each pair."""
    model, other = tiny_model("conv"), tiny_model("conv", seed=1)
    x = inputs_for(model, 3)
    found = label_randomization(model, x, "gradient", target=1, other=other)
    pairs = [m.gradient(x, 1).slope.sum(1).flatten(1) for m in (model, other)]
    signed = [spearmanr(a, b).statistic for a, b in zip(*pairs, strict=True)]
    sizes = [spearmanr(a.abs(), b.abs()).statistic for a, b in zip(*pairs, strict=True)]
    assert found["rank correlation"] == pytest.approx(sum(signed) / 3)
    assert found["rank correlation of sizes"] == pytest.approx(sum(sizes) / 3)
    assert (found.low <= found.values).all()
    assert (found.values <= found.high).all()


def test_an_edge_detector_fails_whatever_was_learned():
    model = tiny_model("conv")
    found = label_randomization(model, inputs_for(model, 2), edge_map, other=tiny_model("conv", seed=1))
    assert found["rank correlation of sizes"] == pytest.approx(1.0)
    assert found.checks["verdict"].status == "fail"


def test_sizes_that_stay_and_signs_that_change_are_said():
    """The input times the slope of a linear network: the sizes are the picture's, the signs the weights'."""

    def linear(signs):
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).double()
        with torch.no_grad():
            net[1].weight.copy_(signs.repeat(2, 3))
        return Model(net, images(8))

    generator = torch.Generator().manual_seed(0)
    one, two = (linear(1.0 - 2.0 * torch.randint(2, (1, 64), generator=generator).double()) for _ in range(2))
    x = torch.rand(4, 3, 8, 8, generator=generator, dtype=torch.float64)
    check = label_randomization(one, x, "input_x_gradient", target=1, other=two).checks["verdict"]
    assert check.status == "warn"
    assert "keeps its sizes" in check


def test_a_file_a_model_and_a_function_are_the_same(tmp_path):
    model, other = tiny_model("conv"), tiny_model("conv", seed=1)
    x, path = inputs_for(model, 2), str(tmp_path / "other.safetensors")
    safetensors.torch.save_file(other.module.state_dict(), path)
    before = model.fingerprint
    found = [
        label_randomization(model, x, "gradient", target=1, other=given) for given in (path, other, lambda m: other)
    ]
    assert torch.equal(found[0].values, found[1].values)
    assert torch.equal(found[0].values, found[2].values)
    assert model.fingerprint == before


def test_what_is_no_other_network_is_refused(tmp_path):
    model = tiny_model("conv")
    x, wrong, broken = inputs_for(model, 2), tmp_path / "wrong.safetensors", tmp_path / "broken.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(2)}, wrong)
    broken.write_bytes(b"no weights")
    with pytest.raises(BadOption, match="trained on permuted labels; `cutaway train"):
        label_randomization(model, x, "gradient")
    with pytest.raises(BadOption, match="same weights"):
        label_randomization(model, x, "gradient", other=tiny_model("conv"))
    with pytest.raises(BadOption, match=r"expected a network of images \(n, 3, 16, 16\)"):
        label_randomization(model, x, "gradient", other=tiny_model("conv_grey"))
    with pytest.raises(BadOption, match="got Linear"):
        label_randomization(model, x, "gradient", other=lambda m: nn.Linear(1, 1))
    with pytest.raises(UnknownName, match="no weights file"):
        label_randomization(model, x, "gradient", other=str(tmp_path / "none.safetensors"))
    with pytest.raises(BadShape, match="does not fit tiny-conv"):
        label_randomization(model, x, "gradient", other=str(wrong))
    with pytest.raises(BadShape, match=r"expected a \.safetensors file"):
        label_randomization(model, x, "gradient", other=str(broken))


@pytest.fixture(scope="module")
def permuted(tmp_path_factory):
    found = train("digits-cnn", labels="permuted")
    assert found.learned > 0.95
    assert found.accuracy < 0.25
    return str(found.save(tmp_path_factory.mktemp("weights") / "permuted.safetensors"))


@pytest.mark.slow
def test_what_the_paper_found_on_digits(permuted):
    """Adebayo et al. 2018, section 4: gradients and Grad-CAM react, and maps times the input only by their signs."""
    model, x = load("digits-cnn"), load_data("digits/test")[:50].x
    found = {
        name: label_randomization(model, x, name, other=permuted)
        for name in ("gradient", "grad_cam", "input_x_gradient", "guided_backprop")
    }
    assert found["gradient"].checks["verdict"].status == "ok"
    assert found["grad_cam"].checks["verdict"].status == "ok"
    times_input = found["input_x_gradient"]
    assert times_input["rank correlation of sizes"] > 0.8
    assert abs(times_input["rank correlation"]) < 0.2
    assert found["guided_backprop"].checks["verdict"].status == "warn"
    assert label_randomization(model, x, edge_map, other=permuted).checks["verdict"].status == "fail"
    assert found["gradient"].checks["answers"].value < 0.3


@pytest.mark.slow
def test_a_network_trained_on_true_labels_again_is_noticed():
    model, x = load("digits-cnn"), load_data("digits/test")[:20].x
    again = train("digits-cnn", seed=1, epochs=5)
    other = Model(again.module, model.space)
    assert label_randomization(model, x, "gradient", other=other).checks["answers"].status == "warn"
