"""The dataset of tar shards in WebDataset's layout: `0001.jpg` beside `0001.cls`, which holds the label.

Shards are neither unpacked nor read from start to end: an index has the place of every image, so images are
read in any order, and a resumed epoch continues at its next batch. Nothing in a shard is executed or
unpickled.
"""

from __future__ import annotations

import os
import re
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from .class_names import checked_class_names, class_names_from_file
from .decoding import MAX_ENCODED_BYTES
from .errors import DatasetError
from .folders import is_junk
from .image_folders import subfolders
from .image_formats import image_suffixes
from .image_index import ImageIndex, indexed, status_of
from .image_table import ImageTable, TableBuilder
from .labelled_images import ImageDataset, Splits, Unreadable
from .progress import Progress
from .reading import open_regular
from .splitting import split_by_seed

LABEL = "cls"  # the suffix of labels, as WebDataset names them
CLASSES_FILE = "classes.txt"  # beside the shards; without it, classes have the names 0, 1 and so on
MAX_CLASSES = 100_000
MAX_LABEL_BYTES = 64
MAX_HEADER_BYTES = 1024 * 1024  # of a member: names and extended attributes
_SPLITS = {
    "train": re.compile(r"train(ing)?"),
    "validation": re.compile(r"val(id(ation)?)?"),
    "test": re.compile(r"test(ing)?"),
}


def shards_in(folder: Path) -> list[str]:
    """Return the paths of the tar shards in a folder, or in its folders of splits, below the folder.

    Args:
        folder: one with other folders than those of splits is a folder of images, and has no shards.

    Raises:
        OSError: it cannot be read.
    """
    folders = subfolders(folder)
    if any(split_of(path.name) is None for path in folders):
        return []
    return sorted(
        str(path.relative_to(folder))
        for where in folders or [folder]
        for path in where.glob("*.tar")
        if not is_junk(path.name)
    )


def split_of(name: str) -> str | None:
    """Return the split that the last such word in the path of a shard names; None if there is no such word.

    >>> split_of("imagenet1k-train-0001.tar"), split_of("train-sets/val/0001.tar"), split_of("0001.tar")
    ('train', 'validation', None)
    """
    for word in reversed(re.split(r"[^a-z]+", name.lower())):
        for split, words in _SPLITS.items():
            if words.fullmatch(word):
                return split
    return None


def splits_of_shards(source: Path, root: Path, shards: Sequence[str], progress: Progress) -> Splits:
    """Find the images of tar shards.

    Args:
        source: the folder or list of the shards, which names the dataset.
        root: the folder that the paths of shards are relative to; `classes.txt` may be in it.
        shards: the paths. The split of a shard is the last word of its path that names one; without such
            words, the images are split by a fixed seed.
        progress: called after every shard.

    Raises:
        DatasetError: a split has no images, some shards name no split, or a label is no class.
        OSError: a shard cannot be read.
    """
    by_split: dict[str | None, list[str]] = {}
    for shard in shards:
        by_split.setdefault(split_of(shard), []).append(shard)
    if None in by_split and len(by_split) > 1:
        raise DatasetError(
            f"shard {root / by_split[None][0]}",
            got="a name without a split",
            expected="train, val or test in the name of every shard, or of none",
            next_step="Rename it.",
        )
    opened_ns = time.time_ns()
    found = {
        split or "all": _found(root, split or "all", names, progress) for split, names in by_split.items()
    }
    first = "all" if "all" in found else "train"
    if first not in found:
        raise DatasetError(
            str(source),
            got=f"shards for {', '.join(found)} without train",
            expected="shards for train",
            next_step="Add them.",
        )
    class_names = _class_names(root, found[first])
    datasets = {
        split: _dataset(source, root, split, class_names, one, opened_ns) for split, one in found.items()
    }
    validation, test = datasets.get("validation"), datasets.get("test")
    if validation is None:
        return split_by_seed(datasets[first], test, progress=progress)
    return Splits(datasets[first], validation, test or replace(validation, split="test"))


def _found(root: Path, split: str, shards: list[str], progress: Progress) -> ImageIndex:
    subject = ["shards", os.path.realpath(root), shards]
    return indexed(subject, lambda: _search(root, shards, split, progress), keep_left_out=True)


def _class_names(root: Path, index: ImageIndex) -> tuple[str, ...]:
    labels = index.columns.labels
    if (root / CLASSES_FILE).exists():
        names = class_names_from_file(root / CLASSES_FILE)
        return checked_class_names(names, len(names), str(root / CLASSES_FILE))
    return tuple(str(label) for label in range(int(labels.max(initial=-1)) + 1))


def _dataset(
    source: Path, root: Path, split: str, class_names: tuple[str, ...], found: ImageIndex, opened_ns: int
) -> ImageDataset:
    columns, left_out = found.columns, found.left_out
    subject = f"{source} ({split})"
    if not len(columns.labels):
        raise DatasetError(
            subject,
            got=f"no labelled images in {len(columns.shards)} shards",
            expected="images, such as 0001.jpg, each with its label as a number in 0001.cls",
            next_step=f"The first that was left out: {left_out[0].reason}." if left_out else "",
        )
    images = ImageTable(root, columns, opened_ns=opened_ns)
    row = int(columns.labels.argmax())
    if columns.labels[row] >= len(class_names):
        raise DatasetError(
            str(root / images[row].name),
            got=f"the label {columns.labels[row]}",
            expected=f"0 to {len(class_names) - 1}, the {len(class_names)} classes of "
            + (CLASSES_FILE if (root / CLASSES_FILE).exists() else "the training shards"),
            next_step=f"Correct the label, or list all classes in {root / CLASSES_FILE}.",
        )
    return ImageDataset(str(source), split, class_names, images, mirrorable=True, left_out=left_out)


def _search(root: Path, shards: Sequence[str], split: str, progress: Progress) -> ImageIndex:
    builder, searched = TableBuilder(), []
    left_out: list[Unreadable] = []
    for number, shard in enumerate(shards):
        searched.append(status_of(root / shard))
        builder.shards.append((shard, *searched[-1][1:]))
        for key, sample in _samples(root / shard, shard, left_out).items():
            if sample.problem:
                left_out.append(Unreadable(f"{shard}/{key}", f"{root / shard}/{key}: {sample.problem}"))
                continue
            builder.add_in_shard(
                f"{shard}/{sample.name}", sample.label, size=sample.size, offset=sample.offset
            )
        progress(f"indexing {split} shards", number + 1, len(shards), f"{len(builder):,} images")
    return ImageIndex(builder.columns(), tuple(searched), tuple(left_out))


@dataclass
class _Sample:
    """The members of a shard that have one key."""

    name: str = ""  # of the image
    offset: int = 0
    size: int = 0
    label: int = -1
    wrong: list[str] = field(default_factory=list)

    @property
    def problem(self) -> str:
        """Why the sample cannot be used; empty if it can."""
        if self.wrong:
            return self.wrong[0]
        if not self.name:
            return "a label without an image"
        return "" if self.label >= 0 else f"an image without its label (.{LABEL})"


def _samples(path: Path, shard: str, left_out: list[Unreadable]) -> dict[str, _Sample]:
    """Return the samples of a shard by their key, up to where it is damaged."""
    samples: dict[str, _Sample] = {}
    with open_regular(path) as file:
        try:
            for member in _members(file):
                name = PurePosixPath(member.name)
                key, _, suffix = name.name.partition(".")
                is_image, is_label = f".{suffix.lower()}" in image_suffixes(), suffix == LABEL
                if not (is_image or is_label):
                    continue
                if name.is_absolute() or ".." in name.parts:
                    reason = "a path that leads out of the shard"
                    left_out.append(Unreadable(f"{shard}/{name}", f"{path}/{name}: {reason}"))
                    continue
                if any(map(is_junk, name.parts)):
                    continue
                sample = samples.setdefault(str(name.with_name(key)), _Sample())
                if not member.isreg() or member.issparse():
                    sample.wrong.append(f"{name.name} is a link or another special member, and not a file")
                elif is_label:
                    _read_label(sample, member, file)
                elif sample.name:
                    sample.wrong.append(f"two images with this key, {sample.name} and {name}")
                elif member.size > MAX_ENCODED_BYTES:
                    sample.wrong.append(f"{member.size:,} bytes, more than {MAX_ENCODED_BYTES:,}")
                else:
                    sample.name, sample.offset, sample.size = str(name), member.offset_data, member.size
        except _Damaged as damage:
            reason = f"damaged or truncated after {len(samples):,} samples ({damage})"
            left_out.append(Unreadable(shard, f"{path}: {reason}"))
    return samples


def _read_label(sample: _Sample, member: tarfile.TarInfo, file: BinaryIO) -> None:
    file.seek(member.offset_data)
    content = file.read(min(member.size, MAX_LABEL_BYTES + 1))
    text = content.decode("ascii", errors="replace").strip()
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) >= MAX_CLASSES:
        sample.wrong.append(f"the label {text[:20]!r}, and not a number from 0 to {MAX_CLASSES - 1}")
    elif sample.label >= 0:
        sample.wrong.append("two labels with this key")
    else:
        sample.label = int(text)


class _Damaged(Exception):
    """A shard that cannot be read any further, with the reason."""


class _BoundedFile:
    """A file whose single reads are bounded: tarfile reads a header as a whole, whatever size it declares."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._read(size)


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file that are complete.

    Raises:
        _Damaged: the file is truncated or no tar file, or a header in it is wrong.
    """
    file_bytes = os.fstat(file.fileno()).st_size
    try:
        with tarfile.open(fileobj=cast("BinaryIO", _BoundedFile(file)), mode="r:") as tar:
            end = -1
            while (member := tar.next()) is not None:
                if member.size < 0 or tar.offset <= end:  # tarfile would return it again and again
                    raise _Damaged("a member of negative size")
                if member.offset_data + member.size > file_bytes:
                    raise _Damaged(
                        f"{member.name} is {member.size:,} bytes large and ends behind the end of the file"
                    )
                end = tar.offset
                yield member
            file.seek(tar.offset)
    except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError) as error:
        raise _Damaged(str(error)) from error
    # tarfile ends at a header that is wrong, as if the file ended there.
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise _Damaged("no mark of the end" if not any(block) else "a header that is wrong")
