"""The dataset of a folder that holds a folder of images for each class."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .errors import DatasetError, os_error_reason
from .image_folders import LeftOut, class_folders, image_files, normal_form, split_folders
from .image_formats import image_suffixes
from .image_index import ImageIndex, indexed, status_of
from .image_table import ImageTable, TableBuilder
from .labelled_images import UNLABELLED, ImageDataset, Splits, Unreadable
from .progress import Progress
from .splitting import split_by_seed

IMAGES_PER_REPORT = 1000


def splits_of_folder(folder: Path, progress: Progress) -> Splits:
    """Find the images of a folder.

    Args:
        folder: holds class folders or images, or the folders of splits.
        progress: called after every class and every 1,000 images, with their number.

    Raises:
        DatasetError: a split has no images, or classes that the training split does not have.
        OSError: the folder cannot be read.
    """
    found = split_folders(folder)
    if not found:
        return split_by_seed(_class_folders(folder, folder, "all", progress), progress=progress)
    train = _class_folders(folder, found["train"], "train", progress)
    given = {
        split: _class_folders(folder, path, split, progress, train.class_names)
        for split, path in found.items()
        if split != "train"
    }
    test = given.get("test") or replace(given["validation"], split="test")
    if "validation" in given:
        return Splits(train, given["validation"], test)
    return split_by_seed(train, test, progress=progress)


def _class_folders(
    source: Path, folder: Path, split: str, progress: Progress, class_names: tuple[str, ...] | None = None
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
    opened_ns = time.time_ns()
    index = indexed(
        ["folder", os.path.realpath(source), str(folder.relative_to(source)), names],
        lambda: _search(source, folder, split, names, found, progress),
        keep_left_out=False,
    )
    if not len(index.columns.ends):
        suffixes = ", ".join(sorted(image_suffixes()))
        raise DatasetError(
            str(folder),
            got="no images",
            expected=f"a folder of images for each class ({suffixes}), or shards (.tar)",
            next_step=f"The first that was left out: {index.left_out[0].reason}."
            if index.left_out
            else "Check the path.",
        )
    images = ImageTable(source, index.columns, opened_ns=opened_ns)
    return ImageDataset(str(source), split, names, images, mirrorable=True, left_out=index.left_out)


def _search(
    source: Path,
    folder: Path,
    split: str,
    names: tuple[str, ...],
    present: tuple[str, ...],
    progress: Progress,
) -> ImageIndex:
    builder = TableBuilder()
    left_out: list[Unreadable] = []
    searched = [status_of(folder)]
    start = len(os.path.join(source, ""))  # noqa: PTH118 - where a name begins in a path

    def leave_out(path: Path, reason: str) -> None:
        left_out.append(Unreadable(str(path.relative_to(source)), reason))

    def add(paths: Iterator[Path | LeftOut], label: int) -> None:
        for path in paths:
            if isinstance(path, LeftOut):
                leave_out(path.path, path.reason)
                continue
            try:
                status = path.stat()
            except OSError as error:  # removed a moment ago
                leave_out(path, f"{path}: {os_error_reason(error)}")
                continue
            name = str(path)[start:] if source != Path() else str(path)
            builder.add_file(name, label, size=status.st_size, mtime_ns=status.st_mtime_ns)
            if len(builder) % IMAGES_PER_REPORT == 0:
                report(label)

    def report(classes: int) -> None:
        progress(f"finding {split}", classes, len(names), f"{len(builder):,} images")

    if names == (UNLABELLED,):
        add(image_files(folder, recursive=True, searched=searched), 0)
        report(1)
    else:
        for outside in image_files(folder, recursive=False):
            if isinstance(outside, LeftOut):
                leave_out(outside.path, f"{outside.path}: in no class folder")
            else:
                leave_out(outside, f"{outside}: in no class folder")
        for label, name in enumerate(names):
            if name not in present:
                continue
            try:
                add(image_files(folder / name, recursive=True, searched=searched), label)
            except OSError as error:
                leave_out(folder / name, f"{folder / name}: {os_error_reason(error)}")
            report(label + 1)
    return ImageIndex(builder.columns(), tuple(dict.fromkeys(searched)), tuple(left_out))
