"""What helps a network on images that it was not trained on: dropout, augmentation, wider hidden layers."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from alexnet_training.splits import SplitInMemory
from plots import axes_of, bars, line, percent, ticks
from section import Experiment, Section, Values, gain, points, share_interval, table_of, verdict_of
from training import (
    LENET_RATE,
    Data,
    accuracy,
    augmented,
    data_named,
    fitted,
    framed_digits,
    lenet_relu,
    part_of,
    split_of,
)

DROPOUT_SIZES, DROPOUT_STEPS = (100, 400), 240
HIDDEN = 512  # units of both hidden layers where dropout is tried
AUGMENTATION_EPOCHS = 4
WIDTHS, WIDTH_EPOCHS, WIDTH_VIEWS = (16, 128, 1024, 4096), 1, 4


def measure_dropout(quick: bool) -> Values:
    seeds, sizes = ((0, 1), (100,)) if quick else ((0, 1, 2), DROPOUT_SIZES)
    data = data_named("digits")
    rows = []
    for size in sizes:
        for dropout in (0.0, 0.5):
            for seed in seeds:
                chosen = np.random.default_rng(seed).permutation(len(data.train.labels))[:size]
                train = part_of(data.train, chosen)
                network = lenet_relu(seed, hidden=HIDDEN, dropout=dropout)
                epochs = max(1, (40 if quick else DROPOUT_STEPS) // max(1, size // 32))
                fitted(network, train, seed=seed, epochs=epochs, learning_rate=LENET_RATE)
                rows.append(
                    {
                        "images": size,
                        "dropout": dropout,
                        "seed": seed,
                        "training": accuracy(network, train),
                        "test": accuracy(network, data.test),
                    }
                )
    return {"rows": rows, "seeds": list(seeds)}


def section_dropout(values: Values) -> Section:
    sizes = sorted({row["images"] for row in values["rows"]})

    def of(size: int, dropout: float, key: str) -> list[float]:
        return [row[key] for row in values["rows"] if (row["images"], row["dropout"]) == (size, dropout)]

    gains = {size: gain(of(size, 0.5, "test"), of(size, 0.0, "test")) for size in sizes}
    rows = [
        [
            f"{size:,}",
            *(
                str(share_interval(of(size, dropout, key)))
                for dropout in (0.0, 0.5)
                for key in ("training", "test")
            ),
        ]
        for size in sizes
    ]
    told = "; ".join(f"with {size:,} images {points(gains[size])}" for size in sizes)
    return Section(
        title="Dropout",
        claim="Dropout keeps a network with large hidden layers from learning its training images by heart.",
        explanation=(
            "In training, dropout sets a random half of the hidden units to 0, so that no unit can rely on another one. "
            f"LeNet with ReLU, max pooling and two hidden layers of {HIDDEN} units learns some of the clean digits, "
            "without augmentation, with the same number of steps for each number of images."
        ),
        verdict=verdict_of(list(gains.values())),
        reason=f"The held-out accuracy with dropout against without: {told}. On the training images see the table: a network at "
        "100% with dropout has learnt them by heart too.",
        table=table_of(
            ["training images", "without: training", "without: test", "with: training", "with: test"],
            rows,
        ),
        plot=lambda: _dropout_plot(sizes, of),
        plot_text="Training and held-out accuracy with and without dropout by the number of training images",
    )


def _dropout_plot(sizes: list[int], of: object) -> Figure:
    assert callable(of)
    figure, (axes,) = axes_of()
    for number, (dropout, title) in enumerate(((0.0, "without dropout"), (0.5, "with dropout"))):
        line(
            axes,
            number,
            f"{title}, training images",
            sizes,
            [share_interval(of(s, dropout, "training")) for s in sizes],
            style=":",
        )
        line(
            axes,
            number,
            f"{title}, test",
            sizes,
            [share_interval(of(s, dropout, "test")) for s in sizes],
        )
    axes.set_ylim(0.5, 1.02)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ticks(axes, sizes)
    axes.set_xlabel("training images")
    axes.set_ylabel("accuracy (axis from 50%)")
    axes.legend()
    return figure


KINDS = {"none": (False, False), "crops": (True, False), "colours": (False, True), "both": (True, True)}


def changed_tests(test: SplitInMemory) -> dict[str, SplitInMemory]:
    """Return the test images, and three changed forms of them; the same for every network."""
    rng = np.random.default_rng(0)
    images = test.images
    moves = rng.integers(-8, 9, (len(images), 2))
    shifted = np.stack([np.roll(image, move, axis=(0, 1)) for image, move in zip(images, moves, strict=True)])
    torch.manual_seed(0)
    cropped = _augmentation(crops=True, colours=False)(torch.from_numpy(images)).round().clamp(0, 255)
    # Stronger than the augmentation: contrast and background as on a photograph of paper.
    contrast, background = (
        rng.uniform(0.2, 0.6, (len(images), 1, 1, 1)),
        rng.uniform(40, 140, (len(images), 1, 1, 1)),
    )
    coloured = (images * contrast + background).clip(0, 255)
    made = {
        "clean": images,
        "shifted": shifted,
        "cropped": cropped.to(torch.uint8).numpy(),
        "colours changed": coloured.astype(np.uint8),
    }
    return {name: split_of(pixels, test.labels) for name, pixels in made.items()}


class _Unchanged(nn.Module):
    """In the place of an effect of Kornia's: draws nothing, and changes nothing."""

    def forward_parameters(self, shape: torch.Size) -> dict[str, torch.Tensor]:
        return {}

    def forward(self, images: torch.Tensor, params: object = None) -> torch.Tensor:
        return images


def _augmentation(*, crops: bool, colours: bool) -> nn.Module:
    """Return parts of the augmentation of the recipe `digits`."""
    whole = augmented()
    if not crops:
        whole.crop = _Unchanged()
    if not colours:
        whole.colour = _Unchanged()
    return whole


def measure_augmentation(quick: bool) -> Values:
    seeds, epochs = ((0, 1), 1) if quick else ((0, 1, 2), AUGMENTATION_EPOCHS)
    data = framed_digits()
    if quick:
        data = Data(part_of(data.train, np.arange(600)), part_of(data.test, np.arange(150)))
    tests = changed_tests(data.test)
    rows = []
    for kind, (crops, colours) in KINDS.items():
        for seed in seeds:
            network = lenet_relu(seed)
            augmentation = _augmentation(crops=crops, colours=colours) if crops or colours else None
            fitted(
                network,
                data.train,
                seed=seed,
                epochs=epochs,
                learning_rate=LENET_RATE,
                augmentation=augmentation,
            )
            found = {name: accuracy(network, test) for name, test in tests.items()}
            rows.append({"augmentation": kind, "seed": seed, "accuracies": found})
    return {"rows": rows, "seeds": list(seeds), "epochs": epochs}


def section_augmentation(values: Values) -> Section:
    tests = list(values["rows"][0]["accuracies"])

    def of(kind: str, test: str) -> list[float]:
        return [row["accuracies"][test] for row in values["rows"] if row["augmentation"] == kind]

    pairs = {"crops": ("shifted", "cropped"), "colours": ("colours changed",)}
    gains = {
        (kind, test): gain(of(kind, test), of("none", test))
        for kind, of_kind in pairs.items()
        for test in of_kind
    }
    clean = gain(of("both", "clean"), of("none", "clean"))
    helped = [found.low > 0 for found in gains.values()]
    rows = [[kind, *(str(share_interval(of(kind, test))) for test in tests)] for kind in KINDS]
    told = "; ".join(f"{kind} on {test} images {points(found)}" for (kind, test), found in gains.items())
    return Section(
        title="Augmentation",
        claim="Random crops and colours in training make a network ready for images that differ in these ways.",
        explanation=(
            "Each training image is cropped, or its brightness, contrast and saturation are changed, differently in every "
            "pass (the parts of the recipe `digits`). LeNet with ReLU and max pooling learns clean digits of 48 pixels in the "
            "middle of 64x64. Test images are shifted by up to 8 pixels, cropped as in training, or get another contrast and a "
            "brighter background, which is more than the augmentation does."
        ),
        verdict=verdict_of(list(gains.values())),
        reason=(
            f"Gain over no augmentation: {told}. On clean images both together change the accuracy by {points(clean)}. "
            "Not every gain has an interval above 0."
            if not all(helped)
            else f"Gain over no augmentation: {told}. On clean images both together change the accuracy by {points(clean)}."
        ),
        table=table_of(["augmentation", *(f"{test} test images" for test in tests)], rows),
        plot=lambda: _augmentation_plot(tests, of),
        plot_text="Accuracy on four kinds of test images by the augmentation in training",
    )


def _augmentation_plot(tests: list[str], of: object) -> Figure:
    assert callable(of)
    figure, (axes,) = axes_of()
    bars(axes, tests, {kind: [share_interval(of(kind, test)) for test in tests] for kind in KINDS})
    percent(axes)
    axes.set_ylabel("accuracy")
    axes.set_xlabel("test images")
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        title="augmentation in training",
    )
    return figure


def measure_width(quick: bool) -> Values:
    seeds, widths = ((0, 1), (16, 64)) if quick else ((0, 1, 2), WIDTHS)
    views = 1 if quick else WIDTH_VIEWS
    data = data_named(f"cluttered-digits:{views}")
    rows = []
    for hidden in widths:
        for seed in seeds:
            network = lenet_relu(seed, hidden=hidden)
            train = data.train
            fitted(network, train, seed=seed, epochs=1 if quick else WIDTH_EPOCHS, learning_rate=LENET_RATE)
            rows.append(
                {
                    "hidden": hidden,
                    "seed": seed,
                    "parameters": sum(p.numel() for p in network.parameters()),
                    "training": accuracy(network, part_of(train, np.arange(0, len(train.labels), 8))),
                    "test": accuracy(network, data.test),
                }
            )
    return {"rows": rows, "seeds": list(seeds), "views": views}


def section_width(values: Values) -> Section:
    widths = sorted({row["hidden"] for row in values["rows"]})

    def of(hidden: int, key: str) -> list[float]:
        return [row[key] for row in values["rows"] if row["hidden"] == hidden]

    wide, narrow = widths[-1], widths[0]
    best = max(widths, key=lambda width: float(np.mean(of(width, "test"))))
    total = gain(of(wide, "test"), of(narrow, "test"))
    last = gain(of(wide, "test"), of(widths[-2], "test"))
    rows = [
        [
            f"{width:,}",
            f"{of(width, 'parameters')[0]:,.0f}",
            *(str(share_interval(of(width, key))) for key in ("training", "test")),
        ]
        for width in widths
    ]
    return Section(
        title=f"Where hidden layers of {wide:,} matter",
        claim=f"Wide hidden layers, up to {wide:,} units, raise the accuracy.",
        explanation=(
            "The 4096 units were chosen for 1000 classes. Here only the width of both hidden layers changes, in LeNet with ReLU "
            f"and max pooling, on cluttered digits with {values['views']} views of each digit and 10 classes."
        ),
        verdict=verdict_of([last, total]),
        reason=(
            f"The accuracy with {wide:,} units differs by {points(total)} from that with {narrow:,}, and by {points(last)} from that with {widths[-2]:,}. "
            f"The highest mean is at {best:,} units."
        ),
        table=table_of(["hidden units", "parameters", "training images", "test"], rows),
        plot=lambda: _width_plot(widths, of),
        plot_text="Training and held-out accuracy by the number of hidden units",
    )


def _width_plot(widths: list[int], of: object) -> Figure:
    assert callable(of)
    figure, (axes,) = axes_of(height=3)
    line(
        axes,
        0,
        "training images",
        widths,
        [share_interval(of(width, "training")) for width in widths],
        style=":",
    )
    line(axes, 1, "test", widths, [share_interval(of(width, "test")) for width in widths])
    percent(axes)
    ticks(axes, widths)
    axes.set_xlabel("units of each hidden layer")
    axes.set_ylabel("accuracy")
    axes.legend()
    return figure


DROPOUT = Experiment("dropout", measure_dropout, section_dropout)
AUGMENTATION = Experiment("augmentation", measure_augmentation, section_augmentation)
HIDDEN_WIDTH = Experiment("width", measure_width, section_width)
