"""The requests of a load, made up from a model's configuration, and what their replies must be.

Any model that speaks KServe v2 can be loaded. The values of its replies are checked where the model is one of
this project; of other models the shapes are, and that numbers are finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_clients import (
    BYTES,
    DTYPES,
    InferReply,
    InferRequest,
    Message,
    ModelConfig,
    TensorSpec,
    Transport,
)
from alexnet_model.contract import ENCODED_INPUT_NAME, contract_from_parameters
from alexnet_model.errors import UsageError

from ..synthetic_images import synthetic_jpegs
from .plans import MOST_OPEN

Shapes = Mapping[str, tuple[int, ...]]  # by input name, without the batch axis
# In a batch with others, the order of additions may change an image's probabilities by this much.
SAME_PROBABILITY = 1e-3
CHECK_EVERY = 49  # odd, so that all of 64 distinct requests are checked in turn
# How many distinct requests: 64 images in small requests, at least 4 large requests, within this memory.
_IMAGES = 64
_FEWEST_REQUESTS = 4
_MOST_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class RequestSet:
    """The distinct requests of a load. It is small: every process builds the same requests from it."""

    model: str
    batch: int
    inputs: Mapping[str, TensorSpec]  # every dimension known
    outputs: tuple[str, ...]
    has_batch_axis: bool = True
    probabilities: str = ""  # the output whose values are checked; empty for a model of another project

    @property
    def distinct(self) -> int:
        """Number of requests until they repeat: enough that no cache holds them all."""
        wanted = max(_FEWEST_REQUESTS, _IMAGES // self.batch)
        return max(1, min(wanted, _MOST_BYTES // max(self._request_bytes(), 1)))

    def requests(self) -> list[InferRequest]:
        """Build all distinct requests, in order."""
        return [self._request(number) for number in range(self.distinct)]

    def _request(self, number: int) -> InferRequest:
        random = np.random.default_rng(number)
        tensors = {name: self._tensor(spec, random) for name, spec in self.inputs.items()}
        return InferRequest(model=self.model, inputs=tensors, outputs=self.outputs)

    def _tensor(self, spec: TensorSpec, random: np.random.Generator) -> npt.NDArray[Any]:
        shape = (self.batch, *spec.shape) if self.has_batch_axis else spec.shape
        if spec.datatype == BYTES:
            images = synthetic_jpegs(prod(shape), random=random)
            return np.array(images, dtype=np.object_).reshape(shape)  # (N, 1)
        dtype = DTYPES[spec.datatype]
        if dtype.kind == "f":
            return random.random(shape).astype(dtype)
        # Pixels take all values; other integers are 0 or 1, which is valid for every index and mask.
        return random.integers(0, 256 if dtype == np.uint8 else 2, shape, dtype=np.uint8).astype(dtype)

    def _request_bytes(self) -> int:
        rows = self.batch if self.has_batch_axis else 1
        numbers = [spec for spec in self.inputs.values() if spec.datatype != BYTES]
        return rows * sum(prod(spec.shape) * DTYPES[spec.datatype].itemsize for spec in numbers)


def request_set_from_config(config: ModelConfig, batch: int, shapes: Shapes | None = None) -> RequestSet:
    """Describe the requests that a model takes.

    Args:
        config: The model's configuration, as the server reports it.
        batch: Images in a request.
        shapes: Shapes of inputs whose configuration leaves dimensions open, without the batch axis.

    Raises:
        UsageError: the model does not take this batch, or values for an input cannot be made up.
        ContractError: the model is one of this project, but its contract is of another version.
    """
    shapes = shapes or {}
    most = max(config.max_batch, 1)
    if not 1 <= batch <= most:
        expected = f"1 to {most}" if most > 1 else "1: the model takes no batches"
        raise UsageError(f"batch for {config.name}", got=str(batch), expected=expected)
    is_ours = "contract_digest" in config.parameters
    probabilities = contract_from_parameters(config.parameters).probabilities_name if is_ours else ""
    takes_encoded = is_ours and ENCODED_INPUT_NAME in config.inputs
    classifies = probabilities in config.outputs
    return RequestSet(
        model=config.name,
        batch=batch,
        inputs={
            name: spec if takes_encoded else _with_known_shape(config.name, name, spec, shapes.get(name))
            for name, spec in config.inputs.items()
        },
        outputs=(probabilities,) if classifies else tuple(config.outputs),
        has_batch_axis=config.max_batch > 0,
        probabilities=probabilities if classifies else "",
    )


def _with_known_shape(model: str, name: str, spec: TensorSpec, shape: tuple[int, ...] | None) -> TensorSpec:
    subject = f"{model}: input {name}"
    if spec.datatype not in DTYPES:
        raise UsageError(subject, got=spec.datatype, expected=f"numbers: {', '.join(DTYPES)}")
    if shape is None:
        if min(spec.shape, default=1) < 0:
            written = ",".join(map(str, spec.shape))
            raise UsageError(
                subject,
                got=f"the dynamic shape {written}",
                expected="a number for each dimension",
                next_step=f"Set them, without the batch: --shape {name}:{written.replace('-1', 'N')}",
            )
        return spec
    fits = len(shape) == len(spec.shape) and all(
        given == wanted if wanted >= 0 else given > 0 for given, wanted in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise UsageError(subject, got=f"shape {shape}", expected=f"{spec.shape}, -1 being any number")
    return TensorSpec(datatype=spec.datatype, shape=shape)


@dataclass(frozen=True)
class ReferenceOutputs:
    """Correct probabilities, computed elsewhere than on the server that is loaded."""

    probabilities: tuple[npt.NDArray[Any], ...]  # (N, classes) for each distinct request
    tolerance: float = SAME_PROBABILITY  # largest absolute difference that is not an error


@dataclass(frozen=True, kw_only=True)
class ExpectedReplies:
    """What the replies under load are checked against, for each distinct request."""

    shapes: tuple[Mapping[str, tuple[int, ...]], ...]  # of every output
    probabilities: tuple[npt.NDArray[Any], ...] = ()
    output: str = ""  # whose values the probabilities are; empty: values are not compared
    tolerance: float = SAME_PROBABILITY

    def error_in(self, index: int, reply: InferReply) -> str:
        """Describe what is wrong with the reply to the distinct request `index`; empty if it is right."""
        shapes = {name: array.shape for name, array in reply.outputs.items()}
        if shapes != self.shapes[index]:
            return f"outputs {_shapes_in_words(shapes)} instead of {_shapes_in_words(self.shapes[index])}"
        for name, array in reply.outputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return f"{name} with NaN or infinity"
        if not self.output:
            return ""
        found, wanted = reply.outputs[self.output], self.probabilities[index]
        if found.shape != wanted.shape:
            return f"{self.output} {found.shape} instead of {wanted.shape}"
        difference = float(np.abs(found - wanted).max(initial=0.0))
        return "" if difference <= self.tolerance else f"{self.output} wrong by up to {difference:.2g}"


def expected_from_replies(
    requests: RequestSet, replies: Sequence[InferReply], reference: ReferenceOutputs | None = None
) -> ExpectedReplies:
    """Derive what the replies under load must be from the replies without load.

    Args:
        requests: The requests of the load.
        replies: One reply to each distinct request, in order, sent one at a time.
        reference: Correct probabilities. By default the probabilities in `replies` count as correct.
    """
    output = requests.probabilities
    if reference is None:
        reference = ReferenceOutputs(tuple(reply.outputs[output] for reply in replies) if output else ())
    return ExpectedReplies(
        shapes=tuple({name: array.shape for name, array in reply.outputs.items()} for reply in replies),
        probabilities=tuple(np.array(values) for values in reference.probabilities),
        output=output,
        tolerance=reference.tolerance,
    )


def _shapes_in_words(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Everything one process needs to send requests: built once, sent again and again."""

    transport: Transport
    messages: Sequence[Message]  # the distinct requests as they go over the wire
    expected: ExpectedReplies | None  # None: replies are not checked
    timeout_s: float  # of one request
    check_every: int = CHECK_EVERY  # replies
    most_open: int = MOST_OPEN  # requests in flight
    indices: Iterator[int] = field(init=False)  # of the messages in turn, going on from load to load

    def __post_init__(self) -> None:
        object.__setattr__(self, "indices", cycle(range(len(self.messages))))


@dataclass(frozen=True, kw_only=True)
class TrafficSpec:
    """Traffic without a connection: small, so that it can be sent to a worker process."""

    requests: RequestSet
    expected: ExpectedReplies
    timeout_s: float  # of one request
    request_bytes: int  # of the largest request on the wire

    def traffic(self, transport: Transport) -> Traffic:
        """Build the messages before the load: under load that would take processor time from the server."""
        messages = [transport.prepare(request) for request in self.requests.requests()]
        return Traffic(
            transport=transport, messages=messages, expected=self.expected, timeout_s=self.timeout_s
        )
