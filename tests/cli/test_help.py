"""`--help` of every command: within 80 columns, and every option by its whole name."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command

from alexnet_cli.main import app, run

from .test_usage import COMMANDS


@pytest.fixture(params=["", "bench", *COMMANDS])
def shown(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*request.param.split(), "--help"]) == 0
    return request.param, capsys.readouterr().out


def test_the_help_fits_and_names_every_option(shown: tuple[str, str]) -> None:
    words, text = shown
    assert max(map(len, text.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    command = get_command(app)
    for word in words.split():
        command = command.commands[word]  # type: ignore[attr-defined]
    names = re.findall(r"(?<![\w-])--[a-z0-9-]+", text)
    for parameter in command.params:
        if parameter.param_type_name == "option" and not parameter.hidden:  # type: ignore[attr-defined]
            assert set(parameter.opts) - {"-r", "-o"} <= set(names)


def test_types_are_shown_for_values_only(shown: tuple[str, str]) -> None:
    _, text = shown
    for line in text.splitlines():
        if re.match(r"  (--json|--recursive|--help|--resume|--add)\b", line):
            assert re.match(r"  --[a-z-]+( / --[a-z-]+)?(  |$)", line), line
    assert not re.search(r"<(bool|str|int|path|float)", text)


def test_options_of_the_connection_are_a_group(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["classify", "--help"]) == 0
    own, connection = capsys.readouterr().out.split("\nConnection:\n")
    assert "--url" in connection
    assert "--url" not in own
    assert "--top" in own
