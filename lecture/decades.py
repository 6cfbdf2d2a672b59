"""Data, memory and compute by decade: as the lecture rounds them, and figures that were published."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from plots import COLOURS, axes_of
from section import Experiment, Section, Values, table_of

# Examples, bytes, and floating-point operations a second, as in the table of section 1.5 of Dive into Deep Learning.
LECTURE = {
    1970: (1e2, 1e3, 1e5),
    1980: (1e3, 1e5, 1e6),
    1990: (1e4, 1e7, 1e7),
    2000: (1e7, 1e8, 1e9),
    2010: (1e10, 1e9, 1e12),
    2020: (1e12, 1e11, 1e15),
}
QUANTITIES = ("examples", "bytes of memory", "operations per second")
# (decade, quantity, value, what, source)
PUBLISHED = (
    (1970, 0, 150, "Iris", "Fisher, 1936; the book's example for 1970"),
    (1970, 0, 506, "Boston housing", "Harrison and Rubinfeld, 1978; the book's example for 1980"),
    (1970, 1, 4e3, "Apple II, smallest", "Apple, 1977"),
    (1970, 2, 1.4e5, "VAX-11/780, LINPACK 100", "Dongarra, Performance of Various Computers"),
    (1980, 0, 9298, "USPS digits", "LeCun and others, 1989"),
    (1980, 1, 1.28e5, "Macintosh", "Apple, 1984"),
    (1980, 2, 5e4, "Intel 8087", "Intel, 1980"),
    (1990, 0, 5620, "Optical digits (this project's digits are a part)", "Alpaydin and Kaynak, 1998"),
    (1990, 0, 7e4, "MNIST", "LeCun and others, 1998"),
    (1990, 1, 3.2e7, "iMac", "Apple, 1998"),
    (1990, 2, 4.8e8, "GeForce 256", "Dive into Deep Learning, section 8.1"),
    (2000, 0, 79302017, "80 million tiny images", "Torralba, Fergus and Freeman, 2008"),
    (2000, 0, 100480507, "Netflix Prize ratings", "Bennett and Lanning, 2007"),
    (2000, 1, 6.4e7, "Windows XP, least", "Microsoft, 2001"),
    (2000, 1, 7.68e8, "GeForce 8800 GTX", "NVIDIA, 2006"),
    (2000, 2, 2.048e11, "Cell, single precision", "Williams and others, 2006"),
    (2000, 2, 3.456e11, "GeForce 8800 GTX", "NVIDIA, 2006"),
    (2010, 0, 1281167, "ImageNet, ILSVRC 2012", "Russakovsky and others, 2015"),
    (2010, 0, 3e8, "JFT-300M", "Sun and others, 2017"),
    (2010, 1, 3e9, "GeForce GTX 580", "Krizhevsky, Sutskever and Hinton, 2012"),
    (2010, 2, 1.03e12, "Tesla C2050, FP32", "NVIDIA, 2010"),
    (2010, 2, 1.58e12, "GeForce GTX 580, FP32", "NVIDIA, 2010"),
    (2020, 0, 5.85e9, "LAION-5B", "Schuhmann and others, 2022"),
    (2020, 0, 3e11, "GPT-3, training tokens", "Brown and others, 2020"),
    (2020, 1, 8e10, "H100", "NVIDIA, 2022"),
    (2020, 2, 3.12e14, "A100, BF16", "NVIDIA, 2020"),
    (2020, 2, 9.89e14, "H100, BF16", "NVIDIA, 2022"),
)
# Training examples, classes, values of one image; ImageNet as AlexNet reads it.
MNIST = (60_000, 10, 28 * 28)
IMAGENET = (1_281_167, 1000, 224 * 224 * 3)


def measure(_: bool) -> Values:
    """Return the figures of this file; nothing is measured."""
    return {
        "lecture": {str(decade): list(values) for decade, values in LECTURE.items()},
        "published": [list(row) for row in PUBLISHED],
        "mnist": list(MNIST),
        "imagenet": list(IMAGENET),
    }


def section(values: Values) -> Section:
    lecture, published = values["lecture"], values["published"]
    near = [row for row in published if 0.1 <= row[2] / lecture[str(row[0])][row[1]] <= 10]
    growth = [lecture["2020"][index] / lecture["2010"][index] for index in range(3)]
    examples, classes, size = (b / a for a, b in zip(values["mnist"], values["imagenet"], strict=True))
    largest = {
        (decade, index): max(row[2] for row in published if row[:2] == [decade, index])
        for decade in (2010, 2020)
        for index in (0, 2)
    }
    examples_grew, compute_grew = (largest[2020, index] / largest[2010, index] for index in (0, 2))
    far = {QUANTITIES[row[1]] for row in published if row not in near}
    rows = [
        [
            row[3],
            f"{row[0]}s",
            QUANTITIES[row[1]],
            _rounded(row[2]),
            _rounded(lecture[str(row[0])][row[1]]),
            row[4],
        ]
        for row in published
    ]
    return Section(
        title="The decades",
        claim="Data, memory and compute grew by orders of magnitude, and since 2010 compute has grown faster than data.",
        explanation=(
            "The lecture rounds each decade to one value: examples of a dataset, bytes of memory, and floating-point "
            "operations per second. The plot shows them beside figures that were published. Nothing here is measured. "
            f"ImageNet has {examples:.0f} times the training images of MNIST, {classes:.0f} times the classes, and AlexNet reads "
            f"{size:.0f} times the values of each image: {examples * size:,.0f} times the values in all."
        ),
        verdict="Holds"
        if len(near) == len(published) and compute_grew > examples_grew
        else "Holds only in part",
        reason=(
            f"{len(near)} of {len(published)} published figures are within a factor of 10 of the lecture's value. "
            f"The others are of {', '.join(sorted(far)) or 'none'}. "
            f"In the lecture's own values, examples grew by {growth[0]:,.0f}, memory by {growth[1]:,.0f} and compute by {growth[2]:,.0f} "
            "from the 2010s to the 2020s. "
            f"By the largest published figures, examples grew by {examples_grew:,.0f} and compute by {compute_grew:,.0f}, but "
            "the units differ: images and tokens, FP32 and BF16. The published figures of the 1990s and 2000s include graphics "
            "processors and the Cell; the lecture's are of ordinary processors."
        ),
        table=table_of(["what", "decade", "quantity", "published", "lecture", "source"], rows),
        plot=lambda: _plot(lecture, published),
        plot_text="Examples, memory and compute by decade, the lecture's values as lines, published ones as points",
    )


def _rounded(value: float) -> str:
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def _plot(lecture: dict[str, list[float]], published: list[list[float]]) -> Figure:
    figure, axes = axes_of(3, height=3)
    decades = [int(decade) for decade in lecture]
    for index, each in enumerate(axes):
        each.plot(
            decades,
            [row[index] for row in lecture.values()],
            color=COLOURS[index],
            linewidth=1.8,
            label="lecture",
        )
        found = [row for row in published if row[1] == index]
        shift = np.linspace(-1.5, 1.5, len(found))
        each.plot(
            [row[0] + moved for row, moved in zip(found, shift, strict=True)],
            [row[2] for row in found],
            "o",
            color="#222222",
            markersize=5,
            fillstyle="none",
            label="published",
        )
        each.set_yscale("log")
        each.set_title(QUANTITIES[index], fontsize=10)
        each.set_xticks(decades, [f"{decade % 100:02d}s" for decade in decades])
        each.legend()
    return figure


DECADES = Experiment("decades", measure, section)
