"""The check of the C++ compiler, with this machine's own and with ones that do not work."""

from __future__ import annotations

import shutil
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from alexnet_model import cxx_compiler
from alexnet_model.cxx_compiler import advice_after_failure, compiler_or_problem

from ..stand_ins.programs import hide, install


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_compiler_of_this_machine_compiles_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = shutil.which("g++")
    assert compiler_or_problem() == (path, "")
    monkeypatch.setenv("CXX", "g++")
    assert compiler_or_problem() == (path, "")


def test_a_compiler_without_headers_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = "echo 'threads.cpp:1:10: fatal error: omp.h: No such file'; echo '  1 | #include <omp.h>'"
    path = install(monkeypatch, tmp_path, "g++", f"({script}; echo 'compilation terminated.') >&2; exit 1")
    problem = f"{path} does not compile: threads.cpp:1:10: fatal error: omp.h: No such file"
    assert compiler_or_problem() == ("", problem)


def test_a_compiler_that_ends_without_a_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = install(monkeypatch, tmp_path, "my-cxx", "exit 3")
    monkeypatch.setenv("CXX", str(path))
    assert compiler_or_problem() == ("", f"{path} does not compile: exit code 3")


def test_a_compiler_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = install(monkeypatch, tmp_path, "g++", "exec sleep 60")
    monkeypatch.setattr(cxx_compiler, "DEADLINE_S", 0.2)
    assert compiler_or_problem() == ("", f"{path} does not compile: not finished after 0.2 s")


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PyTorch starts what CXX names or g++, and no other compiler."""
    hide(monkeypatch, tmp_path, "g++")
    assert compiler_or_problem() == ("", "no g++")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compiler_or_problem() == ("", "no no-such-compiler, which CXX names")


@pytest.mark.parametrize(
    ("package", "temporary", "advice"),
    [
        ("packages", "tmp", "Look again."),
        (
            "my packages",
            "tmp",
            "with a space, {}/my packages/torch: install it in another folder.",
        ),
        ("packages", "my tmp", "with a space, {}/my tmp: set TMPDIR to another folder."),
    ],
)
def test_after_a_failure_a_space_in_a_path_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, temporary: str, advice: str
) -> None:
    torch = tmp_path / package / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").touch()
    spec = PathFinder.find_spec("torch", [str(torch.parent)])
    monkeypatch.setattr(cxx_compiler, "find_spec", lambda _: spec)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / temporary))
    assert advice_after_failure("Look again.").endswith(advice.format(tmp_path))


def test_without_pytorch_the_advice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cxx_compiler, "find_spec", lambda _: None)
    assert advice_after_failure("Look again.") == "Look again."
