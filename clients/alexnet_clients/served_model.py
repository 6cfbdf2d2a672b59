"""What a client knows of a model that it may ask: one whose contract is its own."""

from __future__ import annotations

import json
from dataclasses import dataclass

from alexnet_model.contract import ENCODED_INPUT_NAME, Contract
from alexnet_model.errors import ContractMismatch

from .transports.transport import ModelConfig, TensorSpec


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    name: str
    precision: str
    backend: str
    computes_in: str  # what its Conv and Gemm layers really run in
    max_batch: int
    labels: tuple[str, ...]  # of the classes, in the order of the outputs
    decodes: bool  # takes encoded images; the others take prepared pixels

    @property
    def classes(self) -> int:
        return len(self.labels)


def served_model_from_config(config: ModelConfig, contract: Contract, *, subject: str) -> ServedModel:
    """Accept a model that expects what this contract prepares.

    Raises:
        ContractMismatch: it expects other images, or is not one of this project's models.
    """
    digest = config.parameters.get("contract_digest")
    if digest is None:
        raise ContractMismatch(
            subject,
            got="a model without a contract",
            expected="one that alexnet export wrote",
            next_step="Ask for another model.",
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
    answers = TensorSpec(datatype="FP32", shape=(len(labels),))
    decodes = config.inputs == {ENCODED_INPUT_NAME: encoded}
    takes = decodes or config.inputs == {contract.input_name: pixels}
    if config.max_batch < 1 or not labels or not takes:
        raise _not_ours(config, subject, "batches of images in, and labels")
    if config.outputs.get(contract.probabilities_name) != answers:
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
    def words(tensors: object) -> str:
        assert isinstance(tensors, dict)
        return ", ".join(f"{name} {spec.datatype} {spec.shape}" for name, spec in tensors.items())

    return ContractMismatch(
        subject,
        got=f"max_batch_size {config.max_batch}, {words(config.inputs)} in, {words(config.outputs)} out",
        expected=expected,
        next_step="Write the model repository again.",
    )


def _labels(text: str) -> tuple[str, ...]:
    """None where a model says none, or no list of words: that is no model of this project."""
    try:
        labels = json.loads(text)
    except ValueError:
        return ()
    wanted = isinstance(labels, list) and all(isinstance(label, str) and label for label in labels)
    return tuple(labels) if wanted else ()


def _difference(contract: Contract, digest: str, text: str) -> str:
    try:
        differences = contract.differences(Contract.from_json(text))
    except ValueError:  # another version's contract, or none
        differences = []
    return "; ".join(differences) or f"a contract that this version cannot read ({digest[:12]})"
