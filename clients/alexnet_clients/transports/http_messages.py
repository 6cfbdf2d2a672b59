"""Triton's messages over HTTP: JSON, and after it the tensors in binary ("binary tensor data extension").

Nothing here knows of connections.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from alexnet_model.errors import BadResponse

from .http_errors import Answer, error_from_answer, excerpt_of, page_of
from .meanings import FOREIGN
from .tensors import BYTES, DTYPES, array_from_buffer, buffer_from_array, datatype_of
from .transport import (
    InferRequest,
    Message,
    ModelConfig,
    ModelStatistics,
    Region,
    TensorSpec,
    device_of_kinds,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
Json: TypeAlias = Mapping[str, Any]
# What reading JSON of another form than the expected one comes to.
_OTHER_FORM = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def message_from_request(request: InferRequest) -> Message:
    """The images are copied once, into the body, or not at all from shared memory."""
    buffers: list[bytes | memoryview] = []
    inputs = []
    for name, array in request.inputs.items():
        if request.region:
            where = {"shared_memory_region": request.region, "shared_memory_byte_size": array.nbytes}
        else:
            buffers.append(buffer_from_array(array))
            where = {"binary_data_size": len(buffers[-1])}
        inputs.append(
            {"name": name, "shape": array.shape, "datatype": datatype_of(array), "parameters": where}
        )
    form = {"binary_data": True, **({"classification": request.top} if request.top else {})}
    outputs = [{"name": name, "parameters": form} for name in request.outputs]
    header = _json_from({"inputs": inputs, "outputs": outputs})
    return Message(request, b"".join([header, *buffers]), len(header))


def body_from_region(region: Region) -> bytes:
    return _json_from({"key": region.key, "offset": 0, "byte_size": region.size_bytes})


def object_from_json(body: bytes | memoryview, *, subject: str) -> Json:
    """Raises:
    BadResponse: it is not one JSON object.
    """
    text = bytes(body)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadResponse(subject, got=repr(excerpt_of(text)), expected="a whole JSON object")
    return found


def accepted(answer: Answer, *, subject: str, begins: bytes = b"{") -> Answer:
    """Triton's answer to what it was asked, or an error.

    Raises:
        ClientError: a refusal, or something that is no answer of Triton's.
    """
    if answer.status != HTTPStatus.OK:
        raise error_from_answer(answer, subject=subject)
    if not answer.body[:64].lstrip().startswith(begins):  # Triton's metrics port says an empty 200 to all
        raise FOREIGN.error(subject, page_of(answer.body))
    return answer


def nothing_from_answer(answer: Answer, *, subject: str) -> None:
    """Of what is told and not asked.

    Raises:
        ClientError: a refusal, or something that is no answer of Triton's.
    """
    if answer.status != HTTPStatus.OK:
        raise error_from_answer(answer, subject=subject)
    if answer.body:
        raise FOREIGN.error(subject, page_of(answer.body))


def regions_from_answer(answer: Answer, *, subject: str) -> tuple[Region, ...]:
    """Raises:
    ClientError: a refusal, or no list of regions.
    """
    body = accepted(answer, subject=subject, begins=b"[").body
    try:
        return tuple(
            Region(name=str(found["name"]), key=str(found["key"]), size_bytes=int(found["byte_size"]))
            for found in json.loads(body)
        )
    except (*_OTHER_FORM, RecursionError) as error:
        raise BadResponse(subject, got=excerpt_of(body), expected="a list of memory regions") from error


def outputs_from_answer(answer: Answer, *, subject: str) -> dict[str, npt.NDArray[Any]]:
    """The outputs by name, whether they are in binary or in the JSON.

    Raises:
        BadResponse: the lengths, types or shapes do not fit together.
    """
    header, content = _parted(accepted(answer, subject=subject), subject)
    response = object_from_json(header, subject=subject)
    outputs: dict[str, npt.NDArray[Any]] = {}
    position = 0
    try:
        for tensor in response["outputs"]:
            name, datatype, shape = str(tensor["name"]), str(tensor["datatype"]), _shape(tensor["shape"])
            where = f"{subject}: {name}"
            if "data" in tensor:  # from a server that leaves the extension out
                outputs[name] = _array_from_json(tensor["data"], datatype, shape, subject=where)
                continue
            size = _count(tensor["parameters"]["binary_data_size"])
            part = content[position : position + size]
            outputs[name] = array_from_buffer(part, datatype, shape, subject=where)
            position += size
    except _OTHER_FORM as error:
        raise _other_form(subject, response, "outputs with name, datatype, shape and data") from error
    if position != len(content):
        raise BadResponse(
            subject, got=f"{len(content)} bytes of tensors", expected=f"the {position} that were announced"
        )
    return outputs


def config_from_answer(answer: Answer, *, subject: str) -> ModelConfig:
    """Raises:
    BadResponse: it is no model's configuration.
    """
    config = object_from_json(accepted(answer, subject=subject).body, subject=subject)
    try:
        return ModelConfig(
            name=str(config["name"]),
            backend=str(config.get("backend") or config.get("platform", "")),
            max_batch=int(config["max_batch_size"]),
            inputs=_specs(config["input"]),
            outputs=_specs(config["output"]),
            parameters={
                name: str(value["string_value"]) for name, value in config.get("parameters", {}).items()
            },
            device=device_of_kinds({str(group["kind"]) for group in config.get("instance_group", [])}),
            queue_delay_us=int(config["dynamic_batching"].get("max_queue_delay_microseconds", 0))
            if "dynamic_batching" in config
            else None,
            steps=tuple(
                str(step["model_name"]) for step in config.get("ensemble_scheduling", {}).get("step", [])
            ),
        )
    except _OTHER_FORM as error:
        raise _other_form(subject, config, "a model's configuration") from error


def statistics_from_answer(answer: Answer, *, subject: str) -> ModelStatistics:
    """Raises:
    BadResponse: they are no statistics.
    """
    response = object_from_json(accepted(answer, subject=subject).body, subject=subject)
    total = ModelStatistics()
    try:
        for version in response["model_stats"]:  # one, as this project writes repositories
            times = version["inference_stats"]
            total = ModelStatistics(
                requests=int(times["success"]["count"]),
                images=int(version["inference_count"]),
                executions=int(version["execution_count"]),
                queue_ns=int(times["queue"]["ns"]),
                compute_input_ns=int(times["compute_input"]["ns"]),
                compute_infer_ns=int(times["compute_infer"]["ns"]),
                compute_output_ns=int(times["compute_output"]["ns"]),
                failed=int(times["fail"]["count"]),
                executions_by_batch={
                    int(batch["batch_size"]): int(batch["compute_infer"]["count"])
                    for batch in version["batch_stats"]
                },
            )
    except _OTHER_FORM as error:
        raise _other_form(subject, response, "a model's statistics") from error
    return total


def _json_from(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _parted(answer: Answer, subject: str) -> tuple[memoryview, memoryview]:
    """The JSON and what follows it."""
    body = memoryview(answer.body)
    text = answer.header_length
    if text is None:
        return body, body[:0]
    length = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= length <= len(body):
        raise BadResponse(
            subject,
            got=f"{HEADER_LENGTH} {excerpt_of(text)!r} and {len(body)} bytes",
            expected="the length of the JSON before the tensors",
        )
    return body[:length], body[length:]


def _specs(tensors: list[Json]) -> dict[str, TensorSpec]:
    return {str(tensor["name"]): _spec(tensor) for tensor in tensors}


def _spec(tensor: Json) -> TensorSpec:
    # TYPE_UINT8 and so on; strings are BYTES on the wire. A dimension may be text: protobuf's JSON has 64-bit
    # integers so.
    name = str(tensor["data_type"]).removeprefix("TYPE_")
    shape = tuple(int(dimension) for dimension in tensor["dims"])
    return TensorSpec(datatype=BYTES if name == "STRING" else name, shape=shape)


def _shape(dimensions: list[Any]) -> tuple[int, ...]:
    return tuple(_count(dimension) for dimension in dimensions)


def _count(value: int) -> int:
    if value < 0:  # which slices and shapes would take
        raise ValueError("less than nothing")
    return value


def _array_from_json(values: Any, datatype: str, shape: tuple[int, ...], *, subject: str) -> npt.NDArray[Any]:
    """The values may be flat or nested."""
    try:
        if datatype == BYTES:
            return _texts(values).reshape(shape)
        return np.array(values, dtype=DTYPES[datatype]).reshape(shape)
    except _OTHER_FORM as error:
        raise BadResponse(
            subject, got=f"data that is not {datatype} {shape}", expected="as many values as the shape needs"
        ) from error


def _texts(values: Any) -> npt.NDArray[np.object_]:
    texts = np.array(values, dtype=np.object_)
    if not all(isinstance(text, str) for text in texts.flat):
        raise TypeError("not only strings")
    return texts


def _other_form(subject: str, got: Json, expected: str) -> BadResponse:
    return BadResponse(subject, got=excerpt_of(json.dumps(got)), expected=expected)
