"""One thing that is wrong with a repository, and what becomes of several."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_model.errors import AlexnetError, RepositoryError
from alexnet_model.passport import ENGINE_SUFFIX, PASSPORT_SUFFIX

from ..engine_compatibility import rebuild_command
from ..repositories.layout import holds_encoded, holds_engines


@dataclass(frozen=True)
class Finding:
    """`file` is relative to the repository; `field` is empty where the file itself is meant."""

    file: str
    field: str
    got: str
    expected: str

    @property
    def about_engine(self) -> bool:
        """Whether it is an engine or a passport that is wrong, which is built again from what is here."""
        return self.file.endswith((ENGINE_SUFFIX, PASSPORT_SUFFIX))

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
    see = f"See them: {shlex.join(['alexnet', 'lint', str(repository)])}"
    mend = _mending(repository, findings)
    raise RepositoryError(
        str(repository),
        got=count,
        expected="none",
        next_step=mend if shown else f"The first is {findings[0]}. {see}. {mend}",
    )


def _mending(repository: Path, findings: Sequence[Finding]) -> str:
    if all(finding.about_engine for finding in findings):
        return f"Build them again: {rebuild_command(repository)}"
    words = ["alexnet", "export", "CHECKPOINT", "--repository", str(repository)]
    if holds_engines(repository):
        words += ["--runtime", "tensorrt", "--build", "docker"]
        if holds_encoded(repository):
            words.append("--encoded")
    return f"Write it again: {shlex.join(words)}"
