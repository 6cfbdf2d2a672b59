"""Image datasets: labelled images in a training, a validation and a test split.

Training, calibration, evaluation and the benchmarks read their images here. `digits` is scikit-learn's 1,797
hand-written digits of 8x8 pixels. A folder holds one folder of images for each class, either under `train/`,
`val/` and optionally `test/`, or directly; then it is split by a fixed seed. Images that are in no class
folder have the one class `unlabelled`, which is enough for calibration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from .class_names import DIGITS
from .contract import Contract, Uint8Array
from .errors import DatasetError, ImageError
from .extras import needs
from .progress import Progress, silent

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# A constant, not an option: with another seed in evaluation, it would include images that were trained on.
SPLIT_SEED = 0
UNLABELLED = "unlabelled"
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2


@dataclass(frozen=True)
class LabelledImage:
    """An image that is not decoded yet.

    Args:
        name: unique in its dataset; for a file, the path below the dataset's folder.
        label: the index of its class in `ImageDataset.class_names`.
        source: where `Contract.prepared` reads it from.
    """

    name: str
    label: int
    source: Path | Image.Image


@dataclass(frozen=True)
class Unreadable:
    """An image that was left out, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImageDataset:
    """The images of one split of a dataset.

    Args:
        source: "digits" or the path of a folder.
        split: "train", "validation" or "test".
        class_names: the names of the classes, in the order of the labels.
        images: the images.
        mirrorable: whether a mirrored image keeps its class; a digit does not.
    """

    source: str
    split: str
    class_names: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    mirrorable: bool

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The labels `(N,)` in the order of the images."""
        return np.array([image.label for image in self.images], dtype=np.int64)

    def sample(self, count: int) -> ImageDataset:
        """Return at most `count` images, with every class in proportion to its size, to within one image."""
        if count >= len(self):
            return self
        by_class = np.argsort(self.labels, kind="stable")
        chosen = sorted(by_class[_evenly_spaced(len(self), count)].tolist())
        return replace(self, images=tuple(self.images[index] for index in chosen))


@dataclass(frozen=True)
class Splits:
    """The three splits of a dataset."""

    train: ImageDataset
    validation: ImageDataset
    test: ImageDataset


@dataclass(frozen=True)
class PreparedImages:
    """Prepared images in memory, and the images that were left out because they could not be read."""

    images: Uint8Array  # (N, S, S, 3)
    labels: npt.NDArray[np.int64]  # (N,)
    names: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]

    @property
    def digests(self) -> tuple[str, ...]:
        """Hex SHA-256 of each image."""
        return digests_of_images(self.images)


def digests_of_images(images: Uint8Array) -> tuple[str, ...]:
    """Return the hex SHA-256 of each prepared image: equal digests mean equal pixels.

    Args:
        images: uint8 `(N, S, S, 3)`.
    """
    return tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in images)


def splits_from(source: str) -> Splits:
    """Open a dataset without decoding its images.

    Args:
        source: "digits", or the path of a folder with a folder of images for each class, under `train/`,
            `val/` and optionally `test/`, or directly. Without `test/`, the test split has the images of the
            validation split.

    Raises:
        DatasetError: there is no such dataset, or one of its splits has no images.
    """
    if source == "digits":
        return _digits()
    return _folder(Path(source))


def prepared_from_set(
    dataset: ImageDataset, contract: Contract, *, progress: Progress = silent
) -> PreparedImages:
    """Prepare every image of a dataset in memory.

    Args:
        dataset: the images; those that cannot be read are left out.
        contract: how images are prepared. Each takes `contract.image_bytes`.
        progress: called after every image.

    Raises:
        DatasetError: none of the images can be read.
    """
    images = np.empty((len(dataset), *contract.image_shape), dtype=np.uint8)
    count = 0

    def keep(pixels: Uint8Array) -> None:
        nonlocal count
        images[count] = pixels
        count += 1

    readable, unreadable = _read(dataset, contract, keep, f"reading {dataset.split}", progress)
    names = tuple(image.name for image in readable.images)
    return PreparedImages(images[:count], readable.labels, names, unreadable)


def readable_images(
    dataset: ImageDataset, contract: Contract, *, progress: Progress = silent
) -> tuple[ImageDataset, tuple[Unreadable, ...]]:
    """Decode every image once to find those that cannot be read, without keeping any in memory.

    Args:
        dataset: the images.
        contract: how images are prepared.
        progress: called after every image.

    Returns:
        The dataset with the readable images, and the unreadable ones.

    Raises:
        DatasetError: none of the images can be read.
    """
    return _read(dataset, contract, lambda _: None, f"checking {dataset.split}", progress)


def _read(
    dataset: ImageDataset,
    contract: Contract,
    consume: Callable[[Uint8Array], None],
    stage: str,
    progress: Progress,
) -> tuple[ImageDataset, tuple[Unreadable, ...]]:
    """Call `consume` with every readable image in order; return the readable and the unreadable ones."""
    readable: list[LabelledImage] = []
    unreadable: list[Unreadable] = []
    for image, outcome in _prepared_in_order(dataset.images, contract):
        if isinstance(outcome, Unreadable):
            unreadable.append(outcome)
        else:
            consume(outcome)
            readable.append(image)
        progress(stage, len(readable) + len(unreadable), len(dataset))
    if not readable:
        raise DatasetError(
            f"{dataset.source} ({dataset.split})",
            got=f"no readable image among {len(dataset)}",
            expected="at least one",
            next_step=f"The first reason: {unreadable[0].reason}" if unreadable else "",
        )
    return replace(dataset, images=tuple(readable)), tuple(unreadable)


def _prepared_in_order(
    images: Sequence[LabelledImage], contract: Contract
) -> Iterator[tuple[LabelledImage, Uint8Array | Unreadable]]:
    def prepare(image: LabelledImage) -> Uint8Array | Unreadable:
        try:
            return contract.prepared(image.source)
        except ImageError as error:
            return Unreadable(image.name, str(error))

    with ThreadPoolExecutor() as pool:
        # In chunks, so that at most 64 decoded images wait for the consumer.
        for start in range(0, len(images), 64):
            chunk = images[start : start + 64]
            yield from zip(chunk, pool.map(prepare, chunk), strict=True)


def _digits() -> Splits:
    with needs("train"):
        from sklearn.datasets import load_digits
    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), 0..16 to 0..255
    images = tuple(
        LabelledImage(f"digit_{index:04d}", int(label), Image.fromarray(image))
        for index, (image, label) in enumerate(zip(grey, digits.target, strict=True))
    )
    return _split(ImageDataset("digits", "all", DIGITS, images, mirrorable=False))


def _folder(folder: Path) -> Splits:
    if not folder.is_dir():
        raise DatasetError(
            str(folder),
            got="no such folder",
            expected="'digits', or a folder with one subfolder of images per class",
            next_step="Check the path.",
        )
    if not (folder / "train").is_dir():
        return _split(_class_folders(folder, folder, "all"))
    train = _class_folders(folder, folder / "train", "train")
    validation = _class_folders(folder, folder / "val", "validation", train.class_names)
    test_folder = folder / "test"
    test = (
        _class_folders(folder, test_folder, "test", train.class_names)
        if test_folder.is_dir()
        else replace(validation, split="test")
    )
    return Splits(train, validation, test)


def _class_folders(
    source: Path, folder: Path, split: str, class_names: tuple[str, ...] | None = None
) -> ImageDataset:
    if not folder.is_dir():
        raise DatasetError(
            str(folder), got="no such folder", expected=f"the {split} split", next_step=f"Create {folder}."
        )
    found = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."))
    names = class_names or found or (UNLABELLED,)
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise DatasetError(
            str(folder),
            got=f"the class folder {unknown[0]!r}",
            expected=f"only the {len(names)} classes of the train split",
            next_step="Remove the folder, or add images of this class to train.",
        )
    class_folders = [folder] if names == (UNLABELLED,) else [folder / name for name in names]
    images = tuple(
        LabelledImage(str(path.relative_to(source)), label, path)
        for label, class_folder in enumerate(class_folders)
        for path in _images_below(class_folder)
    )
    if not images:
        raise DatasetError(
            str(folder),
            got="no images",
            expected=f"a folder of images for each class ({', '.join(sorted(SUFFIXES))})",
            next_step="Check the path.",
        )
    return ImageDataset(str(source), split, names, images, mirrorable=True)


def _images_below(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _split(whole: ImageDataset) -> Splits:
    """Shuffle by the fixed seed, then take the test and validation splits evenly over the classes."""
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(whole))
    order = shuffled[np.argsort(whole.labels[shuffled], kind="stable")]
    test, rest = _divided(order, TEST_SHARE)
    validation, train = _divided(rest, VALIDATION_SHARE)

    def split(name: str, indices: npt.NDArray[np.int64]) -> ImageDataset:
        if not len(indices):
            raise DatasetError(
                whole.source,
                got=f"{len(whole)} images, which leaves none for the {name} split",
                expected="at least 10",
                next_step="Add images.",
            )
        chosen = sorted(indices.tolist())
        return replace(whole, split=name, images=tuple(whole.images[index] for index in chosen))

    return Splits(split("train", train), split("validation", validation), split("test", test))


def _divided(
    order: npt.NDArray[np.int64], share: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Divide indices into an evenly spaced share, rounded up, and the rest."""
    chosen = _evenly_spaced(len(order), int(np.ceil(len(order) * share)))
    return order[chosen], np.delete(order, chosen)


def _evenly_spaced(length: int, count: int) -> npt.NDArray[np.int64]:
    return (np.arange(count) * length // max(count, 1)).astype(np.int64)
