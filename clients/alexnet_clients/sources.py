"""What names images on a command line: files, folders, patterns and `-` for standard input."""

from __future__ import annotations

import glob
import itertools
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

from alexnet_model.errors import DatasetError, UsageError, os_errors_as
from alexnet_model.folders import is_junk
from alexnet_model.image_folders import image_files
from alexnet_model.sample_images import PREFIX, sample_image

STDIN = "-"


class StdinImage:
    """The one image on standard input. A client reads it in the thread that iterates over the images."""

    name = STDIN

    def __init__(self, stdin: BinaryIO) -> None:
        self._stdin = stdin

    def read(self, size: int) -> bytes:
        """At most `size` bytes, fewer only at the end."""
        return self._stdin.read(size)


#: An image of `alexnet classify`: a file, or standard input.
ImageSource: TypeAlias = Path | StdinImage


def name_from_source(source: ImageSource) -> str:
    """The name that a prediction has for it."""
    return str(source) if isinstance(source, Path) else source.name


def sources_from_arguments(
    arguments: Iterable[str], *, recursive: bool, stdin: BinaryIO | None, command: str = "classify"
) -> Iterator[ImageSource]:
    """Every image that the arguments name, in order. The arguments are checked now, images found lazily.

    Args:
        arguments: a file, a folder (its images), a pattern (`**` matches folders), `sample:NAME` for an image
            that comes with this package, or `-`. A file that does
            not exist is yielded too: its error becomes its prediction.
        recursive: also the folders inside folders.
        stdin: standard input; None if it is closed.
        command: the command of `alexnet` that an error recommends.

    Raises:
        DatasetError: a folder without an image, or a pattern without a match.
        UsageError: a web address or an unknown sample; `-` twice, or with standard input closed.
    """
    listed = list(arguments)
    for argument in listed:
        if argument.lower().startswith(("http://", "https://")):
            raise UsageError(
                argument,
                got="a web address",
                expected="a file, a folder, a pattern, or - for standard input",
                next_step=f"Pipe it: curl -s {shlex.quote(argument)} | alexnet {command} -",
            )
        if argument.startswith(PREFIX) and not Path(argument).exists():
            sample_image(argument.removeprefix(PREFIX))  # raises if there is no such image
    if listed.count(STDIN) > 1:
        raise UsageError("images", got="'-' twice", expected="one image on standard input")
    if stdin is None and STDIN in listed:
        raise UsageError("standard input", got="a closed one", expected="one image on it")

    def found() -> Iterator[ImageSource]:
        for argument in listed:
            if argument == STDIN and stdin is not None:
                yield StdinImage(stdin)
            else:
                yield from _sources_on_disk(argument, recursive=recursive)

    return found()


def may_name_images(argument: str) -> bool:
    """Return whether an argument names something that exists, or is a pattern, a sample or standard input."""
    return (
        argument == STDIN
        or argument.startswith(PREFIX)
        or glob.has_magic(argument)
        or Path(argument).exists()
    )


def images_in_folder(folder: Path, *, recursive: bool = False) -> Iterator[Path]:
    """Every image file by its suffix, sorted within each folder, and what cannot be used in its place.

    Hidden files and those that systems write are passed over. Links are followed. Unreadable subfolders,
    dead links and images of other formats are yielded too: their error becomes their prediction.

    Only one folder's names are in memory at a time.

    Raises:
        DatasetError: the folder does not exist or cannot be read.
    """
    with os_errors_as(DatasetError, folder, expected="a folder of images", next_step="Check the path."):
        for found in image_files(folder, recursive=recursive):
            yield found if isinstance(found, Path) else found.path


def _sources_on_disk(argument: str, *, recursive: bool) -> Iterator[Path]:
    path = Path(argument)
    if argument.startswith(PREFIX) and not path.exists():
        yield sample_image(argument.removeprefix(PREFIX))
    elif path.is_dir():
        yield from _at_least_one(
            images_in_folder(path, recursive=recursive),
            argument,
            "a folder of images",
            "Check the path." if recursive else "Search the folders inside it too: --recursive.",
        )
    elif glob.has_magic(argument) and not path.exists():
        fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        # Not glob.glob, whose `**` follows symbolic links in circles.
        base, pattern = Path(*fixed), str(Path(*path.parts[len(fixed) :]))
        files = (match for match in sorted(base.glob(pattern)) if match.is_file())
        if not _has_junk(Path(pattern)):  # as in a shell, hidden files match only where a dot is written
            files = (match for match in files if not _has_junk(match.relative_to(base)))
        yield from _at_least_one(files, argument, "a pattern that matches files", "Check the pattern.")
    else:
        yield path


def _at_least_one(paths: Iterator[Path], argument: str, expected: str, next_step: str) -> Iterator[Path]:
    first = next(paths, None)
    if first is None:
        raise DatasetError(argument, got="no image", expected=expected, next_step=next_step)
    yield first
    yield from paths


def _has_junk(path: Path) -> bool:
    return any(is_junk(part) for part in path.parts)
