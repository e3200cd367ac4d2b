"""Weights files of strangers: tensors are taken, everything else is refused."""

import io
import json
import os
import pickle
import resource
import struct
import time
import zipfile

import pytest
import safetensors.torch
import torch
from torch import nn

from cutaway.core.errors import BadOption, BadShape, CutawayError, NotPossible, UnknownName
from cutaway.zoo.checkpoints import fill, read_state


@pytest.fixture
def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin", ".ckpt"])
def test_round_trip(tmp_path, net, suffix):
    path = tmp_path / f"my weights ü{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(net.state_dict(), path)
    else:
        torch.save(net.state_dict(), path)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    assert fill(other, read_state(path), path.name) == []
    assert all(torch.equal(other.state_dict()[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_the_state_inside_a_training_checkpoint_is_found(tmp_path, net, key):
    torch.save({key: net.state_dict(), "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "a.ckpt")
    assert set(read_state(tmp_path / "a.ckpt")) == set(net.state_dict())


def test_the_old_file_format_is_read(tmp_path, net):
    torch.save(net.state_dict(), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert set(read_state(tmp_path / "a.pt")) == set(net.state_dict())


def test_names_from_data_parallel_are_understood(net):
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    assert "DataParallel" in fill(net, state, "a.pt")[0]


class Payload:
    """What a hostile file does when it is unpickled: make a folder."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


def hostile_files(canary):
    tensor = torch.zeros(2)
    yield "plain.pt", pickle.dumps(Payload(canary))
    yield "legacy.pth", pickle.dumps(Payload(canary), protocol=2)
    for name, content in (
        ("whole.pt", Payload(canary)),
        ("nested.bin", {"weight": tensor, "extra": Payload(canary)}),
        ("listed.ckpt", {"state_dict": {"weight": [Payload(canary)]}}),
    ):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        yield name, buffer.getvalue()


@pytest.mark.parametrize("index", range(5))
def test_a_payload_never_runs(tmp_path, index):
    canary = tmp_path / "canary"
    name, content = list(hostile_files(canary))[index]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        NotPossible, match=rf"{name}: refused, since it (asks for \w+.mkdir and not only for|holds more)"
    ):
        read_state(tmp_path / name)
    assert not canary.exists()
    # The file was dangerous indeed.
    if name in ("plain.pt", "legacy.pth"):
        pickle.loads(content)
        assert canary.exists()


def test_a_payload_named_safetensors_does_not_run_either(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(pickle.dumps(Payload(tmp_path / "canary")))
    with pytest.raises(BadShape, match=r"a.safetensors: broken"):
        read_state(tmp_path / "a.safetensors")
    assert not (tmp_path / "canary").exists()


def test_a_whole_pickled_module_is_refused_with_advice(tmp_path, net):
    torch.save(net, tmp_path / "a.pt")
    with pytest.raises(NotPossible, match=r"torch.nn.modules.container.Sequential.*state_dict\(\)"):
        read_state(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", [".pkl", ".joblib", ".npz", ".h5", ""])
def test_other_files_are_not_even_opened(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pickle.dumps(Payload(tmp_path / "canary")))
    with pytest.raises(BadOption, match="expected .safetensors"):
        read_state(path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
def test_a_truncated_file_is_refused_by_name(tmp_path, net, suffix, kept):
    path = tmp_path / f"cut{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(net.state_dict(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BadShape, match=f"cut{suffix}: broken"):
        read_state(path)


def safetensors_bytes(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(shape, start, end, kind="F32"):
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


MALFORMED = {
    "header longer than the file": safetensors_bytes({}, length=10_000),
    "header of exabytes": safetensors_bytes({}, length=2**63),
    "no JSON": safetensors_bytes(b"{'a': 1"),
    "a list": safetensors_bytes([1, 2]),
    "deep JSON": safetensors_bytes(b"[" * 100_000),
    "overlap": safetensors_bytes({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "gap": safetensors_bytes({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    "offset beyond the end": safetensors_bytes({"a": entry([4], 0, 16)}, bytes(8)),
    "negative offset": safetensors_bytes({"a": entry([1], -4, 0)}, bytes(4)),
    "size overflow": safetensors_bytes({"a": entry([2**40, 2**40], 0, 4)}, bytes(4)),
    "shape and size differ": safetensors_bytes({"a": entry([3], 0, 4)}, bytes(4)),
    "unknown type": safetensors_bytes({"a": entry([1], 0, 4, "F31")}, bytes(4)),
    "duplicate names": safetensors_bytes(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "bytes left over": safetensors_bytes({"a": entry([1], 0, 4)}, bytes(400)),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_safetensors_are_refused_quickly(tmp_path, fault):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(MALFORMED[fault])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(BadShape, match=r"bad.safetensors: broken or cut short \(.+\)"):
        read_state(path)
    assert time.monotonic() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_a_million_tensors_are_refused_quickly(tmp_path):
    path = tmp_path / "many.safetensors"
    path.write_bytes(safetensors_bytes(b"{" + b" " * 26_000_000 + b"}"))
    with pytest.raises(BadShape, match="a header of"):
        read_state(path)


def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(BadShape, match="would unpack to 50,000,000 bytes"):
        read_state(tmp_path / "bomb.pt")


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"weight": 3}, torch.zeros(3)], ids=["list", "empty", "number", "tensor"]
)
def test_something_else_than_a_state_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(BadShape, match="expected tensors by name"):
        read_state(tmp_path / "a.pt")


def test_missing_and_unexpected_names_are_listed(net):
    state = net.state_dict()
    state["head.weight"] = state.pop("3.weight")
    with pytest.raises(BadShape, match=r"a.pt does not fit Sequential: missing 3.weight. unexpected head.weight."):
        fill(net, state, "a.pt")


def test_long_lists_are_cut(net):
    with pytest.raises(
        BadShape, match=r"missing 0.bias, 0.weight, 1.bias, 1.num_batches_tracked, 1.running_mean and 4 more"
    ):
        fill(net, {}, "a.pt")


def test_a_wrong_shape_is_named(net):
    state = net.state_dict() | {"3.weight": torch.zeros(5, 16)}
    with pytest.raises(BadShape, match=r"expected 3.weight of shape \(2, 16\); got \(5, 16\)"):
        fill(net, state, "a.pt")


def test_a_refused_file_changes_no_weight(net):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(CutawayError):
        fill(net, net.state_dict() | {"3.bias": torch.zeros(7)}, "a.pt")
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())


def test_no_file(tmp_path):
    with pytest.raises(UnknownName, match="no weights file"):
        read_state(tmp_path / "away.pt")


def test_an_old_torch_is_refused(tmp_path, net, monkeypatch):
    torch.save(net.state_dict(), tmp_path / "a.pt")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(NotPossible, match="too old to read this safely; 2.10 is needed"):
        read_state(tmp_path / "a.pt")
