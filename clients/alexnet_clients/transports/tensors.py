"""Tensors to bytes and back, as the KServe v2 protocol lays them out over gRPC and HTTP alike.

Numbers are little-endian and row-major. A tensor of BYTES holds, for each element, its length as four bytes
and then itself. Source: KServe's "Open Inference Protocol", and Triton's binary tensor data extension.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_model.errors import BadResponse

BYTES = "BYTES"
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(bool),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


def datatype_of(array: npt.NDArray[Any]) -> str:
    """The protocol's word for an array's type: `bytes` objects are BYTES."""
    return BYTES if array.dtype == np.object_ else _DATATYPES[array.dtype.newbyteorder("<")]


def size_bytes(datatype: str, shape: tuple[int, ...]) -> int:
    """Of a tensor of numbers."""
    return math.prod(shape) * DTYPES[datatype].itemsize


def buffer_from_array(array: npt.NDArray[Any]) -> bytes | memoryview:
    """A contiguous array's bytes, without a copy where it holds numbers."""
    if array.dtype != np.object_:
        return array.reshape(-1).view(np.uint8).data
    return b"".join(
        part for element in array.reshape(-1) for part in (struct.pack("<I", len(element)), element)
    )


def array_from_buffer(
    content: bytes | memoryview, datatype: str, shape: tuple[int, ...], *, subject: str
) -> npt.NDArray[Any]:
    """Numbers as they are, BYTES as `str` objects.

    Raises:
        BadResponse: the type is unknown, or the bytes do not fill the shape.
    """
    if datatype != BYTES and datatype not in DTYPES:
        raise BadResponse(
            subject, got=f"datatype {datatype}", expected=f"{BYTES} or one of {', '.join(DTYPES)}"
        )
    try:
        if datatype != BYTES:
            return np.frombuffer(content, dtype=DTYPES[datatype]).reshape(shape)
        return np.array(_texts(bytes(content)), dtype=np.object_).reshape(shape)
    except ValueError as error:
        raise BadResponse(
            subject,
            got=f"{len(content)} bytes for {datatype} {shape}",
            expected="as many bytes as the shape needs",
        ) from error


def _texts(content: bytes) -> list[str]:
    texts, position = [], 0
    while position < len(content):
        length = int.from_bytes(content[position : position + 4], "little")
        start, position = position + 4, position + 4 + length
        if position > len(content):
            raise ValueError("torn strings")
        texts.append(content[start:position].decode("utf-8", "replace"))
    return texts
