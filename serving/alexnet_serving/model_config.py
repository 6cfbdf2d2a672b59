"""An artifact's `config.pbtxt`: how Triton batches, queues, warms up and names one model."""

from __future__ import annotations

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import (
    TYPE_FP32,
    TYPE_UINT8,
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelInstanceGroup,
    ModelOutput,
    ModelQueuePolicy,
    ModelWarmup,
)

from alexnet_model.contract import canonical_json
from alexnet_model.errors import RepositoryError
from alexnet_model.manifest import Artifact, Manifest

from .layout import LABELS_FILE, RepositoryOptions, model_name

# Which of Triton's backends runs what the manifest calls a runtime.
BACKENDS = {"openvino": "openvino_dynamic", "onnxruntime": "onnxruntime"}


def config_from_artifact(artifact: Artifact, manifest: Manifest, options: RepositoryOptions) -> ModelConfig:
    """The model's configuration as Triton's own protobuf message.

    Raises:
        RepositoryError: no backend serves the artifact's runtime.
    """
    runtime = artifact.served_by
    if runtime.name not in BACKENDS:
        raise RepositoryError(
            f"runtime of {artifact.file}", got=runtime.name, expected=f"one of {', '.join(BACKENDS)}"
        )
    contract = manifest.the_contract()
    classes = len(manifest.model.class_names)
    config = ModelConfig(
        name=model_name(artifact.precision),
        backend=BACKENDS[runtime.name],
        max_batch_size=manifest.max_batch,
        input=[ModelInput(name=contract.input_name, data_type=TYPE_UINT8, dims=contract.picture_shape)],
        output=[
            ModelOutput(
                name=contract.probabilities_name,
                data_type=TYPE_FP32,
                dims=[classes],
                label_filename=LABELS_FILE,
            ),
            ModelOutput(name=contract.logits_name, data_type=TYPE_FP32, dims=[classes]),
        ],
        # Explicit: for a backend named onnxruntime Triton's default would be two instances.
        instance_group=[ModelInstanceGroup(kind=ModelInstanceGroup.KIND_CPU, count=1)],
        # No preferred batch size: whatever has queued while the last batch was computed is the next one.
        dynamic_batching=_batching(options),
        model_warmup=[
            _warmup(contract.input_name, contract.picture_shape, batch)
            for batch in sorted({1, manifest.max_batch})
        ],
    )
    parameters = {
        "contract": contract.to_json(),
        "contract_digest": contract.digest,
        "precision": artifact.precision,
        "computes_in": runtime.computes_in,
        "weights_sha256": artifact.weights_sha256,
        "runtime_options": canonical_json(runtime.options),
    }
    for name, value in parameters.items():
        config.parameters[name].string_value = value
    return config


def text_from_config(config: ModelConfig) -> str:
    """The text of a `config.pbtxt`."""
    return str(text_format.MessageToString(config))


def _batching(options: RepositoryOptions) -> ModelDynamicBatching:
    batching = ModelDynamicBatching(max_queue_delay_microseconds=options.queue_delay_us)
    if options.queue_size or options.queue_timeout_s:
        batching.default_queue_policy.CopyFrom(
            ModelQueuePolicy(
                timeout_action=ModelQueuePolicy.REJECT,
                default_timeout_microseconds=round(options.queue_timeout_s * 1_000_000),
                allow_timeout_override=True,
                max_queue_size=options.queue_size,
            )
        )
    return batching


def _warmup(input_name: str, shape: tuple[int, ...], batch: int) -> ModelWarmup:
    """Readiness waits for it, so the first real request finds memory allocated and kernels chosen."""
    pixels = ModelWarmup.Input(data_type=TYPE_UINT8, dims=shape, zero_data=True)
    return ModelWarmup(name=f"batch {batch}", batch_size=batch, inputs={input_name: pixels})
