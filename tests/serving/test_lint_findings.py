"""The error for a repository with findings, and the command that fixes it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from alexnet_model.errors import RepositoryError
from alexnet_serving import Finding, raise_if_findings

from .conftest import Artifacts
from .recorded_engines import repository_of_engines


@pytest.fixture
def engines(artifacts: Artifacts, tmp_path: Path) -> Path:
    return repository_of_engines(artifacts, tmp_path)


def test_findings_become_an_error() -> None:
    repository = Path("models")
    raise_if_findings(repository, ())
    finding = Finding("alexnet_int8/labels.txt", "", "9 lines", "10, one a class")
    with pytest.raises(RepositoryError, match="models: got 1 finding, expected none") as caught:
        raise_if_findings(repository, (finding,))
    assert str(finding) in str(caught.value)
    assert "alexnet lint models" in str(caught.value)
    with pytest.raises(RepositoryError, match="got 2 findings") as caught:
        raise_if_findings(repository, (finding, finding), shown=True)
    assert str(finding) not in str(caught.value)


class TestFix:
    """The command can be copied for any name of the repository."""

    def fix(self, repository: Path, *findings: Finding) -> str:
        with pytest.raises(RepositoryError) as caught:
            raise_if_findings(repository, findings, shown=True)
        return caught.value.next_step

    LABELS = Finding("alexnet_int8/labels.txt", "", "9 lines", "10, one a class")
    PLAN = Finding("alexnet_int8/1/model_sm90.plan", "size", "1 bytes", "2 bytes")
    PASSPORT = Finding("alexnet_int8/1/model_sm90.passport.json", "gpu_name", '"one"', '"another"')

    def test_engines_are_built_again_from_what_is_here(self, engines: Path) -> None:
        assert [finding.about_engine for finding in (self.LABELS, self.PLAN, self.PASSPORT)] == [0, 1, 1]
        command = f"alexnet export {engines} --runtime tensorrt --build docker --repository {engines}"
        assert self.fix(engines, self.PLAN, self.PASSPORT).startswith(f"Build them again: {command}")

    def test_a_repository_of_engines_stays_one(self, engines: Path) -> None:
        command = f"alexnet export CHECKPOINT --repository {engines} --runtime tensorrt --build docker"
        assert self.fix(engines, self.PLAN, self.LABELS) == f"Write it again: {command}"

    def test_one_of_onnx_files_too(self, repository: Path) -> None:
        command = f"alexnet export CHECKPOINT --repository {repository}"
        assert self.fix(repository, self.LABELS) == f"Write it again: {command}"

    def test_a_path_with_spaces(self, repository: Path) -> None:
        path = repository.rename(repository.with_name("my models; rm"))
        with pytest.raises(RepositoryError) as caught:
            raise_if_findings(path, (self.LABELS,))
        assert f"See all of them: alexnet lint {shlex.quote(str(path))}. Write" in caught.value.next_step
        assert caught.value.next_step.endswith(f"--repository {shlex.quote(str(path))}")
