"""A layer, a channel or a neuron on either side of an attribution needs no method of its own: `wrt` and `target` do."""

import pytest
import torch

import cutaway as ct
from cutaway.core.catalogue import catalogue
from cutaway.core.result import Attribution
from cutaway.testing.models import inputs_for, tiny_model

NAMES = (
    "agglomerative_decomposition c_shapley cam contextual_decomposition decomposition_interaction deeplift erasure "
    "exact_shapley expected_gradients extremal_perturbation first_derivative grad_cam_plus_plus guided_grad_cam "
    "integrated_hessians kernel_shapley l_shapley layer_cam leave_one_out lime lrp meaningful_perturbation "
    "owen_shapley permutation_shapley score_cam shapley_interaction smallest_flip smoothgrad_squared vargrad "
    "variance_saliency deconvnet grad_cam gradient guided_backprop input_x_gradient integrated_gradients occlusion "
    "rise smoothgrad"
).split()
OPTIONS = {name: {option.name for option in catalogue()[name].options} for name in NAMES}
ANYWHERE = [name for name in NAMES if "wrt" in OPTIONS[name]]
# The first is about the linear end; the second asks when the answer changes, which is all or nothing.
OF_OUTPUTS = ["cam", "smallest_flip"]


def run(name, model, x, target, **options):
    return ct.run(name, model, x, target=target, **{**catalogue()[name].quick, **options})


def checked(result, shape=None):
    """There are values, they are numbers, and not all are alike; a map has the shape of its place."""
    values = torch.as_tensor(result.values).nan_to_num(0.0)
    assert bool(values.any())
    if shape is not None and isinstance(result, Attribution):
        assert result.values.shape[0] == shape[0]
        assert all(got in (1, want) for got, want in zip(result.values.shape[1:], shape[1:], strict=True))
    return result


def test_the_list_is_complete():
    room = {name for name, entry in catalogue().items() if entry.room == "attribution"}
    assert room - set(NAMES) == {"extremal_channels", "move_contrast"}  # one is about a layer, the other about moves


@pytest.mark.parametrize("place", ["conv1", "conv2:1", "relu1:2"])
@pytest.mark.parametrize("name", ANYWHERE)
def test_a_layer_or_a_channel_can_be_where_attribution_goes(name, place):
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    # Units of a layer have no neighbours; its positions have.
    of_positions = ":" in place or name in ("l_shapley", "c_shapley")
    options = {"features": "cells:2" if of_positions else "units"} if "features" in OPTIONS[name] else {}
    shape = model.run(x, read=[place])[place].shape
    result = run(name, model, x, 1, wrt=place, **options)
    if name != "smallest_flip":
        checked(result, shape)
    assert getattr(result, "wrt", place) == place


@pytest.mark.parametrize("target", ['unit("conv2:1")', 'unit("conv2:1@2,3")', 'unit("relu2:0") - unit("conv2:3")'])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in OF_OUTPUTS])
def test_a_channel_or_a_neuron_can_be_what_is_explained(name, target):
    model = tiny_model("conv")
    options = {"layer": "conv1"} if "layer" in OPTIONS[name] else {}
    checked(run(name, model, inputs_for(model, 1), target, **options))
