"""HTTP with a real Triton server: the same outputs as over gRPC, bit for bit."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_clients import (
    Client,
    InferReply,
    InferRequest,
    ModelStatistics,
    Region,
    ServerUrl,
    SharedImages,
    Transport,
    transport_from_url,
)
from alexnet_model.contract import ENCODED_INPUT_NAME
from alexnet_model.errors import (
    BadRequest,
    ClientError,
    DeadlineExceeded,
    ForeignServer,
    ModelNotFound,
    Untrusted,
)
from alexnet_serving import EmbeddedServer

from ..waiting import wait_until

MODEL = "alexnet_int8"
DECODING_MODEL = "alexnet"


@pytest.fixture
def http(server: EmbeddedServer) -> Iterator[Transport]:
    with closing(transport_from_url(ServerUrl.parse(server.http_url))) as transport:
        yield transport


@pytest.fixture
def grpc(server: EmbeddedServer) -> Iterator[Transport]:
    with closing(transport_from_url(ServerUrl.parse(server.grpc_url))) as transport:
        yield transport


def request(batch: int, *, top: int = 0, **other: Any) -> InferRequest:
    images = np.random.default_rng(batch).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
    given = {"model": MODEL, "inputs": {"image": images}, "outputs": ("probabilities", "logits"), **other}
    return InferRequest(top=top, **given)


def reply_to(transport: Transport, request: InferRequest, *, timeout_s: float = 30) -> InferReply:
    return transport.submit(transport.prepare(request), timeout_s=timeout_s).result(60)


@pytest.mark.parametrize("top", [0, 1, 5])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_outputs_over_http_equal_those_over_grpc(
    http: Transport, grpc: Transport, batch: int, top: int
) -> None:
    ours, theirs = (reply_to(transport, request(batch, top=top)).outputs for transport in (http, grpc))
    assert set(ours) == set(theirs) == {"probabilities", "logits"}
    for name in ours:
        assert ours[name].shape == theirs[name].shape == (batch, top or 10)
        assert ours[name].dtype == theirs[name].dtype
        assert ours[name].tolist() == theirs[name].tolist()


def test_configuration_and_statistics_equal_those_over_grpc(http: Transport, grpc: Transport) -> None:
    assert http.ready(timeout_s=30).result(60) is True
    ours, theirs = (transport.model_config(MODEL, timeout_s=30).result(60) for transport in (http, grpc))
    assert ours == theirs
    assert ours.inputs["image"].shape == (224, 224, 3)
    names = {transport.model_names(timeout_s=30).result(60) for transport in (http, grpc)}
    assert names == {("alexnet", "alexnet_decode", "alexnet_fp16", "alexnet_fp32", "alexnet_int8")}
    before = settled_statistics(http)
    reply_to(http, request(3))
    wait_until(
        lambda: http.statistics(MODEL, timeout_s=30).result(60).requests > before.requests,
        "the server counts the request, which may be a moment after its reply",
    )
    after = settled_statistics(http)
    assert after == grpc.statistics(MODEL, timeout_s=30).result(60)
    assert (after.requests, after.images) == (before.requests + 1, before.images + 3)
    assert after.executions_by_batch[3] == before.executions_by_batch.get(3, 0) + 1


def settled_statistics(transport: Transport) -> ModelStatistics:
    """The statistics once those of earlier requests have arrived: they are the same for a second."""
    while True:
        found = transport.statistics(MODEL, timeout_s=30).result(60)
        time.sleep(1.0)
        if transport.statistics(MODEL, timeout_s=30).result(60) == found:
            return found


def test_predictions_over_http_equal_those_over_grpc(server: EmbeddedServer) -> None:
    images = request(20).images
    content = io.BytesIO()
    Image.fromarray(images[0]).save(content, "PNG")
    encoded = content.getvalue()
    with Client(server.http_url) as ours, Client(server.grpc_url) as theirs:
        for items, model in ((images, MODEL), (encoded, MODEL), ([encoded] * 3, DECODING_MODEL)):
            answers, expected = (
                [prediction.classes for prediction in client.classify(items, model=model, top=3)]
                for client in (ours, theirs)
            )
            assert answers == expected


def test_an_undecodable_image_is_the_same_error_over_http_and_grpc(http: Transport, grpc: Transport) -> None:
    encoded = {ENCODED_INPUT_NAME: np.array([[b"no image"]], dtype=np.object_)}
    wrong = request(1, model=DECODING_MODEL, inputs=encoded, outputs=("probabilities",))
    ours, theirs = (
        transport.submit(transport.prepare(wrong), timeout_s=30).exception(60) for transport in (http, grpc)
    )
    assert isinstance(ours, ClientError)
    assert isinstance(theirs, ClientError)
    assert (type(ours), ours.got) == (type(theirs), theirs.got)


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        (request(1, model="nothing"), ModelNotFound, "unknown model: 'nothing'"),
        (request(17), BadRequest, "batch-size must be <= 16"),
        (request(1, outputs=("odd",)), BadRequest, "unexpected inference output 'odd'"),
        (request(1, inputs={"odd": request(1).images}), BadRequest, "unexpected inference input 'odd'"),
        (request(1, inputs={"image": request(1).images[:, :9]}), BadRequest, "unexpected shape"),
        (request(1, inputs={"image": request(1).images / 1.0}), BadRequest, "data-type is 'FP64'"),
    ],
)
def test_refusals_are_the_same_over_http_and_grpc(
    http: Transport, grpc: Transport, wrong: InferRequest, kind: type[ClientError], words: str
) -> None:
    for transport in (http, grpc):
        with pytest.raises(kind, match=words):
            reply_to(transport, wrong)


def test_a_missing_model_is_not_found(http: Transport, grpc: Transport) -> None:
    for transport in (http, grpc):
        with pytest.raises(ModelNotFound, match="unknown model: 'nothing'"):
            transport.model_config("nothing", timeout_s=30).result(60)
        with pytest.raises(ModelNotFound, match="requested model 'nothing' is not available"):
            transport.statistics("nothing", timeout_s=30).result(60)


def test_a_missed_deadline_is_an_error(http: Transport, grpc: Transport) -> None:
    for transport in (http, grpc):
        with pytest.raises(DeadlineExceeded):
            reply_to(transport, request(16), timeout_s=0.001)
        assert reply_to(transport, request(16)).outputs["probabilities"].shape == (16, 10)


def test_tritons_other_ports_are_recognised(server: EmbeddedServer) -> None:
    grpc_port = ServerUrl.parse(server.grpc_url).port
    metrics_port = ServerUrl.parse(server.metrics_url.removesuffix("/metrics")).port
    for url, kind, words in (
        (f"http://127.0.0.1:{grpc_port}", ForeignServer, "a reply that is not HTTP"),
        (f"http://127.0.0.1:{metrics_port}", ForeignServer, "an empty body"),
        (f"{server.http_url}/triton", ForeignServer, "got Not Found"),
        (server.http_url.replace("http", "https"), Untrusted, "expected a server that speaks TLS"),
    ):
        transport = transport_from_url(ServerUrl.parse(url))
        with closing(transport), pytest.raises(kind, match=words):
            transport.model_config(MODEL, timeout_s=30).result(60)


def test_consecutive_requests_share_one_connection(http: Transport) -> None:
    for batch in (1, 16, 1):
        reply_to(http, request(batch))
    assert http.connections == 1


def test_images_in_shared_memory(exported: Any, tmp_path: Path) -> None:
    images = request(3).images
    with EmbeddedServer(exported.repository(tmp_path / "models"), shared_memory=True) as server:
        for url in (server.http_url, server.grpc_url):
            with Client(url) as client, SharedImages(client, capacity=4, model=MODEL) as shared:
                shared.images[:3] = images
                ours, theirs = shared.infer(3), client.infer(images, model=MODEL)
                assert (ours["logits"] == theirs["logits"]).all()
                assert shared.region in client.transport.regions(timeout_s=30).result(60)
            with closing(transport_from_url(ServerUrl.parse(url))) as transport:
                assert transport.regions(timeout_s=30).result(60) == ()
                nowhere = Region(name="nowhere", key="/nowhere", size_bytes=1)
                with pytest.raises(BadRequest, match="Unable to open shared memory region: '/nowhere'"):
                    transport.register(nowhere, timeout_s=30).result(60)


def test_shared_memory_is_refused_by_default(http: Transport) -> None:
    with pytest.raises(BadRequest, match="This API is restricted"):
        http.regions(timeout_s=30).result(60)
