"""Valid responses are read, and invalid ones are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from alexnet_clients import Client, ModelConfig, ModelStatistics, TensorSpec
from alexnet_clients.transports import http_transport
from alexnet_clients.transports.http_transport import HttpTransport
from alexnet_model.errors import BadRequest, BadResponse, ClientError, ForeignServer, NotReady, Unreachable

from .http_server import PAGE, HttpServer, Reply, as_json, as_tensors, in_parts, is_ready, request, sent


def test_a_models_configuration_is_read(http_server: HttpServer, transport: HttpTransport) -> None:
    with Client(http_server.url) as client:
        served = client.model("alexnet_int8")
    assert (served.precision, served.backend, served.max_batch) == ("int8", "openvino_dynamic", 8)
    http_server.reply(
        "config",
        as_json(
            {
                "name": "alexnet",
                "platform": "ensemble",
                "backend": "",
                "max_batch_size": 4,
                "input": [{"name": "encoded", "data_type": "TYPE_STRING", "dims": ["1"]}],
                "output": [{"name": "logits", "data_type": "TYPE_FP16", "dims": [-1, "10"]}],
                "parameters": {"precision": {"string_value": "fp16"}},
            }
        ).body,
    )
    found = transport.model_config("alexnet", timeout_s=10).result(10)
    assert found == ModelConfig(
        name="alexnet",
        backend="ensemble",
        max_batch=4,
        inputs={"encoded": TensorSpec(datatype="BYTES", shape=(1,))},
        outputs={"logits": TensorSpec(datatype="FP16", shape=(-1, 10))},
        parameters={"precision": "fp16"},
    )


def test_whitespace_before_the_json_is_allowed(http_server: HttpServer, transport: HttpTransport) -> None:
    http_server.handlers["infer"] = lambda received: Reply(b'\r\n {"outputs": []}')
    assert sent(transport, request()).result(10).outputs == {}


def test_the_statistics_are_read(http_server: HttpServer, transport: HttpTransport) -> None:
    times = {
        name: {"count": count, "ns": 100 * count}
        for count, name in enumerate(
            ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"), start=1
        )
    }
    batches = [
        {"batch_size": size, "compute_infer": {"count": count, "ns": 1}} for size, count in ((1, 5), (8, 6))
    ]
    version = {
        "inference_count": 53,
        "execution_count": 11,
        "inference_stats": times,
        "batch_stats": batches,
    }
    http_server.reply("stats", as_json({"model_stats": [version]}).body)
    assert transport.statistics("alexnet_int8", timeout_s=10).result(10) == ModelStatistics(
        requests=1,
        images=53,
        executions=11,
        queue_ns=300,
        compute_input_ns=400,
        compute_infer_ns=500,
        compute_output_ns=600,
        failed=2,
        executions_by_batch={1: 5, 8: 6},
    )
    assert http_server.received[0].path == "/v2/models/alexnet_int8/stats"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{}", id="nothing"),
        pytest.param(b'{"name": "x"', id="torn"),
        pytest.param(b'{"model_stats": [7], "name": "x", "max_batch_size": "many"}', id="wrong types"),
        pytest.param(b'{"model_stats": 7, "name": "x", "max_batch_size": 1, "input": 7}', id="no lists"),
        pytest.param(b'{"a":' * 100_000, id="without end"),
    ],
)
def test_json_of_another_form_is_a_bad_response(
    http_server: HttpServer, transport: HttpTransport, body: bytes
) -> None:
    http_server.reply("config", body)
    http_server.reply("stats", body)
    for future in (
        transport.model_config("x", timeout_s=10),
        transport.statistics("x", timeout_s=10),
    ):
        error = future.exception(10)
        assert type(error) is BadResponse
        assert len(str(error)) < 500


def test_numbers_and_strings_are_read(http_server: HttpServer, transport: HttpTransport) -> None:
    reply = sent(transport, request(2, outputs=("probabilities", "logits"))).result(10)
    assert set(reply.outputs) == {"probabilities", "logits"}
    assert reply.outputs["logits"].shape == (2, 10)
    assert reply.outputs["logits"].dtype == np.float32
    assert (reply.outputs["logits"] == np.float32(0.1)).all()
    texts = [b"0.9:1:na\xc3\xafve", b"0.1:2:b"]
    content = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    http_server.handlers["infer"] = lambda received: as_tensors(("probabilities", "BYTES", [1, 2], content))
    reply = sent(transport, request(1, top=2)).result(10)
    assert reply.outputs["probabilities"].tolist() == [["0.9:1:naïve", "0.1:2:b"]]


def test_outputs_in_json_are_read(http_server: HttpServer, transport: HttpTransport) -> None:
    numbers = {"name": "logits", "datatype": "FP32", "shape": [2, 2], "data": [1, 2.5, 3, -4]}
    nested = {"name": "more", "datatype": "INT64", "shape": [1, 2], "data": [[5, 6]]}
    strings = {"name": "probabilities", "datatype": "BYTES", "shape": [1, 2], "data": ["0.9:1:a", "0.1:2:b"]}
    http_server.handlers["infer"] = lambda received: as_json({"outputs": [numbers, nested, strings]})
    outputs = sent(transport, request()).result(10).outputs
    assert outputs["logits"].tolist() == [[1, 2.5], [3, -4]]
    assert outputs["logits"].dtype == np.float32
    assert outputs["more"].tolist() == [[5, 6]]
    assert outputs["probabilities"].tolist() == [["0.9:1:a", "0.1:2:b"]]


def _said(**tensor: Any) -> Reply:
    whole = {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], **tensor}
    return in_parts(json.dumps({"outputs": [whole]}).encode(), b"" if "data" in tensor else b"\0" * 40)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(as_tensors(("probabilities", "FP32", [1, 10], b"\0" * 36)), id="too short"),
        pytest.param(as_tensors(("probabilities", "FP32", [1, 10], b"\0" * 41)), id="no whole numbers"),
        pytest.param(as_tensors(("probabilities", "FP64", [1, 10], b"\0" * 40)), id="another type"),
        pytest.param(as_tensors(("probabilities", "XY", [1, 10], b"\0" * 40)), id="unknown type"),
        pytest.param(as_tensors(("probabilities", "BYTES", [1, 1], b"\xff\0\0\0abc")), id="torn strings"),
        pytest.param(as_tensors(("probabilities", "FP32", [-1, 10], b"\0" * 40)), id="negative shape"),
        pytest.param(_said(parameters={"binary_data_size": 44}), id="more announced than there"),
        pytest.param(_said(parameters={"binary_data_size": 36}), id="less announced than needed"),
        pytest.param(
            _said(parameters={"binary_data_size": 36}, shape=[1, 9]), id="less announced than there"
        ),
        pytest.param(_said(parameters={"binary_data_size": -40}), id="negative size"),
        pytest.param(_said(parameters={"binary_data_size": "40"}), id="size as text"),
        pytest.param(_said(parameters={"binary_data_size": True}), id="size as truth"),
        pytest.param(_said(), id="no size"),
        pytest.param(_said(data=[0.1]), id="too little data"),
        pytest.param(_said(data=["a"] * 10), id="no numbers"),
        pytest.param(_said(datatype="BYTES", data=[1] * 10), id="no strings"),
        pytest.param(_said(shape="10", parameters={"binary_data_size": 40}), id="shape as text"),
        pytest.param(in_parts(b'{"outputs": [', b"", 13), id="torn header"),
        pytest.param(in_parts(b'{"outputs": []}', b"", 99), id="header longer than the body"),
        pytest.param(in_parts(b'{"outputs": []}', b"", 0), id="no header"),
        pytest.param(in_parts(b'{"outputs": []}', b"", "-1"), id="negative header"),
        pytest.param(in_parts(b'{"outputs": []}', b"", "Â²"), id="odd digits"),
        pytest.param(Reply(b'{"outputs": []}\0\0\0\0'), id="no length of the header"),
        pytest.param(Reply(b'{"outputs": 7}'), id="no list"),
        pytest.param(Reply(b'{"error": "odd"}'), id="no outputs"),
    ],
)
def test_inconsistent_replies_are_bad_responses(
    http_server: HttpServer, transport: HttpTransport, reply: Reply
) -> None:
    http_server.handlers["infer"] = lambda received: reply
    error = sent(transport, request()).exception(10)
    assert type(error) is BadResponse
    assert str(error).startswith(f"{http_server.url} alexnet_int8")
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (PAGE, "got an HTML page, expected a Triton Inference Server"),
        (b"\n<html></html>", "got an HTML page"),
        (b"", "got an empty body"),
        (b"It works! " * 1000, "got the text 'It works! It works!"),
        (b'[{"name": "x"}]', "got the text"),
    ],
)
def test_responses_of_other_servers_are_foreign(
    http_server: HttpServer, transport: HttpTransport, body: bytes, words: str
) -> None:
    for name in ("config", "stats", "infer"):
        http_server.reply(name, body)
    for future in (
        transport.model_config("x", timeout_s=10),
        transport.statistics("x", timeout_s=10),
        sent(transport, request()),
    ):
        error = future.exception(10)
        assert type(error) is ForeignServer
        assert words in str(error)
        assert len(str(error)) < 500


def test_an_endless_response_is_not_read(
    http_server: HttpServer, transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_transport, "MAX_RESPONSE_BYTES", 1000)
    http_server.reply("config", b"{" + b" " * 998 + b"}")
    assert "a model's configuration" in str(transport.model_config("x", timeout_s=10).exception(10))
    http_server.reply("config", b"{" + b" " * 999 + b"}")
    error = transport.model_config("x", timeout_s=10).exception(10)
    assert type(error) is BadResponse
    assert "at most 1000 bytes" in str(error)


@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize("body", [b"", b'{"error": "Server is not ready"}'])
def test_not_ready(http_server: HttpServer, transport: HttpTransport, status: int, body: bytes) -> None:
    assert is_ready(transport)
    http_server.reply("ready", body, status)
    assert not is_ready(transport)
    with pytest.raises(NotReady), Client(http_server.url):
        pytest.fail("entered")


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"no healthy upstream", 503, Unreachable),
        (PAGE, 503, Unreachable),
        (PAGE, 200, ForeignServer),
        (b"OK", 200, ForeignServer),
        (b"", 404, ForeignServer),
        (b"", 401, BadRequest),
        (b"", 500, ClientError),
    ],
)
def test_readiness_of_another_server_is_foreign(
    http_server: HttpServer, transport: HttpTransport, body: bytes, status: int, kind: type[ClientError]
) -> None:
    http_server.reply("ready", body, status)
    error = transport.ready(timeout_s=10).exception(10)
    assert type(error) is kind
    assert str(error).startswith(f"{http_server.url}: got ")
