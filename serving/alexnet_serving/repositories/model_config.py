"""A model's `config.pbtxt`: how Triton runs, batches, queues, warms up and names it."""

from __future__ import annotations

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import (
    TYPE_FP32,
    TYPE_UINT8,
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelInstanceGroup,
    ModelOptimizationPolicy,
    ModelOutput,
    ModelQueuePolicy,
    ModelWarmup,
)

from alexnet_model.contract import Contract, canonical_json
from alexnet_model.manifest import Manifest
from alexnet_model.passport import ENGINE_SUFFIX

from .layout import LABELS_FILE, RepositoryOptions
from .packages import TENSORRT, Package

OPTIONS_PARAMETER = "repository_options"
QUEUE_BATCHES = 4  # as many requests may wait for an engine as make so many full batches of one picture each
QUEUE_TIMEOUT_S = 1.0


def config_from_package(package: Package, manifest: Manifest, options: RepositoryOptions) -> ModelConfig:
    """The model's configuration as Triton's own protobuf message."""
    contract = manifest.the_contract()
    classes = len(manifest.model.class_names)
    config = ModelConfig(
        name=package.name,
        backend=package.backend,
        max_batch_size=package.max_batch,
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
        instance_group=[_instances(package)],
        # No preferred batch size: whatever has queued while the last batch was computed is the next one.
        dynamic_batching=_batching(package, options),
        model_warmup=[_warmup(contract, batch) for batch in warm_batches(package)],
    )
    if package.engines:
        config.optimization.cuda.CopyFrom(_cuda_graphs(contract, package))
        if len(package.engines) > 1:
            for name, engine in package.engines.items():
                config.cc_model_filenames[str(engine.passport.compute_capability)] = name
    for name, value in _parameters(package, manifest, options).items():
        config.parameters[name].string_value = value
    return config


def text_from_config(config: ModelConfig) -> str:
    """The text of a `config.pbtxt`."""
    return str(text_format.MessageToString(config))


def config_from_text(text: str) -> ModelConfig:
    """Read a `config.pbtxt`.

    Raises:
        google.protobuf.text_format.ParseError: it is none; the error knows the line.
    """
    return text_format.Parse(text, ModelConfig())


def warm_batches(package: Package) -> tuple[int, ...]:
    """The batch sizes that are run before the first request comes, and for engines captured as CUDA graphs.

    For engines every size to 8, where a graph saves most, then the powers of two and the largest: a size
    without a graph of its own is still answered, kernel by kernel.
    """
    if not package.engines:
        return tuple(sorted({1, package.max_batch}))
    small = [batch for batch in range(1, 9) if batch < package.max_batch]
    powers = [2**n for n in range(4, 31) if 2**n < package.max_batch]
    return (*small, *powers, package.max_batch)


def _instances(package: Package) -> ModelInstanceGroup:
    """Explicit, because for a backend named onnxruntime Triton's default would be two instances on a CPU."""
    kind = {
        # One on every GPU. Two would share its multiprocessors: only if measured to be better.
        TENSORRT: ModelInstanceGroup.KIND_GPU,
        # A GPU where Triton sees one, else the CPU.
        "onnxruntime": ModelInstanceGroup.KIND_AUTO,
    }.get(package.backend, ModelInstanceGroup.KIND_CPU)
    return ModelInstanceGroup(kind=kind, count=1)


def _batching(package: Package, options: RepositoryOptions) -> ModelDynamicBatching:
    size, timeout_s = options.queue_size, options.queue_timeout_s
    if size is None:
        size = QUEUE_BATCHES * package.max_batch if package.engines else 0
    if timeout_s is None:
        timeout_s = QUEUE_TIMEOUT_S if package.engines else 0.0
    batching = ModelDynamicBatching(max_queue_delay_microseconds=options.queue_delay_us)
    if size or timeout_s:
        batching.default_queue_policy.CopyFrom(
            ModelQueuePolicy(
                timeout_action=ModelQueuePolicy.REJECT,
                default_timeout_microseconds=round(timeout_s * 1_000_000),
                allow_timeout_override=timeout_s > 0,  # Triton takes one only if shorter than the default
                max_queue_size=size,
            )
        )
    return batching


def _warmup(contract: Contract, batch: int) -> ModelWarmup:
    """Readiness waits for it, so the first real request finds memory allocated and kernels chosen."""
    pixels = ModelWarmup.Input(data_type=TYPE_UINT8, dims=contract.picture_shape, zero_data=True)
    return ModelWarmup(name=f"batch {batch}", batch_size=batch, inputs={contract.input_name: pixels})


def _cuda_graphs(contract: Contract, package: Package) -> ModelOptimizationPolicy.Cuda:
    """With dynamic batching Triton captures 1 and the largest batch alone, unless every size is listed."""
    spec = ModelOptimizationPolicy.Cuda.GraphSpec
    shape = spec.Shape(dim=contract.picture_shape)
    return ModelOptimizationPolicy.Cuda(
        graphs=True,
        graph_spec=[
            spec(batch_size=batch, input={contract.input_name: shape}) for batch in warm_batches(package)
        ],
    )


def _parameters(package: Package, manifest: Manifest, options: RepositoryOptions) -> dict[str, str]:
    """What a client or an operator may ask a running server for."""
    contract = manifest.the_contract()
    parameters = {
        "contract": contract.to_json(),
        "contract_digest": contract.digest,
        "precision": package.artifact.precision,
        "computes_in": ", ".join(sorted({runtime.computes_in for runtime in package.runtimes})),
        "weights_sha256": package.artifact.weights_sha256,
        "runtime_options": canonical_json(package.runtimes[0].options),
        OPTIONS_PARAMETER: options.to_json(),
        "export_sha256": manifest.digest,
    }
    for name, engine in package.engines.items():
        target = name.removeprefix("model").removesuffix(ENGINE_SUFFIX)  # nothing, or _sm90
        parameters[f"engine_sha256{target}"] = engine.passport.engine_sha256
    if package.engines:
        versions = {engine.passport.tensorrt_version for engine in package.engines.values()}
        parameters["tensorrt_version"] = ", ".join(sorted(versions))
    return parameters
