"""Max or average pooling: how features and predictions change when the image shifts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import nn

from alexnet_model.classifier import Classifier
from alexnet_model.contract import Contract, Uint8Array
from plots import axes_of, line, percent
from section import (
    Experiment,
    Interval,
    Section,
    Values,
    gain,
    interval,
    points,
    share_interval,
    table_of,
    verdict_of,
)
from training import LENET_RATE, Data, fitted, framed_digits, lenet_relu, part_of, replaced

POOLINGS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
SHIFTS = (0, 1, 2, 3, 4, 5, 6, 7, 8)
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))
EPOCHS = 4


def features_and_classes(
    network: nn.Sequential, images: Uint8Array
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the output of the last pooling layer `(N, 400)` and the predicted classes `(N,)`."""
    classifier = Classifier(network, Contract()).eval()
    end = next(index for index, layer in enumerate(network) if isinstance(layer, nn.Flatten))
    with torch.inference_mode():
        features = network[: end + 1](classifier.normalised(torch.from_numpy(images)))
        return features.numpy(), network[end + 1 :](features).argmax(dim=1).numpy()


def measure(quick: bool) -> Values:
    seeds, epochs = ((0, 1), 2) if quick else ((0, 1, 2), EPOCHS)
    data = framed_digits()
    if quick:
        data = Data(part_of(data.train, np.arange(600)), part_of(data.test, np.arange(150)))
    rows = []
    for pooling in POOLINGS:
        for seed in seeds:
            network = lenet_relu(seed)
            replaced(network, nn.MaxPool2d, lambda _: POOLINGS[pooling](2))  # noqa: B023 - called at once
            fitted(network, data.train, seed=seed, epochs=epochs, learning_rate=LENET_RATE)
            still, classes = features_and_classes(network, data.test.images)
            for shift in SHIFTS:
                changes, same, right = [], [], []
                for dy, dx in DIRECTIONS:
                    moved = np.roll(data.test.images, (dy * shift, dx * shift), axis=(1, 2))
                    features, now = features_and_classes(network, moved)
                    change = np.linalg.norm(features - still, axis=1) / np.linalg.norm(still, axis=1)
                    changes.append(float(change.mean()))
                    same.append(float((now == classes).mean()))
                    right.append(float((now == data.test.labels).mean()))
                rows.append(
                    {
                        "pooling": pooling,
                        "seed": seed,
                        "shift": shift,
                        "change": float(np.mean(changes)),
                        "same_class": float(np.mean(same)),
                        "accuracy": float(np.mean(right)),
                    }
                )
    return {"rows": rows, "seeds": list(seeds), "epochs": epochs}


def section(values: Values) -> Section:
    def of(pooling: str, shift: int, key: str) -> list[float]:
        return [row[key] for row in values["rows"] if (row["pooling"], row["shift"]) == (pooling, shift)]

    def all_shifts(pooling: str, key: str) -> list[float]:
        means: list[float] = np.mean([of(pooling, shift, key) for shift in SHIFTS[1:]], axis=0).tolist()
        return means

    features = gain(all_shifts("average", "change"), all_shifts("max", "change"))
    classes = gain(all_shifts("max", "same_class"), all_shifts("average", "same_class"))
    rows = [
        [f"{shift}"]
        + [f"{interval(of(pooling, shift, 'change')).mean:.2f}" for pooling in POOLINGS]
        + [str(share_interval(of(pooling, shift, "same_class"))) for pooling in POOLINGS]
        for shift in (1, 2, 4, 8)
    ]
    return Section(
        title="Max instead of average pooling",
        claim="Max pooling keeps features and predictions steadier when the image shifts.",
        explanation=(
            "A maximum stays the same while the largest value moves within its window; an average of the same "
            "window changes only a little, too. The same LeNet with ReLU is trained with each pooling on clean digits of 48 "
            "pixels in the middle of 64x64, without augmentation. Test images are shifted in four directions. The change "
            "of the features is the length of the difference after the last pooling, divided by the length of the "
            "features. The network sees 28x28 pixels, so 8 pixels are 3.5 of its own."
        ),
        verdict=verdict_of([features, classes]),
        reason=(
            f"Over shifts of 1 to 8 pixels, features change by {features.mean:+.2f} ({features.low:+.2f} to {features.high:+.2f}) more "
            f"with average than with max pooling, and max pooling keeps the prediction {points(classes)} more often. "
            "A positive difference whose interval excludes 0 supports the claim."
        ),
        table=table_of(
            [
                "shift in pixels",
                "change of features, max",
                "average",
                "same prediction, max",
                "average",
            ],
            rows,
        ),
        plot=lambda: _plot(of),
        plot_text="Change of features and share of equal predictions by the shift, for max and average pooling",
    )


def _plot(of: object) -> Figure:
    assert callable(of)
    figure, (change, same) = axes_of(2)
    for number, pooling in enumerate(POOLINGS):
        changes: list[Interval | float] = [interval(of(pooling, shift, "change")) for shift in SHIFTS]
        line(change, number, f"{pooling} pooling", SHIFTS, changes)
        line(
            same,
            number,
            f"{pooling} pooling",
            SHIFTS,
            [share_interval(of(pooling, s, "same_class")) for s in SHIFTS],
        )
    change.set_ylim(0)
    change.set_ylabel("relative change of features")
    percent(same)
    same.set_ylabel("same prediction as unshifted")
    for axes in (change, same):
        axes.set_xlabel("shift in pixels")
        axes.set_xticks(SHIFTS)
    change.legend()
    return figure


POOLING = Experiment("pooling", measure, section)
