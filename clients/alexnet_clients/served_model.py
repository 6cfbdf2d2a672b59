"""What a client knows about a model: its configuration, and the input contract that it declares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from alexnet_model.contract import ENCODED_INPUT_NAME, Contract, contract_from_parameters
from alexnet_model.errors import ContractError, ContractMismatch

from .transports.transport import ModelConfig, TensorSpec


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model of this project.

    Attributes:
        name: its name on the server.
        contract: how its images are prepared, and the names of its tensors.
        precision: fp32, fp16 or int8.
        backend: Triton's name of the backend.
        computes_in: the data type that its Conv and Gemm layers really compute in.
        max_batch: how many images a request may hold.
        labels: the classes, in the order of the outputs.
        decodes: it takes encoded images; otherwise it takes prepared pixels.
        is_default: the server declares it as the model to use of its export if no precision is requested.
    """

    name: str
    contract: Contract
    precision: str
    backend: str
    computes_in: str
    max_batch: int
    labels: tuple[str, ...]
    decodes: bool
    is_default: bool = False

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.labels)


def served_model_from_config(config: ModelConfig, *, subject: str) -> ServedModel:
    """Check that a model is one of this project's, with a contract that this version implements.

    Args:
        config: the model's configuration, from the server.
        subject: the server and model that an error names.

    Raises:
        ContractMismatch: it has no contract, one of another version, or other tensors than its contract's.
    """
    try:
        contract = contract_from_parameters(config.parameters)
    except ContractError as error:
        raise ContractMismatch(
            f"{subject}: {error.subject}",
            got=error.got,
            expected=error.expected,
            next_step=error.next_step,
        ) from error
    labels = _labels(config.parameters.get("labels", ""))
    pixels = TensorSpec(datatype="UINT8", shape=contract.image_shape)
    encoded = TensorSpec(datatype="BYTES", shape=(1,))
    probabilities = TensorSpec(datatype="FP32", shape=(len(labels),))
    decodes = config.inputs == {ENCODED_INPUT_NAME: encoded}
    takes = decodes or config.inputs == {contract.input_name: pixels}
    if config.max_batch < 1 or not labels or not takes:
        raise _not_ours(config, subject, "batches of images in, and labels")
    if config.outputs.get(contract.probabilities_name) != probabilities:
        raise _not_ours(config, subject, f"{contract.probabilities_name} of {len(labels)} labelled classes")
    return ServedModel(
        name=config.name,
        contract=contract,
        precision=config.parameters.get("precision", "unknown"),
        backend=config.backend,
        computes_in=config.parameters.get("computes_in", "unknown"),
        max_batch=config.max_batch,
        labels=labels,
        decodes=decodes,
        is_default=config.parameters.get("default") == "true",
    )


def _not_ours(config: ModelConfig, subject: str, expected: str) -> ContractMismatch:
    def words(tensors: Mapping[str, TensorSpec]) -> str:
        return ", ".join(f"{name} {spec.datatype} {spec.shape}" for name, spec in tensors.items())

    return ContractMismatch(
        subject,
        got=f"max_batch_size {config.max_batch}, {words(config.inputs)} in, {words(config.outputs)} out",
        expected=expected,
        next_step="Write the model repository again.",
    )


def _labels(text: str) -> tuple[str, ...]:
    """The labels; empty if they are not a list of words, so that the model is refused."""
    try:
        labels = json.loads(text)
    except ValueError:
        return ()
    are_words = isinstance(labels, list) and all(isinstance(label, str) and label for label in labels)
    return tuple(labels) if are_words else ()
