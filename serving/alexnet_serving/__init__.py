"""From accepted artifacts to a Triton model repository, and a Triton server that serves it."""

from .checks import Check
from .choosing import Choice, choice_of_server
from .docker_server import DockerServer
from .doctor import Examination, examine
from .embedded import EmbeddedServer
from .findings import Finding, raise_if_findings
from .layout import RepositoryOptions, is_repository
from .lint import lint
from .loading import Place, check_engines
from .repository import models_of_repository, refuse_foreign_repository, write_repository
from .server import Server
from .unpacking import options_of_repository, unpack_repository

__all__ = [
    "Check",
    "Choice",
    "DockerServer",
    "EmbeddedServer",
    "Examination",
    "Finding",
    "Place",
    "RepositoryOptions",
    "Server",
    "check_engines",
    "choice_of_server",
    "examine",
    "is_repository",
    "lint",
    "models_of_repository",
    "options_of_repository",
    "raise_if_findings",
    "refuse_foreign_repository",
    "unpack_repository",
    "write_repository",
]
