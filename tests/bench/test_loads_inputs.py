"""What is asked of a model, from its own configuration and nothing else."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from alexnet_bench.loads.inputs import asked_from_config
from alexnet_clients import FakeTransport, ModelConfig, TensorSpec
from alexnet_model.errors import UsageError


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


def test_our_models_get_pixels_and_are_asked_for_probabilities() -> None:
    asked = asked_from_config(ours("alexnet_int8"), 4)
    requests = asked.requests()
    assert len(requests) == asked.distinct == 16
    for request in requests:
        assert (request.model, request.outputs) == ("alexnet_int8", ("probabilities",))
        assert (request.images.shape, str(request.images.dtype)) == ((4, 224, 224, 3), "uint8")
        assert request.images.max() == 255
    assert asked.probabilities == "probabilities"


def test_requests_differ_and_are_the_same_in_every_process() -> None:
    first, again = (asked_from_config(ours("alexnet_int8"), 1).requests() for _ in range(2))
    assert len({request.images.tobytes() for request in first}) == 64
    assert all((a.images == b.images).all() for a, b in zip(first, again, strict=True))


def test_the_model_that_decodes_gets_jpegs() -> None:
    asked = asked_from_config(ours("alexnet"), 2)
    (jpeg,), (other,) = asked.requests()[0].images
    assert Image.open(io.BytesIO(jpeg)).size == (469, 384)
    assert jpeg != other
    assert 40_000 < len(jpeg) < 56_000


def test_a_foreign_model_gets_what_it_wants_and_is_asked_for_everything() -> None:
    config = foreign(
        ids=("INT64", (128,)), mask=("BOOL", (128,)), weights=("FP16", (2, 3)), pixels=("UINT8", (9,))
    )
    asked = asked_from_config(config, 3)
    tensors: dict[str, Any] = dict(asked.requests()[0].inputs)
    assert {name: (array.shape, str(array.dtype)) for name, array in tensors.items()} == {
        "ids": ((3, 128), "int64"),
        "mask": ((3, 128), "bool"),
        "weights": ((3, 2, 3), "float16"),
        "pixels": ((3, 9), "uint8"),
    }
    assert set(tensors["ids"].flat) == {0, 1}  # an index into any vocabulary
    assert 0 <= tensors["weights"].min() < tensors["weights"].max() <= 1
    assert asked.outputs == ("logits", "mask")
    assert asked.probabilities == ""


def test_a_model_without_batches_has_no_batch_axis() -> None:
    config = foreign(max_batch=0, image=("FP32", (1, 3, 8, 8)))
    assert asked_from_config(config, 1).requests()[0].inputs["image"].shape == (1, 3, 8, 8)
    with pytest.raises(UsageError, match="batch for bert: got 2, expected 1: the model takes no batches"):
        asked_from_config(config, 2)


@pytest.mark.parametrize("batch", [0, -1, 9])
def test_a_batch_that_the_model_does_not_take(batch: int) -> None:
    with pytest.raises(UsageError, match=rf"batch for bert: got {batch}, expected 1 to 8"):
        asked_from_config(foreign(x=("FP32", (1,))), batch)


def test_open_dimensions_are_asked_for_and_taken() -> None:
    config = foreign(image=("FP32", (3, -1, -1)))
    with pytest.raises(UsageError, match=r"the open shape 3,-1,-1.*--shape image:3,N,N"):
        asked_from_config(config, 1)
    asked = asked_from_config(config, 2, {"image": (3, 32, 16)})
    assert asked.requests()[0].inputs["image"].shape == (2, 3, 32, 16)


@pytest.mark.parametrize("shape", [(3, 32), (4, 32, 16), (3, 0, 16), (3, 32, -1)])
def test_a_shape_that_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="input image: got shape"):
        asked_from_config(foreign(image=("FP32", (3, -1, -1))), 1, {"image": shape})


@pytest.mark.parametrize("kind", ["BYTES", "BF16"])
def test_what_cannot_be_made_up_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match=rf"bert: input text: got {kind}, expected numbers"):
        asked_from_config(foreign(text=(kind, (1,))), 1)


def test_large_requests_are_few() -> None:
    config = foreign(volume=("FP32", (64, 1024, 1024)))
    assert asked_from_config(config, 1).distinct == 1
