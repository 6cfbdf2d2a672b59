"""The datasets that are made from scikit-learn's 1,797 hand-written digits of 8x8 pixels."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from .class_names import DIGITS
from .cluttered_digits import cluttered
from .errors import DatasetError
from .extras import needs
from .image_table import LabelledImage
from .labelled_images import ImageDataset, Splits
from .splitting import split_by_seed

MAX_VIEWS = 64  # of a training digit, 5 KB each


def digits() -> Splits:
    """Return the splits of scikit-learn's digits."""
    rows = np.loadtxt(_digits_file(), delimiter=",")  # (1797, 65): 64 pixels and the label
    grey = np.rint(rows[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # 0..16 to 0..255
    images = tuple(
        LabelledImage(f"digit_{index:04d}", int(label), Image.fromarray(image))
        for index, (image, label) in enumerate(zip(grey, rows[:, 64], strict=True))
    )
    return split_by_seed(ImageDataset("digits", "all", DIGITS, images, mirrorable=False))


def _digits_file() -> Path:
    """Return scikit-learn's file, found without its import, which takes longer than a small training."""
    with needs("train"):
        found = find_spec("sklearn")
        if found is None or found.origin is None:
            raise ModuleNotFoundError(name="sklearn")
    return Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"


def cluttered_digits(source: str) -> Splits:
    """Draw the views of each split's digits, with clutter from the same split.

    Args:
        source: "cluttered-digits:VIEWS".

    Raises:
        DatasetError: the number of views is wrong.
    """
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
    whole = digits()

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

    return Splits(drawn(whole.train, training_views), drawn(whole.validation, 1), drawn(whole.test, 1))
