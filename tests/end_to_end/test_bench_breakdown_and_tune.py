"""`alexnet bench breakdown` and `alexnet tune` as commands. No test depends on how fast anything is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from alexnet_bench import (
    Candidate,
    Load,
    MeasuredLoad,
    ServerBench,
    Timing,
    TuningOptions,
    bench_tuning,
    tuning,
    winner_of,
)
from alexnet_bench.reports.files import report_from_file
from alexnet_bench.runs import report_of_run
from alexnet_bench.tuning import CandidateResult
from alexnet_cli.main import run
from alexnet_model.errors import ServerError
from alexnet_model.manifest import write_manifest
from alexnet_serving import Finding, RepositoryOptions, lint, packed_export, write_repository

from .conftest import Exported

TUNE = ["tune", "--limit-p99-ms", "50", "--repository"]
Files = dict[str, tuple[int, int]]


@pytest.fixture
def repository(exported: Exported, tmp_path: Path) -> Path:
    """A repository with options of its own, of an export with a refused precision, alone in its folder."""
    refused = exported.manifest.model_copy(
        update={
            "artifacts": tuple(
                artifact.model_copy(
                    update={"decision": artifact.decision.model_copy(update={"accepted": False})}
                )
                if artifact.precision == "fp16"
                else artifact
                for artifact in exported.manifest.artifacts
            )
        }
    )
    path = tmp_path / "alone" / "model_repository"
    path.parent.mkdir()
    write_repository(refused, exported.folder, path, RepositoryOptions(queue_size=7, encoded=False))
    return path


@pytest.fixture
def fixed_rates(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace measurements by a table of rates, and the calibration by two numbers."""

    def use(rates: dict[str, float | None], *, calibration: tuple[float, float] = (100.0, 100.0)) -> None:
        def held_by(candidate: Candidate, *_: object) -> CandidateResult:
            rate = next((rate for words, rate in rates.items() if words in str(candidate)), 100.0)
            return CandidateResult(rate_per_s=rate, p99_ms=30.0, words="")

        steady = partial(report_of_run, calibration=iter(calibration).__next__)
        monkeypatch.setattr(tuning, "report_of_run", steady)
        monkeypatch.setattr(tuning, "measure_candidate", held_by)

    return use


def files_beside(repository: Path) -> Files:
    """Return all files in the repository's parent folder; a file that was written again differs."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in repository.parent.rglob("*")
        if path.is_file()
    }


def test_the_breakdown_is_measured_printed_and_written(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository, file = (
        exported.repository(tmp_path / "alone" / "model_repository"),
        tmp_path / "breakdown.json",
    )
    before = files_beside(repository)
    words = ["bench", "breakdown", "--repository", str(repository)]
    assert run([*words, "--batch", "1", "--rounds", "1", "--requests", "2", "--output", str(file)]) == 0
    shown = capsys.readouterr().out
    report = report_from_file(file)
    assert {step.of for step in report.breakdown} == {f"{p}, batch 1" for p in ("fp32", "fp16", "int8")}
    assert "shared memory" in shown
    assert report.command.startswith(f"alexnet bench breakdown --repository {repository}")
    # The ensemble has one precision; the other two are left out.
    assert len(report.left_out) == 2
    assert files_beside(repository) == before


def test_the_winner_is_written_and_all_other_options_stay(
    repository: Path, tmp_path: Path, fixed_rates: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    file, before = tmp_path / "tune.json", packed_export(repository).manifest
    fixed_rates({"500 us": 150.0, "fp": 20.0})
    assert run([*TUNE, str(repository), "--output", str(file)]) == 0
    assert packed_export(repository).options == RepositoryOptions(
        queue_size=7, encoded=False, queue_delay_us=500, instances=1, max_batch=16
    )
    assert packed_export(repository).manifest == before, "with the refused precision's record"
    assert lint(repository) == ()
    assert list(repository.parent.iterdir()) == [repository]
    report = report_from_file(file)
    assert report.command.startswith(f"alexnet tune --limit-p99-ms 50 --repository {repository}")
    assert report.tuning is not None
    assert "queue delay 500 holds 1.50 times as much" in report.tuning.why
    assert "Next: alexnet serve" in capsys.readouterr().err


def test_ctrl_c_keeps_the_report_and_changes_nothing(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, before = tmp_path / "tune.json", files_beside(repository)

    def held_by(candidate: Candidate, *_: object) -> CandidateResult:
        if candidate.precision == "int8":
            raise KeyboardInterrupt
        return CandidateResult(rate_per_s=20.0, p99_ms=30.0, words="")

    monkeypatch.setattr(tuning, "measure_candidate", held_by)
    assert run([*TUNE, str(repository), "--output", str(file)]) == 130
    assert files_beside(repository) == before
    report = report_from_file(file)
    assert "interrupted" in [reason.rule for reason in report.reasons]
    found = report.tuning
    assert found is not None
    assert [step.precision for step in found.steps] == ["fp32"]
    assert (found.winner, found.why) == (None, "the search was interrupted")


def test_a_server_that_is_gone_makes_the_run_invalid_and_nothing_is_written(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, before = tmp_path / "tune.json", files_beside(repository)

    def held_by(candidate: Candidate, *_: object) -> CandidateResult:
        if candidate.precision == "int8":
            return CandidateResult(rate_per_s=None, p99_ms=None, words="connection refused", server_gone=True)
        return CandidateResult(rate_per_s=20.0, p99_ms=30.0, words="")

    monkeypatch.setattr(tuning, "measure_candidate", held_by)
    assert run([*TUNE, str(repository), "--output", str(file)]) == 1
    assert files_beside(repository) == before
    assert "server gone" in [reason.rule for reason in report_from_file(file).reasons]


def test_ctrl_c_during_a_load_ends_the_search(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted load returns a row too; it must end the search."""
    loads: list[str] = []
    real = ServerBench.measure

    def interrupted(self: ServerBench, load: Load, **options: Any) -> MeasuredLoad:
        loads.append(load.model)
        found = real(self, load, **options)
        return replace(found, result=replace(found.result, interrupted=True))

    monkeypatch.setattr(ServerBench, "measure", interrupted)
    assert run([*TUNE, str(repository), "--seconds", "2", "--output", str(tmp_path / "tune.json")]) == 130
    assert loads == ["alexnet_fp32"]


def test_the_default_repository_is_the_one_that_export_writes(
    repository: Path, fixed_rates: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository.parent)
    fixed_rates({"500 us": 150.0})
    assert run(["tune", "--limit-p99-ms", "50"]) == 0
    assert packed_export(repository).options.queue_delay_us == 500


@pytest.mark.parametrize(
    ("rates", "calibration", "options", "code", "message"),
    [
        ({"500 us": 150.0}, (100.0, 100.0), ["--dry-run"], 0, "was not changed."),
        ({"500 us": 150.0}, (100.0, 50.0), ["--dry-run"], 0, "INVALID (machine busy)"),
        (
            {"500 us": 150.0},
            (100.0, 50.0),
            [],
            1,
            "INVALID (machine busy). Next: measure again, or write it with --force.",
        ),
        ({"": None}, (100.0, 100.0), [], 1, "no configuration met the limit. Next: raise --limit-p99-ms"),
        ({"": None}, (100.0, 100.0), ["--dry-run"], 1, "no configuration met the limit"),
    ],
)
def test_a_run_that_writes_nothing_reports_the_reason(
    repository: Path,
    tmp_path: Path,
    fixed_rates: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    rates: dict[str, float | None],
    calibration: tuple[float, float],
    options: list[str],
    code: int,
    message: str,
) -> None:
    file, before = tmp_path / "tune.json", files_beside(repository)
    fixed_rates(rates, calibration=calibration)
    assert run([*TUNE, str(repository), *options, "--output", str(file)]) == code
    assert files_beside(repository) == before
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith(str(repository))]
    assert message in line
    found = report_from_file(file).tuning
    assert found is not None
    assert ("Best: fp32, 1 instance, queue delay 500 us" in captured.out) == (found.winner is not None)
    assert ("(INVALID: machine busy)" in captured.out) == (calibration == (100.0, 50.0))


def test_an_invalid_answer_is_written_on_request(
    repository: Path, fixed_rates: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    fixed_rates({"500 us": 150.0}, calibration=(100.0, 50.0))
    assert run([*TUNE, str(repository), "--force"]) == 0
    assert packed_export(repository).options.queue_delay_us == 500
    assert "INVALID: machine busy" in capsys.readouterr().out


def interrupted(*_: object) -> CandidateResult:
    raise KeyboardInterrupt


def died(*_: object) -> CandidateResult:
    raise ServerError("server", got="exit code 1", expected="a server")


def wrong(repository: Path) -> tuple[Finding, ...]:
    return (Finding("config.pbtxt", "instances", "3", "2"),)


@pytest.mark.parametrize(
    ("what", "fails", "code", "message"),
    [
        ("measure_candidate", interrupted, 130, "Interrupted."),
        ("measure_candidate", died, 1, "no configuration met the limit"),
        ("lint", wrong, 1, "got 1 finding"),
        ("write_repository", interrupted, 130, "Interrupted."),
    ],
)
def test_a_run_that_fails_does_not_change_the_repository(
    repository: Path,
    fixed_rates: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    fails: Callable[..., object],
    code: int,
    message: str,
) -> None:
    before = files_beside(repository)
    fixed_rates({"500 us": 150.0})
    monkeypatch.setattr(tuning, what, fails)
    assert run([*TUNE, str(repository)]) == code
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert files_beside(repository) == before


def test_an_export_that_was_written_during_the_run_is_not_replaced(
    repository: Path,
    fixed_rates: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fixed_rates({"500 us": 150.0})
    held_by, manifest = tuning.measure_candidate, packed_export(repository).manifest
    others = tuple(artifact.model_copy(update={"sha256": "0" * 64}) for artifact in manifest.artifacts)

    def meanwhile(*arguments: Any) -> CandidateResult:
        changed = manifest.model_copy(update={"artifacts": others})
        write_manifest(changed, repository, "alexnet.1.export.json")
        return held_by(*arguments)

    monkeypatch.setattr(tuning, "measure_candidate", meanwhile)
    assert run([*TUNE, str(repository)]) == 1
    assert (
        "got another export than before the measurement, expected the export that was measured. Run tune"
        in capsys.readouterr().err.splitlines()[-1]
    )
    assert packed_export(repository).manifest.artifacts == others
    assert packed_export(repository).options.queue_delay_us == 0


def test_manual_changes_are_not_lost(
    repository: Path, fixed_rates: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    fixed_rates({"500 us": 150.0})
    config = repository / "alexnet_int8" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 3"))
    before = files_beside(repository)
    assert run([*TUNE, str(repository)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "", "the error comes before anything is measured"
    assert "instance_group[0].count: got 3, expected 1" in captured.err.splitlines()[-1]
    assert files_beside(repository) == before


@pytest.mark.parametrize(
    "words", [[*TUNE[:-1], "--with", "embedded", "--repository"], ["bench", "breakdown", "--repository"]]
)
def test_engines_are_refused_in_one_line(
    repository: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = repository / "alexnet_fp32" / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "openvino_dynamic"', 'backend: "tensorrt"'))
    assert run([*words, str(repository)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert "alexnet_fp32: got a model for TensorRT, expected a model that the embedded server can run" in line
    assert "alexnet serve --with docker" in line


def test_a_configuration_is_served_and_measured(exported: Exported) -> None:
    only = exported.manifest.model_copy(
        update={"artifacts": tuple(a for a in exported.manifest.artifacts if a.precision == "int8")}
    )
    options = TuningOptions(
        limit_p99_ms=5000,
        instances=(),
        queue_delays_us=(),
        max_batches=(),
        most_probes=2,
        timing=Timing(burn_in_s=0.1, seconds=0.2, repeats=1),
    )
    report = bench_tuning(only, exported.folder, options, RepositoryOptions())
    assert report.tuning is not None
    (step,) = report.tuning.steps
    assert (step.precision, step.max_batch) == ("int8", 16)
    assert step.note, "what the search found, in words"
    if step.held_rate_per_s is not None:  # on a busy machine no probe may be sent in time
        assert winner_of(report, RepositoryOptions()) == RepositoryOptions(max_batch=16)
