"""Check that a network maps images to logits before it is exported."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .contract import Contract
from .errors import ExportError, foreign_error_reason
from .extras import needs

with needs("export"):
    import torch
    from torch import Tensor, nn

IMAGES = 3


def count_outputs(network: nn.Module, contract: Contract, *, expected: int | None = None) -> int:
    """Run a network on three images, a black one and two of noise, and return the number of its logits.

    Args:
        network: maps float `(N, 3, S, S)` to logits `(N, classes)`; it must be in evaluation mode.
        contract: its `size` is S.
        expected: the number of logits that it must have. None: any.

    Raises:
        ExportError: the network raises an error, returns anything but such logits, or applies softmax.
    """
    subject = f"network {type(network).__name__}"
    images = torch.zeros(IMAGES, 3, contract.size, contract.size)
    images[1:].normal_(generator=torch.Generator().manual_seed(0))
    shape = tuple(images.shape)
    try:
        with torch.inference_mode():
            logits: Any = network(images)
    except Exception as error:
        raise ExportError(
            subject,
            got=foreign_error_reason(error),
            expected=f"it to take float images {shape}",
            next_step="The contract's size must be that of the images it was trained on.",
        ) from error
    if not isinstance(logits, Tensor):
        raise ExportError(
            subject,
            got=f"an output of type {_type_of(logits)}",
            expected="logits (N, classes), one tensor",
            next_step=f"Return only the logits: {_forward_of(network)}.",
        )
    if logits.dim() != 2 or logits.shape[0] != IMAGES or not logits.is_floating_point():
        kind = str(logits.dtype).removeprefix("torch.")
        raise ExportError(
            subject,
            got=f"an output of shape {tuple(logits.shape)} {kind} for images {shape}",
            expected="float logits (N, classes)",
            next_step=f"Change what it returns: {_forward_of(network)}.",
        )
    outputs = logits.shape[1]
    if expected is not None and outputs != expected:
        raise ExportError(
            subject,
            got=f"{outputs} logits",
            expected=f"{expected}, one for each class",
            next_step="Give as many class names, or a network of that many outputs.",
        )
    if _are_probabilities(logits):
        raise ExportError(
            subject,
            got="outputs that sum to one, so softmax is applied already",
            expected="logits",
            next_step=f"Remove the softmax, which the exported model adds: {_softmax_of(network)}.",
        )
    return outputs


def _are_probabilities(logits: Tensor) -> bool:
    sums = logits.double().sum(dim=1)
    ones = torch.ones_like(sums)
    return bool((logits >= 0).all()) and torch.allclose(sums, ones, rtol=0, atol=1e-3)


def _type_of(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with the keys {', '.join(map(str, value))}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _forward_of(network: nn.Module) -> str:
    """Return the place of the last `return` in a network's `forward`."""
    return _line_with(network, "return ") or f"{type(network).__name__}.forward"


def _softmax_of(network: nn.Module) -> str:
    """Return the place of the softmax: a line of a `forward`, or a layer's name."""
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Softmax)]
    lines = [line for module in network.modules() if (line := _line_with(module, "softmax("))]
    if lines:
        return lines[0]
    return f"the layer {layers[-1]}" if layers else f"{type(network).__name__}.forward"


def _line_with(module: nn.Module, text: str) -> str:
    """Return the last line with a text in the `forward` of a module that is not PyTorch's own."""
    if type(module).__module__.startswith("torch."):
        return ""
    try:
        lines, first = inspect.getsourcelines(type(module).forward)
        file = Path(inspect.getsourcefile(type(module).forward) or "")
    except (OSError, TypeError):  # its source is not there
        return ""
    found = [(number, line.strip()) for number, line in enumerate(lines, first) if text in line]
    return f"{file.name}:{found[-1][0]}: {found[-1][1]}" if found else ""
