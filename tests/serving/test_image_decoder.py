"""The decoder's backend without Triton: whose error is whose, how much it does at once, and what it needs.

What it answers through a real server is in tests/end_to_end/test_encoded_images.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_model.contract import Contract, Uint8Array
from alexnet_serving.servers.tritonserver import ALLOCATOR, assemble_backends, wheel_of_this_python

from ..awkward_images import encoded, textured
from .decoder_backend import TritonError, images_of, imported_decoder, request_of, started

GOOD = encoded(textured(60, 40), "PNG")


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Any:
    return imported_decoder(monkeypatch)


@pytest.fixture
def model(decoder: Any) -> Any:
    return started(decoder, Contract())


def test_each_request_gets_its_own_rows(model: Any) -> None:
    files = [encoded(textured(50 + n, 60 - n), "PNG") for n in range(6)]
    responses = model.execute([request_of(*files[:3]), request_of(files[3]), request_of(*files[4:])])
    images = np.concatenate([images_of(response) for response in responses])
    assert [len(images_of(response)) for response in responses] == [3, 1, 2]
    np.testing.assert_array_equal(images, [Contract().prepared(file) for file in files])


def test_the_contract_is_the_models(decoder: Any) -> None:
    other = Contract(size=100, resize=120, input_name="pixels", background=(1, 2, 3))
    (response,) = started(decoder, other).execute([request_of(GOOD)])
    assert response.output_tensors[0].name == "pixels"
    np.testing.assert_array_equal(images_of(response)[0], other.prepared(GOOD))


def test_a_bad_image_is_its_own_requests_error(model: Any) -> None:
    alone, among, good = model.execute([request_of(b""), request_of(GOOD, b"x", b""), request_of(GOOD)])
    assert alone.error.message.startswith("ImageError: image: got 0 bytes, expected a JPEG")
    assert among.error.message.startswith("ImageError: image 1: got 1 bytes that are not an image")
    assert {alone.error.code, among.error.code} == {TritonError.INVALID_ARG}
    np.testing.assert_array_equal(images_of(good)[0], Contract().prepared(GOOD))


@pytest.mark.parametrize("error", [MemoryError("out of memory"), RuntimeError("a decoder's own fault")])
def test_any_other_error_too(error: Exception, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Contract.prepared

    def prepared(contract: Contract, image: Any) -> Uint8Array:
        if image == b"x":
            raise error
        return real(contract, image)

    monkeypatch.setattr(Contract, "prepared", prepared)
    bad, good = model.execute([request_of(GOOD, b"x"), request_of(GOOD)])
    assert bad.error == TritonError(f"{type(error).__name__}: {error}")
    assert len(images_of(good)) == 1


def test_a_path_is_never_opened(model: Any, tmp_path: Path) -> None:
    """Triton hands over bytes alone; a text would name one of the server's own files."""
    (tmp_path / "secret.png").write_bytes(GOOD)
    missing, path, good = model.execute([{}, request_of(str(tmp_path / "secret.png")), request_of(GOOD)])
    assert missing.error.message.startswith("AttributeError: ")
    assert path.error.message == "TypeError: an image is bytes, got str"
    assert len(images_of(good)) == 1


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_no_more_at_once_than_cores_and_than_four(
    cores: int, decoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    expected = min(cores, 4)
    together = threading.Barrier(expected)
    running: list[int] = [0]
    most: list[int] = [0]
    lock = threading.Lock()

    def prepared(contract: Contract, image: Any) -> Uint8Array:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        together.wait(timeout=30)  # that so many run side by side
        with lock:
            running[0] -= 1
        return np.zeros(contract.image_shape, np.uint8)

    monkeypatch.setattr(Contract, "prepared", prepared)
    model = started(decoder, Contract())
    model.execute([request_of(*[GOOD] * 8), request_of(*[GOOD] * 4)])
    assert most[0] == expected


def test_finalize_ends_its_threads(model: Any) -> None:
    model.execute([request_of(GOOD, GOOD)])
    model.finalize()
    with pytest.raises(RuntimeError, match="after shutdown"):
        model._pool.submit(print)


# As Triton's stub does: the folder comes last on the path, and then the file is imported by its name.
WITHOUT_THE_REST = """
import sys, types
from importlib.abc import MetaPathFinder

folder, image = sys.argv[1:]
allowed = {"numpy", "PIL", "model", "alexnet_model", *sys.stdlib_module_names}

class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
sys.meta_path.insert(0, Absent())
sys.path.append(folder)
import model
import alexnet_model
from alexnet_model.contract import Contract
with open(image, "rb") as file:
    pixels = Contract().prepared(file.read())
print(alexnet_model.__file__)
sys.stdout.flush()
sys.stdout.buffer.write(pixels.tobytes())
"""


@pytest.fixture
def decoding_elsewhere(tmp_path: Path) -> Callable[[], tuple[Path, bytes]]:
    """Import the assembled folder where only numpy and Pillow are; whose decoding it is, and its pixels."""
    assemble_backends(wheel_of_this_python(), tmp_path / "backends")
    (tmp_path / "image.png").write_bytes(GOOD)

    def decode() -> tuple[Path, bytes]:
        command = [sys.executable, "-c", WITHOUT_THE_REST, str(tmp_path / "backends" / "image_decoder")]
        done = subprocess.run([*command, str(tmp_path / "image.png")], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        name, _, pixels = done.stdout.partition(b"\n")
        return Path(name.decode()), pixels

    return decode


def test_it_needs_nothing_but_numpy_and_pillow(
    decoding_elsewhere: Callable[[], tuple[Path, bytes]], tmp_path: Path
) -> None:
    """And takes the decoding beside it, though this Python has another installed."""
    module, pixels = decoding_elsewhere()
    assert module == tmp_path / "backends" / "image_decoder" / "alexnet_model" / "__init__.py"
    assert pixels == Contract().prepared(GOOD).tobytes()


def test_without_the_package_beside_it(
    decoding_elsewhere: Callable[[], tuple[Path, bytes]], tmp_path: Path
) -> None:
    """What makes the test above say something: this Python does have another."""
    shutil.rmtree(tmp_path / "backends" / "image_decoder" / "alexnet_model")
    module, _ = decoding_elsewhere()
    assert tmp_path not in module.parents


def test_the_memory_of_large_images_is_returned() -> None:
    """With the allocator's thresholds of a server, which keep freed memory."""
    script = """
        import io, pytest
        from PIL import Image
        from alexnet_model.contract import Contract
        from tests.serving.decoder_backend import imported_decoder, request_of, started
        decoder = imported_decoder(pytest.MonkeyPatch())
        large = io.BytesIO()
        Image.new("RGB", (7000, 7000)).save(large, "PNG", compress_level=1)
        model = started(decoder, Contract())
        before = decoder._own_bytes()
        model.execute([request_of(large.getvalue()) for _ in range(2)])
        print((decoder._own_bytes() - before) // 10**6)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, **ALLOCATOR},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) < 128 + 32, "MB"
