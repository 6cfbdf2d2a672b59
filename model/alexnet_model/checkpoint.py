"""A trained classifier in one `.safetensors` file: weights, architecture, contract, classes, training record.

Everything but the tensors is one JSON record in the file's metadata, stored with the SHA-256 of the record
and of the weights. Loading verifies the record, the hashes, and the tensors' names, shapes and dtypes. It
never unpickles.
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
STORED_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Hold a trained classifier and the record of its training.

    Args:
        architecture: a name in `architectures.ARCHITECTURES`.
        width: the factor of every hidden layer's size.
        class_names: one name for each output, in the order of the outputs.
        contract: the preparation of the images that the weights were trained on.
        training: any JSON object: where the weights come from and how they were trained.
        weights: the network's state dict, parameters and buffers.
    """

    architecture: str
    width: float
    class_names: tuple[str, ...]
    contract: Contract
    training: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    def network(self) -> nn.Module:
        """Return a network with a copy of these weights, in evaluation mode.

        Raises:
            CheckpointError: the weights do not fit the architecture.
        """
        self.check_fit()
        # PyTorch's initialisation must not advance the caller's random generator.
        with torch.random.fork_rng(devices=[]):
            network = build(self.architecture, len(self.class_names), self.width)
        network.load_state_dict(dict(self.weights))
        return network.eval()

    def check_fit(self, subject: str = "weights") -> None:
        """Compare the weights' names, shapes and dtypes with the architecture's.

        Args:
            subject: what an error message names, such as the path of the file.

        Raises:
            CheckpointError: the weights do not fit, or there is no such architecture.
        """
        size = f"width {self.width:g}, {len(self.class_names)} classes"
        try:
            with torch.device("meta"):
                network = build(self.architecture, len(self.class_names), self.width)
        except UsageError as error:
            raise CheckpointError(subject, got=f"{error}", expected="a known architecture") from error
        expected = {name: _described(tensor) for name, tensor in network.state_dict().items()}
        found = {name: _described(tensor) for name, tensor in self.weights.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise CheckpointError(
                    f"{subject}: tensor {name}",
                    got=found.get(name, "no such tensor"),
                    expected=f"{expected.get(name, 'no such tensor')} for {self.architecture} ({size})",
                    next_step="These weights belong to another architecture, width or number of classes.",
                )

    @property
    def weights_sha256(self) -> str:
        """Hex SHA-256 of the weights."""
        return sha256_of_weights(self.weights)


def sha256_of_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the hex SHA-256 of a state dict: names, dtypes, shapes and little-endian bytes, sorted by name.

    Args:
        weights: tensors of any shape, dtype and device by name.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(canonical_json([name, _dtype_name(tensor), tensor.shape]).encode())
        # As bytes, because NumPy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint file; an error leaves an existing file as it was.

    Args:
        checkpoint: what to write.
        path: the file to create or replace, by convention `*.safetensors`.

    Raises:
        CheckpointError: the weights do not fit the architecture, or a tensor's dtype cannot be stored.
        OSError: the file cannot be written.
    """
    checkpoint.check_fit()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
    for name, tensor in weights.items():
        if tensor.dtype not in STORED_DTYPES:
            raise CheckpointError(
                f"{path}: tensor {name}",
                got=_dtype_name(tensor),
                expected=f"one of {', '.join(str(dtype).removeprefix('torch.') for dtype in STORED_DTYPES)}",
                next_step="Convert it before saving.",
            )
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
    """Write a safetensors file; an error leaves an existing file as it was.

    Args:
        path: the file to create or replace.
        tensors: tensors by name, none of which share memory.
        metadata: texts that are stored in the file's header.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_file(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as error:
            # safetensors reports a full disk as its own error with the number in the text.
            number = re.search(r"os error (\d+)", str(error))
            if not number:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify what `save_checkpoint` wrote.

    Args:
        path: a `.safetensors` file.

    Raises:
        CheckpointError: the file is missing, empty, truncated or altered, is not a checkpoint of this
            project, or does not fit its architecture.
    """
    if not path.is_file():
        raise CheckpointError(
            str(path),
            got="no such file",
            expected="a checkpoint (.safetensors)",
            next_step="Train one: alexnet train --data digits --out checkpoint.safetensors",
        )
    try:
        with safe_open(path, framework="pt") as file:
            weights_sha256, checkpoint = _verified_record(path, file.metadata() or {})
            names = file.keys()
            checkpoint = replace(checkpoint, weights={name: file.get_tensor(name) for name in names})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            str(path),
            got=f"{path.stat().st_size:,} bytes that are not a complete safetensors file ({error})",
            expected="a checkpoint (.safetensors)",
            next_step="Copy or train it again.",
        ) from error
    checkpoint.check_fit(str(path))
    if checkpoint.weights_sha256 != weights_sha256:
        raise _altered(path, "weights")
    return checkpoint


def _verified_record(path: Path, metadata: Mapping[str, str]) -> tuple[str, Checkpoint]:
    """Return the SHA-256 that the weights should have, and the checkpoint without its weights."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            str(path),
            got=f"a safetensors file of format {metadata.get('format')!r}",
            expected=repr(FORMAT),
            next_step="Train one (alexnet train), or export a torchvision .pth.",
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


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {_dtype_name(tensor)}"


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _altered(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {what}",
        got="a SHA-256 other than the recorded one",
        expected="an unaltered file",
        next_step="Copy or train it again.",
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
