"""Write Triton model repositories, check them, and serve them with Triton.

from alexnet_serving import EmbeddedServer

with EmbeddedServer(repository) as server:
    print(server.grpc_url, server.models)
"""

from typing import TYPE_CHECKING, Any

from .doctor.checks import Check, jobs
from .doctor.engines import EngineFound
from .doctor.gpu_runtimes import GpuRuntime
from .doctor.report import DoctorReport, diagnose
from .engine_compatibility import EngineTarget, MachineTarget, check_engines, targets_for, targets_of_image
from .judged_devices import devices_not_judged
from .linting.files import Finding, raise_if_findings
from .linting.lint import lint
from .repositories.backends import models_without_queue_limit
from .repositories.image_context import write_image_context
from .repositories.layout import CONFIG_FILE, RepositoryOptions
from .repositories.records import (
    PackedExport,
    index_of,
    is_repository,
    names_of_records,
    packed_export,
    packed_exports,
)
from .repositories.rollback import rollback
from .repositories.unpacking import unpack_repository
from .repositories.writing import (
    Replaced,
    models_of_repository,
    refuse_foreign_repository,
    write_repository,
)
from .servers.backend_memory import BackendMemory, memory_of_default_export, memory_of_repository
from .servers.docker_server import DockerServer
from .servers.embedded import EmbeddedServer
from .servers.process_server import ServerOptions
from .servers.server import Server, ServerChoice, choice_of_server
from .servers.tls import ServerTls
from .servers.tracing import ServerTrace
from .servers.tritonserver import wheel_of_this_python

if TYPE_CHECKING:
    from .repositories.model_config import config_from_text, text_from_config

__all__ = [
    "CONFIG_FILE",
    "BackendMemory",
    "Check",
    "DockerServer",
    "DoctorReport",
    "EmbeddedServer",
    "EngineFound",
    "EngineTarget",
    "Finding",
    "GpuRuntime",
    "MachineTarget",
    "PackedExport",
    "Replaced",
    "RepositoryOptions",
    "Server",
    "ServerChoice",
    "ServerOptions",
    "ServerTls",
    "ServerTrace",
    "check_engines",
    "choice_of_server",
    "config_from_text",
    "devices_not_judged",
    "diagnose",
    "index_of",
    "is_repository",
    "jobs",
    "lint",
    "memory_of_default_export",
    "memory_of_repository",
    "models_of_repository",
    "models_without_queue_limit",
    "names_of_records",
    "packed_export",
    "packed_exports",
    "raise_if_findings",
    "refuse_foreign_repository",
    "rollback",
    "targets_for",
    "targets_of_image",
    "text_from_config",
    "unpack_repository",
    "wheel_of_this_python",
    "write_image_context",
    "write_repository",
]


def __getattr__(name: str) -> Any:
    if name in ("config_from_text", "text_from_config"):
        from .repositories import model_config  # imports tritonclient, which takes a second

        return getattr(model_config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
