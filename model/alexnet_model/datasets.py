"""Open an image dataset: labelled images in a training, a validation and a test split.

Training, calibration, evaluation and the benchmarks find their images here. `digits` is scikit-learn's 1,797
hand-written digits of 8x8 pixels. `cluttered-digits:VIEWS` draws them at random places of a canvas, among
parts of others. A folder holds one folder of images for each class, either under `train/`,
`val/` and optionally `test/`, or directly; then it is split by a fixed seed. Images that are in no class
folder have the one class `unlabelled`, which is enough for calibration. Tar shards in WebDataset's layout are
in a folder, or named in a list (`shards.py`).
"""

from __future__ import annotations

from pathlib import Path

from .built_in_datasets import cluttered_digits, digits
from .errors import DatasetError, os_errors_as
from .folder_dataset import splits_of_folder
from .labelled_images import Splits
from .progress import Progress, silent, when_slow
from .shard_lists import shards_in_list
from .shards import shards_in, splits_of_shards


def splits_from(source: str, *, progress: Progress = silent) -> Splits:
    """Open a dataset without decoding its images.

    Args:
        source: "digits", "cluttered-digits:VIEWS" with so many images of each training digit (1 to 64, by
            default 1), or the path of one of these:
            a folder with a folder of images for each class, under `train/`, `val/` and optionally `test/`,
            or directly; a folder of tar shards; one tar shard; a text file that lists shards, paths or URLs.
            Without images for testing, the test split has the images of the validation split.
        progress: called during the search for images.

    Raises:
        DatasetError: there is no such dataset, or one of its splits has no images.
    """
    refuse_missing(source)
    if source == "digits":
        return digits()
    if is_built_in(source):
        return cluttered_digits(source)
    path, progress = Path(source), when_slow(progress)
    expected = "a folder of images, tar shards, or a list of shards"
    with os_errors_as(DatasetError, path, expected=expected, next_step="Check the path."):
        if path.is_dir():
            shards = shards_in(path)
            if not shards:
                return splits_of_folder(path, progress)
            return splits_of_shards(path, path, shards, progress)
        if path.suffix == ".tar":
            return splits_of_shards(path, path.parent, [path.name], progress)
        return splits_of_shards(path, path.parent, shards_in_list(path, progress), progress)


def refuse_missing(source: str) -> None:
    """Check that a dataset exists, without opening it.

    Args:
        source: as for `splits_from`.

    Raises:
        DatasetError: it is neither built in nor a file or folder.
    """
    if not is_built_in(source) and not Path(source).exists():
        raise DatasetError(
            source,
            got="no such file or folder",
            expected="'digits', 'cluttered-digits', a folder with one subfolder of images per class, tar "
            "shards, or a list of shards",
            next_step="Check the path.",
        )


def is_built_in(source: str) -> bool:
    """Return whether a dataset is made from scikit-learn's digits, and not read from files.

    Args:
        source: as for `splits_from`.
    """
    return source == "digits" or source.partition(":")[0] == "cluttered-digits"
