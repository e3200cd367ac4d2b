"""digits-cnn: a small network for scikit-learn's 8 x 8 digits, with dropout and two linear layers."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from cutaway.core.recipe import Recipe
from cutaway.core.space import images
from cutaway.data.digits import CLASSES, digits
from cutaway.zoo.entries import Entry
from cutaway.zoo.train import trained


class DigitsCNN(nn.Module):
    """Two convolutions with batch normalisation, then two linear layers; its last ReLU is a function, not a module."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.dropout = nn.Dropout(0.2)
        self.hidden = nn.Linear(32 * 4 * 4, 64)
        self.fc = nn.Linear(64, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the ten digits."""
        x = self.dropout(self.features(x).flatten(1))
        return self.fc(functional.relu(self.hidden(x)))


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture moved by at most one pixel."""
    padded = functional.pad(x, (1, 1, 1, 1))
    down, across = torch.randint(3, (2, len(x)), generator=generator).tolist()
    return torch.stack([p[:, d : d + 8, a : a + 8] for p, d, a in zip(padded, down, across, strict=True)])


RECIPE = Recipe(
    name="digits-cnn",
    build=DigitsCNN,
    train=partial(digits, "digits/train"),
    test=partial(digits, "digits/test"),
    space=images(8, channels=1),
    classes=CLASSES,
    epochs=30,
    rate=0.01,
    varied=shifted,
)

MODELS = (Entry("digits-cnn", "small conv net for scikit-learn's digits, 8 x 8", partial(trained, RECIPE), RECIPE),)
