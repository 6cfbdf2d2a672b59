from __future__ import annotations

import pytest
import torch
from torch import nn

from alexnet_model.architectures import (
    ARCHITECTURES,
    GreyThumbnail,
    LocalResponseNorm,
    build,
    multiply_adds,
    parameter_count,
)
from alexnet_model.errors import UsageError

# torchvision 0.28's alexnet().state_dict(), in its order.
TORCHVISION = {
    "features.0.weight": (64, 3, 11, 11),
    "features.0.bias": (64,),
    "features.3.weight": (192, 64, 5, 5),
    "features.3.bias": (192,),
    "features.6.weight": (384, 192, 3, 3),
    "features.6.bias": (384,),
    "features.8.weight": (256, 384, 3, 3),
    "features.8.bias": (256,),
    "features.10.weight": (256, 256, 3, 3),
    "features.10.bias": (256,),
    "classifier.1.weight": (4096, 9216),
    "classifier.1.bias": (4096,),
    "classifier.4.weight": (4096, 4096),
    "classifier.4.bias": (4096,),
    "classifier.6.weight": (1000, 4096),
    "classifier.6.bias": (1000,),
}


def test_alexnet_has_torchvisions_names_and_shapes_in_its_order() -> None:
    with torch.device("meta"):
        state = build("alexnet", 1000).state_dict()
    assert [(name, tuple(tensor.shape)) for name, tensor in state.items()] == list(TORCHVISION.items())


@pytest.mark.parametrize(
    ("name", "classes", "parameters", "count"),
    [
        ("lenet", 10, 61_706, 416_520),
        ("alexnet-lecture", 10, 46_787_978, 1_005_890_688),
        ("alexnet-lecture", 1000, 50_844_008, 1_009_945_728),
        ("alexnet-2012", 1000, 60_965_224, 724_406_816),
        ("alexnet", 1000, 61_100_840, 714_188_480),
    ],
)
def test_parameters_and_multiply_adds(name: str, classes: int, parameters: int, count: int) -> None:
    network = build(name, classes)
    assert parameter_count(network) == parameters
    assert multiply_adds(network) == count


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("width", [0.1, 0.25])
def test_every_architecture_maps_a_batch_to_logits(name: str, width: float) -> None:
    network = build(name, 7, width=width).eval()
    images = torch.randn(3, 3, 224, 224)
    with torch.inference_mode():
        logits = network(images)
        assert logits.shape == (3, 7)
        assert logits.isfinite().all()
        # No layer mixes images: an image alone has the same logits.
        torch.testing.assert_close(network(images[1:2]), logits[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [224, 227, 256])
def test_alexnet_pools_images_of_other_sizes_as_torchvision_does(size: int) -> None:
    network = build("alexnet", 7, width=0.1).eval()
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        pooled = nn.AdaptiveAvgPool2d((6, 6))(network.get_submodule("features")(images))
        expected = network.get_submodule("classifier")(pooled.flatten(1))
        torch.testing.assert_close(network(images), expected, rtol=0, atol=0)


def test_alexnet_bn_is_alexnet_with_batch_norm_after_each_convolution() -> None:
    with torch.device("meta"):
        plain, normed = build("alexnet", 1000), build("alexnet-bn", 1000)
    kinds = [type(layer) for layer in normed.get_submodule("features").children()]
    assert [kind for kind in kinds if kind is not nn.BatchNorm2d] == [
        type(layer) for layer in plain.get_submodule("features").children()
    ]
    after = [kinds[index + 1] for index, kind in enumerate(kinds) if kind is nn.Conv2d]
    assert after == [nn.BatchNorm2d] * 5
    # A norm has a factor and an offset for each channel; the offset replaces the bias of the convolution.
    assert parameter_count(normed) - parameter_count(plain) == 64 + 192 + 384 + 256 + 256


def test_counting_restores_the_training_mode_and_removes_its_hooks() -> None:
    network = build("alexnet", 10, width=0.1).train()
    multiply_adds(network)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


def test_local_response_norm_follows_the_papers_formula() -> None:
    activity = torch.randn(2, 7, 3, 4, dtype=torch.float64) * 30  # large values, so that alpha has an effect
    expected = torch.empty_like(activity)
    channels = activity.shape[1]
    for i in range(channels):
        neighbours = activity[:, max(0, i - 2) : min(channels - 1, i + 2) + 1]
        expected[:, i] = activity[:, i] / (2 + 1e-4 * (neighbours**2).sum(dim=1)) ** 0.75
    torch.testing.assert_close(LocalResponseNorm()(activity), expected)


def test_local_response_norm_equals_pytorchs_with_alpha_times_n() -> None:
    activity = torch.randn(2, 9, 5, 5) * 30
    reference = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(LocalResponseNorm()(activity), reference(activity))


def test_grey_thumbnail_averages_colours_and_blocks() -> None:
    images = torch.randn(2, 3, 224, 224)
    thumbnail = GreyThumbnail()(images)
    assert thumbnail.shape == (2, 1, 28, 28)
    torch.testing.assert_close(thumbnail[1, 0, 2, 5], images[1, :, 16:24, 40:48].mean())


@pytest.mark.parametrize(
    ("name", "classes", "width", "word"),
    [
        ("resnet", 10, 1.0, "alexnet-lecture"),
        ("alexnet", 0, 1.0, "classes"),
        ("alexnet", 100_001, 1.0, "classes"),
        ("alexnet", 10, 0.0, "width"),
        ("alexnet", 10, 5.0, "width"),
        ("alexnet", 10, float("nan"), "width"),
    ],
)
def test_wrong_arguments_are_refused_by_name(name: str, classes: int, width: float, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        build(name, classes, width=width)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"package\.module:factory\. Did you mean alexnet-2012\?$"):
        build("alexnet2012", 10)
    with pytest.raises(UsageError, match=r"package\.module:factory$"):
        build("mobile", 10)
