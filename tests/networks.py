"""Networks that several test files use. Untrained unless said; seeded by the caller."""

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two convolutions and a skip, with one ReLU module that runs twice and in place."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet18(nn.Module):
    """The residual network of 18 layers (He et al. 2016), with module names and spellings as in torchvision."""

    def __init__(self, classes: int = 1000, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        for k in range(1, 5):
            stride = 1 if k == 1 else 2
            blocks = BasicBlock(widths[k - 1], widths[k], stride), BasicBlock(widths[k], widths[k], 1)
            self.add_module(f"layer{k}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class BiLstm(nn.Module):
    """A text classifier: embedding, a bidirectional LSTM, and a linear end on both last states."""

    def __init__(self, words: int = 50, size: int = 6, hidden: int = 5, classes: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, size)
        self.lstm = nn.LSTM(size, hidden, batch_first=True, bidirectional=True, bias=bias)
        self.fc = nn.Linear(2 * hidden, classes, bias=bias)

    def forward(self, input_ids: Tensor) -> Tensor:
        _, (last, _) = self.lstm(self.embedding(input_ids))
        return self.fc(torch.cat([last[0], last[1]], -1))


def resnet18(*, seed: int = 0, classes: int = 1000, width: int = 64, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A residual network in eval mode, whose batch statistics look trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ResNet18(classes, width)
        for part in net.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean, std=0.2)
                nn.init.uniform_(part.running_var, 0.5, 1.5)
                nn.init.uniform_(part.weight, 0.4, 0.8)
                nn.init.normal_(part.bias, std=0.1)
    return net.to(dtype).eval()


def bilstm(*, seed: int = 0, dtype: torch.dtype = torch.float64, **sizes: int | bool) -> nn.Module:
    """A bidirectional LSTM classifier in eval mode; its place `embedding` is what `input` means."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BiLstm(**sizes).to(dtype).eval()
