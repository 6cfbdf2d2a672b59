"""What the backends answer through a real server, against the same runtimes in process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import openvino
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from alexnet_model.contract import Uint8Array
from alexnet_serving import EmbeddedServer

pytestmark = pytest.mark.slow

Rows = npt.NDArray[np.float32]
MODELS = ("alexnet_fp32", "alexnet_int8")


@pytest.fixture(scope="module")
def client(server: EmbeddedServer) -> Iterator[Any]:
    with InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        yield client


@pytest.fixture(scope="module")
def in_process(artifacts: Any) -> dict[str, Callable[[Uint8Array], Rows]]:
    """Logits by the runtimes themselves."""
    session = onnxruntime.InferenceSession(
        str(artifacts.folder / "fp32.onnx"), providers=["CPUExecutionProvider"]
    )
    int8 = openvino.Core().compile_model(
        str(artifacts.folder / "int8.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return {
        "alexnet_fp32": lambda images: np.asarray(session.run(["logits"], {"image": images})[0]),
        "alexnet_int8": lambda images: np.array(int8({"image": images})["logits"]),
    }


def infer(client: Any, model: str, images: npt.NDArray[Any], *outputs: Any, datatype: str = "UINT8") -> Any:
    image = InferInput("image", list(images.shape), datatype)
    image.set_data_from_numpy(images)
    requested = [
        InferRequestedOutput(output) if isinstance(output, str) else output for output in outputs
    ] or None
    return client.infer(model, [image], outputs=requested, client_timeout=60)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize("model", MODELS)
def test_values_are_those_of_the_runtime(
    model: str, batch: int, client: Any, in_process: Any, images: Uint8Array
) -> None:
    answer = infer(client, model, images[:batch])
    logits, probabilities = answer.as_numpy("logits"), answer.as_numpy("probabilities")
    np.testing.assert_allclose(logits, in_process[model](images[:batch]), rtol=1e-4, atol=1e-4)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        probabilities, exponentials / exponentials.sum(axis=1, keepdims=True), atol=1e-5
    )


@pytest.mark.parametrize("model", MODELS)
def test_many_requests_at_once_each_get_their_own_rows(
    model: str, client: Any, in_process: Any, images: Uint8Array
) -> None:
    """Requests of different sizes are executed in shared batches, with any other requests."""
    expected = np.concatenate([in_process[model](images[i : i + 1]) for i in range(len(images))])
    starts = np.random.default_rng(1).integers(0, len(images) - 3, 150)

    def ask(number: int) -> float:
        part = slice(starts[number], starts[number] + 1 + number % 3)
        logits = infer(client, model, images[part], "logits").as_numpy("logits")
        return float(np.abs(logits - expected[part]).max())

    before = executed_batches(client, model)
    with ThreadPoolExecutor(16) as pool:
        differences = list(pool.map(ask, range(len(starts))))
    assert np.abs(np.diff(expected, axis=0)).max() > 0.1, "the images must differ for this to say anything"
    assert max(differences) < 1e-3
    shared = executed_batches(client, model) - before
    assert shared < len(starts), "no two requests were executed together"


def executed_batches(client: Any, model: str) -> int:
    return int(client.get_inference_statistics(model).model_stats[0].execution_count)


@pytest.mark.parametrize("model", MODELS)
def test_only_requested_outputs_are_returned(model: str, client: Any, images: Uint8Array) -> None:
    answer = infer(client, model, images[:2], "logits")
    assert [output.name for output in answer.get_response().outputs] == ["logits"]


@pytest.mark.parametrize("model", MODELS)
def test_classification_extension_names_classes(model: str, client: Any, images: Uint8Array) -> None:
    top = InferRequestedOutput("probabilities", class_count=3)
    labelled = infer(client, model, images[:2], top).as_numpy("probabilities")
    probabilities = infer(client, model, images[:2], "probabilities").as_numpy("probabilities")
    assert labelled.shape == (2, 3)
    for row, values in zip(labelled, probabilities, strict=True):
        classes = [int(entry.decode().split(":")[1]) for entry in row]
        assert classes == np.argsort(-values)[:3].tolist()
        assert [entry.decode().split(":")[2] for entry in row] == [str(number) for number in classes]


@pytest.mark.parametrize("model", MODELS)
def test_bad_requests_are_refused_and_cost_nothing(model: str, client: Any, images: Uint8Array) -> None:
    wrong: list[tuple[npt.NDArray[Any], str]] = [
        (images[:9], "UINT8"),  # more than the maximum
        (images[:1, :100], "UINT8"),  # too small
        (images[0], "UINT8"),  # no batch axis
        (images[:0], "UINT8"),  # no image
        (images[:1].astype(np.float32), "FP32"),
    ]
    for rows, datatype in wrong:
        with pytest.raises(InferenceServerException) as caught:
            infer(client, model, rows, datatype=datatype)
        assert "INVALID_ARGUMENT" in str(caught.value.status())
    assert infer(client, model, images[:1], "logits").as_numpy("logits").shape == (1, 10)


@pytest.mark.parametrize(
    "forbidden", ["get_log_settings", "get_trace_settings", "get_model_repository_index"]
)
def test_what_no_client_needs_is_locked(forbidden: str, client: Any) -> None:
    with pytest.raises(InferenceServerException, match="restricted"):
        getattr(client, forbidden)()
    with pytest.raises(InferenceServerException):
        client.unload_model("alexnet_int8")
    with pytest.raises(InferenceServerException, match="restricted"):
        client.register_system_shared_memory("region", "/region", 1)
    assert client.is_model_ready("alexnet_int8")
