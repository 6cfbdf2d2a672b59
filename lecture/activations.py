"""ReLU instead of sigmoid: gradient norms of each layer, and the accuracy that training reaches."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from alexnet_model.classifier import Classifier
from alexnet_model.contract import Contract
from plots import axes_of, line
from section import Experiment, Section, Values, gain, points, share_interval, table_of, verdict_of
from training import BATCH, Data, accuracy, data_named, fitted, lenet, part_of, replaced, small_alexnet

ACTIVATIONS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}
RULES: dict[Literal["sgd", "adam"], float] = {"sgd": 0.02, "adam": 2e-3}  # the highest learning rates
EPOCHS = 6
STEPS_WATCHED = 20  # a training run notes gradient norms every so many steps


def network_of(name: str, activation: str, seed: int) -> nn.Module:
    """Return LeNet or the small AlexNet with one activation everywhere; weights do not depend on it."""
    network = lenet(seed) if name == "lenet" else small_alexnet(seed, batch_norm=False)
    for old in ACTIVATIONS.values():
        replaced(network, old, lambda _: ACTIVATIONS[activation]())
    return network


def norms_of(network: nn.Module) -> list[float]:
    """Return the norm of each layer's weight gradient divided by that of its weights, from first to last layer."""
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return [
        float(m.weight.grad.norm() / m.weight.detach().norm()) for m in layers if m.weight.grad is not None
    ]


def initial_norms(network: nn.Module, data: Data) -> list[float]:
    classifier = Classifier(network, Contract()).train()
    _, logits = classifier(torch.from_numpy(data.train.images[:BATCH]))
    nn.functional.cross_entropy(logits, torch.from_numpy(data.train.labels[:BATCH])).backward()  # type: ignore[no-untyped-call]
    found = norms_of(network)
    network.zero_grad()
    return found


def measure(quick: bool) -> Values:
    seeds, epochs = ((0, 1), 1) if quick else ((0, 1, 2), EPOCHS)
    data = data_named("digits")
    if quick:
        data = Data(part_of(data.train, np.arange(300)), data.test)
    initial = [
        {
            "network": name,
            "activation": activation,
            "norms": [initial_norms(network_of(name, activation, seed), data) for seed in seeds],
        }
        for name in ("lenet", "alexnet")
        for activation in ACTIVATIONS
    ]
    runs = []
    for activation in ACTIVATIONS:
        for rule, rate in RULES.items():
            for seed in seeds:
                network = network_of("lenet", activation, seed)
                watched: list[list[float]] = []
                steps = [0]

                def watch(
                    network: nn.Module = network,
                    watched: list[list[float]] = watched,
                    steps: list[int] = steps,
                ) -> None:
                    if steps[0] % STEPS_WATCHED == 0:
                        watched.append(norms_of(network))
                    steps[0] += 1

                fitted(
                    network,
                    data.train,
                    seed=seed,
                    epochs=epochs,
                    learning_rate=rate,
                    optimiser=rule,
                    after_step=watch,
                )
                runs.append(
                    {
                        "activation": activation,
                        "optimiser": rule,
                        "seed": seed,
                        "accuracy": accuracy(network, data.test),
                        "norms": watched,
                    }
                )
    return {"initial": initial, "runs": runs, "seeds": list(seeds), "epochs": epochs, "rates": RULES}


def section(values: Values) -> Section:
    found = {
        (activation, rule): [
            row["accuracy"]
            for row in values["runs"]
            if (row["activation"], row["optimiser"]) == (activation, rule)
        ]
        for activation in ACTIVATIONS
        for rule in RULES
    }
    ratios = {
        (row["network"], row["activation"]): float(np.mean([norms[0] / norms[-1] for norms in row["norms"]]))
        for row in values["initial"]
    }
    sgd, adam = (gain(found["relu", rule], found["sigmoid", rule]) for rule in RULES)
    rows = [
        [
            activation,
            f"{ratios['lenet', activation]:.1e}",
            f"{ratios['alexnet', activation]:.1e}",
            *(str(share_interval(found[activation, rule])) for rule in RULES),
        ]
        for activation in ACTIVATIONS
    ]
    chance = share_interval(found["sigmoid", "sgd"]).mean < 0.15
    return Section(
        title="ReLU instead of sigmoid",
        claim="With ReLU the gradient reaches the first layers, so that deep networks train.",
        explanation=(
            "The derivative of a sigmoid is at most 1/4, and near 0 where the sigmoid is near 0 or 1, so each layer "
            "shrinks the gradient on its way back. That of ReLU is 1 or 0. The same initial weights are given to both. "
            "A layer's relative gradient is the norm of the gradient of its weights divided by the norm of the weights. "
            f"Accuracies are of LeNet on clean digits after {values['epochs']} passes; SGD has momentum 0.9 and a "
            f"highest learning rate of {values['rates']['sgd']:g}, Adam one of {values['rates']['adam']:g}. "
            "Both activations get the same rates; they were not tuned for the sigmoid."
        ),
        verdict=verdict_of([sgd, adam]),
        reason=(
            f"ReLU gains {points(sgd)} with SGD, and {points(adam)} with Adam. "
            + (
                "The sigmoid LeNet stays at chance under SGD"
                if chance
                else "The sigmoid LeNet leaves chance under SGD"
            )
            + ". Adam divides each gradient by its usual size, which repairs part of what the sigmoid shrinks."
        ),
        table=table_of(
            [
                "activation",
                "first layer's gradient / last layer's, LeNet",
                "the same, small AlexNet",
                "accuracy with SGD",
                "accuracy with Adam",
            ],
            rows,
        ),
        plot=lambda: _plot(values),
        plot_text="Relative gradient of each layer at initialisation, and of the first layer during training",
    )


def _plot(values: Values) -> Figure:
    figure, (start, during) = axes_of(2)
    for number, row in enumerate(values["initial"]):
        norms = np.exp(np.log(np.array(row["norms"])).mean(axis=0)).tolist()
        title = f"{'LeNet' if row['network'] == 'lenet' else 'small AlexNet'}, {row['activation']}"
        line(start, number, title, range(1, len(norms) + 1), norms)
    start.set_yscale("log")
    start.set_xlabel("layer, from the input")
    start.set_ylabel("gradient / weights (norms)")
    start.set_title("before training", fontsize=10)
    for number, (activation, rule) in enumerate((a, r) for a in ACTIVATIONS for r in RULES):
        runs = [r["norms"] for r in values["runs"] if (r["activation"], r["optimiser"]) == (activation, rule)]
        first = np.exp(np.log(np.array(runs)[:, :, 0] + 1e-12).mean(axis=0)).tolist()
        line(
            during,
            number,
            f"LeNet, {activation}, {rule.upper() if rule == 'sgd' else 'Adam'}",
            [STEPS_WATCHED * i for i in range(len(first))],
            first,
        )
    during.set_yscale("log")
    during.set_xlabel("step")
    during.set_title("first layer during training", fontsize=10)
    for axes in (start, during):
        axes.legend(fontsize=8)
    return figure


ACTIVATION = Experiment("relu", measure, section)
