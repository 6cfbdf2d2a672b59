"""Image datasets: labelled images with a training, a validation and a held-out part.

Training, calibration, evaluation and the benchmarks all read images here. `digits` is scikit-learn's
1,797 hand-written digits of 8x8; a folder holds one folder a class, either under `train/` and `val/` (and
`test/`, where there is one) or directly, split by a fixed seed. Images without
folders are one class, `unlabelled`: enough to calibrate on.
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
# Fixed, not an option: if training and evaluation split differently, held-out images are not held out.
SPLIT_SEED = 0
UNLABELLED = "unlabelled"
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2


@dataclass(frozen=True)
class LabelledImage:
    name: str
    label: int
    source: Path | Image.Image


@dataclass(frozen=True)
class Unreadable:
    """An image that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImageDataset:
    """One part of an image dataset. `mirrorable`: a mirrored image keeps its class (never so for digits)."""

    source: str
    part: str
    class_names: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    mirrorable: bool

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return np.array([image.label for image in self.images], dtype=np.int64)  # (N,)

    def sample(self, count: int) -> ImageDataset:
        """At most `count` images, every class by its share of the set, to within one image."""
        if count >= len(self):
            return self
        by_class = np.argsort(self.labels, kind="stable")
        chosen = sorted(by_class[_evenly_spaced(len(self), count)].tolist())
        return replace(self, images=tuple(self.images[index] for index in chosen))


@dataclass(frozen=True)
class Splits:
    train: ImageDataset
    validation: ImageDataset
    test: ImageDataset


@dataclass(frozen=True)
class PreparedImages:
    """Images in memory as the model sees them, with those that could not be read."""

    images: Uint8Array  # (N, 224, 224, 3)
    labels: npt.NDArray[np.int64]  # (N,)
    names: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]

    @property
    def digests(self) -> tuple[str, ...]:
        return digests_of_images(self.images)


def digests_of_images(images: Uint8Array) -> tuple[str, ...]:
    """Hex SHA-256 of each prepared image: equal where the model sees the same pixels."""
    return tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in images)


def splits_from(source: str) -> Splits:
    """Open `digits`, or a folder of class folders.

    Raises:
        DatasetError: there is no such set, or a part of it has no images.
    """
    if source == "digits":
        return _digits()
    return _folder(Path(source))


def prepared_from_set(
    dataset: ImageDataset, contract: Contract, *, progress: Progress = silent
) -> PreparedImages:
    """Prepare every image of a set by the contract, 150,528 bytes each.

    Raises:
        DatasetError: none of them can be read.
    """
    images = np.empty((len(dataset), *contract.image_shape), dtype=np.uint8)
    taken = 0

    def keep(pixels: Uint8Array) -> None:
        nonlocal taken
        images[taken] = pixels
        taken += 1

    readable, unreadable = _read(dataset, contract, keep, f"reading {dataset.part}", progress)
    names = tuple(image.name for image in readable.images)
    return PreparedImages(images[:taken], readable.labels, names, unreadable)


def readable_part(
    images: ImageDataset, contract: Contract, *, progress: Progress = silent
) -> tuple[ImageDataset, tuple[Unreadable, ...]]:
    """Decode every image once and leave out those that cannot be read, without keeping any in memory.

    Raises:
        DatasetError: none of them can be read.
    """
    return _read(images, contract, lambda _: None, f"checking {images.part}", progress)


def _read(
    images: ImageDataset,
    contract: Contract,
    take: Callable[[Uint8Array], None],
    stage: str,
    progress: Progress,
) -> tuple[ImageDataset, tuple[Unreadable, ...]]:
    """Give every readable image to `take`, in order; returns those and the ones that are not.

    Raises:
        DatasetError: none of them can be read.
    """
    readable: list[LabelledImage] = []
    unreadable: list[Unreadable] = []
    for image, outcome in _prepared_in_order(images.images, contract):
        if isinstance(outcome, Unreadable):
            unreadable.append(outcome)
        else:
            take(outcome)
            readable.append(image)
        progress(stage, len(readable) + len(unreadable), len(images))
    if not readable:
        raise DatasetError(
            f"{images.source} ({images.part})",
            got=f"no readable image among {len(images)}",
            expected="at least one",
            next_step=f"The first reason: {unreadable[0].reason}" if unreadable else "",
        )
    return replace(images, images=tuple(readable)), tuple(unreadable)


def _prepared_in_order(
    images: Sequence[LabelledImage], contract: Contract
) -> Iterator[tuple[LabelledImage, Uint8Array | Unreadable]]:
    def prepare(image: LabelledImage) -> Uint8Array | Unreadable:
        try:
            return contract.prepared(image.source)
        except ImageError as error:
            return Unreadable(image.name, str(error))

    with ThreadPoolExecutor() as pool:
        # In pieces, so that results never pile up faster than they are taken.
        for start in range(0, len(images), 64):
            piece = images[start : start + 64]
            yield from zip(piece, pool.map(prepare, piece), strict=True)


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
            expected="'digits', or a folder with one folder of images a class",
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
        else replace(validation, part="test")
    )
    return Splits(train, validation, test)


def _class_folders(
    source: Path, folder: Path, part: str, class_names: tuple[str, ...] | None = None
) -> ImageDataset:
    if not folder.is_dir():
        raise DatasetError(
            str(folder), got="no such folder", expected=f"the {part} part", next_step=f"Make {folder}."
        )
    found = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."))
    names = class_names or found or (UNLABELLED,)
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise DatasetError(
            str(folder),
            got=f"the class folder {unknown[0]!r}",
            expected=f"only the {len(names)} classes of the train part",
            next_step="Remove it, or add its images to train.",
        )
    homes = [folder] if names == (UNLABELLED,) else [folder / name for name in names]
    images = tuple(
        LabelledImage(str(path.relative_to(source)), label, path)
        for label, home in enumerate(homes)
        for path in _images_below(home)
    )
    if not images:
        raise DatasetError(
            str(folder),
            got="no images",
            expected=f"one folder a class with images ({', '.join(sorted(SUFFIXES))})",
            next_step="Check the path.",
        )
    return ImageDataset(str(source), part, names, images, mirrorable=True)


def _images_below(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _split(whole: ImageDataset) -> Splits:
    """Shuffle by the fixed seed, then take the test and validation parts evenly over the classes."""
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(whole))
    order = shuffled[np.argsort(whole.labels[shuffled], kind="stable")]
    test, rest = _taken(order, TEST_SHARE)
    validation, train = _taken(rest, VALIDATION_SHARE)

    def part(name: str, indices: npt.NDArray[np.int64]) -> ImageDataset:
        if not len(indices):
            raise DatasetError(
                whole.source,
                got=f"{len(whole)} images, none of them left for the {name} part",
                expected="at least 10",
                next_step="Add images.",
            )
        chosen = sorted(indices.tolist())
        return replace(whole, part=name, images=tuple(whole.images[index] for index in chosen))

    return Splits(part("train", train), part("validation", validation), part("test", test))


def _taken(order: npt.NDArray[np.int64], share: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split an order into an evenly spaced share, rounded up, and the rest."""
    chosen = _evenly_spaced(len(order), int(np.ceil(len(order) * share)))
    return order[chosen], np.delete(order, chosen)


def _evenly_spaced(length: int, count: int) -> npt.NDArray[np.int64]:
    return (np.arange(count) * length // max(count, 1)).astype(np.int64)
