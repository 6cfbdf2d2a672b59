"""What the benchmark commands share: the recorded command line, `--json` and `--output`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, get_type_hints

import pytest
import typer

from alexnet_bench.reports.files import report_from_file
from alexnet_bench.schema import Report
from alexnet_cli.bench.reporting import finish, recorded_command
from alexnet_cli.bench.server import server_command

from ..bench.reports_for_tests import cold_starts, report


def small_report() -> Report:
    return report(engines=(), loads=(), breakdown=(), tuning=None, cold_starts=cold_starts()[:1])


def recorded(command: Callable[..., None], arguments: list[str]) -> str:
    """Return the command line that is recorded for a command with the parameters of `command`."""
    found: list[str] = []

    def run(context: typer.Context, **_: object) -> None:
        found.append(recorded_command(context))

    hints = get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)
    parameters = [one.replace(annotation=hints[one.name]) for one in signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = hints
    app = typer.Typer()
    app.command("run")(run)
    app.callback()(lambda: None)
    app(arguments, standalone_mode=False, prog_name="alexnet bench")
    return found[0]


def test_bench_server_records_its_credentials_but_no_header_value() -> None:
    arguments = ["run", "--model", "a", "--model", "b", "--url", "grpcs://host:8001", "--ca", "ca.pem"]
    arguments += ["--cert", "client.pem", "--key", "client.key"]
    arguments += ["--header", "Authorization: Bearer s3cret", "--header", "X-Team:s3cret"]
    line = recorded(server_command, [*arguments, "--json", "--output", "report.json"])
    assert line.startswith("alexnet bench run --model a --model b --url grpcs://host:8001 ")
    for words in ("--ca ca.pem", "--cert client.pem", "--key client.key", "--seconds 3", "--workers 1"):
        assert words in line
    assert "--header Authorization --header X-Team" in line
    assert "s3cret" not in line
    assert "--json" not in line
    assert "report.json" not in line


def command(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument()],
    judge: Annotated[bool, typer.Option("--judge/--no-judge")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run")] = False,
) -> None: ...


def test_flags_are_recorded_if_they_differ_from_their_default() -> None:
    assert recorded(command, ["run", "a folder"]) == "alexnet bench run 'a folder'"
    changed = recorded(command, ["run", "--dry-run", "--no-judge", "x"])
    assert changed == "alexnet bench run x --no-judge --dry-run"


def finished(tmp_path: Path, **options: bool) -> Path | None:
    path = tmp_path / "report.json" if options.pop("writes", False) else None
    finish(small_report(), as_json=options.get("as_json", False), output=path, measured=True)
    return path


def test_json_prints_the_report_to_standard_output_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished(tmp_path, as_json=True, writes=True)
    assert path is not None
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads(path.read_text(encoding="utf-8"))
    assert Report.model_validate_json(printed) == report_from_file(path) == small_report()


def test_without_json_tables_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finished(tmp_path) is None
    assert "Cold start" in capsys.readouterr().out


def test_a_run_that_did_not_measure_everything_exits_with_1_after_writing(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(typer.Exit) as ended:
        finish(small_report(), as_json=True, output=path, measured=False)
    assert ended.value.exit_code == 1
    assert path.exists()
