"""Triton's messages in JSON: HTTP's requests and responses, and model configurations and counts.

In HTTP the tensors follow the JSON in binary ("binary tensor data extension"). gRPC's messages have the same
fields, so a configuration that arrives by gRPC is read here too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from alexnet_model.errors import BadResponse

from .error_rules import FOREIGN
from .http_errors import HttpResponse, description_of_body, error_from_response, excerpt
from .transport import (
    BYTES,
    DTYPES,
    InferRequest,
    Message,
    ModelConfig,
    ModelStatistics,
    Region,
    TensorSpec,
    array_from_buffer,
    buffer_from_array,
    datatype_of,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
Json: TypeAlias = Mapping[str, Any]
# What reading JSON of an unexpected form may raise.
_UNEXPECTED_FORM = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def message_from_request(request: InferRequest) -> Message:
    """Serialise a request for HTTP. Images are copied once, into the body; from shared memory not at all."""
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
    identity = {"id": request.id} if request.id else {}
    header = _json_from({**identity, "inputs": inputs, "outputs": outputs})
    return Message(request, b"".join([header, *buffers]), len(header))


def body_from_region(region: Region) -> bytes:
    """The body that registers shared memory."""
    return _json_from({"key": region.key, "offset": 0, "byte_size": region.size_bytes})


def check_empty(response: HttpResponse, *, subject: str) -> None:
    """Check a response without content.

    Raises:
        ClientError: a refusal, or a response that is not Triton's.
    """
    if response.status != HTTPStatus.OK:
        raise error_from_response(response, subject=subject)
    if response.body:
        raise FOREIGN.error(subject, description_of_body(response.body))


def config_from_response(response: HttpResponse, *, subject: str) -> ModelConfig:
    """A model's configuration.

    Raises:
        ClientError: a refusal, or a response of another form.
    """
    return config_from_json(_object(_body(response, subject), subject), subject=subject)


def config_from_json(config: Json, *, subject: str) -> ModelConfig:
    """A model's configuration from Triton's ModelConfig in JSON.

    Raises:
        BadResponse: it has another form.
    """
    try:
        kinds = {str(group["kind"]) for group in config.get("instance_group", [])}
        batching = config.get("dynamic_batching")
        return ModelConfig(
            name=str(config["name"]),
            backend=str(config.get("backend") or config.get("platform", "")),
            max_batch=int(config["max_batch_size"]),
            inputs=_specs(config["input"]),
            outputs=_specs(config["output"]),
            parameters={
                name: str(value["string_value"]) for name, value in config.get("parameters", {}).items()
            },
            device={"KIND_CPU": "CPU", "KIND_GPU": "GPU"}.get(min(kinds), "") if len(kinds) == 1 else "",
            queue_delay_us=None if batching is None else int(batching.get("max_queue_delay_microseconds", 0)),
            steps=tuple(
                str(step["model_name"]) for step in config.get("ensemble_scheduling", {}).get("step", [])
            ),
        )
    except _UNEXPECTED_FORM as error:
        raise _bad_json(subject, config, "a model's configuration") from error


def statistics_from_response(response: HttpResponse, *, subject: str) -> ModelStatistics:
    """A model's counts.

    Raises:
        ClientError: a refusal, or a response of another form.
    """
    return statistics_from_json(_object(_body(response, subject), subject), subject=subject)


def statistics_from_json(reply: Json, *, subject: str) -> ModelStatistics:
    """A model's counts from Triton's ModelStatisticsResponse in JSON.

    Raises:
        BadResponse: it has another form.
    """
    total = ModelStatistics()
    try:
        for version in reply["model_stats"]:  # one, as this project writes repositories
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
    except _UNEXPECTED_FORM as error:
        raise _bad_json(subject, reply, "a model's statistics") from error
    return total


def names_from_response(response: HttpResponse, *, subject: str) -> tuple[str, ...]:
    """The names of the models that a response has counts of.

    Raises:
        ClientError: a refusal, or a response of another form.
    """
    return names_from_statistics(_object(_body(response, subject), subject), subject=subject)


def names_from_statistics(reply: Json, *, subject: str) -> tuple[str, ...]:
    """The names of the models in Triton's ModelStatisticsResponse in JSON, each once, sorted.

    Raises:
        BadResponse: it has another form.
    """
    try:
        return tuple(sorted({str(version["name"]) for version in reply["model_stats"]}))
    except _UNEXPECTED_FORM as error:
        raise _bad_json(subject, reply, "the statistics of all models") from error


def regions_from_response(response: HttpResponse, *, subject: str) -> tuple[Region, ...]:
    """All registered shared memory.

    Raises:
        ClientError: a refusal, or a response of another form.
    """
    body = _body(response, subject, begins=b"[")
    try:
        return tuple(
            Region(name=str(found["name"]), key=str(found["key"]), size_bytes=int(found["byte_size"]))
            for found in json.loads(body)
        )
    except (*_UNEXPECTED_FORM, RecursionError) as error:
        raise BadResponse(subject, got=excerpt(body), expected="a list of memory regions") from error


def outputs_from_response(response: HttpResponse, *, subject: str) -> tuple[dict[str, npt.NDArray[Any]], str]:
    """The outputs by name, whether they are in binary or in the JSON, and the model's version.

    Raises:
        ClientError: a refusal.
        BadResponse: lengths, types or shapes do not fit together.
    """
    body = memoryview(_body(response, subject))
    length = _header_length(response, subject)
    content = body[length:]
    reply = _object(bytes(body[:length]), subject)
    outputs: dict[str, npt.NDArray[Any]] = {}
    position = 0
    try:
        for tensor in reply["outputs"]:
            name, datatype = str(tensor["name"]), str(tensor["datatype"])
            shape = tuple(_not_negative(dimension) for dimension in tensor["shape"])
            where = f"{subject}: {name}"
            if "data" in tensor:  # a server without the binary extension
                outputs[name] = _array_from_json(tensor["data"], datatype, shape, subject=where)
                continue
            size = _not_negative(tensor["parameters"]["binary_data_size"])
            part = content[position : position + size]
            outputs[name] = array_from_buffer(part, datatype, shape, subject=where)
            position += size
    except _UNEXPECTED_FORM as error:
        raise _bad_json(subject, reply, "outputs with name, datatype, shape and data") from error
    if position != len(content):
        raise BadResponse(
            subject, got=f"{len(content)} bytes of tensors", expected=f"the {position} that were announced"
        )
    return outputs, str(reply.get("model_version", ""))


def _json_from(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _object(body: bytes, subject: str) -> Json:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadResponse(subject, got=repr(excerpt(body)), expected="a whole JSON object")
    return found


def _body(response: HttpResponse, subject: str, *, begins: bytes = b"{") -> bytes:
    """The body of a successful response of Triton's."""
    if response.status != HTTPStatus.OK:
        raise error_from_response(response, subject=subject)
    if not response.body[:64].lstrip().startswith(begins):  # Triton's metrics port replies an empty 200
        raise FOREIGN.error(subject, description_of_body(response.body))
    return response.body


def _header_length(response: HttpResponse, subject: str) -> int:
    text = response.header_length
    if text is None:
        return len(response.body)
    length = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= length <= len(response.body):
        raise BadResponse(
            subject,
            got=f"{HEADER_LENGTH} {excerpt(text)!r} and {len(response.body)} bytes",
            expected="the length of the JSON before the tensors",
        )
    return length


def _specs(tensors: list[Json]) -> dict[str, TensorSpec]:
    specs = {}
    for tensor in tensors:
        # Strings are BYTES on the wire. A dimension may be text: protobuf's JSON writes 64-bit integers so.
        name = str(tensor["data_type"]).removeprefix("TYPE_")
        shape = tuple(int(dimension) for dimension in tensor["dims"])
        specs[str(tensor["name"])] = TensorSpec(datatype=BYTES if name == "STRING" else name, shape=shape)
    return specs


def _not_negative(value: int) -> int:
    if value < 0:  # slices and shapes would accept it
        raise ValueError("a negative size")
    return value


def _array_from_json(values: Any, datatype: str, shape: tuple[int, ...], *, subject: str) -> npt.NDArray[Any]:
    """An array from flat or nested values."""
    try:
        array = np.array(values, dtype=np.object_ if datatype == BYTES else DTYPES[datatype])
        if datatype == BYTES and not all(isinstance(text, str) for text in array.flat):
            raise TypeError("not only strings")
        return array.reshape(shape)
    except _UNEXPECTED_FORM as error:
        raise BadResponse(
            subject, got=f"data that is not {datatype} {shape}", expected="as many values as the shape needs"
        ) from error


def _bad_json(subject: str, got: Json, expected: str) -> BadResponse:
    return BadResponse(subject, got=excerpt(json.dumps(got)), expected=expected)
