"""From accepted artifacts to a Triton model repository, and a Triton server that serves it."""

from .embedded import EmbeddedServer
from .layout import RepositoryOptions
from .repository import models_of_repository, refuse_foreign_repository, write_repository
from .server import Server

__all__ = [
    "EmbeddedServer",
    "RepositoryOptions",
    "Server",
    "models_of_repository",
    "refuse_foreign_repository",
    "write_repository",
]
