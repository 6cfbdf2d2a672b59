"""A hundred thousand images take no more memory than ten thousand."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_clients import Client, FakeTransport
from alexnet_model.contract import Contract

SMALL = Contract(size=8, resize=9)  # so that it takes seconds
MEBIBYTE = 1024 * 1024


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def images(count: int) -> Iterator[bytes]:
    content = io.BytesIO()
    Image.new("RGB", (12, 12), (200, 10, 10)).save(content, "PNG")
    for _ in range(count):
        yield content.getvalue()


def test_memory_is_flat_over_a_hundred_thousand_images() -> None:
    uniform = np.full((1, 10), 0.1, np.float32)
    transport = FakeTransport(contract=SMALL, predict=lambda request: uniform.repeat(len(request.images), 0))
    transport.requests = _Forgetful()
    with Client("grpc://host", contract=SMALL, transport=transport) as client:
        marks = []
        for number, prediction in enumerate(client.classify_each(images(100_000)), start=1):
            assert prediction.error is None
            if number % 10_000 == 0:
                marks.append(resident_bytes())
    assert len(marks) == 10
    assert max(marks[1:]) - marks[0] < 8 * MEBIBYTE  # all of them would be 20 MB prepared, 100 MB of answers


class _Forgetful(list):  # type: ignore[type-arg]
    """What the fake keeps of requests would be what is measured."""

    def append(self, _: object) -> None:
        pass
