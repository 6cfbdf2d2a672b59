"""What a client knows of a model that it may ask: one whose contract is its own."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_model.contract import Contract
from alexnet_model.errors import ContractMismatch

from .transport import ModelConfig


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    name: str
    precision: str
    backend: str
    computes_in: str  # what its Conv and Gemm layers really run in
    max_batch: int
    classes: int


def served_model_from_config(config: ModelConfig, contract: Contract, *, subject: str) -> ServedModel:
    """Accept a model that expects what this contract prepares.

    Raises:
        ContractMismatch: it expects other pictures, or is not one of this project's models.
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
    shape = config.output_shapes.get(contract.probabilities_name, ())
    if config.max_batch < 1 or len(shape) != 1 or shape[0] < 1:
        raise ContractMismatch(
            subject,
            got=f"max_batch_size {config.max_batch} and outputs {dict(config.output_shapes)}",
            expected=f"batches, and {contract.probabilities_name} of a fixed size",
            next_step="Write the model repository again.",
        )
    return ServedModel(
        name=config.name,
        precision=config.parameters.get("precision", "unknown"),
        backend=config.backend,
        computes_in=config.parameters.get("computes_in", "unknown"),
        max_batch=config.max_batch,
        classes=shape[0],
    )


def _difference(contract: Contract, digest: str, text: str) -> str:
    try:
        differences = contract.differences(Contract.from_json(text))
    except ValueError:  # another version's contract, or none
        differences = []
    return "; ".join(differences) or f"a contract that this version cannot read ({digest[:12]})"
