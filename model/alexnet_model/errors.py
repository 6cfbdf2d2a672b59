"""The errors that this project raises on purpose, in one tree.

    AlexnetError
    ├── UsageError               an option or argument with a wrong value (exit 2)
    ├── RuntimeNotUsable         a registered runtime whose entry or module does not load
    ├── MissingExtra             an optional dependency is not installed
    ├── ContractError            an input contract with a value that this version does not implement
    ├── ImageError               an image that cannot be decoded, or an array of the wrong shape or dtype
    │   └── UnreadableImage      an image file that cannot be read: missing, no permission, a closed file
    ├── DatasetError             a dataset that is missing or cannot be used
    ├── CheckpointError          weights that are missing, broken, altered or of another architecture
    ├── ManifestError            an export record that is missing, broken, or does not match its files
    ├── TrainingError            a training run that cannot start or continue
    │   ├── LossNotFinite        a loss or a weight is infinite or not a number
    │   ├── TrainingStopped      a run that was told to stop, and has saved its state
    │   └── OtherRankFailed      another process of the same run failed, and has reported it
    ├── ExportError              a conversion that failed
    │   ├── CalibrationError     a calibration set that cannot be used
    │   ├── EngineError          an engine that cannot be built or run
    │   └── PrecisionRefused     a requested precision that failed the accuracy gate
    ├── RepositoryError          a model repository that cannot be written or read
    │   └── EngineRefused        an engine that the server or its GPU cannot load
    ├── DockerError              Docker, its GPU runtime or an image is missing
    ├── ServerError              a server that cannot start
    │   ├── PortTaken            another process uses the port
    │   └── ServerDied           the server process ended unexpectedly
    ├── BulkError                a bulk classification that cannot continue
    ├── ReportError              a benchmark result that is missing, broken or of another schema (exit 2)
    └── ClientError              a request that failed
        ├── InvalidUrl           a server URL that cannot be parsed (exit 2)
        ├── Unreachable          no server listens at the address
        ├── ConnectionLost       the connection closed during a request
        ├── ForeignServer        the server at the address is not a Triton server
        ├── Untrusted            the server's or the client's TLS certificate was rejected
        ├── NotReady             the server runs but is not ready
        ├── ModelNotFound        the server does not have the model
        ├── ContractMismatch     the model expects images that are prepared differently
        ├── BadRequest           the server rejected the request as invalid
        ├── Overloaded           the model's queue is full
        ├── DeadlineExceeded     no response before the deadline
        └── BadResponse          a response that is malformed or inconsistent

A message has four parts: the subject, what was got, what was expected, and the next step.
"""

from __future__ import annotations

import linecache
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class AlexnetError(Exception):
    """Base class of all errors; its message is `SUBJECT: got X, expected Y. NEXT STEP`.

    Args:
        subject: what the error is about, such as a path or the name of an option.
        got: what was found; empty if it is not known.
        expected: what would have been correct; empty if there is no such thing.
        next_step: one sentence or command that the user can follow; empty if there is none.
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


class RuntimeNotUsable(AlexnetError): ...


class MissingExtra(AlexnetError): ...


class ContractError(AlexnetError, ValueError):
    """Is a `ValueError` too, so that pydantic reports the field of a record that holds the contract."""


class ImageError(AlexnetError): ...


class UnreadableImage(ImageError): ...


class DatasetError(AlexnetError): ...


class CheckpointError(AlexnetError): ...


class ManifestError(AlexnetError): ...


class TrainingError(AlexnetError): ...


class LossNotFinite(TrainingError): ...


class TrainingStopped(TrainingError): ...


class OtherRankFailed(TrainingError): ...


class ExportError(AlexnetError): ...


class CalibrationError(ExportError): ...


class EngineError(ExportError): ...


class PrecisionRefused(ExportError): ...


class RepositoryError(AlexnetError): ...


class EngineRefused(RepositoryError): ...


class DockerError(AlexnetError): ...


class ServerError(AlexnetError): ...


class PortTaken(ServerError): ...


class ServerDied(ServerError): ...


class BulkError(AlexnetError): ...


class ReportError(AlexnetError):
    exit_code = 2  # for `alexnet compare`, exit code 1 means that something became slower


class ClientError(AlexnetError): ...


class InvalidUrl(ClientError):
    exit_code = 2


class Unreachable(ClientError): ...


class ConnectionLost(ClientError): ...


class ForeignServer(ClientError): ...


class Untrusted(ClientError): ...


class NotReady(ClientError): ...


class ModelNotFound(ClientError): ...


class ContractMismatch(ClientError): ...


class BadRequest(ClientError): ...


class Overloaded(ClientError): ...


class DeadlineExceeded(ClientError): ...


class BadResponse(ClientError): ...


LISTED = 10


def listed(names: Iterable[str], limit: int = LISTED, *, separator: str = ", ") -> str:
    """Join names for a message: the first ones, and then how many more there are.

    Args:
        names: The names.
        limit: How many are named.
        separator: What is between two of them.

    >>> listed(["a", "b", "c"]), listed("abcde", limit=3)
    ('a, b, c', 'a, b, c, and 2 more')
    """
    every = tuple(names)
    more = f"{separator}and {len(every) - limit:,} more" if len(every) > limit else ""
    return separator.join(every[:limit]) + more


def os_error_reason(error: OSError) -> str:
    """Return the operating system's text for an error, for the `got` of a message: without a capital.

    Args:
        error: the error; its `strerror` is used where it has one.

    >>> os_error_reason(FileNotFoundError(2, "No such file or directory"))
    'no such file or directory'
    """
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def foreign_error_reason(error: BaseException) -> str:
    """Return one line about an error in a user's own code: its type, its text, and the line of that code.

    Args:
        error: the error, as caught.

    Returns:
        Such as `ValueError: too deep (nets.py:12: raise ValueError("too deep"))`. The place is left out if no
        line of the traceback is outside the installed packages.
    """
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = user_line_of(error)
    return f"{reason} ({place})" if place else reason


def user_line_of(error: BaseException) -> str:
    """Return the innermost line of a user's own code in an error's traceback, such as `nets.py:12: x = f(y)`.

    Args:
        error: the error, as caught.

    Returns:
        Empty if every line is of this project, of an installed package, or of Python itself.
    """
    place = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        path = frame.f_code.co_filename
        if is_user_file(path) and not frame.f_globals.get("__name__", "").startswith("alexnet_"):
            line = linecache.getline(path, number).strip()
            place = f"{Path(path).name}:{number}: {line}" if line else f"{Path(path).name}:{number}"
    return place


def is_user_file(path: str) -> bool:
    """Return whether a source file is neither of an installed package nor of Python itself."""
    installed = {sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")}
    return not path.startswith("<") and not any(path.startswith(folder) for folder in installed)


@contextmanager
def os_errors_as(
    kind: type[AlexnetError], subject: object, *, expected: str, next_step: str = ""
) -> Iterator[None]:
    """Raise an error of this project for an `OSError` in the block.

    Args:
        kind: the class of the error.
        subject: what the error is about, such as a path.
        expected: what would have been correct.
        next_step: one sentence or command that the user can follow.
    """
    try:
        yield
    except OSError as error:
        got = os_error_reason(error)
        raise kind(str(subject), got=got, expected=expected, next_step=next_step) from error
