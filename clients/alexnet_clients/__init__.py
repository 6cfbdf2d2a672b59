"""Pictures in, classes out: `Client` over one `Transport` seam.

Nothing of a protocol is imported before a client is made.
"""

from .client import DEFAULT_MODEL, Client, transport_from_url
from .fake_transport import FakeTransport
from .predictions import Prediction
from .preparing import Pictures
from .replies import Classification
from .served_model import ServedModel
from .transport import InferReply, InferRequest, Message, ModelConfig, Transport
from .url import ServerUrl

__all__ = [
    "DEFAULT_MODEL",
    "Classification",
    "Client",
    "FakeTransport",
    "InferReply",
    "InferRequest",
    "Message",
    "ModelConfig",
    "Pictures",
    "Prediction",
    "ServedModel",
    "ServerUrl",
    "Transport",
    "transport_from_url",
]
