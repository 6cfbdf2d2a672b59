from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from alexnet_clients import Client, FakeTransport
from alexnet_model.contract import Contract
from alexnet_model.errors import ConnectionLost, ContractMismatch, ModelNotFound

from ..waiting import wait_until
from .http_transport.http_server import HttpServer, Received, Reply, as_json
from .http_transport.http_server import config as http_config
from .http_transport.http_server import infer as http_infer
from .tcp_proxy import GOAWAY, REFUSED_STREAM, RefusingProxy, TcpProxy
from .wire_server import WireServer, config

IMAGES = np.zeros((4, 224, 224, 3), np.uint8)


def test_the_configuration_is_read_once(fake: FakeTransport, client: Client) -> None:
    for _ in range(3):
        client.classify(IMAGES)
        client.probabilities(IMAGES)
    assert fake.configs_read == 1


def test_the_configuration_is_read_again_after_a_reconnect(fake: FakeTransport, client: Client) -> None:
    client.classify(IMAGES)
    fake.connections += 1
    assert client.classify(IMAGES)[0].error is None
    client.classify(IMAGES)
    assert fake.configs_read == 2


def swapped_for_another_contract(fake: FakeTransport) -> None:
    other = Contract(resize=232)
    fake.parameters |= {"contract": other.to_json(), "contract_digest": other.digest}
    fake.connections += 1


def swapped_for_other_classes(fake: FakeTransport) -> None:
    names = ("cat", *fake.class_names[1:])
    fake.class_names = names
    fake.parameters |= {"labels": json.dumps(names)}
    fake.connections += 1


@pytest.mark.parametrize("swap", [swapped_for_another_contract, swapped_for_other_classes])
def test_a_reply_of_another_server_is_refused(swap: object, fake: FakeTransport, client: Client) -> None:
    """The other server started while the request was open; its valid reply is refused."""
    assert callable(swap)
    client.classify(IMAGES)
    answered = fake.brightness_as_class

    def answer(request: object) -> object:
        if fake.connections == 1:
            swap(fake)
        return answered(request)  # type: ignore[arg-type]

    fake.predict = answer  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(ContractMismatch, match="create a new client"):
            client.classify(IMAGES)


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("swap", [swapped_for_another_contract, swapped_for_other_classes])
def test_a_model_that_changed_between_calls_is_refused_until_it_changes_back(
    swap: object, pinned: bool, fake: FakeTransport
) -> None:
    assert callable(swap)
    client = Client("grpc://host", transport=fake, contract=fake.contract if pinned else None)
    client.classify(IMAGES)
    names, parameters = fake.class_names, dict(fake.parameters)
    swap(fake)
    for _ in range(2):
        with pytest.raises(ContractMismatch):
            client.classify(IMAGES)
        with pytest.raises(ContractMismatch):
            client.model("alexnet_fp32")
    fake.class_names, fake.parameters = names, parameters
    fake.connections += 1
    assert client.classify(IMAGES)[0].error is None
    client.close()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_both_protocols_refuse_a_server_with_other_classes(wire_server: WireServer, protocol: str) -> None:
    """The connection is lost between two calls, and the next one leads to another server."""
    over_http = HttpServer({"config": http_config, "infer": http_infer, "ready": lambda received: Reply()})
    with over_http.running():
        port = wire_server.port if protocol == "grpc" else over_http.port
        with TcpProxy(port).running() as proxy:
            client = Client(f"{protocol}://127.0.0.1:{proxy.port}", timeout_s=10)
            assert client.probabilities(IMAGES[:1], model="alexnet_int8").shape == (1, 10)
            wire_server.handlers["ModelConfig"] = with_reversed_labels
            over_http.handlers["config"] = http_config_with_reversed_labels
            proxy.drop()

            def is_refused() -> bool:
                try:
                    client.probabilities(IMAGES[:1], model="alexnet_int8")
                except ContractMismatch as error:
                    return "a model with other classes" in str(error)
                except ConnectionLost:  # the client has not noticed it yet
                    return False
                pytest.fail("a reply of the other model was accepted")

            wait_until(is_refused, "the client connects to the other server")
            assert is_refused(), "nor is it accepted the second time"
            client.close()


@pytest.mark.parametrize("refusal", [GOAWAY, REFUSED_STREAM])
def test_a_request_that_a_closing_server_refused_is_sent_again_and_its_model_read_again(
    wire_server: WireServer, refusal: str
) -> None:
    with (
        RefusingProxy(wire_server.port).running() as proxy,
        Client(f"grpc://127.0.0.1:{proxy.port}", timeout_s=10) as client,
    ):
        assert client.probabilities(IMAGES[:1], model="alexnet_int8").shape == (1, 10)
        proxy.refuse_next(refusal)
        assert client.probabilities(IMAGES[:1], model="alexnet_int8").shape == (1, 10), (
            "it was not sent again"
        )
        assert [type(request).__name__ for request in wire_server.received[-2:]] == [
            "ModelInferRequest",
            "ModelConfigRequest",
        ]
        wire_server.handlers["ModelConfig"] = with_reversed_labels
        proxy.refuse_next(refusal)
        with pytest.raises(ContractMismatch, match="a model with other classes"):
            client.probabilities(IMAGES[:1], model="alexnet_int8")


def with_reversed_labels(request: Any, context: Any) -> Any:
    response = config(request, context)
    parameter = response.config.parameters["labels"]
    parameter.string_value = json.dumps(json.loads(parameter.string_value)[::-1])
    return response


def http_config_with_reversed_labels(received: Received) -> Reply:
    found = json.loads(http_config(received).body)
    parameter = found["parameters"]["labels"]
    parameter["string_value"] = json.dumps(json.loads(parameter["string_value"])[::-1])
    return as_json(found)


def test_outputs_of_another_server_are_refused(fake: FakeTransport, client: Client) -> None:
    client.probabilities(IMAGES)
    swapped_for_another_contract(fake)
    with pytest.raises(ContractMismatch, match="resize"):
        client.probabilities(IMAGES)


def test_a_model_that_was_unloaded_is_not_found(fake: FakeTransport, client: Client) -> None:
    client.model("alexnet_int8")
    fake.models = ("alexnet_fp32",)
    fake.connections += 1
    with pytest.raises(ModelNotFound, match="alexnet_int8"):
        client.classify(IMAGES, model="alexnet_int8")


@pytest.mark.parametrize("labels", ["", "no json", "{}", '["a", 1]', '["a", ""]', "[]"])
def test_a_model_without_valid_labels_is_refused(labels: str, fake: FakeTransport, client: Client) -> None:
    fake.parameters["labels"] = labels
    with pytest.raises(ContractMismatch, match="labels"):
        client.classify(IMAGES)


def test_a_label_of_another_class_is_an_error(fake: FakeTransport, client: Client) -> None:
    client.model("alexnet_fp32")
    fake.class_names = (fake.class_names[1], fake.class_names[0], *fake.class_names[2:])
    (prediction, *_) = client.classify(IMAGES)
    assert "class 0's label '0'" in str(prediction.error)
