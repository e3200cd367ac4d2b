"""shapes-cnn: a small residual network for the generated shapes."""

from functools import partial

import torch
from torch import Tensor, nn

from cutaway.core.dataset import Examples
from cutaway.core.recipe import Recipe
from cutaway.core.space import images
from cutaway.data.shapes import CLASSES, SIZE, SPLITS, shapes
from cutaway.zoo.entries import Entry
from cutaway.zoo.train import trained


class ShapesCNN(nn.Module):
    """Five convolutions with batch normalisation, one residual connection, a global mean, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = _stage(3, 16)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2, self.bn2, self.relu2 = _stage(16, 32)
        self.pool2 = nn.MaxPool2d(2)
        self.conv3, self.bn3, self.relu3 = _stage(32, 48)
        self.conv4, self.bn4, self.relu4 = _stage(48, 48)
        self.pool4 = nn.MaxPool2d(2)
        self.conv5, self.bn5, self.relu5 = _stage(48, 64)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the eight shapes."""
        x = self.pool1(self.relu1(self.bn1(self.conv1(x))))
        x = self.pool2(self.relu2(self.bn2(self.conv2(x))))
        x = self.relu3(self.bn3(self.conv3(x)))
        x = self.pool4(self.relu4(x + self.bn4(self.conv4(x))))
        x = self.relu5(self.bn5(self.conv5(x)))
        return self.fc(self.mean(x).flatten(1))


def _stage(inputs: int, outputs: int) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def turned(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture turned by a multiple of 90 degrees and perhaps mirrored; the label stays true."""
    turns, mirrored = (torch.randint(k, (len(x),), generator=generator) for k in (4, 2))
    x = torch.where(mirrored.view(-1, 1, 1, 1).bool(), x.flip(3), x)
    return torch.stack([torch.rot90(picture, int(k), (1, 2)) for picture, k in zip(x, turns, strict=True)])


def _data(split: str) -> Examples:
    return shapes(split, range(SPLITS[split]))


RECIPE = Recipe(
    name="shapes-cnn",
    build=ShapesCNN,
    train=partial(_data, "train"),
    test=partial(_data, "test"),
    space=images(SIZE, mean=0.5, std=0.25),
    classes=CLASSES,
    epochs=6,
    rate=0.01,
    varied=turned,
)

MODELS = (Entry("shapes-cnn", "small conv net for the generated shapes, 48 x 48", partial(trained, RECIPE), RECIPE),)
