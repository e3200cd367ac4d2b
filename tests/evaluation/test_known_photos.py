"""What is known of real maps of a real network, on a photo that comes with scikit-image."""

import pytest

from cutaway.core.method import find
from cutaway.data import load as load_data
from cutaway.evaluation.completeness import completeness
from cutaway.evaluation.faithfulness import insertion
from cutaway.evaluation.sanity import parameter_randomization
from cutaway.evaluation.sensitivity import stability
from cutaway.zoo import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `models`")
    return load("efficientnet-lite0")


@pytest.fixture(scope="module")
def photo(model):
    return load_data("photos/coffee", space=model.space)


@pytest.mark.parametrize("name", ["gradient", "input_x_gradient", "grad_cam"])
def test_maps_that_react_to_what_was_learned(model, photo, name):
    """Adebayo et al. 2018: gradients and Grad-CAM change when the weights are random."""
    found = parameter_randomization(model, photo, name)
    assert found.checks["verdict"].status == "ok"
    assert found.checks["verdict"].value < 0.6


def test_guided_backprop_hardly_reacts(model, photo):
    """The same paper, and Nie et al. 2018: guided backprop keeps its picture while the upper layers are random."""
    found = parameter_randomization(model, photo, "guided_backprop")
    assert found.checks["verdict"].status == "fail"
    assert float(found.y["rank correlation of sizes"][1]) > 0.95
    assert float(found.y["rank correlation"][3]) > 0.9
    assert float(found.y["rank correlation of sizes"][-1]) < 0.4, "the lowest layers do matter"


def test_grad_cam_brings_the_answer_back_early(model, photo):
    found = insertion(model, photo, "grad_cam")
    own, random, outlines, _ = list(found.summary.values())[:4]
    assert own > random + 0.1
    assert own > outlines + 0.1


def test_the_gradient_is_noisier_than_grad_cam(model, photo):
    gradient, cam = (stability(model, photo, name, samples=4)["rank correlation"] for name in ("gradient", "grad_cam"))
    assert gradient < 0.5 < cam


def test_integrated_gradients_report_the_gap_that_is_there(model, photo):
    why = find("integrated_gradients").function(model, photo, max_steps=64)
    found = completeness(model, photo, why)
    assert found["gap"] == pytest.approx(float(why.extra["gap"][0]), abs=1e-3)
