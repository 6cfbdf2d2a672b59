"""One thing that is wrong with a repository, and what becomes of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_model.errors import AlexnetError, RepositoryError


@dataclass(frozen=True)
class Finding:
    """`file` is relative to the repository; `field` is empty where the file itself is meant."""

    file: str
    field: str
    got: str
    expected: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.field}" if self.field else self.file
        return f"{where}: got {self.got}, expected {self.expected}"


def finding_from_error(error: AlexnetError, repository: Path, file: str) -> Finding:
    """An error about a file of the repository, whose subject is its path with perhaps a field."""
    field = error.subject.removeprefix("passport of ").removeprefix(str(repository / file))
    return Finding(file, field.removeprefix(":").strip(), error.got, error.expected)


def raise_if_findings(repository: Path, findings: Sequence[Finding], *, shown: bool = False) -> None:
    """For whoever needs a repository without any, such as a server. `shown`: the user has seen them.

    Raises:
        RepositoryError: there is one; the message has the first.
    """
    if not findings:
        return
    count = f"{len(findings)} finding{'' if len(findings) == 1 else 's'}"
    write_again = f"Write it again: alexnet export CHECKPOINT --repository {repository}"
    raise RepositoryError(
        str(repository),
        got=count,
        expected="none",
        next_step=write_again
        if shown
        else f"The first is {findings[0]}. See them: alexnet lint {repository}. {write_again}",
    )
