"""The class names of a model in the order of its outputs: from a file, ImageNet's, or the digits'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import UsageError, os_errors_as
from .reading import bytes_of_file, value_from_json

DIGITS = tuple(str(digit) for digit in range(10))
LARGEST_FILE = 16 * 2**20  # bytes


def imagenet_class_names() -> tuple[str, ...]:
    """Return the 1000 class names of ImageNet (ILSVRC 2012), in the order of torchvision's outputs."""
    text = resources.files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def class_names_from_file(path: Path) -> tuple[str, ...]:
    """Read class names.

    A `.json` file holds a list of names, an object of names by output (`{"0": "tench"}`, also
    `{"0": ["n01440764", "tench"]}`), or an object of outputs by name, as torchvision's `class_to_idx`. Where
    names of such pairs repeat, the identifier is added: `crane (n02012849)`. Any other file has one name a
    line.

    Args:
        path: the file, in UTF-8.

    Raises:
        UsageError: the file is missing, too large, or holds something else.
    """
    with os_errors_as(UsageError, path, expected="a file of class names", next_step="Check the path."):
        content = bytes_of_file(path, max_bytes=LARGEST_FILE)
    try:
        text = content.decode("utf-8-sig")
        if path.suffix == ".json":
            return _names_from_json(value_from_json(text))
    except ValueError as error:
        raise UsageError(
            str(path),
            got=f"{error}",
            expected="class names in UTF-8: one a line, or as JSON in a .json file",
        ) from error
    return tuple(line.strip() for line in text.rstrip().split("\n"))


def checked_class_names(names: Sequence[str], outputs: int, subject: str) -> tuple[str, ...]:
    """Check class names against the number of outputs.

    Args:
        names: one name for each output, in order.
        outputs: the number of outputs.
        subject: where the names come from, for the message.

    Raises:
        UsageError: there are too few or too many, or a name is empty, has a line break or repeats.
    """
    if len(names) != outputs:
        raise UsageError(
            subject,
            got=f"{len(names)} names",
            expected=f"{outputs}, one for each output of the network",
            next_step="Give the names in the order of the outputs.",
        )
    for index, name in enumerate(names):
        if not isinstance(name, str) or name.splitlines() != [name] or not _is_text(name):
            raise UsageError(
                f"{subject}: class {index}", got=repr(name), expected="a name of one line that is not empty"
            )
    (name, count), *_ = Counter(names).most_common(1)
    if count > 1:
        raise UsageError(
            f"{subject}: class {names.index(name)}",
            got=f"{name!r}, as also for class {names.index(name, names.index(name) + 1)}",
            expected="names that differ",
        )
    return tuple(names)


def _names_from_json(value: Any) -> tuple[str, ...]:
    if isinstance(value, dict) and value and all(type(index) is int for index in value.values()):
        value = {str(index): name for name, index in value.items()}
    if isinstance(value, dict):
        numbers = [str(number) for number in range(len(value))]
        missing = next((number for number in numbers if number not in value), None)
        if missing is not None:
            raise ValueError(f"a JSON object of {len(value)} names without the output {missing}")
        value = [value[number] for number in numbers]
    if not isinstance(value, list):
        raise ValueError(f"JSON of type {type(value).__name__}")
    pairs = [entry if isinstance(entry, list) else ["", entry] for entry in value]
    wrong = next(
        (entry for entry in pairs if len(entry) != 2 or not all(isinstance(t, str) for t in entry)), None
    )
    if wrong is not None:
        raise ValueError(f"the JSON entry {str(wrong)[:60]}")
    repeated = {name for name, count in Counter(name for _, name in pairs).items() if count > 1}
    return tuple(f"{name} ({wnid})" if wnid and name in repeated else name for wnid, name in pairs)


def _is_text(name: str) -> bool:
    try:
        return "\0" not in name and bool(name.encode().strip())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold
        return False
