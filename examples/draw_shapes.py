"""Draw a small image dataset: five classes of shapes, 40 images each, in one folder a class.

    python examples/draw_shapes.py shapes
    alexnet train --weights imagenet --data shapes --freeze features

Position, size, rotation and colours are random, and the background is noisy. Equal seeds draw equal pixels.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128  # both sides of an image, in pixels
Points = list[tuple[float, float]]


def regular(corners: int) -> Points:
    """Return the corners of a regular polygon in a circle of radius 1."""
    angles = [2 * math.pi * corner / corners for corner in range(corners)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def star() -> Points:
    """Return a star of five points; every second corner is nearer to the centre."""
    return [(x * (0.4 if i % 2 else 1), y * (0.4 if i % 2 else 1)) for i, (x, y) in enumerate(regular(10))]


def cross() -> Points:
    """Return a plus sign."""
    arm = [(1.0, -0.3), (1.0, 0.3), (0.3, 0.3)]
    return [
        (x * cos - y * sin, x * sin + y * cos)
        for cos, sin in ((1, 0), (0, 1), (-1, 0), (0, -1))
        for x, y in arm
    ]


SHAPES = {
    "circle": regular(60),
    "cross": cross(),
    "square": regular(4),
    "star": star(),
    "triangle": regular(3),
}


def drawn(points: Points, rng: np.random.Generator) -> Image.Image:
    """Draw one light shape on a dark, noisy background.

    Args:
        points: the corners of the shape in a circle of radius 1.
        rng: chooses everything else.
    """
    background, colour = rng.integers(0, 100, 3), rng.integers(130, 256, 3)
    noisy = background + rng.normal(0, 20, (SIZE, SIZE, 3))
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    radius, angle = rng.uniform(0.25, 0.45) * SIZE, rng.uniform(-0.4, 0.4)
    x0, y0 = rng.uniform(radius, SIZE - radius, 2)
    cos, sin = radius * math.cos(angle), radius * math.sin(angle)
    corners = [(x0 + x * cos - y * sin, y0 + x * sin + y * cos) for x, y in points]
    ImageDraw.Draw(image).polygon(corners, fill=tuple(colour.tolist()))
    return image


def draw_shapes(folder: Path, *, images: int = 40, seed: int = 0) -> None:
    """Write `folder/CLASS/NN.png` for every class.

    Args:
        folder: created if it is missing; files of the same names are replaced.
        images: the number of images for each class.
        seed: other seeds draw other images.
    """
    rng = np.random.default_rng(seed)
    for name, points in SHAPES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(images):
            drawn(points, rng).save(folder / name / f"{index:02d}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw five classes of shapes.")
    parser.add_argument("folder", type=Path, help="where to write one folder for each class")
    parser.add_argument("--images", type=int, default=40, help="images for each class (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="other seeds draw other images (default 0)")
    options = parser.parse_args()
    draw_shapes(options.folder, images=options.images, seed=options.seed)
