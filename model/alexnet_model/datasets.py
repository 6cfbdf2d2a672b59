"""Image datasets: labelled images in a training, a validation and a test split.

Training, calibration, evaluation and the benchmarks read their images here. `digits` is scikit-learn's 1,797
hand-written digits of 8x8 pixels. `cluttered-digits:VIEWS` draws them at random places of a canvas, among
parts of others. A folder holds one folder of images for each class, either under `train/`,
`val/` and optionally `test/`, or directly; then it is split by a fixed seed. Images that are in no class
folder have the one class `unlabelled`, which is enough for calibration.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from .class_names import DIGITS
from .cluttered_digits import cluttered
from .contract import Contract, Uint8Array
from .errors import DatasetError, ImageError, os_error_reason, os_errors_as
from .extras import needs
from .files import sha256_of_file
from .image_folders import LeftOut, class_folders, image_files, normal_form, split_folders
from .image_formats import image_suffixes
from .progress import Progress, silent

# A constant, not an option: with another seed in evaluation, it would include images that were trained on.
SPLIT_SEED = 0
UNLABELLED = "unlabelled"
MAX_VIEWS = 64  # of a training digit, 5 KB each
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
    """An image, or a folder, that was left out because it cannot be read, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImageDataset:
    """The images of one split of a dataset.

    Args:
        source: the name of a built-in dataset, such as "digits", or the path of a folder.
        split: "train", "validation" or "test".
        class_names: the names of the classes, in the order of the labels.
        images: the images.
        mirrorable: whether a mirrored image keeps its class; a digit does not.
        left_out: what the search for images found and cannot use, such as unreadable folders.
    """

    source: str
    split: str
    class_names: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    mirrorable: bool
    left_out: tuple[Unreadable, ...] = ()

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
    """The three splits of a dataset.

    Args:
        train: the images to train on.
        validation: the images that every epoch is measured on.
        test: the held-out images.
        copies: in a folder that was split here, how many images have the same bytes as an earlier one.
    """

    train: ImageDataset
    validation: ImageDataset
    test: ImageDataset
    copies: int = 0


@dataclass(frozen=True)
class PreparedImages:
    """Prepared images in memory, and the images that were left out.

    Args:
        images: uint8 `(N, S, S, 3)`.
        labels: int64 `(N,)`.
        names: of the images.
        unreadable: what could not be read.
        excluded: names of the images that were not wanted, see `prepared_sample`.
    """

    images: Uint8Array
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]
    excluded: tuple[str, ...] = ()

    @property
    def digests(self) -> tuple[str, ...]:
        """Hex SHA-256 of each image."""
        return digests_of_images(self.images)


def digests_of_images(images: Uint8Array) -> tuple[str, ...]:
    """Return the hex SHA-256 of each prepared image: equal digests mean equal pixels.

    Args:
        images: uint8 `(N, S, S, 3)`.
    """
    return tuple(map(_digest_of, images))


def _digest_of(image: Uint8Array) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def splits_from(source: str) -> Splits:
    """Open a dataset without decoding its images.

    Args:
        source: "digits", "cluttered-digits:VIEWS" with so many images of each training digit (1 to 64, by
            default 1), or the path of a folder with a folder of images for each class, under `train/`,
            `val/` and optionally `test/`, or directly. Without `test/`, the test split has the images of the
            validation split.

    Raises:
        DatasetError: there is no such dataset, or one of its splits has no images.
    """
    if source == "digits":
        return _digits()
    if is_built_in(source):
        return _cluttered_digits(source)
    return _folder(Path(source))


def is_built_in(source: str) -> bool:
    """Return whether a dataset is made from scikit-learn's digits, and not read from a folder.

    Args:
        source: as for `splits_from`.
    """
    return source == "digits" or source.partition(":")[0] == "cluttered-digits"


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


def prepared_sample(
    dataset: ImageDataset,
    count: int,
    contract: Contract,
    *,
    excluded: Container[str] = (),
    progress: Progress = silent,
) -> PreparedImages:
    """Prepare at most `count` images of a dataset in memory, every class in proportion to its size.

    In the place of an image that cannot be read or is excluded, another one is taken, of its class if
    possible. Images are read until there are enough.

    Args:
        dataset: the images.
        count: how many are wanted; there are fewer only if the dataset has no more.
        contract: how images are prepared. Each takes `contract.image_bytes`.
        excluded: digests of prepared images that are not wanted.
        progress: called after every image.

    Raises:
        DatasetError: none of the images can be read.
    """
    count = min(count, len(dataset))
    images = np.empty((count, *contract.image_shape), dtype=np.uint8)
    kept: list[LabelledImage] = []
    unreadable: list[Unreadable] = []
    unwanted: list[str] = []
    labels, kept_labels = dataset.labels, np.zeros(len(dataset.class_names), np.int64)
    left = np.argsort(labels, kind="stable")
    chosen = left[_evenly_spaced(len(left), count)]
    wanted = np.bincount(labels[chosen], minlength=len(kept_labels))
    while len(chosen):
        left = left[~np.isin(left, chosen)]
        drawn = [dataset.images[index] for index in sorted(chosen.tolist())]
        for image, outcome in _prepared_in_order(drawn, contract):
            if isinstance(outcome, Unreadable):
                unreadable.append(outcome)
            elif _digest_of(outcome) in excluded:
                unwanted.append(image.name)
            else:
                images[len(kept)] = outcome
                kept.append(image)
                kept_labels[image.label] += 1
            progress(f"reading {dataset.split}", len(kept), count)
        # First others of the classes that have too few, then of any.
        chosen = np.empty(0, np.int64)
        for label in np.flatnonzero(wanted > kept_labels):
            pool = left[labels[left] == label]
            short = min(len(pool), wanted[label] - kept_labels[label])
            chosen = np.concatenate([chosen, pool[_evenly_spaced(len(pool), short)]])
        if not len(chosen):
            chosen = left[_evenly_spaced(len(left), min(len(left), count - len(kept)))]
    if not kept and not unwanted:
        raise _none_readable(dataset, unreadable)
    return PreparedImages(
        images[: len(kept)],
        replace(dataset, images=tuple(kept)).labels,
        tuple(image.name for image in kept),
        (*dataset.left_out, *unreadable),
        tuple(unwanted),
    )


@dataclass(frozen=True)
class ReadableImages:
    """The images of a dataset that can be read, the digests of their prepared pixels, and the others."""

    dataset: ImageDataset
    digests: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]


def readable_images(
    dataset: ImageDataset, contract: Contract, *, progress: Progress = silent
) -> ReadableImages:
    """Decode every image once to find those that cannot be read, without keeping any in memory.

    Args:
        dataset: the images.
        contract: how images are prepared.
        progress: called after every image.

    Raises:
        DatasetError: none of the images can be read.
    """
    digests: list[str] = []
    readable, unreadable = _read(
        dataset,
        contract,
        lambda pixels: digests.append(_digest_of(pixels)),
        f"checking {dataset.split}",
        progress,
    )
    return ReadableImages(readable, tuple(digests), unreadable)


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
        raise _none_readable(dataset, unreadable)
    return replace(dataset, images=tuple(readable)), (*dataset.left_out, *unreadable)


def _none_readable(dataset: ImageDataset, unreadable: Sequence[Unreadable]) -> DatasetError:
    return DatasetError(
        f"{dataset.source} ({dataset.split})",
        got=f"no readable image among {len(dataset)}",
        expected="at least one",
        next_step=f"The first reason: {unreadable[0].reason}" if unreadable else "",
    )


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


def _cluttered_digits(source: str) -> Splits:
    """Draw the views of each split's digits, with clutter from the same split."""
    _, colon, views = source.partition(":")
    if colon and not (views.isascii() and views.isdigit() and 1 <= int(views) <= MAX_VIEWS):
        raise DatasetError(
            source,
            got=f"{views!r} views of each digit",
            expected=f"cluttered-digits:VIEWS with 1 to {MAX_VIEWS}",
            next_step="Use a number such as cluttered-digits:4.",
        )
    return _drawn_splits(int(views or 1))


@lru_cache(maxsize=2)  # drawing takes seconds, and export opens a dataset several times
def _drawn_splits(training_views: int) -> Splits:
    digits = _digits()

    def drawn(split: ImageDataset, views: int) -> ImageDataset:
        pixels = [np.asarray(image.source) for image in split.images]  # (8, 8) each
        images = tuple(
            LabelledImage(
                f"{image.name}_view_{view:02d}",
                image.label,
                cluttered(pixels, index, seed=(int(image.name.removeprefix("digit_")), view)),
            )
            for index, image in enumerate(split.images)
            for view in range(views)
        )
        return replace(split, source=f"cluttered-digits:{training_views}", images=images)

    return Splits(drawn(digits.train, training_views), drawn(digits.validation, 1), drawn(digits.test, 1))


def _folder(folder: Path) -> Splits:
    if not folder.is_dir():
        raise DatasetError(
            str(folder),
            got="no such folder",
            expected="'digits', 'cluttered-digits', or a folder with one subfolder of images per class",
            next_step="Check the path.",
        )
    with os_errors_as(DatasetError, folder, expected="a folder of images", next_step="Check the path."):
        found = split_folders(folder)
        if not found:
            return _split(_class_folders(folder, folder, "all"))
        train = _class_folders(folder, found["train"], "train")
        given = {
            split: _class_folders(folder, path, split, train.class_names)
            for split, path in found.items()
            if split != "train"
        }
    test = given.get("test") or replace(given["validation"], split="test")
    if "validation" in given:
        return Splits(train, given["validation"], test)
    return _split(train, test)


def _class_folders(
    source: Path, folder: Path, split: str, class_names: tuple[str, ...] | None = None
) -> ImageDataset:
    found = class_folders(folder)
    names = class_names or found or (UNLABELLED,)
    unknown = sorted(set(found) - set(names))
    if unknown:
        same = next((name for name in names if normal_form(name) == normal_form(unknown[0])), None)
        raise DatasetError(
            str(folder),
            got=f"the class folder {unknown[0]!r}"
            if same is None
            else f"the class folder {unknown[0]!a}: {same!a} in another Unicode normal form",
            expected=f"only the {len(names)} classes of the train split",
            next_step="Remove the folder, or add images of this class to train."
            if same is None
            else "Rename it.",
        )
    images: list[LabelledImage] = []
    left_out: list[Unreadable] = []

    def name_of(path: Path) -> str:
        return str(path.relative_to(source))

    def add(class_folder: Path, label: int) -> None:
        for path in image_files(class_folder, recursive=True):
            if isinstance(path, LeftOut):
                left_out.append(Unreadable(name_of(path.path), path.reason))
            else:
                images.append(LabelledImage(name_of(path), label, path))

    if names == (UNLABELLED,):
        add(folder, 0)
    else:
        for path in image_files(folder, recursive=False):
            outside = path if isinstance(path, Path) else path.path
            left_out.append(Unreadable(name_of(outside), f"{outside}: in no class folder"))
        for label, name in enumerate(names):
            if name not in found:
                continue
            try:
                add(folder / name, label)
            except OSError as error:
                left_out.append(
                    Unreadable(name_of(folder / name), f"{folder / name}: {os_error_reason(error)}")
                )
    if not images:
        suffixes = ", ".join(sorted(image_suffixes()))
        raise DatasetError(
            str(folder),
            got="no images",
            expected=f"a folder of images for each class ({suffixes})",
            next_step=f"The first that was left out: {left_out[0].reason}."
            if left_out
            else "Check the path.",
        )
    return ImageDataset(str(source), split, names, tuple(images), mirrorable=True, left_out=tuple(left_out))


def _split(whole: ImageDataset, test: ImageDataset | None = None) -> Splits:
    """Shuffle by the fixed seed, then take the test and validation splits evenly over the classes.

    Copies of an image are in the split that the image is in. With `test`, only validation is taken.
    """
    originals = _originals(whole.images)
    distinct = np.flatnonzero(originals == np.arange(len(whole)))
    copies = len(whole) - len(distinct)
    shuffled = distinct[np.random.default_rng(SPLIT_SEED).permutation(len(distinct))]
    rest = shuffled[np.argsort(whole.labels[shuffled], kind="stable")]

    def split(name: str, indices: npt.NDArray[np.int64]) -> ImageDataset:
        if not len(indices):
            raise DatasetError(
                whole.source,
                got=f"{len(distinct)} images{f' and {copies} copies' if copies else ''}, "
                f"which leaves none for the {name} split",
                expected="at least 10",
                next_step="Add images.",
            )
        chosen = np.flatnonzero(np.isin(originals, indices)).tolist()
        return replace(whole, split=name, images=tuple(whole.images[index] for index in chosen))

    if test is None:
        chosen, rest = _divided(rest, TEST_SHARE)
        test = split("test", chosen)
    validation, train = _divided(rest, VALIDATION_SHARE)
    return Splits(split("train", train), split("validation", validation), test, copies)


def _originals(images: Sequence[LabelledImage]) -> npt.NDArray[np.int64]:
    """Return for each image the index of the first image with the same bytes: for most, its own `(N,)`."""
    by_size: defaultdict[int, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        if isinstance(image.source, Path):
            with suppress(OSError):  # reported when the image is read
                by_size[image.source.stat().st_size].append(index)
    # Only files of one size can be equal. Those of 0 bytes are no images.
    candidates = sorted(i for size, group in by_size.items() if size and len(group) > 1 for i in group)

    originals = np.arange(len(images))
    first: dict[str, int] = {}
    for index in candidates:
        source = images[index].source
        assert isinstance(source, Path)
        with suppress(OSError):
            originals[index] = first.setdefault(sha256_of_file(source), index)
    return originals


def _divided(
    order: npt.NDArray[np.int64], share: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Divide indices into an evenly spaced share, rounded up, and the rest."""
    chosen = _evenly_spaced(len(order), int(np.ceil(len(order) * share)))
    return order[chosen], np.delete(order, chosen)


def _evenly_spaced(length: int, count: int) -> npt.NDArray[np.int64]:
    return (np.arange(count) * length // max(count, 1)).astype(np.int64)
