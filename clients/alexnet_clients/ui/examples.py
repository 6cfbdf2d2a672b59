"""Images to begin with, from what scikit-learn ships; none where it is not installed."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from PIL import Image

from alexnet_model.datasets import splits_from
from alexnet_model.errors import MissingExtra

_DIGITS = ("3", "5", "8")
_PHOTOGRAPHS = ("china.jpg", "flower.jpg")


def write_examples(folder: Path) -> list[Path]:
    """Write held-out digits and photographs into a folder that is there.

    Raises:
        OSError: the folder cannot be written.
    """
    try:
        held_out = splits_from("digits").test
    except MissingExtra:
        return []
    written = []
    for label in _DIGITS:
        path = folder / f"digit_{label}.png"
        image = next(found for found in held_out.images if held_out.class_names[found.label] == label)
        assert isinstance(image.source, Image.Image)
        image.source.save(path)
        written.append(path)
    for name in _PHOTOGRAPHS:
        with resources.as_file(resources.files("sklearn.datasets") / "images" / name) as photograph:
            written.append(Path(shutil.copy(photograph, folder)))
    return written
