"""A residual network of 18 layers in which no module runs twice, which is what captum's DeepLift asks for."""

import sys
from pathlib import Path

from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import networks


class Apart(nn.Module):
    """A block of two convolutions and a skip, with a ReLU module of its own at each place."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = block.conv1, block.bn1, block.conv2, block.bn2
        self.relu1, self.relu2, self.downsample = nn.ReLU(), nn.ReLU(), block.downsample

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + (x if self.downsample is None else self.downsample(x)))


def separate() -> nn.Module:
    """The network of `networks.resnet18`, with an average as its first pooling, since captum is wrong there."""
    net = networks.resnet18()
    for k in range(1, 5):
        stage = getattr(net, f"layer{k}")
        setattr(net, f"layer{k}", nn.Sequential(*(Apart(block) for block in stage)))
    net.relu, net.maxpool = nn.ReLU(), nn.AvgPool2d(3, 2, padding=1)
    return net.eval().requires_grad_(False)
