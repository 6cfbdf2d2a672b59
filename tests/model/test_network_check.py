"""A network is run before it is exported: what it returns, and each fault in one line."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alexnet_model.contract import Contract
from alexnet_model.errors import ExportError
from alexnet_model.network_check import count_outputs

from ..stand_ins.small_networks import SmallMobileNet, SmallResNet

CONTRACT = Contract(size=32, resize=32)
HERE = Path(__file__).name


class Pooled(nn.Module):
    """Averages each channel."""

    def forward(self, x: Tensor) -> Any:
        return x.mean(dim=(2, 3))


class Tuple(Pooled):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class Dict(Pooled):
    def forward(self, x: Tensor) -> Any:
        return OrderedDict(out=super().forward(x), aux=x)


class Features(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x.relu()


class Labels(Pooled):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).long()


class OneForAll(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x.mean(dim=(0, 2, 3))[None]


class Probabilities(Pooled):
    def forward(self, x: Tensor) -> Any:
        x = super().forward(x)
        return torch.nn.functional.softmax(x, dim=1)


def flat() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 10))


@pytest.mark.parametrize(
    "network", [SmallResNet(7), SmallMobileNet(7), nn.Sequential(Pooled(), nn.Linear(3, 7))]
)
def test_logits_are_counted(network: nn.Module) -> None:
    generator = torch.get_rng_state()
    assert count_outputs(network.eval(), CONTRACT) == 7
    assert count_outputs(network.eval(), CONTRACT, expected=7) == 7
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_network_may_have_one_logit() -> None:
    assert count_outputs(nn.Sequential(Pooled(), nn.Linear(3, 1)), CONTRACT) == 1


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Tuple(), ["network Tuple: got an output of type tuple of 2", "return super().forward(x), x"]),
        (Dict(), ["OrderedDict with the keys out, aux", f"Return only the logits: {HERE}:"]),
        (Features(), ["an output of shape (3, 3, 32, 32) float32 for images (3, 3, 32, 32)", "x.relu()"]),
        (OneForAll(), ["an output of shape (1, 3)", "expected float logits (N, classes)"]),
        (Labels(), ["an output of shape (3, 3) int64"]),
        (
            flat(),
            ["network Sequential: got RuntimeError: mat1 and mat2", "it to take float images (3, 3, 32, 32)"],
        ),
        (Probabilities(), ["softmax is applied already", f"{HERE}:", "functional.softmax(x, dim=1)"]),
        (nn.Sequential(Pooled(), nn.Softmax(dim=1)), ["softmax is applied already", "the layer 1."]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_network_that_returns_something_else_is_one_line(network: nn.Module, words: list[str]) -> None:
    with pytest.raises(ExportError) as refused:
        count_outputs(network, CONTRACT)
    line = str(refused.value)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_another_number_of_logits_is_refused() -> None:
    with pytest.raises(
        ExportError, match="network SmallResNet: got 7 logits, expected 5, one for each class"
    ):
        count_outputs(SmallResNet(7), CONTRACT, expected=5)


def test_logits_that_sum_to_one_but_are_no_probabilities_pass() -> None:
    class Centred(Pooled):
        def forward(self, x: Tensor) -> Any:
            x = super().forward(x)
            return 100 * (x - x.mean(dim=1, keepdim=True)) + 1 / 3

    assert count_outputs(Centred(), CONTRACT) == 3
