"""What a load's parent and its processes say to each other, under one name for both, as pickles need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from alexnet_clients import Credentials, Transport
from alexnet_model.errors import AlexnetError

from .answers import Expected
from .inputs import Asked
from .load_results import Outcome
from .loops import Asking
from .plans import Part


@dataclass(frozen=True, kw_only=True)
class Address:
    """The first order: where the server is."""

    url: str
    access: Credentials


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is asked from now on."""

    asked: Asked
    expected: Expected
    timeout_s: float

    def asking(self, transport: Transport) -> Asking:
        """Build the messages; on the cores that the server computes on, nobody does so under load."""
        messages = [transport.prepare(request) for request in self.asked.requests()]
        return Asking(
            transport=transport, messages=messages, expected=self.expected, timeout_s=self.timeout_s
        )


STOP: Literal["stop"] = "stop"
DONE: Literal["done"] = "done"
Order: TypeAlias = Address | Target | Part
Report: TypeAlias = Outcome | AlexnetError | Literal["done"]
