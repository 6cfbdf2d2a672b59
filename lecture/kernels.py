"""An SVM's kernel matrix grows with the square of the examples; a network's memory does not grow with them."""

from __future__ import annotations

import time

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC

from alexnet_model.architectures import parameter_count
from features import SVM_C, hog_of
from plots import axes_of, line, percent, ticks
from section import Experiment, Section, Values, gain, points, share_interval, table_of
from training import BATCH, LENET_RATE, accuracy, data_named, fitted, lenet_relu, part_of

SIZES = (500, 1000, 2000, 4000, 8000)
QUICK_SIZES = (200, 400, 800)
EPOCHS = 6
VIEWS = 8


def measure(quick: bool) -> Values:
    sizes, seeds = (QUICK_SIZES, (0, 1)) if quick else (SIZES, (0, 1, 2))
    data = data_named(f"cluttered-digits:{1 if quick else VIEWS}")
    features, tested = hog_of(data.train.images), hog_of(data.test.images)
    rows: list[Values] = []
    for size in sizes:
        for seed in seeds:
            chosen = np.random.default_rng(seed).permutation(len(features))[:size]
            train, labels = features[chosen], data.train.labels[chosen]
            started = time.process_time()
            gamma = 1 / (train.shape[1] * float(train.var()))
            kernel = rbf_kernel(train, gamma=gamma)
            machine = SVC(C=SVM_C, kernel="precomputed", cache_size=100).fit(kernel, labels)
            svm_s = time.process_time() - started
            share = float(
                (machine.predict(rbf_kernel(tested, train, gamma=gamma)) == data.test.labels).mean()
            )
            network = lenet_relu(seed)
            started = time.process_time()
            fitted(
                network,
                part_of(data.train, chosen),
                seed=seed,
                epochs=1 if quick else EPOCHS,
                learning_rate=LENET_RATE,
            )
            rows.append(
                {
                    "examples": size,
                    "seed": seed,
                    "svm_cpu_s": svm_s,
                    "kernel_bytes": int(kernel.nbytes),
                    "svm_accuracy": share,
                    "network_cpu_s": time.process_time() - started,
                    "network_accuracy": accuracy(network, data.test),
                }
            )
    # Weights, gradients and Adam's two moments, and one batch of images; the same for any number of examples.
    network_bytes = 4 * 4 * parameter_count(network) + BATCH * data.train.images[0].nbytes
    return {
        "rows": rows,
        "seeds": list(seeds),
        "network_bytes": network_bytes,
        "epochs": 1 if quick else EPOCHS,
    }


def section(values: Values) -> Section:
    rows = values["rows"]
    sizes = sorted({row["examples"] for row in rows})

    def of(size: int, key: str) -> list[float]:
        return [row[key] for row in rows if row["examples"] == size]

    def median_s(size: int, key: str) -> float:
        return float(np.median(of(size, key)))

    def growth(key: str) -> float:
        steps = np.log(sizes[-1] / sizes[-3])
        return float(np.log(median_s(sizes[-1], key) / median_s(sizes[-3], key)) / steps)

    svm_power, network_power = growth("svm_cpu_s"), growth("network_cpu_s")
    gains = {n: gain(of(n, "network_accuracy"), of(n, "svm_accuracy")) for n in sizes}
    svm_leads = [n for n in sizes if gains[n].high < 0]
    cheaper = [n for n in sizes if median_s(n, "network_cpu_s") < median_s(n, "svm_cpu_s")]
    table = [
        [
            f"{size:,}",
            f"{of(size, 'kernel_bytes')[0] / 1e6:,.0f} MB",
            f"{median_s(size, 'svm_cpu_s'):.1f} s",
            f"{median_s(size, 'network_cpu_s'):.1f} s",
            str(share_interval(of(size, "svm_accuracy"))),
            str(share_interval(of(size, "network_accuracy"))),
        ]
        for size in sizes
    ]

    memory = 1.28e6**2 * 8
    ruled = svm_power > network_power + 0.3
    return Section(
        title="Kernels ruled while data was small",
        claim="Kernel methods are good for thousands of examples, but their cost grows with the square of the examples.",
        explanation=(
            "An SVM with a Gaussian kernel compares every pair of training examples: n examples give a matrix of n x n "
            "numbers of 8 bytes. A network sees the examples in batches, so its memory does not depend on n, and each "
            f"pass takes time in proportion to n. Both learn cluttered digits: the SVM from HOG, LeNet with ReLU and max pooling from pixels, in "
            f"{values['epochs']} passes. Times are CPU time of one thread on a machine that other programs used too, without the time of HOG. "
            "A solver may compute the matrix in parts, so its whole size is an upper limit."
        ),
        verdict="Holds"
        if ruled and any(n >= 1000 for n in svm_leads)
        else "Holds only in part"
        if ruled
        else "Does not hold",
        reason=(
            f"Memory grows with the square by construction; the matrix of ImageNet's 1.28 million images would need "
            f"{memory / 1e12:.0f} TB, and this network's weights, gradients, Adam's moments and one batch of images take "
            f"{values['network_bytes'] / 1e6:.1f} MB for any number. "
            f"Between the last three sizes the SVM's time grew with n to the power {svm_power:.1f}, the network's with "
            f"n to the power {network_power:.1f}. The network takes less time at "
            f"{', '.join(f'{n:,}' for n in cheaper) or 'none'} of these sizes. Its accuracy differs from the SVM's by "
            f"{'; '.join(f'{points(gains[n])} with {n:,} examples' for n in sizes)}."
        ),
        table=table_of(
            [
                "examples",
                "kernel matrix",
                "SVM's time",
                "network's time",
                "SVM's accuracy",
                "network's accuracy",
            ],
            table,
        ),
        plot=lambda: _plot(sizes, of),
        plot_text="CPU time and accuracy of the SVM and of the network by the number of examples",
    )


def _plot(sizes: list[int], of: object) -> Figure:
    assert callable(of)
    figure, (times, shares) = axes_of(2)
    for number, (key, title) in enumerate((("svm", "HOG + SVM with kernel"), ("network", "network"))):
        line(times, number, title, sizes, [float(np.median(of(size, f"{key}_cpu_s"))) for size in sizes])
        line(shares, number, title, sizes, [share_interval(of(size, f"{key}_accuracy")) for size in sizes])
    times.set_yscale("log")
    times.set_ylabel("CPU time to train, seconds")
    percent(shares)
    shares.set_ylabel("accuracy on test images")
    for axes in (times, shares):
        ticks(axes, sizes)
        axes.set_xlabel("training examples")
    times.legend()
    return figure


KERNELS = Experiment("kernels", measure, section)
