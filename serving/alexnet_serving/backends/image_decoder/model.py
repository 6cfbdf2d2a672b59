"""Decode images on the server: encoded images in, the contract's pixels out.

It calls the function that clients call, `Contract.prepared`, from the copy of the package `alexnet_model`
beside this file, so both give the same bits. It needs only numpy and Pillow.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import triton_python_backend_utils as pb_utils

# Triton's stub appends this folder to the path, where an installed package of that name would come first.
sys.path.insert(0, str(Path(__file__).parent))

from alexnet_model.contract import ENCODED_INPUT_NAME, Contract, Uint8Array
from alexnet_model.errors import ImageError

CONTRACT_PARAMETER = "contract"
# Pillow decodes without holding the interpreter's lock. This many images at most are decoded at a time, which
# also limits the memory: one image at the limits of `decoding.py` takes gigabytes.
MAX_THREADS = 4
# Freed memory that is kept for the next images. Returning it costs time, as the system clears it again.
MAX_KEPT_BYTES = 128 * 1024 * 1024
LIBC = ctypes.CDLL(None)

Decoding: TypeAlias = list[Future[Uint8Array]]


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self._contract = Contract.from_json(parameters[CONTRACT_PARAMETER]["string_value"])
        self._pool = ThreadPoolExecutor(min(MAX_THREADS, len(os.sched_getaffinity(0))))
        self._kept_bytes = _own_bytes()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return one response for each request, in order; all images are decoded in parallel."""
        started = [self._start(request) for request in requests]
        responses = [self._response(decoding) for decoding in started]
        self._return_memory()
        return responses

    def finalize(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _return_memory(self) -> None:
        """Return freed memory to the system after large images: the allocator would keep gigabytes."""
        own_bytes = _own_bytes()
        if own_bytes > self._kept_bytes + MAX_KEPT_BYTES:
            LIBC.malloc_trim(0)
            own_bytes = _own_bytes()
            self._kept_bytes = own_bytes
        self._kept_bytes = min(self._kept_bytes, own_bytes)

    def _start(self, request: Any) -> Decoding | Exception:
        try:
            encoded = pb_utils.get_input_tensor_by_name(request, ENCODED_INPUT_NAME).as_numpy()  # (N, 1)
            return [self._pool.submit(self._prepared, image) for image in encoded[:, 0]]
        except Exception as error:  # an error raised here would fail the other requests too
            return error

    def _prepared(self, image: object) -> Uint8Array:
        if not isinstance(image, bytes):  # text would be read as the path of a file
            raise TypeError(f"an image is bytes, got {type(image).__name__}")
        return self._contract.prepared(image)

    def _response(self, decoding: Decoding | Exception) -> Any:
        if isinstance(decoding, Exception):
            return pb_utils.InferenceResponse(error=_failure(decoding))
        rows = []
        for future in decoding:
            try:
                rows.append(future.result())
            except Exception as error:
                for other in decoding:  # their results would not be used
                    other.cancel()
                subject = f"image {len(rows)}" if len(decoding) > 1 else ""
                return pb_utils.InferenceResponse(error=_failure(error, subject))
        images = pb_utils.Tensor(self._contract.input_name, np.stack(rows))  # (N, S, S, 3)
        return pb_utils.InferenceResponse([images])


def _own_bytes() -> int:
    """Return the resident memory of this process without shared memory."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _failure(error: Exception, subject: str = "") -> Any:
    """Return Triton's error; clients recognise a bad image by `ImageError: ...`. `subject` names its row."""
    if not isinstance(error, ImageError):
        return pb_utils.TritonError(f"{type(error).__name__}: {error}")
    named = ImageError(
        subject or error.subject, got=error.got, expected=error.expected, next_step=error.next_step
    )
    return pb_utils.TritonError(f"{ImageError.__name__}: {named}", pb_utils.TritonError.INVALID_ARG)
