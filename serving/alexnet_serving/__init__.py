"""From accepted artifacts to a Triton model repository, and a Triton server that serves it."""

from .engine_compatibility import EngineTarget, check_engines
from .engine_targets import targets_of_image
from .examining.checks import JOBS, Check
from .examining.doctor import Examination, examine
from .examining.engines_found import EngineFound
from .linting.findings import Finding, raise_if_findings
from .linting.lint import lint
from .repositories.layout import RepositoryOptions, is_repository
from .repositories.unpacking import options_of_repository, unpack_repository
from .repositories.writing import models_of_repository, refuse_foreign_repository, write_repository
from .servers.docker_server import DockerServer
from .servers.embedded import EmbeddedServer
from .servers.server import Server
from .servers.server_choice import Choice, choice_of_server
from .servers.tls import ServerTls

__all__ = [
    "JOBS",
    "Check",
    "Choice",
    "DockerServer",
    "EmbeddedServer",
    "EngineFound",
    "EngineTarget",
    "Examination",
    "Finding",
    "RepositoryOptions",
    "Server",
    "ServerTls",
    "check_engines",
    "choice_of_server",
    "examine",
    "is_repository",
    "lint",
    "models_of_repository",
    "options_of_repository",
    "raise_if_findings",
    "refuse_foreign_repository",
    "targets_of_image",
    "unpack_repository",
    "write_repository",
]
