"""Answers under load, held against the truth, or else against what the same requests were answered alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_clients import InferReply

from .inputs import Asked

# Batched with others, an image's probabilities may differ by the order of additions, and by no more.
MOST_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class TrueAnswers:
    """Probabilities by request, `(N, classes)` each, and how far an answer may be from them."""

    probabilities: tuple[npt.NDArray[Any], ...]
    within: float = MOST_DIFFERENCE


@dataclass(frozen=True, kw_only=True)
class Expected:
    """By request: the shape of every output, and the probabilities where the model is one of this project."""

    shapes: tuple[Mapping[str, tuple[int, ...]], ...]
    probabilities: tuple[npt.NDArray[Any], ...] = ()
    output: str = ""  # whose numbers the probabilities are
    within: float = MOST_DIFFERENCE

    def fault(self, index: int, reply: InferReply) -> str:
        """What is wrong with an answer, empty where nothing is."""
        shapes = {name: array.shape for name, array in reply.outputs.items()}
        if shapes != self.shapes[index]:
            return f"outputs {_words(shapes)} instead of {_words(self.shapes[index])}"
        for name, array in reply.outputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return f"{name} with NaN or infinity"
        if not self.output:
            return ""
        found, wanted = reply.outputs[self.output], self.probabilities[index]
        if found.shape != wanted.shape:
            return f"{self.output} {found.shape} instead of {wanted.shape}"
        apart = float(np.abs(found - wanted).max(initial=0.0))
        return "" if apart <= self.within else f"{self.output} {apart:.2g} away from what they should be"


def expected_from_replies(
    asked: Asked, replies: Sequence[InferReply], truth: TrueAnswers | None = None
) -> Expected:
    """What the load is held to: one reply a distinct request, in order, and the truth where it is known."""
    output = asked.probabilities
    if truth is None:
        truth = TrueAnswers(tuple(reply.outputs[output] for reply in replies) if output else ())
    return Expected(
        shapes=tuple({name: array.shape for name, array in reply.outputs.items()} for reply in replies),
        probabilities=tuple(np.array(of_request) for of_request in truth.probabilities),
        output=output,
        within=truth.within,
    )


def _words(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"
