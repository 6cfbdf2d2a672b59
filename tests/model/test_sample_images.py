"""The images that come with the package."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from alexnet_model.datasets import splits_from
from alexnet_model.errors import UsageError
from alexnet_model.sample_images import FOLDER, sample_image


def test_every_image_is_small_and_named_in_the_licences() -> None:
    licences = (FOLDER / "LICENSE.md").read_text(encoding="utf-8")
    images = [path for path in FOLDER.iterdir() if path.suffix != ".md"]
    assert len(images) == 5
    for path in images:
        assert path.stat().st_size <= 50_000
        assert ("digit_*.png" if path.name.startswith("digit") else path.name) in licences
        assert sample_image(path.stem) == path
    with pytest.raises(UsageError, match="no such sample image"):
        sample_image("dog")


def test_the_digits_are_test_images() -> None:
    test = splits_from("digits").test
    of_the_test_split = {
        (test.class_names[image.label], np.asarray(image.source).tobytes())
        for image in test.images
        if isinstance(image.source, Image.Image)
    }
    for label in "358":
        with Image.open(sample_image(f"digit_{label}")) as image:
            assert (label, np.asarray(image).tobytes()) in of_the_test_split
