"""Find the image files in a folder, and the folders of splits and classes in the folder of a dataset."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import DatasetError, listed, os_error_reason
from .folders import is_junk
from .image_formats import OTHER_SUFFIXES, image_suffixes
from .image_index import status_of

# By the names that are usual for them, in any case, such as Train, val or testing_set.
_SPLITS = {
    "train": re.compile(r"train(ing)?([ _-]?(set|data|split|images))?", re.IGNORECASE),
    "validation": re.compile(r"val(id(ation)?)?([ _-]?(set|data|split|images))?", re.IGNORECASE),
    "test": re.compile(r"test(ing)?([ _-]?(set|data|split|images))?", re.IGNORECASE),
}


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that a search for images found and cannot use, and the reason."""

    path: Path
    reason: str


def image_files(
    folder: Path, *, recursive: bool, searched: list[tuple[str, int, int]] | None = None
) -> Iterator[Path | LeftOut]:
    """Find the image files of a folder by their suffix: sorted by name, those of subfolders after its own.

    Junk is passed over. Links are followed; a folder that several links lead to is searched once, and a
    folder that contains this one is not searched.

    Args:
        folder: The folder to search. Only one folder's names are in memory at a time.
        recursive: Whether to search its subfolders too.
        searched: Where to note each folder that was searched, as `image_index.status_of` returns it.

    Yields:
        Image files, and between them what is left out: unreadable subfolders, links that lead nowhere, pipes,
        and images of formats that are not decoded.

    Raises:
        OSError: `folder` itself cannot be read. A subfolder that cannot be read is left out.
    """
    # A link to a folder around this one leads in a circle.
    seen = set()
    for path in (*Path(os.path.normpath(folder.absolute())).parents, *folder.resolve().parents):
        with suppress(OSError):  # behind a link, `..` leads to another folder than it seems
            seen.add(_identity(path))
    seen.discard(_identity(folder))
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            identity = _identity(current)
            if identity in seen:
                continue
            seen.add(identity)
            if searched is not None:
                searched.append(status_of(current))  # before its names are read
            with os.scandir(current) as found:
                entries = sorted((entry for entry in found if not is_junk(entry.name)), key=_name)
        except OSError as error:
            if current is folder:
                raise
            yield LeftOut(current, f"{current}: {os_error_reason(error)}")
            continue
        subfolders = []
        for entry in entries:
            path = current / entry.name
            suffix = path.suffix.lower()
            if _is_folder(entry):
                subfolders.append(path)
            elif suffix in image_suffixes():
                yield path if path.is_file() else LeftOut(path, _not_a_file(path))
            elif suffix in OTHER_SUFFIXES:
                yield LeftOut(path, f"{path}: {OTHER_SUFFIXES[suffix]}; convert it to JPEG or PNG")
        if recursive:
            pending += reversed(subfolders)


def split_folders(folder: Path) -> dict[str, Path]:
    """Find the folders of the splits of a dataset by the usual names, such as `train`, `Valid` or `test_set`.

    Args:
        folder: The folder of the dataset.

    Returns:
        The folders of "train" and of "validation", "test" or both. Empty if `folder` holds class folders or
        images.

    Raises:
        DatasetError: One split has two folders, or there is no training split or nothing but it.
        OSError: `folder` cannot be read.
    """
    names = [path.name for path in subfolders(folder)]
    found = {split: [name for name in names if pattern.fullmatch(name)] for split, pattern in _SPLITS.items()}
    found = {split: of_split for split, of_split in found.items() if of_split}
    if not found or ("train" not in found and sum(map(len, found.values())) < len(names)):
        return {}  # `test` may be a class beside other classes
    if list(found) == ["train"] and _holds_images(folder / found["train"][0]) and len(names) > 1:
        return {}  # so may `train`
    expected = "one folder for each of train, val and test, or one for each class"
    for split, of_split in found.items():
        if len(of_split) > 1:
            raise DatasetError(
                str(folder),
                got=f"the folders {listed(of_split)} for the {split} split",
                expected=expected,
                next_step="Merge them, or move one away.",
            )
    paths = {split: folder / of_split[0] for split, of_split in found.items()}
    if "train" not in paths:
        raise DatasetError(
            str(folder),
            got=f"{listed(names)} without train",
            expected=expected,
            next_step=f"Create {folder / 'train'}.",
        )
    if len(paths) == 1:
        raise DatasetError(
            str(folder),
            got=f"{paths['train'].name} without val or test",
            expected=expected,
            next_step=f"Create {folder / 'val'} for the validation split, or pass {paths['train']}, "
            "which is then split.",
        )
    return paths


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders in a folder, sorted.

    Raises:
        DatasetError: A name cannot be a class name, two names look the same, or the class folders hold only
            folders, so that the classes may be one level lower.
        OSError: `folder` cannot be read.
    """
    names = tuple(path.name for path in subfolders(folder))
    _check_class_names(folder, names)
    if any(_holds_images(folder / name) for name in names):
        return names
    below = {name: [path.name for path in _subfolders_or_none(folder / name)] for name in names}
    # One folder inside each class, such as tench/images, is clear.
    nested = [name for name in names if len(below[name]) > (1 if len(names) > 1 else 0)]
    if nested:
        first = nested[0]
        raise DatasetError(
            str(folder),
            got=f"{listed(names)}: no images, only folders such as {first}/{below[first][0]}",
            expected="one folder of images for each class, or such folders in train, val and test",
            next_step=f"Pass {folder / first}."
            if len(names) == 1
            else "Pass one of these folders, name them train and test, or move the images up.",
        )
    return names


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name, without junk. Links to folders are folders.

    Raises:
        OSError: `folder` cannot be read.
    """
    with os.scandir(folder) as found:
        return [folder / entry.name for entry in sorted(found, key=_name) if _is_user_folder(entry)]


def normal_form(name: str) -> str:
    """Return one spelling of a name: file systems can hold names that look the same and are not equal."""
    return unicodedata.normalize("NFC", name)


def _check_class_names(folder: Path, names: tuple[str, ...]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        same = seen.setdefault(normal_form(name), name)
        twice = f"the same as {same!a} in another Unicode normal form" if same != name else ""
        problem = twice or _problem_of(name)
        if problem:
            raise DatasetError(
                f"the class folders of {folder}",
                got=f"{name!a}, {problem}",
                expected="different names of one line in UTF-8",
                next_step="Merge the two folders." if twice else "Rename the folder.",
            )


def _problem_of(name: str) -> str:
    """Return why a folder's name cannot be a class name; empty if it can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "which is not UTF-8"
    if name.splitlines() != [name]:
        return "which has a line break"
    return "" if name.strip() else "which is blank"


def _holds_images(folder: Path) -> bool:
    """Return whether there is an image directly in a folder; also if it cannot be read."""
    try:
        return next(image_files(folder, recursive=False), None) is not None
    except OSError:
        return True


def _subfolders_or_none(folder: Path) -> list[Path]:
    try:
        return subfolders(folder)
    except OSError:
        return []


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _is_user_folder(entry: os.DirEntry[str]) -> bool:
    return not is_junk(entry.name) and _is_folder(entry)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _not_a_file(path: Path) -> str:
    return f"{path}: {'a link that leads nowhere' if path.is_symlink() else 'a pipe or device'}"
