"""From accepted artifacts to a Triton model repository, and a Triton server that serves it."""

from .checks import Check
from .doctor import Examination, examine
from .embedded import EmbeddedServer
from .findings import Finding, raise_if_findings
from .layout import RepositoryOptions, is_repository
from .lint import lint
from .loading import Place, check_engines
from .repository import models_of_repository, refuse_foreign_repository, write_repository
from .server import Server
from .unpacking import unpack_repository

__all__ = [
    "Check",
    "EmbeddedServer",
    "Examination",
    "Finding",
    "Place",
    "RepositoryOptions",
    "Server",
    "check_engines",
    "examine",
    "is_repository",
    "lint",
    "models_of_repository",
    "raise_if_findings",
    "refuse_foreign_repository",
    "unpack_repository",
    "write_repository",
]
