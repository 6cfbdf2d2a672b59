"""Forty thousand images take no more memory than four thousand."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
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


@pytest.mark.slow
def test_memory_is_flat_over_forty_thousand_images() -> None:
    uniform = np.full((1, 10), 0.1, np.float32)
    transport = FakeTransport(contract=SMALL, predict=lambda request: uniform.repeat(len(request.images), 0))
    transport.requests = _NoRequests()
    with Client("grpc://host", transport=transport) as client:
        marks = []
        for number, prediction in enumerate(client.classify_each(images(40_000)), start=1):
            assert prediction.error is None
            if number % 4_000 == 0:
                marks.append(resident_bytes())
    assert len(marks) == 10
    assert max(marks[1:]) - marks[0] < 8 * MEBIBYTE  # 40,000 predictions take 40 MB


class _NoRequests(list):  # type: ignore[type-arg]
    """Keep no requests, which would take memory too."""

    def append(self, _: object) -> None:
        pass
