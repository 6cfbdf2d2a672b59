"""The requests of a load, made up from a model's configuration, and the check of their replies."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_bench import ReferenceOutputs
from alexnet_bench.loads.traffic import ExpectedReplies, expected_from_replies, request_set_from_config
from alexnet_clients import FakeTransport, InferReply, ModelConfig, TensorSpec
from alexnet_model.contract import Contract
from alexnet_model.errors import ContractError, UsageError


def ours(model: str) -> ModelConfig:
    return FakeTransport().model_config(model, timeout_s=1).result()


def foreign(max_batch: int = 8, **inputs: tuple[str, tuple[int, ...]]) -> ModelConfig:
    return ModelConfig(
        name="bert",
        backend="onnxruntime",
        max_batch=max_batch,
        inputs={name: TensorSpec(datatype=kind, shape=shape) for name, (kind, shape) in inputs.items()},
        outputs={
            "logits": TensorSpec(datatype="FP32", shape=(-1,)),
            "mask": TensorSpec(datatype="BOOL", shape=(1,)),
        },
        parameters={},
    )


def test_models_of_this_project_get_pixels_and_return_probabilities() -> None:
    request_set = request_set_from_config(ours("alexnet_int8"), 4)
    requests = request_set.requests()
    assert len(requests) == request_set.distinct == 16
    for request in requests:
        assert (request.model, request.outputs) == ("alexnet_int8", ("probabilities",))
        assert (request.images.shape, str(request.images.dtype)) == ((4, 224, 224, 3), "uint8")
        assert request.images.max() == 255
    assert request_set.probabilities == "probabilities"


def test_requests_follow_the_contract_that_the_model_declares() -> None:
    contract = Contract(size=48, input_name="pixels", probabilities_name="scores")
    config = FakeTransport(contract=contract).model_config("alexnet_int8", timeout_s=1).result()
    request = request_set_from_config(config, 2).requests()[0]
    assert {name: array.shape for name, array in request.inputs.items()} == {"pixels": (2, 48, 48, 3)}
    assert request.outputs == ("scores",)
    assert request_set_from_config(config, 2).probabilities == "scores"
    parameters = {"contract": '{"version": 1}', "contract_digest": contract.digest}
    with pytest.raises(ContractError, match=r"got 1, expected 2. Install alexnet-serving 0\.1"):
        request_set_from_config(replace(config, parameters=parameters), 2)


def test_distinct_requests_differ_and_are_the_same_in_every_process() -> None:
    first, again = (request_set_from_config(ours("alexnet_int8"), 1).requests() for _ in range(2))
    assert len({request.images.tobytes() for request in first}) == 64
    assert all((a.images == b.images).all() for a, b in zip(first, again, strict=True))


def test_the_model_that_decodes_images_gets_jpegs() -> None:
    request_set = request_set_from_config(ours("alexnet"), 2)
    (jpeg,), (other,) = request_set.requests()[0].images
    assert Image.open(io.BytesIO(jpeg)).size == (469, 384)
    assert jpeg != other
    assert 40_000 < len(jpeg) < 56_000


def test_a_foreign_model_gets_its_input_types_and_returns_all_outputs() -> None:
    config = foreign(
        ids=("INT64", (128,)), mask=("BOOL", (128,)), weights=("FP16", (2, 3)), pixels=("UINT8", (9,))
    )
    request_set = request_set_from_config(config, 3)
    tensors: dict[str, Any] = dict(request_set.requests()[0].inputs)
    assert {name: (array.shape, str(array.dtype)) for name, array in tensors.items()} == {
        "ids": ((3, 128), "int64"),
        "mask": ((3, 128), "bool"),
        "weights": ((3, 2, 3), "float16"),
        "pixels": ((3, 9), "uint8"),
    }
    assert set(tensors["ids"].flat) == {0, 1}  # valid for an index into any vocabulary
    assert 0 <= tensors["weights"].min() < tensors["weights"].max() <= 1
    assert request_set.outputs == ("logits", "mask")
    assert request_set.probabilities == ""


def test_a_model_without_batches_has_no_batch_axis() -> None:
    config = foreign(max_batch=0, image=("FP32", (1, 3, 8, 8)))
    assert request_set_from_config(config, 1).requests()[0].inputs["image"].shape == (1, 3, 8, 8)
    with pytest.raises(UsageError, match="batch for bert: got 2, expected 1: the model takes no batches"):
        request_set_from_config(config, 2)


@pytest.mark.parametrize("batch", [0, -1, 9])
def test_a_batch_out_of_range_is_a_usage_error(batch: int) -> None:
    with pytest.raises(UsageError, match=rf"batch for bert: got {batch}, expected 1 to 8"):
        request_set_from_config(foreign(x=("FP32", (1,))), batch)


def test_open_dimensions_need_a_shape() -> None:
    config = foreign(image=("FP32", (3, -1, -1)))
    with pytest.raises(UsageError, match=r"the dynamic shape 3,-1,-1.*--shape image:3,N,N"):
        request_set_from_config(config, 1)
    request_set = request_set_from_config(config, 2, {"image": (3, 32, 16)})
    assert request_set.requests()[0].inputs["image"].shape == (2, 3, 32, 16)


@pytest.mark.parametrize("shape", [(3, 32), (4, 32, 16), (3, 0, 16), (3, 32, -1)])
def test_a_shape_that_contradicts_the_configuration_is_a_usage_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="input image: got shape"):
        request_set_from_config(foreign(image=("FP32", (3, -1, -1))), 1, {"image": shape})


@pytest.mark.parametrize("kind", ["BYTES", "BF16"])
def test_inputs_that_are_not_numbers_are_refused(kind: str) -> None:
    with pytest.raises(UsageError, match=rf"bert: input text: got {kind}, expected numbers"):
        request_set_from_config(foreign(text=(kind, (1,))), 1)


def test_there_are_few_large_requests() -> None:
    config = foreign(volume=("FP32", (64, 1024, 1024)))
    assert request_set_from_config(config, 1).distinct == 1


# Checks of replies

CONFIG = ours("alexnet_int8")


def reply(**outputs: Any) -> InferReply:
    return InferReply(
        outputs={name: np.array(values) for name, values in outputs.items()}, latency_ms=1, request_bytes=1
    )


def expected(
    config: ModelConfig, of_server: InferReply, reference: ReferenceOutputs | None = None
) -> ExpectedReplies:
    return expected_from_replies(request_set_from_config(config, 1), [of_server], reference)


def test_probabilities_may_differ_by_a_thousandth() -> None:
    wanted = expected(CONFIG, reply(probabilities=[[0.2, 0.8]]))
    assert wanted.error_in(0, reply(probabilities=[[0.2009, 0.7991]])) == ""
    assert "wrong by up to 0.002" in wanted.error_in(0, reply(probabilities=[[0.202, 0.798]]))
    assert "NaN" in wanted.error_in(0, reply(probabilities=[[0.2, np.nan]]))
    assert "instead of" in wanted.error_in(0, reply(probabilities=[[0.2, 0.7, 0.1]]))
    assert "outputs none instead of probabilities (1, 2)" in wanted.error_in(0, reply())


def test_reference_outputs_show_a_server_that_was_wrong_from_the_start() -> None:
    of_server = reply(probabilities=[[0.8, 0.2]])
    wanted = expected(CONFIG, of_server, ReferenceOutputs((np.array([[0.2, 0.8]]),)))
    assert "wrong by up to 0.6" in wanted.error_in(0, of_server)
    other = expected(CONFIG, of_server, ReferenceOutputs((np.array([[0.2, 0.8, 0.0]]),)))
    assert "(1, 2) instead of (1, 3)" in other.error_in(0, of_server)


def test_replies_of_a_foreign_model_must_have_the_same_shape_and_be_finite() -> None:
    config = replace(CONFIG, parameters={}, outputs={"y": CONFIG.outputs["logits"]})
    wanted = expected(config, reply(y=[[1.0, 2.0]]))
    assert wanted.error_in(0, reply(y=[[9.0, -2.0]])) == ""
    assert "y with NaN or infinity" in wanted.error_in(0, reply(y=[[np.inf, 0.0]]))
    assert "instead of" in wanted.error_in(0, reply(y=[[1.0]]))
