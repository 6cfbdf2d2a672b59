"""Clients of a Triton server: images in, classes out.

`Client` blocks, `AsyncClient` is awaited; a `Transport` carries their requests by gRPC or HTTP. A protocol's
library is imported when a client is made, not with this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .choosing import choose_model, with_served_models
from .client import DEFAULT_MODEL, Client
from .credentials import ANONYMOUS, ClientTls, Credentials, Headers
from .images import IMAGES_PER_TASK, Images
from .predictions import Classification, Prediction
from .sending import Backoff
from .served_model import ServedModel
from .sources import (
    ImageSource,
    StdinImage,
    images_in_folder,
    may_name_images,
    name_from_source,
    sources_from_arguments,
)
from .telemetry import Call, Metrics, Observer, Tracing
from .transports.transport import (
    BYTES,
    DTYPES,
    InferReply,
    InferRequest,
    Message,
    ModelConfig,
    ModelStatistics,
    Region,
    TensorSpec,
    Transport,
    transport_from_url,
)
from .url import Endpoints, ServerUrl

if TYPE_CHECKING:
    from .async_client import AsyncClient
    from .results import LineFormat, ResultFile
    from .shared_memory import SharedImages, remove_orphans
    from .transports.fake_transport import FakeTransport
    from .ui.server import PageServer

# Imported on first use: asyncio alone takes longer than the rest of the client.
_LAZY = {
    "AsyncClient": "async_client",
    "FakeTransport": "transports.fake_transport",
    "LineFormat": "results",
    "PageServer": "ui.server",
    "ResultFile": "results",
    "SharedImages": "shared_memory",
    "remove_orphans": "shared_memory",
}

__all__ = [
    "ANONYMOUS",
    "BYTES",
    "DEFAULT_MODEL",
    "DTYPES",
    "IMAGES_PER_TASK",
    "AsyncClient",
    "Backoff",
    "Call",
    "Classification",
    "Client",
    "ClientTls",
    "Credentials",
    "Endpoints",
    "FakeTransport",
    "Headers",
    "ImageSource",
    "Images",
    "InferReply",
    "InferRequest",
    "LineFormat",
    "Message",
    "Metrics",
    "ModelConfig",
    "ModelStatistics",
    "Observer",
    "PageServer",
    "Prediction",
    "Region",
    "ResultFile",
    "ServedModel",
    "ServerUrl",
    "SharedImages",
    "StdinImage",
    "TensorSpec",
    "Tracing",
    "Transport",
    "choose_model",
    "images_in_folder",
    "may_name_images",
    "name_from_source",
    "remove_orphans",
    "sources_from_arguments",
    "transport_from_url",
    "with_served_models",
]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
