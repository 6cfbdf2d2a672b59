"""The architectures: networks that map normalised images to logits, built by name with `build`.

    alexnet          torchvision's layout ("one weird trick", 2014); state dicts load either way
    alexnet-bn       the same with BatchNorm after each convolution, which export folds into the convolution
    alexnet-lecture  of the lecture: 96 and 256 channels, no groups, hidden layers of 4096
    alexnet-2012     of the 2012 paper: two groups in conv 2, 4 and 5, local response normalisation
    lenet            the lecture's baseline: sigmoid, average pooling, 28x28 grey pixels

All take float `(N, 3, 224, 224)` and return `(N, classes)`. A test compares the counts of parameters and
multiply-adds with docs/lecture.md. `build` also calls the factory of any other network by its name
`package.module:factory`.
"""

from __future__ import annotations

import difflib

from .errors import UsageError
from .extras import needs
from .factories import Factory, Option, factory_from, has_argument, network_from

with needs("export"):
    import torch
    from torch import Tensor, nn


class AlexNet(nn.Module):
    """torchvision's AlexNet, with the same names and shapes in its state dict.

    torchvision has an adaptive pooling to 6x6 after the features. For images of 224 pixels the features are
    already 6x6, so this layer, which has no weights, is left out.

    Args:
        classes: the number of outputs.
        width: the factor of every hidden layer's size.
    """

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (scaled(channels, width) for channels in (64, 192, 384, 256, 256))
        hidden = scaled(4096, width)
        self.features = nn.Sequential(
            nn.Conv2d(3, c1, kernel_size=11, stride=4, padding=2),  # (N, 64, 55, 55)
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 64, 27, 27)
            nn.Conv2d(c1, c2, kernel_size=5, padding=2),  # (N, 192, 27, 27)
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 192, 13, 13)
            nn.Conv2d(c2, c3, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(c3, c4, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(c4, c5, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 256, 6, 6)
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(c5 * 6 * 6, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # (N, 256, 6, 6)
        if x.shape[2:] != (6, 6):
            x = nn.functional.adaptive_avg_pool2d(x, 6)
        x = torch.flatten(x, 1)  # (N, 9216)
        logits: Tensor = self.classifier(x)  # (N, classes)
        return logits


class AlexNetBN(AlexNet):
    """AlexNet with BatchNorm after each convolution, whose bias it replaces; arguments as for `AlexNet`.

    In Simon, Rodner and Denzler (2016, arXiv:1612.01452) this raises the top-1 accuracy on ImageNet from
    57.4% to 60.1%. It costs nothing to serve: export folds it into the weights of the convolutions.
    """

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__(classes, width)
        layers: list[nn.Module] = []
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                layer.bias = None
                layers += [layer, nn.BatchNorm2d(layer.out_channels)]
            else:
                layers.append(layer)
        self.features = nn.Sequential(*layers)


def lecture_alexnet(classes: int, width: float = 1.0) -> nn.Sequential:
    """Return the lecture's AlexNet (Dive into Deep Learning, section 8.1); arguments as for `AlexNet`."""
    c1, c2, c3, c4, c5 = (scaled(channels, width) for channels in (96, 256, 384, 384, 256))
    hidden = scaled(4096, width)
    return nn.Sequential(
        nn.Conv2d(3, c1, kernel_size=11, stride=4, padding=1),  # (N, 96, 54, 54)
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 96, 26, 26)
        nn.Conv2d(c1, c2, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 256, 12, 12)
        nn.Conv2d(c2, c3, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(c3, c4, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(c4, c5, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 256, 5, 5)
        nn.Flatten(),  # (N, 6400)
        nn.Linear(c5 * 5 * 5, hidden),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(hidden, classes),
    )


def paper_alexnet(classes: int, width: float = 1.0) -> nn.Sequential:
    """Return AlexNet as in Krizhevsky, Sutskever and Hinton (2012); arguments as for `AlexNet`.

    The layer sizes in the paper are for 227 pixels, so 224 pixels are padded by 3.
    """
    # An even number of channels at any width, because some layers have two groups.
    c1, c2, c3, c4, c5 = (2 * scaled(channels // 2, width) for channels in (96, 256, 384, 384, 256))
    hidden = scaled(4096, width)
    return nn.Sequential(
        nn.ZeroPad2d((1, 2, 1, 2)),  # (N, 3, 227, 227)
        nn.Conv2d(3, c1, kernel_size=11, stride=4),  # (N, 96, 55, 55)
        nn.ReLU(),
        LocalResponseNorm(),
        nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 96, 27, 27)
        nn.Conv2d(c1, c2, kernel_size=5, padding=2, groups=2),
        nn.ReLU(),
        LocalResponseNorm(),
        nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 256, 13, 13)
        nn.Conv2d(c2, c3, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(c3, c4, kernel_size=3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(c4, c5, kernel_size=3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),  # (N, 256, 6, 6)
        nn.Flatten(),  # (N, 9216)
        nn.Dropout(0.5),
        nn.Linear(c5 * 6 * 6, hidden),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def lenet(classes: int, width: float = 1.0) -> nn.Sequential:
    """Return LeNet as in Dive into Deep Learning, section 7.6; arguments as for `AlexNet`.

    The contract's images are first averaged to 28x28 grey pixels.
    """
    c1, c2 = scaled(6, width), scaled(16, width)
    f1, f2 = scaled(120, width), scaled(84, width)
    return nn.Sequential(
        GreyThumbnail(),  # (N, 1, 28, 28)
        nn.Conv2d(1, c1, kernel_size=5, padding=2),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),  # (N, 6, 14, 14)
        nn.Conv2d(c1, c2, kernel_size=5),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),  # (N, 16, 5, 5)
        nn.Flatten(),  # (N, 400)
        nn.Linear(c2 * 5 * 5, f1),
        nn.Sigmoid(),
        nn.Linear(f1, f2),
        nn.Sigmoid(),
        nn.Linear(f2, classes),
    )


class LocalResponseNorm(nn.Module):
    """Local response normalisation as in section 3.3 of the paper; unlike PyTorch's, it does not divide alpha
    by n.

    It is a sum of shifted slices, which exports to plain ONNX operators for any batch size.

    Args:
        neighbours: the paper's n: channels in the sum, an odd number.
        k: the constant that is added to the sum.
        alpha: the factor of the sum.
        beta: the exponent.
    """

    def __init__(self, neighbours: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75) -> None:
        super().__init__()
        self.neighbours, self.k, self.alpha, self.beta = neighbours, k, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        half = self.neighbours // 2
        squares = torch.nn.functional.pad(x * x, (0, 0, 0, 0, half, half))  # (N, C + 4, H, W)
        channels = x.shape[1]
        total = squares[:, 0:channels]
        for offset in range(1, self.neighbours):
            total = total + squares[:, offset : offset + channels]
        return x / (self.k + self.alpha * total) ** self.beta


class GreyThumbnail(nn.Module):
    """The mean over colours and over blocks of 8x8 pixels: (N, 3, 224, 224) to (N, 1, 28, 28)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x.mean(dim=1, keepdim=True), 8)


ARCHITECTURES: dict[str, Factory] = {
    "alexnet": AlexNet,
    "alexnet-bn": AlexNetBN,
    "alexnet-lecture": lecture_alexnet,
    "alexnet-2012": paper_alexnet,
    "lenet": lenet,
}


def build(name: str, classes: int, /, **options: Option) -> nn.Module:
    """Return a network with its own initialisation.

        build("alexnet", 10, width=0.25)

    Args:
        name: a name in `ARCHITECTURES`, or `package.module:factory`.
        classes: the number of outputs, 1 to 100,000.
        options: the factory's other arguments. The architectures of this project take `width`, the factor of
            every hidden layer's size, 0.01 to 4.

    Raises:
        UsageError: there is no such architecture, its factory fails, or `classes` or `width` is out of its
            range.
    """
    if not 1 <= classes <= 100_000:
        raise UsageError("classes", got=str(classes), expected="1 to 100,000")
    width = options.get("width", 1.0)
    is_number = isinstance(width, int | float) and not isinstance(width, bool)
    if name in ARCHITECTURES and not (is_number and 0.01 <= width <= 4):  # type: ignore[operator]
        raise UsageError("width", got=str(width), expected="0.01 to 4")
    return network_from(name, _factory(name), classes, options)


def takes_option(name: str, option: str) -> bool:
    """Return whether the factory of an architecture names an argument.

    Args:
        name: as for `build`.
        option: the argument, such as "width".

    Raises:
        UsageError: there is no such architecture.
    """
    return has_argument(_factory(name), option)


def expected_weights(name: str, classes: int, /, **options: Option) -> dict[str, Tensor]:
    """Return a network's state dict, where possible on the meta device, which takes no memory.

    Args:
        name: as for `build`, and so are the others.

    Raises:
        UsageError: as for `build`.
    """
    try:
        with torch.device("meta"):
            network = build(name, classes, **options)
    except UsageError:
        # Some factories compute with values while they build, which a tensor without memory does not have.
        with torch.random.fork_rng(devices=[]):
            network = build(name, classes, **options)
    return dict(network.state_dict())


def _factory(name: str) -> Factory:
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if ":" not in name:
        known = ", ".join(ARCHITECTURES)
        close = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        raise UsageError(
            "architecture",
            got=repr(name),
            expected=f"one of {known}, or package.module:factory",
            next_step=f"Did you mean {close[0]}?" if close else "",
        )
    return factory_from(name)


def scaled(channels: int, width: float) -> int:
    """Return `channels` times `width`, rounded, but at least 1."""
    return max(1, round(channels * width))


def parameter_count(network: nn.Module) -> int:
    """Return the number of parameters of a network; buffers do not count."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, size: int = 224) -> int:
    """Count the multiply-adds of the convolutions and linear layers for one image, in one forward pass.

    A convolution does (weights / output channels) for each of its outputs; a linear layer uses each weight
    once.

    Args:
        network: its training mode is restored afterwards.
        size: both sides of the input image, in pixels.
    """
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += module.weight.numel() // module.out_channels * output[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    was_training = network.training
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, size, size))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return total
