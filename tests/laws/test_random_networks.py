"""Properties of gradient-type methods on networks that nobody chose."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from cutaway.core.method import catalogue
from cutaway.core.patched import Patched
from cutaway.testing.compare import GATES, close
from cutaway.testing.strategies import SIZE, batch, counts, memory_formats, plans, smooth_plans

few = settings(max_examples=40)
SLOPES = [name for name in ("gradient", "input_x_gradient", "smoothgrad") if name in catalogue()]
PATHS = [name for name in ("integrated_gradients",) if name in catalogue()]


def explain(name, model, x, target=0, **options):
    entry = catalogue()[name]
    return entry.function(model, x, target, **{**entry.quick, **options}).values


@few
@given(plans, counts, st.sampled_from([torch.float64, torch.float32]), st.data())
@pytest.mark.parametrize("name", SLOPES)
def test_rows_chunks_and_order_do_not_matter(name, plan, count, dtype, data):
    x = batch(count, dtype=dtype)
    together = explain(name, plan.model(dtype), x)
    order = torch.tensor(data.draw(st.permutations(range(count))))
    close(explain(name, plan.model(dtype), x[order]), together[order], GATES[dtype], "another order")
    close(explain(name, plan.model(dtype, batch_size=2), x), together, GATES[dtype], "chunks of 2")
    k = data.draw(st.integers(0, count - 1))
    close(explain(name, plan.model(dtype), x[k : k + 1]), together[k : k + 1], GATES[dtype], "alone")


@few
@given(plans, counts, memory_formats)
def test_the_gradient_is_that_of_autograd_in_any_memory_layout(plan, count, layout):
    model, x = plan.model(), batch(count)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model.module((leaf - 0.5) / 0.5)[:, 1].sum(), leaf)
    assert_close(model.gradient(x.contiguous(memory_format=layout), 1).slope, expected, rtol=1e-9, atol=1e-12)


@few
@given(plans, st.data())
def test_every_layer_of_every_network_can_be_read_and_set(plan, data):
    model, x = plan.model(), batch(2)
    layers = [layer.site for layer in model.layers(x) if layer.calls == 1 and layer.shape is not None]
    place = data.draw(st.sampled_from(layers))
    trace = model.run(x, read=[place, "output"])
    assert_close(model.run(x, edit={place: trace[place]}).output, trace.output)
    prefix = model.prefix(x[:1], place)
    halved = torch.cat([prefix.value, prefix.value / 2])
    continued = model.run(None, prefix=prefix, edit={place: halved}).output
    assert_close(continued[:1], trace.output[:1], rtol=1e-9, atol=1e-12)
    assert_close(continued[1:], model.run(x[:1], edit={place: halved[1:]}).output, rtol=1e-9, atol=1e-12)


@few
@given(plans, st.lists(st.tuples(st.integers(0, SIZE - 3), st.integers(0, SIZE - 4)), min_size=1, max_size=5))
def test_computing_only_what_a_box_changes_equals_computing_everything(plan, corners):
    model, clean = plan.model(batch_size=2), batch(1)
    patch = batch(len(corners), seed=1)[:, :, :3, :4].contiguous()
    everything = clean.repeat(len(corners), 1, 1, 1)
    for k, (top, left) in enumerate(corners):
        everything[k, :, top : top + 3, left : left + 4] = patch[k]
    tops, lefts = zip(*corners, strict=True)
    found = model.run(Patched(clean, patch, tops, lefts)).output
    assert_close(found, model.run(everything).output, rtol=1e-9, atol=1e-12)


@settings(max_examples=10)
@given(smooth_plans)
@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_complete_on_smooth_networks(name, plan):
    model, x = plan.model(), batch(2)
    values = explain(name, model, x, tol=1e-9, max_steps=513).flatten(1).sum(1)
    change = (model.run(x).output - model.run(torch.zeros_like(x)).output)[:, 0]
    assert_close(values, change, rtol=1e-7, atol=1e-9)
