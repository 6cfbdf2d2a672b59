from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from alexnet_model.architectures import ARCHITECTURES, build
from alexnet_training.initialisation import default_learning_rate, initialise


def layers_of(architecture: str) -> list[nn.Conv2d | nn.Linear]:
    torch.manual_seed(0)
    network = build(architecture, 10, width=0.25 if architecture != "lenet" else 1.0)
    initialise(network, architecture)
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("architecture", ["alexnet", "alexnet-bn", "alexnet-lecture", "alexnet-2012"])
def test_hidden_layers_get_kaiming_and_the_last_layer_small_weights(architecture: str) -> None:
    *hidden, last = layers_of(architecture)
    for layer in hidden:
        fan_in = layer.weight[0].numel()
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.1)
    assert last.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_lenet_gets_xavier_initialisation() -> None:
    for layer in layers_of("lenet"):
        receptive = layer.weight[0, 0].numel()
        fans = (layer.weight.shape[0] + layer.weight.shape[1]) * receptive
        bound = math.sqrt(6 / fans)
        assert 0.8 * bound < layer.weight.abs().max().item() <= bound


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_biases_start_at_zero(architecture: str) -> None:
    for layer in layers_of(architecture):
        if architecture == "alexnet-bn" and isinstance(layer, nn.Conv2d):
            assert layer.bias is None
        else:
            assert layer.bias is not None
            assert not layer.bias.any()


@pytest.mark.parametrize(("width", "expected"), [(1.0, 2.5e-4), (0.5, 5e-4), (0.25, 1e-3), (0.05, 2e-3)])
def test_narrower_networks_have_a_higher_learning_rate(width: float, expected: float) -> None:
    assert default_learning_rate("alexnet", width) == pytest.approx(expected)


def test_layers_without_bias_and_batch_norm_are_initialised() -> None:
    convolution, norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
    last = nn.Linear(8, 2, bias=False)
    torch.manual_seed(0)
    initialise(nn.Sequential(convolution, norm, nn.ReLU(), last), "batch-norm")
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / 27), rel=0.2)
    assert last.weight.std().item() == pytest.approx(0.01, rel=0.6)
    assert torch.equal(norm.weight, torch.ones(8))
    assert not norm.bias.any()


def test_the_papers_rule_has_small_weights_and_its_biases_of_one() -> None:
    network = build("alexnet-2012", 10, width=0.1)
    initialise(network, "alexnet-2012", "paper-2012")
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    biases = []
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.2)
        assert layer.bias is not None
        assert torch.equal(layer.bias, layer.bias[:1].expand_as(layer.bias))
        biases.append(layer.bias[0].item())
    assert biases == [0, 1, 0, 1, 1, 1, 1, 0]
