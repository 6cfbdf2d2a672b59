"""What a client knows about a model: its configuration, checked against the client's contract."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from alexnet_model.contract import ENCODED_INPUT_NAME, Contract
from alexnet_model.errors import ContractMismatch

from .transports.transport import ModelConfig, TensorSpec


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model that has the client's contract.

    Attributes:
        name: its name on the server.
        precision: fp32, fp16 or int8.
        backend: Triton's name of the backend.
        computes_in: the data type that its Conv and Gemm layers really compute in.
        max_batch: how many images a request may hold.
        labels: the classes, in the order of the outputs.
        decodes: it takes encoded images; otherwise it takes prepared pixels.
    """

    name: str
    precision: str
    backend: str
    computes_in: str
    max_batch: int
    labels: tuple[str, ...]
    decodes: bool

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.labels)


def served_model_from_config(config: ModelConfig, contract: Contract, *, subject: str) -> ServedModel:
    """Check that a model expects what a contract prepares.

    Args:
        config: the model's configuration, from the server.
        contract: the client's contract.
        subject: the server and model that an error names.

    Raises:
        ContractMismatch: the model expects other images, or is not one of this project's.
    """
    digest = config.parameters.get("contract_digest")
    if digest is None:
        raise ContractMismatch(
            subject,
            got="a model without a contract",
            expected="one that alexnet export wrote",
            next_step="Use another model.",
        )
    if digest != contract.digest:
        raise ContractMismatch(
            subject,
            got=_difference(contract, digest, config.parameters.get("contract", "")),
            expected=f"the client's contract {contract.digest[:12]}",
            next_step="Give the client the contract that the model was exported with, or export again.",
        )
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
        precision=config.parameters.get("precision", "unknown"),
        backend=config.backend,
        computes_in=config.parameters.get("computes_in", "unknown"),
        max_batch=config.max_batch,
        labels=labels,
        decodes=decodes,
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


def _difference(contract: Contract, digest: str, text: str) -> str:
    try:
        differences = contract.differences(Contract.from_json(text))
    except ValueError:  # another version's contract, or none
        differences = []
    return "; ".join(differences) or f"a contract that this version cannot read ({digest[:12]})"
