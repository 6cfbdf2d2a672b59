from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from alexnet_model import Splits, splits_from
from alexnet_model.cluttered_digits import SIDE, cluttered
from alexnet_model.contract import Uint8Array
from alexnet_model.datasets import is_built_in
from alexnet_model.errors import DatasetError


@pytest.fixture(scope="module")
def two_views() -> Splits:
    return splits_from("cluttered-digits:2")


def pixels_of(image: object) -> Uint8Array:
    assert isinstance(image, Image.Image)
    return np.asarray(image)


def test_every_training_digit_has_its_views_and_other_digits_have_one(two_views: Splits) -> None:
    digits = splits_from("digits")
    for split, plain, views in (
        (two_views.train, digits.train, 2),
        (two_views.validation, digits.validation, 1),
        (two_views.test, digits.test, 1),
    ):
        assert [image.name for image in split.images] == [
            f"{image.name}_view_{view:02d}" for image in plain.images for view in range(views)
        ]
        assert split.labels.tolist() == np.repeat(plain.labels, views).tolist()
        assert split.class_names == tuple("0123456789")
        assert split.source == "cluttered-digits:2"
        assert not split.mirrorable


def test_no_source_digit_is_in_two_splits(two_views: Splits) -> None:
    sources = [
        {image.name[:10] for image in split.images}
        for split in (two_views.train, two_views.validation, two_views.test)
    ]
    assert not sources[0] & sources[1]
    assert not (sources[0] | sources[1]) & sources[2]


def test_images_are_grey_of_64_pixels_and_no_two_are_equal(two_views: Splits) -> None:
    images = [pixels_of(image.source) for image in two_views.train.images]
    assert {(image.shape, image.dtype) for image in images} == {((64, 64), np.dtype(np.uint8))}
    assert len({image.tobytes() for image in images}) == len(images)


def test_other_splits_and_first_views_do_not_depend_on_the_number_of_views(two_views: Splits) -> None:
    one = splits_from("cluttered-digits")
    assert len(one.train) * 2 == len(two_views.train)
    for image, other in zip(one.train.images[:20], two_views.train.images[:40:2], strict=True):
        np.testing.assert_array_equal(pixels_of(image.source), pixels_of(other.source))
    for image, other in zip(one.test.images[:20], two_views.test.images[:20], strict=True):
        np.testing.assert_array_equal(pixels_of(image.source), pixels_of(other.source))


BLANK = np.zeros((8, 8), np.uint8)
FULL = np.full((8, 8), 255, np.uint8)


def boxes(index: int, digits: list[Uint8Array]) -> npt.NDArray[np.int64]:
    """Return top, left, height and width of the bright parts of 300 drawings `(300, 4)`."""
    found = []
    for seed in range(300):
        image = np.asarray(cluttered(digits, index, seed=(seed,))).astype(float)
        bright = image > (np.percentile(image, 10) + image.max()) / 2
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        found.append((rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1))
    return np.array(found)


def test_a_digit_has_many_places_and_sizes_within_the_canvas() -> None:
    top, left, height, width = boxes(0, [FULL, BLANK]).T
    assert (height >= 26).all()
    assert height.max() > 50  # 44 pixels, rotated
    assert height.min() < 34
    for start, size in ((top, height), (left, width)):
        assert (start + size <= SIDE).all()
        assert start.min() <= 1
        assert (start + size).max() >= SIDE - 1
        assert start.std() > 5


def test_fragments_of_other_digits_are_around_it() -> None:
    *_, height, width = boxes(0, [BLANK, FULL]).T
    assert (height > 30).mean() > 0.8
    assert (width > 30).mean() > 0.8


def test_brightness_contrast_and_noise_differ_between_images() -> None:
    images = [np.asarray(cluttered([BLANK, BLANK], 0, seed=(seed,))) for seed in range(50)]
    levels = [image.mean() for image in images]
    assert max(levels) - min(levels) > 50
    assert 10 < np.median([image.std() for image in images]) < 25  # 0.08 of 255


@pytest.mark.parametrize("views", ["0", "65", "-1", "x", "", "1.5", "²"])
def test_a_wrong_number_of_views_is_one_line(views: str) -> None:
    with pytest.raises(DatasetError) as refused:
        splits_from(f"cluttered-digits:{views}")
    assert str(refused.value) == (
        f"cluttered-digits:{views}: got {views!r} views of each digit, expected cluttered-digits:VIEWS with "
        "1 to 64. Use a number such as cluttered-digits:4."
    )


def test_built_in_datasets_are_known_by_name() -> None:
    assert all(map(is_built_in, ("digits", "cluttered-digits", "cluttered-digits:4")))
    assert not any(map(is_built_in, ("digit", "flowers", "./digits", "cluttered")))
