"""Two real networks of TensorFlow.js as torch modules, read from the folder that CUTAWAY_DATA names.

The reader knows what these files hold: chains of convolutions, normalisations, rectifiers, pools and a linear end.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway as ct
from cutaway.data.imagenet import classes, wnids

FOLDER = Path(os.environ.get("CUTAWAY_DATA", "nowhere"))
TINY = "lifeboat, ladybug, pizza, bell pepper, school bus, koala, espresso, red panda, orange, sport car"


def needs(*folders: str) -> pytest.MarkDecorator:
    """Skip where a folder of the data is missing."""
    missing = [name for name in folders if not (FOLDER / name).is_dir()]
    return pytest.mark.skipif(bool(missing), reason=f"needs CUTAWAY_DATA with {', '.join(folders)}")


def tiny_darknet() -> ct.Model:
    """Tiny Darknet: sixteen convolutions with leaky rectifiers, 224 x 224 in [0, 1], its own order of ImageNet."""
    order = (FOLDER / "tiny-darknet" / "imagenet.labels.list").read_text().split()[:1000]
    names = dict(zip(wnids(), classes(), strict=True))
    net = nn.Sequential(dict_of(FOLDER / "tiny-darknet"))
    return ct.Model(net.eval(), ct.images(224), classes=[names[wnid] for wnid in order], name="tiny-darknet")


def tiny_vgg() -> ct.Model:
    """Tiny VGG: four convolutions of ten channels, 64 x 64 in [0, 1], ten classes."""
    net = nn.Sequential(dict_of(FOLDER / "tiny-vgg"))
    return ct.Model(net.eval(), ct.images(64), classes=TINY.split(", "), name="tiny-vgg")


def dict_of(folder: Path) -> OrderedDict[str, nn.Module]:
    """The layers by name, in the order of the file."""
    weights = arrays(folder)
    topology = json.loads((folder / "model.json").read_text())["modelTopology"]["model_config"]["config"]
    found: OrderedDict[str, nn.Module] = OrderedDict()
    for entry in topology["layers"]:
        config = entry["config"]
        own = {key.split("/")[1]: t for key, t in weights.items() if key.startswith(f"{config['name']}/")}
        for suffix, module in made(entry["class_name"], config, own):
            found[config["name"] + suffix] = module
    return found


def arrays(folder: Path) -> dict[str, Tensor]:
    """All weights by name; each group of files is one row of numbers."""
    found = {}
    for group in json.loads((folder / "model.json").read_text())["weightsManifest"]:
        values, at = np.frombuffer(b"".join((folder / path).read_bytes() for path in group["paths"]), "<f4"), 0
        for entry in group["weights"]:
            count = int(np.prod(entry["shape"]))
            found[entry["name"]] = torch.from_numpy(values[at : at + count].copy()).reshape(entry["shape"])
            at += count
        assert at == len(values)
    return found


def made(kind: str, config: dict, own: dict[str, Tensor]) -> Iterator[tuple[str, nn.Module]]:
    """The modules of one layer, with what is added to its name."""
    if kind == "Conv2D":
        height, width, inputs, outputs = own["kernel"].shape
        padding = "same" if config["padding"] == "same" else 0
        conv = nn.Conv2d(inputs, outputs, (height, width), padding=padding, bias="bias" in own)
        yield "", filled(conv, weight=own["kernel"].permute(3, 2, 0, 1), bias=own.get("bias"))
    elif kind == "BatchNormalization":
        norm = nn.BatchNorm2d(len(own["gamma"]), eps=config["epsilon"])
        statistics = {"running_mean": own["moving_mean"], "running_var": own["moving_variance"]}
        yield "", filled(norm, weight=own["gamma"], bias=own["beta"], **statistics)
    elif kind == "LeakyReLU":
        yield "", nn.LeakyReLU(config["alpha"])
    elif kind == "Activation":
        yield "", nn.ReLU()
    elif kind == "MaxPooling2D":
        yield "", nn.MaxPool2d(2, ceil_mode=config["padding"] == "same")
    elif kind == "GlobalAveragePooling2D":
        yield "", nn.AdaptiveAvgPool2d(1)
        yield "_flat", nn.Flatten()
    elif kind == "Flatten":
        yield "", ChannelsLast()
    elif kind == "Dense":
        dense = nn.Linear(*own["kernel"].shape)
        yield "", filled(dense, weight=own["kernel"].T, bias=own["bias"])
    else:
        assert kind == "InputLayer", kind


class ChannelsLast(nn.Module):
    """Flattens height, width, channels in this order."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def filled(module: nn.Module, **values: Tensor | None) -> nn.Module:
    """A module with these weights."""
    module.load_state_dict({key: t.contiguous() for key, t in values.items() if t is not None}, strict=False)
    return module
