"""The class names of the built-in dataset and of ImageNet, in the order of the model's outputs."""

from __future__ import annotations

from importlib import resources

DIGITS = tuple(str(digit) for digit in range(10))


def imagenet_class_names() -> tuple[str, ...]:
    """Return the 1000 class names of ImageNet (ILSVRC 2012), in the order of torchvision's outputs."""
    text = resources.files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
