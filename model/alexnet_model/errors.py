"""Every error that this project raises on purpose, in one tree.

    AlexnetError
    ├── UsageError               an option or argument that cannot be (exit code 2)
    ├── RuntimeNotUsable         a registered runtime whose entry or module does not load
    ├── MissingExtra             a heavy dependency that is not installed
    ├── ImageError             bytes that are no image, or an array of the wrong shape or dtype
    │   └── UnreadableImage    a file that cannot be read now: it is missing, or its web server is
    ├── DatasetError          a folder or named set that cannot be used
    ├── CheckpointError          weights that are missing, broken, foreign or altered
    ├── ManifestError            an export record that is missing, broken or does not match its files
    ├── TrainingError            a training run that cannot start or go on
    ├── ExportError              a conversion that failed
    │   ├── CalibrationError     a calibration set that cannot be used
    │   ├── EngineError          an engine that cannot be built or run
    │   └── PrecisionRefused     a precision that was asked for by name and failed the gate
    ├── RepositoryError          a model repository that cannot be written or read
    │   └── EngineRefused        an engine that this server or GPU cannot load
    ├── DockerError              Docker, its GPU runtime or an image that is not there
    ├── ServerError              a server that cannot start, or stopped
    │   ├── PortTaken
    │   └── ServerDied
    ├── ReportError              a record of a benchmark that is missing, broken or of another schema
    └── ClientError              a request that was not answered
        ├── InvalidUrl
        ├── Unreachable          nobody listens there
        ├── ConnectionLost       the server went away with a request
        ├── ForeignServer        something listens there that is no Triton server: a proxy, another port
        ├── Untrusted            certificates: the server's, or the client's, does not prove who it is
        ├── NotReady             a server that is there, but not ready
        ├── ModelNotFound
        ├── ContractMismatch     a server that expects images prepared differently
        ├── BadRequest           a request that the server refused as wrong
        ├── Overloaded           a full queue
        ├── DeadlineExceeded     no answer in time, or no turn in the server's queue
        └── BadResponse          an answer that cannot be right

A message has four parts: the subject, what was got, what was expected, and the next step.
"""

from __future__ import annotations


class AlexnetError(Exception):
    """Root of the tree: `subject: got X, expected Y. Next step.`

    `got`, `expected` and `next_step` may each be left out where there is nothing true to say.
    """

    exit_code = 1

    def __init__(self, subject: str, *, got: str = "", expected: str = "", next_step: str = "") -> None:
        self.subject = subject
        self.got = got
        self.expected = expected
        self.next_step = next_step
        facts = ", ".join(
            f"{word} {value}" for word, value in (("got", got), ("expected", expected)) if value
        )
        sentence = f"{subject}: {facts}" if facts else subject
        super().__init__(f"{sentence}. {next_step}" if next_step else sentence)


class UsageError(AlexnetError):
    exit_code = 2


class RuntimeNotUsable(AlexnetError):
    """A registered runtime cannot be loaded or used as its entry says."""


class MissingExtra(AlexnetError):
    pass


class ImageError(AlexnetError):
    pass


class UnreadableImage(ImageError):
    pass


class DatasetError(AlexnetError):
    pass


class CheckpointError(AlexnetError):
    pass


class ManifestError(AlexnetError):
    pass


class TrainingError(AlexnetError):
    pass


class ExportError(AlexnetError):
    pass


class CalibrationError(ExportError):
    pass


class EngineError(ExportError):
    pass


class PrecisionRefused(ExportError):
    pass


class RepositoryError(AlexnetError):
    pass


class EngineRefused(RepositoryError):
    pass


class DockerError(AlexnetError):
    pass


class ServerError(AlexnetError):
    pass


class PortTaken(ServerError):
    pass


class ServerDied(ServerError):
    pass


class ReportError(AlexnetError):
    exit_code = 2  # a comparison's 1 means slower


class ClientError(AlexnetError):
    pass


class InvalidUrl(ClientError):
    exit_code = 2


class Unreachable(ClientError):
    pass


class ConnectionLost(ClientError):
    pass


class ForeignServer(ClientError):
    pass


class Untrusted(ClientError):
    pass


class NotReady(ClientError):
    pass


class ModelNotFound(ClientError):
    pass


class ContractMismatch(ClientError):
    pass


class BadRequest(ClientError):
    pass


class Overloaded(ClientError):
    pass


class DeadlineExceeded(ClientError):
    pass


class BadResponse(ClientError):
    pass


def os_error_reason(error: OSError) -> str:
    """Return what the operating system says of an error, in lower case, for the `got` of a message.

    >>> os_error_reason(FileNotFoundError(2, "No such file or directory"))
    'no such file or directory'
    """
    return (error.strerror or str(error)).lower()
