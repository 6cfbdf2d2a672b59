"""Read the state dicts in a file of weights that any PyTorch program wrote: .pth, .pt, .bin, .safetensors.

Files of `torch.save` are read with `weights_only=True`: it makes tensors and plain values and runs no code.
`matching.py` finds the state dict that fits a network.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CheckpointError, os_errors_as
from .extras import needs
from .files import sha256_of_file

with needs("export"):
    import torch
    from safetensors import SafetensorError, safe_open
    from torch import Tensor

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")
# The keys under which programs store the state dict of a model, those of the trained weights first.
KNOWN_KEYS = ("state_dict", "model_state_dict", "model", "net", "ema")
DEEPEST = 4  # levels of nested dicts that are searched


@dataclass(frozen=True)
class WeightsFile:
    """The state dicts that a file holds.

    Args:
        path: the file.
        sha256: hex SHA-256 of the file.
        state_dicts: tensors by name, by the key in the file, such as "state_dict" or "model.ema". The key is
            "" if the file is a state dict itself. The most likely one is the first.
    """

    path: Path
    sha256: str
    state_dicts: Mapping[str, Mapping[str, Tensor]]


def weights_file(path: Path) -> WeightsFile:
    """Read a file of weights.

    What is no tensor is left out, such as the epoch or the settings of an optimiser. If the file's name ends
    in the start of its SHA-256, as torchvision's do (alexnet-owt-7be5be79.pth), the hash is checked.

    Args:
        path: a `.pth`, `.pt`, `.bin`, `.ckpt`, `.tar` or `.safetensors` file.

    Raises:
        CheckpointError: the file is missing or broken, has another hash than its name says, holds Python
            objects, or holds no tensors.
    """
    if path.suffix not in SUFFIXES:
        raise CheckpointError(
            str(path), got=f"a file with the suffix {path.suffix!r}", expected=f"one of {', '.join(SUFFIXES)}"
        )
    with os_errors_as(CheckpointError, path, expected="a file of weights", next_step="Check the path."):
        sha256 = sha256_of_file(path)
    prefix = hash_in_name(path)
    if not sha256.startswith(prefix):
        raise CheckpointError(
            str(path),
            got=f"SHA-256 {sha256[: len(prefix)]}...",
            expected=f"{prefix}..., as its name says",
            next_step="Download it again, or rename it if that is no hash.",
        )
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    found = dict(sorted(_state_dicts(content), key=lambda item: _rank(item[0])))
    if not found:
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else ""
        raise CheckpointError(
            str(path),
            got=f"a {type(content).__name__} without tensors by name" + (f" (keys {keys})" if keys else ""),
            expected="a state dict",
            next_step="Save one: torch.save(model.state_dict(), 'weights.pth').",
        )
    return WeightsFile(path, sha256, found)


def hash_in_name(path: Path) -> str:
    """Return the digits of a SHA-256 at the end of a file's name; empty if there are none.

    >>> hash_in_name(Path("alexnet-owt-7be5be79.pth")), hash_in_name(Path("flowers-20261127.pth"))
    ('7be5be79', '')
    """
    match = re.search(r"-([0-9a-f]{8,64})$", path.stem)
    if not match or re.fullmatch(r"(19|20)\d{6}", match[1]):  # eight digits that are a date
        return ""
    return match[1]


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_plain_values()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch.load raises UnpicklingError, RuntimeError, KeyError, IndexError ...
        raise _unreadable(path, str(error)) from error


def _plain_values() -> list[Any]:
    """Return the types of values beside the weights that hold data only, and that programs often save."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        np.dtype,
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # NumPy 1 and 2
        *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"},
    ]


def _unreadable(path: Path, message: str) -> CheckpointError:
    if "TorchScript" in message:
        got, load = "a TorchScript archive", f"torch.jit.load({str(path)!r})"
    elif found := re.search(
        r"(?:GLOBAL|global|class|function) [`'\"]?([\w.]+)[`'\"]? was not an allowed", message
    ):
        got, load = f"a pickled {found[1]}, which is code", f"torch.load({str(path)!r}, weights_only=False)"
    else:
        reason = re.search(r"WeightsUnpickler error: (.+)", message)
        first = (reason[1] if reason else message).strip().partition("\n")[0].partition(". ")[0]
        # Of a file that is no pickle, the unpickler says a number or nothing.
        why = f" ({first})" if " " in first else ""
        return CheckpointError(
            str(path),
            got=f"{path.stat().st_size:,} bytes that torch.load cannot read{why}",
            expected="a complete file of torch.save with a state dict",
            next_step="Copy it again, or save one: torch.save(model.state_dict(), 'weights.pth').",
        )
    return CheckpointError(
        str(path),
        got=got,
        expected="a state dict",
        next_step="If you trust the file, run in the program that wrote it: "
        f"model = {load}; torch.save(model.state_dict(), 'weights.pth')",
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            str(path),
            got=f"{path.stat().st_size:,} bytes that are not a complete safetensors file ({error})",
            expected="weights (.safetensors)",
            next_step="Copy it again.",
        ) from error


def _state_dicts(value: object, key: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Find every dict that has tensors by name; an optimiser's are by number."""
    if not isinstance(value, Mapping) or depth > DEEPEST:
        return
    tensors = {name: t for name, t in value.items() if isinstance(name, str) and isinstance(t, Tensor)}
    if tensors:
        yield key, tensors
    for name, inner in value.items():
        if isinstance(name, str):
            yield from _state_dicts(inner, f"{key}.{name}" if key else name, depth + 1)


def _rank(key: str) -> int:
    """Order the whole file first, then `KNOWN_KEYS` in their order, then other keys."""
    parts = key.split(".") if key else []
    return max((KNOWN_KEYS.index(p) if p in KNOWN_KEYS else len(KNOWN_KEYS) for p in parts), default=-1)
