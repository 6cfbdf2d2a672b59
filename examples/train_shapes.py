"""Train the weights that the examples export. It takes the place of your own training program.

python draw_shapes.py shapes --images 100
python train_shapes.py alexnet shapes shapes.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from alexnet_model import Contract, build, prepared_from_set, splits_from
from alexnet_model.classifier import Classifier
from my_network import small_resnet

# The folder's images are 128 pixels wide and high. Half of that is enough to tell the shapes apart.
CONTRACT = Contract(size=64, resize=64)
STEPS = 400
BATCH = 32
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "alexnet": lambda classes: build("alexnet", classes, width=0.125),
    "resnet": small_resnet,
}


def train(network: nn.Module, images: Path) -> None:
    """Train a network to classify the images of a folder with one folder for each class.

    Args:
        network: maps normalised images `(N, 3, 64, 64)` to logits; its weights are changed.
        images: the folder. Its test split, which `alexnet export` measures on, is not used.
    """
    torch.manual_seed(0)
    dataset = prepared_from_set(splits_from(str(images)).train, CONTRACT)
    pixels = Classifier(network, CONTRACT).normalised(torch.from_numpy(dataset.images)).contiguous()
    labels = torch.from_numpy(dataset.labels)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # so few channels and steps need no regularisation
    network.train()
    optimiser = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.001, total_steps=STEPS)
    for step in range(STEPS):
        chosen = torch.randint(len(labels), (BATCH,))
        batch = pixels[chosen]  # (BATCH, 3, 64, 64)
        flipped = [side for side in (2, 3) if torch.rand(()) < 0.5]
        loss = nn.functional.cross_entropy(network(batch.flip(flipped)), labels[chosen])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {STEPS}: loss {loss:.3f}")
    network.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a network on a folder of class folders.")
    parser.add_argument("network", choices=NETWORKS, help="the network to train")
    parser.add_argument("images", type=Path, help="a folder with one folder for each class")
    parser.add_argument("weights", type=Path, help="the file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # such small batches are not faster in several threads
    network = NETWORKS[arguments.network](len(splits_from(str(arguments.images)).train.class_names))
    train(network, arguments.images)
    torch.save({"epoch": 1, "state_dict": network.state_dict()}, arguments.weights)
    print(f"Wrote {arguments.weights}.")
