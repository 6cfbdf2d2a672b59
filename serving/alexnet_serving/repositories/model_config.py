"""Make a model's `config.pbtxt`: how Triton runs, batches, queues, warms up and names it.

There are three kinds of models: networks, the decoder of encoded images, and the ensemble of decoder and
network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import TypeAlias

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import (
    TYPE_FP32,
    TYPE_STRING,
    TYPE_UINT8,
    ModelConfig,
    ModelDynamicBatching,
    ModelEnsembling,
    ModelInput,
    ModelInstanceGroup,
    ModelOptimizationPolicy,
    ModelOutput,
    ModelQueuePolicy,
    ModelVersionPolicy,
    ModelWarmup,
)

from alexnet_model.contract import ENCODED_INPUT_NAME, Contract, canonical_json
from alexnet_model.manifest import Manifest
from alexnet_model.model_names import decoder_name
from alexnet_model.records import PRECISIONS

from .layout import (
    DECODER,
    LABELS_FILE,
    ModelEntry,
    RepositoryOptions,
    ensemble_network,
    takes_encoded,
)

# Parameters of the decoder, and those that the ensemble repeats from its network.
PARAMETERS_OF_DECODER = ("contract", "contract_digest", "export_sha256")
PARAMETERS_OF_ENSEMBLE = (*PARAMETERS_OF_DECODER, "precision", "computes_in", "weights_sha256", "labels")
NEWEST = -1  # Triton's number of the newest version
QUEUE_BATCHES = 4  # full batches of single images that may wait for an engine
QUEUE_TIMEOUT_S = 1.0


ConfigMaker: TypeAlias = Callable[[RepositoryOptions], ModelConfig]


def config_makers(
    entries: Collection[ModelEntry], manifest: Manifest, *, encoded: bool | None
) -> dict[str, ConfigMaker]:
    """Return, for the name of each model of a repository, the function that makes its configuration.

    Args:
        entries: The repository's networks.
        manifest: The record of the export.
        encoded: The option of that name.
    """
    default = min(entries, key=lambda entry: PRECISIONS.index(entry.artifact.precision), default=None)
    makers: dict[str, ConfigMaker] = {
        entry.name: partial(config_from_entry, entry, manifest, is_default=entry is default)
        for entry in entries
    }
    if takes_encoded(entries, encoded):
        network = ensemble_network(entries)
        makers[decoder_name(manifest.model.name)] = partial(_config_of_decoder, network, manifest)
        makers[manifest.model.name] = partial(_config_of_ensemble, network, manifest)
    return makers


def config_from_entry(
    entry: ModelEntry, manifest: Manifest, options: RepositoryOptions, *, is_default: bool = False
) -> ModelConfig:
    """Return a network's configuration as Triton's protobuf message.

    Args:
        entry: The network.
        manifest: The record of the export.
        options: How it is served.
        is_default: Whether clients use it if they request no precision of this export.
    """
    entry = _with_largest_batch(entry, options)
    contract = manifest.contract
    config = ModelConfig(
        name=entry.name,
        version_policy=_only_version(manifest),
        backend=entry.runtime.backend,
        max_batch_size=entry.max_batch,
        input=[ModelInput(name=contract.input_name, data_type=TYPE_UINT8, dims=contract.image_shape)],
        output=_classes(manifest),
        instance_group=[_instances(entry, options)],
        # No preferred batch size: all requests that arrived during the last batch form the next one.
        dynamic_batching=_batching(entry, options),
        model_warmup=[_warmup(contract, batch) for batch in warm_batches(entry)],
    )
    if entry.engines and not entry.runtime.loads_in_python:
        config.optimization.cuda.CopyFrom(_cuda_graphs(contract, entry))
    if len(entry.engines) > 1:
        for name, engine in entry.engines.items():
            config.cc_model_filenames[str(engine.passport.compute_capability)] = name
    for name, value in _parameters(entry, manifest).items():
        config.parameters[name].string_value = value
    if is_default:
        config.parameters["default"].string_value = "true"
    return config


def _config_of_decoder(network: ModelEntry, manifest: Manifest, options: RepositoryOptions) -> ModelConfig:
    """Return the decoder's configuration: no delay for larger batches, and its network's queue limits."""
    network = _with_largest_batch(network, options)
    contract = manifest.contract
    config = ModelConfig(
        name=decoder_name(manifest.model.name),
        version_policy=_only_version(manifest),
        backend=DECODER,
        max_batch_size=network.max_batch,
        input=[_encoded_input()],
        output=[ModelOutput(name=contract.input_name, data_type=TYPE_UINT8, dims=contract.image_shape)],
        # One instance, which decodes in several threads.
        instance_group=[ModelInstanceGroup(kind=ModelInstanceGroup.KIND_CPU, count=1)],
        dynamic_batching=_batching(network, replace(options, queue_delay_us=0)),
    )
    parameters = _parameters(network, manifest)
    for name in PARAMETERS_OF_DECODER:
        config.parameters[name].string_value = parameters[name]
    return config


def _config_of_ensemble(network: ModelEntry, manifest: Manifest, options: RepositoryOptions) -> ModelConfig:
    """Return the ensemble's configuration; instances, batching, queue and warm-up are those of its models."""
    network = _with_largest_batch(network, options)
    contract = manifest.contract
    classes = _classes(manifest)
    decoding = ModelEnsembling.Step(
        model_name=decoder_name(manifest.model.name),
        model_version=NEWEST,
        input_map={ENCODED_INPUT_NAME: ENCODED_INPUT_NAME},
        output_map={contract.input_name: contract.input_name},
    )
    classification = ModelEnsembling.Step(
        model_name=network.name,
        model_version=NEWEST,
        input_map={contract.input_name: contract.input_name},
        output_map={output.name: output.name for output in classes},
    )
    config = ModelConfig(
        name=manifest.model.name,
        version_policy=_only_version(manifest),
        platform="ensemble",
        max_batch_size=network.max_batch,
        input=[_encoded_input()],
        output=classes,
        ensemble_scheduling=ModelEnsembling(step=[decoding, classification]),
    )
    parameters = _parameters(network, manifest)
    for name in PARAMETERS_OF_ENSEMBLE:
        config.parameters[name].string_value = parameters[name]
    return config


def text_from_config(config: ModelConfig) -> str:
    """Return a configuration as the text of a `config.pbtxt`."""
    return str(text_format.MessageToString(config))


def config_from_text(text: str) -> ModelConfig:
    """Read a `config.pbtxt`.

    Raises:
        google.protobuf.text_format.ParseError: the text is no configuration; the error has the line.
    """
    return text_format.Parse(text, ModelConfig())


def warm_batches(entry: ModelEntry) -> tuple[int, ...]:
    """Return the batch sizes that Triton runs before the first request, and captures as CUDA graphs for
    engines.

    For an ONNX file, and for an engine on a CPU: 1 and the largest. For an engine on a GPU: every size up to
    8, where a graph saves most, then the powers of two and the largest; other sizes run without a graph.
    """
    if not entry.on_gpu:
        return tuple(sorted({1, entry.max_batch}))
    small = [batch for batch in range(1, 9) if batch < entry.max_batch]
    powers = [2**n for n in range(4, 31) if 2**n < entry.max_batch]
    return (*small, *powers, entry.max_batch)


def _only_version(manifest: Manifest) -> ModelVersionPolicy:
    return ModelVersionPolicy(specific=ModelVersionPolicy.Specific(versions=[manifest.model_version]))


def _encoded_input() -> ModelInput:
    return ModelInput(name=ENCODED_INPUT_NAME, data_type=TYPE_STRING, dims=[1])


def _classes(manifest: Manifest) -> list[ModelOutput]:
    contract = manifest.contract
    dims = [len(manifest.model.class_names)]
    return [
        ModelOutput(
            name=contract.probabilities_name, data_type=TYPE_FP32, dims=dims, label_filename=LABELS_FILE
        ),
        ModelOutput(name=contract.logits_name, data_type=TYPE_FP32, dims=dims),
    ]


def _with_largest_batch(entry: ModelEntry, options: RepositoryOptions) -> ModelEntry:
    """Return the entry with the largest batch that the options allow, never larger than the checked one."""
    return replace(entry, max_batch=min(entry.max_batch, options.max_batch or entry.max_batch))


def _instances(entry: ModelEntry, options: RepositoryOptions) -> ModelInstanceGroup:
    """Return the instances by the devices of the runtime: every GPU, the CPU, or a GPU if Triton sees one.

    Always explicit: Triton's default for a backend named onnxruntime is two instances on a CPU.
    """
    kinds: dict[tuple[str, ...], int] = {
        ("gpu",): ModelInstanceGroup.KIND_GPU,
        ("cpu",): ModelInstanceGroup.KIND_CPU,
    }
    devices = entry.runtime.devices
    if entry.engines:  # which were compiled for one kind of device
        devices = ("gpu",) if entry.on_gpu else ("cpu",)
    kind = kinds.get(devices, ModelInstanceGroup.KIND_AUTO)
    return ModelInstanceGroup(kind=kind, count=options.instances)


def _batching(entry: ModelEntry, options: RepositoryOptions) -> ModelDynamicBatching:
    size, timeout_s = options.queue_size, options.queue_timeout_s
    if size is None:
        size = QUEUE_BATCHES * entry.max_batch if entry.on_gpu else 0
    if timeout_s is None:
        timeout_s = QUEUE_TIMEOUT_S if entry.on_gpu else 0.0
    if options.queue_timeout_decays:
        timeout_s = 0.0
    batching = ModelDynamicBatching(max_queue_delay_microseconds=options.queue_delay_us)
    if size or timeout_s:
        batching.default_queue_policy.CopyFrom(
            ModelQueuePolicy(
                timeout_action=ModelQueuePolicy.REJECT,
                default_timeout_microseconds=round(timeout_s * 1_000_000),
                allow_timeout_override=timeout_s > 0,  # Triton uses a request's own only if it is shorter
                max_queue_size=size,
            )
        )
    return batching


def _warmup(contract: Contract, batch: int) -> ModelWarmup:
    """Return a warm-up request: the server is ready when memory is allocated and kernels are chosen."""
    pixels = ModelWarmup.Input(data_type=TYPE_UINT8, dims=contract.image_shape, zero_data=True)
    return ModelWarmup(name=f"batch {batch}", batch_size=batch, inputs={contract.input_name: pixels})


def _cuda_graphs(contract: Contract, entry: ModelEntry) -> ModelOptimizationPolicy.Cuda:
    """Return the batch sizes to capture; with dynamic batching Triton's default is 1 and the largest."""
    spec = ModelOptimizationPolicy.Cuda.GraphSpec
    shape = spec.Shape(dim=contract.image_shape)
    return ModelOptimizationPolicy.Cuda(
        graphs=True,
        graph_spec=[
            spec(batch_size=batch, input={contract.input_name: shape}) for batch in warm_batches(entry)
        ],
    )


def _parameters(entry: ModelEntry, manifest: Manifest) -> dict[str, str]:
    """Return the parameters that clients and operators read from a running server."""
    contract = manifest.contract
    parameters = {
        "contract": contract.to_json(),
        "contract_digest": contract.digest,
        "labels": canonical_json(manifest.model.class_names),
        "precision": entry.artifact.precision,
        "computes_in": ", ".join(sorted({runtime.computes_in for runtime in entry.measured_on})),
        "weights_sha256": entry.artifact.weights_sha256,
        "runtime_options": canonical_json(entry.measured_on[0].options),
        "export_sha256": manifest.digest,
    }
    for name, engine in entry.engines.items():
        target = PurePosixPath(name).stem.removeprefix("model")  # empty, or _sm90
        parameters[f"engine_sha256{target}"] = engine.passport.engine_sha256
    if entry.engines:
        versions = {engine.passport.runtime_version for engine in entry.engines.values()}
        library = "torch" if entry.runtime.loads_in_python else "tensorrt"
        parameters[f"{library}_version"] = ", ".join(sorted(versions))
    if entry.on_gpu and entry.runtime.loads_in_python:
        parameters["cuda_graph_batches"] = canonical_json(list(warm_batches(entry)))
    return parameters
