"""Small networks of other families than AlexNet, as a user's own module would define them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MeanColour(nn.Module):
    """The smallest classifier, for tests that export many times."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


class Residual(nn.Module):
    """Two convolutions with BatchNorm, and the input added, as in ResNet's basic block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        summed: Tensor = self.bn2(self.conv2(y)) + self.downsample(x)
        return summed.relu()


class SmallResNet(nn.Module):
    def __init__(self, num_classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = Residual(width, width, 1)
        self.layer2 = Residual(width, 2 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer2(self.layer1(x))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


class Inverted(nn.Module):
    """An inverted bottleneck with a depthwise convolution and squeeze-and-excite, as in MobileNetV3."""

    def __init__(self, channels: int, activation: type[nn.Module]) -> None:
        super().__init__()
        wide = 2 * channels
        self.expand = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), activation()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), activation()
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(wide, channels, 1),
            nn.ReLU(),
            nn.Conv2d(channels, wide, 1),
            nn.Hardsigmoid(),
        )
        self.project = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        projected: Tensor = self.project(y * self.gate(y))
        return x + projected


class SmallMobileNet(nn.Sequential):
    def __init__(self, num_classes: int = 10, width: int = 8) -> None:
        super().__init__(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.Hardswish(),
            Inverted(width, nn.Hardswish),
            Inverted(width, nn.SiLU),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 2 * width),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(2 * width, num_classes),
        )


def small_resnet(num_classes: int = 10, width: int = 8) -> SmallResNet:
    return SmallResNet(num_classes, width)


def any_resnet(**arguments: int) -> SmallResNet:
    """Takes every keyword, as the functions of torchvision.models and timm do."""
    return SmallResNet(**arguments)


def seven_classes() -> SmallResNet:
    """Has no argument for the number of classes."""
    return SmallResNet(7)
