"""Reading and editing at any place of any network."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.core.errors import BadOption, BadShape, NotPossible, UnknownName
from cutaway.core.fingerprint import fingerprint
from cutaway.core.model import Model
from cutaway.core.space import images, rows
from cutaway.testing import answers, nets, sequences
from cutaway.testing.models import inputs_for, tiny_model, tiny_models
from cutaway.testing.troubled import Hungry, Tally

MODELS = tiny_models()


@pytest.mark.parametrize("name", MODELS)
def test_the_output_is_what_the_module_gives(name):
    model = MODELS[name]
    x = inputs_for(model, 9)  # more than one chunk
    batch = model.inputs(x)
    with torch.no_grad():
        out = model.module(**batch) if isinstance(batch, dict) else model.module(model.space.normalised(batch))
    expected = answers.first_tensor(out)
    assert_close(model.run(x).output, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_with_a_shape_can_be_read(name):
    model = MODELS[name]
    x = inputs_for(model, 2)
    layers = model.layers(x)
    assert [path for path, _ in model.module.named_modules() if path] == [layer.site for layer in layers]
    readable = [layer for layer in layers if layer.shape is not None and layer.calls == 1]
    skipped = {layer.site for layer in layers} - {layer.site for layer in readable}
    assert len(readable) >= len(layers) - 6, skipped
    for layer in readable:
        assert len(model.run(x, read=[layer.site])[layer.site]) == 2


def test_a_unit_and_a_position_are_cut_out_of_what_was_read():
    model = tiny_model("conv")
    trace = model.run(inputs_for(model), read=["conv1:1@2,3", "output"])
    assert_close(trace["conv1:1@2,3"], trace["conv1"][:, 1, 2, 3])
    assert set(map(str, trace)) == {"conv1", "output"}
    assert len(trace) == 2
    with pytest.raises(BadOption, match=r"was not read in this run \(read: conv1, output\)"):
        trace["conv2"]


def test_a_reused_module_is_read_and_edited_by_call():
    model = tiny_model("reused")
    x, net = inputs_for(model), model.module
    first = net.a(x).relu().detach()
    second = net.b(first).relu().detach()
    trace = model.run(x, read=["act#0", "act#1"])
    assert_close(trace["act#0"], first)
    assert_close(trace["act#1"], second)
    assert_close(model.run(x, edit={"act#1": 0.0}).output, net.c.bias.detach().expand(3, -1))
    with pytest.raises(BadOption, match="ran 2 times; say which call: act#0, act#1"):
        model.run(x, read=["act"])
    with pytest.raises(BadOption, match="expected act#0 to #1; got act#2"):
        model.run(x, read=["act#2"])


@pytest.mark.parametrize("name", ["mlp_inplace", "conv", "residual"])
def test_operations_in_place_do_not_overwrite_what_was_read(name):
    model = tiny_model(name)
    x = inputs_for(model)
    places = {"mlp_inplace": ["first"], "conv": ["conv2"], "residual": ["stem", "block1", "block2"]}[name]
    together = model.run(x, read=[*places, "output"])
    for place in places:
        assert (together[place] < 0).any()
        assert_close(together[place], model.run(x, read=[place])[place])
    assert_close(together.output, model.run(x).output)


@pytest.mark.parametrize("kind", answers.OUTPUT_OF)
def test_containers_are_read_and_edited_by_part(kind):
    module = nets.seeded(lambda: answers.Contained(kind))
    model = Model(module, rows(4), output=answers.OUTPUT_OF[kind])
    x = torch.randn(3, 4, dtype=torch.float64)
    h = module.part.map(x).detach()
    part = {"tuple": "0", "list": "0", "dict": "h", "nested": "pair/0", "dataclass": "logits", "library": "logits"}.get(
        kind
    )
    site = f"part/{part}" if part else "part"
    assert_close(model.run(x, read=[site])[site], h)
    assert_close(model.run(x, edit={site: 0.0}).output, module.fc.bias.detach().expand(3, -1))
    edited = model.run(x, edit={f"{site}:2": lambda old: old + 1}).output
    bumped = h.clone()
    bumped[:, 2] += 1
    assert_close(edited, module.fc(bumped.relu()).detach())
    if part:
        with pytest.raises(BadShape, match=r"2 tensors; say which: part/"):
            model.run(x, read=["part"])
        with pytest.raises(BadShape, match="no part 'nothing'"):
            model.run(x, read=["part/nothing"])


def test_an_output_without_a_choice_lists_the_choices():
    model = Model(nets.seeded(lambda: answers.Contained("dict")), rows(4), name="two")
    with pytest.raises(BadShape, match=r"two gave 2 tensors; say which: two/logits \(3, 3\), two/features \(3, 6\)"):
        model.run(torch.zeros(3, 4))


def test_a_dictionary_of_inputs_is_explained_at_its_first():
    module = nets.seeded(answers.TwoInputs)
    model = Model(module, rows(4))
    x = {"x": torch.randn(9, 4, dtype=torch.float64), "context": torch.randn(9, 2, dtype=torch.float64)}
    assert_close(model.run(x).output, module(**x).detach())
    found = model.gradient(x, 1)
    inner = x["x"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(module(inner, x["context"])[:, 1].sum(), inner)
    assert_close(found.slope, expected)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_have_the_batch_first_in_what_is_read(kind, batch_first):
    module = nets.seeded(lambda: sequences.Recurrent(kind, batch_first=batch_first))
    model = Model(module, images(16))
    x = inputs_for(model, 5)
    out, state = module.rnn(x.mean(1) if batch_first else x.mean(1).transpose(0, 1))
    state = "1/0" if kind is nn.LSTM else "1"
    trace = model.run(x, read=["rnn/0", f"rnn/{state}", "output"])
    assert_close(trace["rnn/0"], (out if batch_first else out.transpose(0, 1)).detach())
    assert trace[f"rnn/{state}"].shape == (5, 2, 5)
    assert_close(trace.output[:, 0], module.fc(trace["rnn/0"][:, -1])[:, 0].detach())
    zeroed = model.run(x, edit={"rnn/0": 0.0}).output
    assert_close(zeroed, module.fc.bias.detach().expand(5, -1))


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_is_read_at_its_output_and_its_weights(batch_first):
    module = nets.seeded(lambda: sequences.SelfAttention(batch_first=batch_first))
    model = Model(module, images((5, 4)))
    x = inputs_for(model, 2)
    h = x.mean(1) if batch_first else x.mean(1).transpose(0, 1)
    out, weights = module.attn(h, h, h)
    trace = model.run(x, read=["attn/0", "attn/1"])
    assert_close(trace["attn/0"], (out if batch_first else out.transpose(0, 1)).detach())
    assert_close(trace["attn/1"], weights.detach())
    assert model.run(x, read=["attn/0:1@2"])["attn/0:1@2"].shape == (2,)
    with pytest.raises(NotPossible, match="mixes its heads"):
        model.run(x, read=["attn/0:h1"])["attn/0:h1"]


class Beside(nn.Module):
    """Attention whose output has the heads side by side, as in BERT's inner layer."""

    num_attention_heads = 2

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12)

    def forward(self, h):
        q, k, v = self.qkv(h).view(*h.shape[:2], 3, 2, 2).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return mixed.transpose(1, 2).flatten(2)


def test_a_head_side_by_side_is_read_and_edited():
    module = nn.Sequential(nets.seeded(Beside), nn.Flatten(), nn.Linear(20, 3).double())
    model = Model(module, rows(4))
    model = Model(module, images((5, 4), channels=1).__class__("row", (5, 4), -10, 10))
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    whole = model.run(x, read=["0"])["0"]
    assert_close(model.run(x, read=["0:h1"])["0:h1"], whole[..., 2:])
    cut = whole.clone()
    cut[..., 2:] = 0
    assert_close(model.run(x, edit={"0:h1": 0.0}).output, module[2](cut.flatten(1)).detach())


# -- editing -----------------------------------------------------------------------------------------------------------


def test_an_edit_is_a_number_a_tensor_or_a_function():
    model = tiny_model("mlp")
    x, net = inputs_for(model, 20), model.module
    h = net.first(x).detach()
    rowwise, common = torch.randn(20, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    for edit, expected in [
        (0.5, torch.full_like(h, 0.5)),
        (common, common.expand_as(h)),
        (common[None], common.expand_as(h)),
        (rowwise, rowwise),
        (rowwise.float(), rowwise.float().double()),
        (lambda old: -old, -h),
        (lambda old: 2.0, torch.full_like(h, 2.0)),
    ]:
        assert_close(model.run(x, edit={"first": edit}).output, net.last(expected.relu()).detach())


def test_one_value_for_all_is_not_taken_for_one_per_row():
    model = tiny_model("conv", batch_size=2)
    x = inputs_for(model, 4)  # as many rows as channels
    plane = torch.randn(4, 16, 16, dtype=torch.float64)
    whole = tiny_model("conv", batch_size=64)
    expected = whole.run(x, edit={"conv1": plane.expand(4, 4, 16, 16)}).output
    assert_close(model.run(x, edit={"conv1": plane}).output, expected)
    values = torch.randn(4, dtype=torch.float64)
    rowwise = whole.run(x, edit={"conv1:2@3,4": values}).output
    assert_close(model.run(x, edit={"conv1:2@3,4": values}).output, rowwise)


def test_edits_at_one_place_are_applied_in_order_and_seen_by_readers():
    model = tiny_model("mlp")
    trace = model.run(inputs_for(model), read=["first", "output"], edit={"first": 1.0, "first:2": lambda old: old + 4})
    assert trace["first"][0].tolist() == [1, 1, 5, 1, 1, 1, 1, 1]
    assert_close(trace.output, model.module.last(trace["first"]).detach())


def test_the_input_is_a_place_too():
    model = tiny_model("mlp")
    x = inputs_for(model)
    trace = model.run(x, read=["input", "output"], edit={"input:1": 0.0})
    expected = x.clone()
    expected[:, 1] = 0
    assert_close(trace["input"], expected)
    assert_close(trace.output, model.run(expected).output)


def test_the_input_of_a_text_model_is_its_embedding():
    model = tiny_model("text")
    texts = inputs_for(model)
    trace = model.run(texts, read=["input", "embedding", "output"])
    assert_close(trace["input"], trace["embedding"])
    assert not torch.equal(model.run(texts, edit={"input@1": 0.0}).output, trace.output)


@pytest.mark.parametrize(
    ("edit", "error", "what"),
    [
        ({"frist": 0.0}, UnknownName, "nearest: first"),
        ({"first": torch.zeros(3, 9)}, BadShape, r"shape \(3, 8\) at first; the edit has \(3, 9\)"),
        ({"first:8": 0.0}, BadShape, "unit below 8"),
        ({"output": 0.0}, BadOption, "inside the network"),
        ({"a b": 0.0}, BadOption, "expected a place"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit, error, what):
    model = tiny_model("mlp")
    with pytest.raises(error, match=what):
        model.run(inputs_for(model), edit=edit)


# -- stopping early and chunks -----------------------------------------------------------------------------------------


def _counted(model, path):
    runs = Tally()
    model.module.get_submodule(path).register_forward_hook(lambda m, a, o: runs.note(len(a[0])))
    return runs


@pytest.mark.parametrize("edit", [None, {"conv1": 0.0}])
def test_a_forward_ends_where_the_last_place_was_seen(edit):
    model = tiny_model("conv")
    x = inputs_for(model)
    model.run(x, read=["relu1"], edit=edit)  # from now on, it is known that relu1 runs once
    late, early = _counted(model, "conv2"), _counted(model, "conv1")
    model.run(x, read=["relu1", "conv1"], edit=edit)
    model.run(x, read=["relu1"], edit=edit)
    assert (len(late), len(early)) == (0 if edit else 1, 2)  # a new place costs one whole run
    model.run(x, read=["relu1", "output"], edit=edit)
    assert len(early) == 3
    assert len(late) == (1 if edit else 2)


def test_a_gradient_of_an_early_unit_stops_early():
    model = tiny_model("conv")
    x = inputs_for(model)
    first = model.gradient(x, "unit('relu1:2')")
    late = _counted(model, "fc")
    again = model.gradient(x, "unit('relu1:2')")
    assert len(late) == 0
    assert_close(first.slope, again.slope)


@pytest.mark.parametrize("chunk", [1, 2, 3, 8])
def test_chunks_do_not_change_the_answer(chunk):
    model, whole = tiny_model("conv", batch_size=chunk), tiny_model("conv", batch_size=64)
    x = inputs_for(model, 8)
    sizes = _counted(model, "conv1")
    trace, expected = model.run(x, read=["conv2", "output"]), whole.run(x, read=["conv2", "output"])
    assert max(sizes.values) == chunk
    assert_close(trace["conv2"], expected["conv2"], rtol=1e-12, atol=1e-12)
    assert_close(trace.output, expected.output, rtol=1e-12, atol=1e-12)
    target = [0, 1, 2, 0, 1, 2, 0, 1]
    assert_close(model.gradient(x, target).slope, whole.gradient(x, target).slope, rtol=1e-12, atol=1e-12)


def test_out_of_memory_halves_the_chunk_and_keeps_the_answer():
    module = nets.seeded(lambda: Hungry(limit=3))
    model = Model(module, rows(4), batch_size=16)
    x = torch.randn(20, 4, dtype=torch.float64)
    assert_close(model.run(x).output, module.fc(x).detach())
    assert module.sizes.values[:3] == [16, 8, 4]
    assert max(module.sizes.values[3:]) == 2
    assert_close(model.gradient(x, 1).slope, module.fc.weight[1].detach().expand(20, -1))


def test_out_of_memory_on_one_input_is_said():
    model = Model(nets.seeded(lambda: Hungry(limit=0)), rows(4), name="hungry")
    with pytest.raises(NotPossible, match="not enough memory for one input of hungry"):
        model.run(torch.zeros(5, 4))


def test_an_empty_batch_gives_an_empty_answer():
    model = tiny_model("conv")
    assert model.run(torch.empty(0, 3, 16, 16)).output.shape == (0, 3)


# -- what a model says of itself ---------------------------------------------------------------------------------------


def test_layers_count_calls_of_one_forward():
    model = tiny_model("reused", batch_size=2)
    found = {layer.site: layer for layer in model.layers(inputs_for(model, 7))}
    assert found["act"].calls == 2
    assert found["a"].calls == 1
    assert (found["a"].kind, found["a"].shape, found["a"].parameters) == ("Linear", (8,), 40)
    assert {layer.site: layer.calls for layer in tiny_model("dead_branch").layers()} == {
        "live": 1,
        "dead": 0,
        "last": 1,
    }


def test_a_census_names_functional_reused_and_in_place_operations():
    names = {
        name: [op.name for op in tiny_model(name).census()]
        for name in ("mlp", "mlp_functional", "mlp_clamp", "mlp_inplace")
    }
    assert names["mlp"] == names["mlp_functional"] == names["mlp_inplace"] == ["linear", "relu", "linear"]
    assert names["mlp_clamp"] == ["linear", "clamp", "linear"]
    assert [op.name for op in tiny_model("reused").census()].count("relu") == 2
    residual = tiny_model("residual").census()
    assert [op.name for op in residual].count("add") == 2
    assert {op.site for op in residual if op.name == "hardtanh"} == {"act"}  # as nn.ReLU6 calls it
    assert "multi_head_attention_forward" in {op.name for op in tiny_model("attention").census()}


def test_the_fingerprint_follows_every_change_of_a_weight():
    a, b = tiny_model("mlp"), tiny_model("mlp")
    assert a.fingerprint == b.fingerprint
    seen = {a.fingerprint}
    with torch.no_grad():
        a.module.first.weight[0, 0] += 1
    seen.add(a.fingerprint)
    a.module.first.weight.data.mul_(-1)  # goes around torch's version counter
    seen.add(a.fingerprint)
    assert len(seen) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [7, 120, 300])  # one entry that no word of 8 bytes has, a small tensor, a large one
def test_the_fingerprint_follows_changes_that_torch_does_not_count(dtype, size):
    net = nn.Linear(size, size + 1, bias=False, dtype=dtype)
    weight, seen = net.weight, set()
    model = Model(net, rows(size))
    changes = [
        lambda w: w,
        lambda w: -w,
        lambda w: w.roll(1, 0),
        lambda w: w.flip(1),
        lambda w: w.flatten()[torch.randperm(w.numel(), generator=torch.Generator().manual_seed(0))].view_as(w),
        lambda w: torch.cat([w[:2].neg(), w[2:]]),
        lambda w: w.index_put((torch.tensor([1, 2]), torch.tensor([3, 3])), w[[2, 1], [3, 3]]),
        lambda w: w.index_put((torch.tensor([-1]), torch.tensor([-1])), w[-1, -1] * (1 + torch.finfo(dtype).eps)),
    ]
    version = weight._version
    for change in changes:
        weight.data.copy_(change(weight.data.clone()))
        seen.add(model.fingerprint)
    assert weight._version == version
    assert len(seen) == len(changes)


def test_the_fingerprint_follows_new_memory_and_new_modules():
    net = nn.Sequential(nn.Linear(120, 120))
    model, seen = Model(net, rows(120)), set()
    for change in (
        lambda: None,
        lambda: setattr(net[0].weight, "data", net[0].weight.data.t()),
        lambda: setattr(net[0].weight, "data", net[0].weight.data[:7]),
        lambda: net.append(nn.Linear(7, 2)),
        lambda: net[1].register_buffer("offset", torch.zeros(2)),
    ):
        change()
        seen.add(model.fingerprint)
    assert len(seen) == 5


@pytest.mark.parametrize("counted", [True, False])
def test_the_fingerprint_of_an_input_follows_every_change(counted):
    x = torch.rand(3, 40, 40)
    again = x.clone()
    seen = {fingerprint(x)}
    assert fingerprint(x) == fingerprint(again) in seen
    inside = x if counted else x.data  # whose version nobody counts
    inside[0, 0, 0] += 1
    seen.add(fingerprint(x))
    inside.copy_(inside.flip(2))
    seen.add(fingerprint(x))
    seen |= {fingerprint(x.view(40, 3, 40)), fingerprint(x.view(torch.int32))}
    assert len(seen) == 5
    assert fingerprint(again) in seen


def test_a_float16_bfloat16_and_scalar_state_has_a_fingerprint():
    module = nn.Sequential(nn.Linear(2, 2).bfloat16(), nn.BatchNorm1d(2).half())
    assert len(Model(module, rows(2)).fingerprint) == 64


def test_wrappers_are_looked_through():
    net = nets.seeded(nets.Mlp)
    x = torch.randn(2, 4, dtype=torch.float64)
    for wrapper, note in [
        (nn.DataParallel(net), "DataParallel"),
        (torch.compile(net, backend="eager"), "torch.compile"),
    ]:
        model = Model(wrapper, rows(4))
        assert note in model.notes[0]
        assert [layer.site for layer in model.layers()] == ["first", "last", "act"]
        assert_close(model.run(x, read=["first"])["first"], net.first(x).detach())


def test_what_is_no_module_is_refused():
    with pytest.raises(BadOption, match=r"torch.nn.Module; got function"):
        Model(lambda x: x, rows(4))


def test_a_network_at_another_size_counts_with_the_first():
    model = tiny_model("residual")
    other = model.at_size(24, 32)
    assert other.space.shape == (3, 24, 32)
    assert other.space.mean == model.space.mean
    before = model.spent["forwards"]
    assert other.run(torch.rand(2, 3, 24, 32).double(), read=["stem"])["stem"].shape[2:] == (24, 32)
    assert model.spent["forwards"] == before + 2
    assert model.at_size(16, 16) is model


def test_a_network_at_a_size_that_its_end_refuses_still_runs_up_to_a_layer():
    model = tiny_model("conv")
    model.run(model.example(), read=["conv2"])  # how often each module runs is known from here on
    assert model.at_size(40, 40).run(torch.rand(1, 3, 40, 40).double(), read=["conv2"])["conv2"].shape[2:] == (20, 20)
    with pytest.raises(RuntimeError):
        model.at_size(40, 40).run(torch.rand(1, 3, 40, 40).double())
