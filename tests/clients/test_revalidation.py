from __future__ import annotations

import json

import numpy as np
import pytest

from alexnet_clients import Client, FakeTransport
from alexnet_model.contract import Contract
from alexnet_model.errors import ContractMismatch, ModelNotFound

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
    with pytest.raises(ContractMismatch):
        client.classify(IMAGES)


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
