"""Images in, classes out: `Client` and `AsyncClient` over one core and one `Transport` seam.

Nothing of a protocol is imported before a client is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .client import Client
from .core import DEFAULT_MODEL
from .credentials import ClientTls, Headers
from .items import Images
from .predictions import Prediction
from .replies import Classification
from .retrying import Backoff
from .served_model import ServedModel
from .transports.fake_transport import FakeTransport
from .transports.opening import transport_from_url
from .transports.transport import (
    InferReply,
    InferRequest,
    Message,
    ModelConfig,
    ModelStatistics,
    Region,
    TensorSpec,
    Transport,
)
from .url import ServerUrl

if TYPE_CHECKING:
    from .async_client import AsyncClient

__all__ = [
    "DEFAULT_MODEL",
    "AsyncClient",
    "Backoff",
    "Classification",
    "Client",
    "ClientTls",
    "FakeTransport",
    "Headers",
    "Images",
    "InferReply",
    "InferRequest",
    "Message",
    "ModelConfig",
    "ModelStatistics",
    "Prediction",
    "Region",
    "ServedModel",
    "ServerUrl",
    "TensorSpec",
    "Transport",
    "transport_from_url",
]


def __getattr__(name: str) -> object:
    if name == "AsyncClient":  # asyncio takes longer to import than the rest of the client
        return import_module(f"{__name__}.async_client").AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
