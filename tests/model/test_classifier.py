from __future__ import annotations

import torch

from alexnet_model import Contract
from alexnet_model.architectures import build
from alexnet_model.classifier import Classifier


def test_normalisation_uses_the_contracts_mean_and_std_per_channel() -> None:
    contract = Contract(mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    images = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    normalised = Classifier(torch.nn.Identity(), contract).normalised(images)
    assert normalised.shape == (2, 3, 224, 224)
    for channel in range(3):
        expected = (images[..., channel] / 255 - contract.mean[channel]) / contract.std[channel]
        torch.testing.assert_close(normalised[:, channel], expected, rtol=1e-5, atol=1e-5)


def test_probabilities_are_the_softmax_of_the_networks_logits() -> None:
    network = build("alexnet", 10, width=0.1).eval()
    classifier = Classifier(network, Contract()).eval()
    images = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    with torch.inference_mode():
        probabilities, logits = classifier(images)
        torch.testing.assert_close(logits, network(classifier.normalised(images)))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(probabilities, torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True))


def test_mean_and_std_are_not_in_the_state_dict() -> None:
    network = build("alexnet", 10, width=0.1)
    names = {f"network.{name}" for name in network.state_dict()}
    assert set(Classifier(network, Contract()).state_dict()) == names
