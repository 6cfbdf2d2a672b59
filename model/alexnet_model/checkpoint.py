"""A trained classifier in one `.safetensors` file: weights, architecture, contract, classes, training record.

Everything but the tensors is one JSON record in the file's metadata, with a SHA-256 of itself and of the
weights. Loading checks record, names, shapes, dtypes and hashes before any tensor is used, and unpickles
nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .architectures import build
from .contract import Contract, canonical_json
from .errors import CheckpointError, UsageError
from .extras import needs
from .files import atomic_file

with needs("export"):
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file
    from torch import Tensor, nn

FORMAT = "alexnet-checkpoint-1"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """`training` is free-form JSON: where the weights come from and how they were made."""

    architecture: str
    width: float
    class_names: tuple[str, ...]
    contract: Contract
    training: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    def network(self) -> nn.Module:
        """The network with these weights, in evaluation mode.

        Raises:
            CheckpointError: the weights do not fit the architecture.
        """
        self.check_fit()
        # Without PyTorch's initialisation, which would draw from the caller's generator.
        with torch.device("meta"):
            network = build(self.architecture, len(self.class_names), self.width)
        network.to_empty(device="cpu").load_state_dict(dict(self.weights))
        return network.eval()

    def check_fit(self) -> None:
        """Compare the weights' names, shapes and dtypes with the architecture's.

        Raises:
            CheckpointError: they differ.
        """
        _check_fit(self, {name: (tuple(t.shape), t.dtype) for name, t in self.weights.items()}, "weights")

    @property
    def weights_sha256(self) -> str:
        return sha256_of_weights(self.weights)


def sha256_of_weights(weights: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names, dtypes, shapes and little-endian bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name].detach().cpu().contiguous().numpy()
        digest.update(canonical_json([name, str(array.dtype), array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write the checkpoint, whole or not at all.

    Raises:
        CheckpointError: the weights do not fit the architecture.
        OSError: the file cannot be written.
    """
    checkpoint.check_fit()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
    record = {
        "architecture": checkpoint.architecture,
        "width": checkpoint.width,
        "class_names": checkpoint.class_names,
        "contract": json.loads(checkpoint.contract.to_json()),
        "training": dict(checkpoint.training),
        "weights_sha256": sha256_of_weights(weights),
    }
    text = canonical_json(record)
    write_tensors(path, weights, {"format": FORMAT, "record": text, "record_sha256": _sha256(text)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_file(path) as part:
        try:
            save_file(dict(tensors), part, metadata=dict(metadata))
        except SafetensorError as error:  # how it tells of a full disk, too
            number = re.search(r"os error (\d+)", str(error))
            if not number:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify what `save_checkpoint` wrote.

    Raises:
        CheckpointError: the file is missing, empty, truncated, not a checkpoint of this project, does not fit
            its architecture, or was altered.
    """
    if not path.is_file():
        raise CheckpointError(
            str(path),
            got="no such file",
            expected="a checkpoint (.safetensors)",
            next_step="Make one: alexnet train --data digits --out checkpoint.safetensors",
        )
    try:
        with safe_open(path, framework="pt") as file:
            weights_sha256, checkpoint = _verified_record(path, file.metadata() or {})
            found = {
                name: (tuple(part.get_shape()), _DTYPES.get(part.get_dtype()))
                for name in file.keys()  # noqa: SIM118 (safe_open is no mapping)
                for part in [file.get_slice(name)]
            }
            _check_fit(checkpoint, found, str(path))
            weights = {name: file.get_tensor(name) for name in found}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            str(path),
            got=f"{path.stat().st_size:,} bytes that are no whole safetensors file ({error})",
            expected="a checkpoint (.safetensors)",
            next_step="Copy or train it again.",
        ) from error
    if sha256_of_weights(weights) != weights_sha256:
        raise _altered(path, "weights")
    return replace(checkpoint, weights=weights)


_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def _verified_record(path: Path, metadata: Mapping[str, str]) -> tuple[str, Checkpoint]:
    """The weights' SHA-256, and the checkpoint without its weights."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            str(path),
            got=f"a safetensors file of format {metadata.get('format')!r}",
            expected=repr(FORMAT),
            next_step="Make one: alexnet train, or export a torchvision .pth.",
        )
    text = metadata.get("record", "")
    if _sha256(text) != metadata.get("record_sha256"):
        raise _altered(path, "record")
    try:
        record = json.loads(text)
        return record["weights_sha256"], Checkpoint(
            architecture=str(record["architecture"]),
            width=float(record["width"]),
            class_names=tuple(record["class_names"]),
            contract=Contract.from_json(canonical_json(record["contract"])),
            training=record["training"],
            weights={},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: record",
            got=f"{type(error).__name__}: {error}",
            expected="the fields of this version",
            next_step="Train it again with this version.",
        ) from error


def _check_fit(
    checkpoint: Checkpoint, found: Mapping[str, tuple[tuple[int, ...], torch.dtype | None]], subject: str
) -> None:
    what = f"{checkpoint.architecture} (width {checkpoint.width:g}, {len(checkpoint.class_names)} classes)"
    try:
        with torch.device("meta"):
            network = build(checkpoint.architecture, len(checkpoint.class_names), checkpoint.width)
    except UsageError as error:
        raise CheckpointError(subject, got=f"{error}", expected="a known architecture") from error
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{subject}: tensor {name}",
                got=_described(found.get(name)),
                expected=f"{_described(expected.get(name))} for {what}",
                next_step="These weights belong to another architecture, width or number of classes.",
            )


def _described(tensor: tuple[tuple[int, ...], torch.dtype | None] | None) -> str:
    return "no such tensor" if tensor is None else f"{tensor[0]} {str(tensor[1]).removeprefix('torch.')}"


def _altered(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {what}",
        got="another SHA-256 than the one written with it",
        expected="an unaltered file",
        next_step="Copy or train it again.",
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
