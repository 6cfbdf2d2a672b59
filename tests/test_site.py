"""The documentation site builds without a warning and without a network, and holds what the code has."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html import unescape
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from alexnet_cli.main import app

ROOT = Path(__file__).parents[1]
PACKAGES = ("model", "training", "export", "pipeline", "serving", "clients", "bench")
SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}  # of Keep a Changelog


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder docs/ of a site that was built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--fail-on-warning", "--keep-going", "-q", "-c", "docs", "-d", str(folder / "cache")]
    command = [sys.executable, "-m", "sphinx", *options, ".", str(folder / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site" / "docs"


@pytest.mark.slow
def test_pages_load_nothing_from_a_network(site: Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\b(?:src|srcset)=[\"']?(?:https?:)?//|<link\b[^>]*//"
    )
    in_style = re.compile(r"(?:@import|url\()\s*[\"']?(?:https?:)?//")
    pages = [*site.parent.rglob("*.html"), *site.parent.rglob("*.css")]
    assert len(pages) > 50
    for page in pages:
        text = page.read_text()
        assert not in_style.search(text), page
        assert page.suffix == ".css" or not loads.search(text), page


@pytest.mark.slow
def test_the_navigation_of_the_first_page_has_every_page(site: Path) -> None:
    first = (site / "index.html").read_text()
    for page in {*(ROOT / "docs").rglob("*.md")} - {ROOT / "docs" / "index.md"}:
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert f'<a class="reference internal" href="{name}">' in first, name
    assert (site.parent / "index.html").read_text().count("docs/index.html") == 2


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_has_every_public_name(site: Path, package: str) -> None:
    text = (site / "reference" / f"alexnet_{package}.html").read_text()
    names = import_module(f"alexnet_{package}").__all__
    assert names
    for name in names:
        assert f'id="alexnet_{package}.{name}"' in text, name


def commands_below(name: str, command: Any) -> Iterator[tuple[str, list[str]]]:
    """Each command that is not hidden, with its long options."""
    shown = [option for option in command.params if not getattr(option, "hidden", False)]
    yield name, [option.opts[0] for option in shown if option.opts[0].startswith("--")]
    for below, value in getattr(command, "commands", {}).items():
        if not value.hidden:
            yield from commands_below(f"{name} {below}".replace("Commands", "alexnet"), value)


@pytest.mark.slow
def test_the_reference_has_every_command_and_option(site: Path) -> None:
    text = unescape(re.sub(r"<[^>]+>", "", (site / "reference" / "commands.html").read_text()))
    for name, options in commands_below("Commands", typer.main.get_command(app)):
        section = re.search(rf"^{name}¶?$(.*?)(?:^alexnet [a-z -]+¶?$|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, name
        assert not [option for option in options if option not in section[1]], name


def strings_of_the_code() -> list[str]:
    """Every string constant of the packages, and the constant parts of f-strings."""
    files = ROOT.glob("*/alexnet_*/**/*.py")
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_error_messages_of_the_troubleshooting_page_are_in_the_code() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^### (.*)$", page, re.MULTILINE)
    assert len(set(messages)) >= 20
    strings = strings_of_the_code()
    for message in messages:
        text = message.removeprefix("`").removesuffix("`")
        assert message == f"`{text}`"
        assert any(text in string for string in strings), message


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.match(rf"\[{project}\] - (Unreleased|\d{{4}}-\d\d-\d\d)$", versions[0])
    assert all(re.fullmatch(r"\[[\d.]+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    for version in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        sections = re.findall(r"^### (.*)$", version, re.MULTILINE)
        assert len(sections) == len(set(sections))
        assert sections
        assert set(sections) <= SECTIONS


def test_the_versioning_page_names_every_package() -> None:
    page = (ROOT / "docs" / "versioning.md").read_text()
    assert all(f"`alexnet_{package}`" in page for package in PACKAGES)
