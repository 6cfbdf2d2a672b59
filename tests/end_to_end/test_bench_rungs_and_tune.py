"""`alexnet bench rungs` and `alexnet bench tune` as commands; how fast anything is, nobody asks here."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_bench import tuning
from alexnet_bench.loads.plans import Timing
from alexnet_bench.reports.files import report_from_file
from alexnet_bench.tuning import Candidate, Held, TuningOptions, bench_tuning, winner_of
from alexnet_cli.main import run
from alexnet_serving import RepositoryOptions, lint, options_of_repository, write_repository

from .conftest import Exported


def test_rungs_are_measured_shown_and_kept(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository, file = exported.repository(tmp_path / "model_repository"), tmp_path / "rungs.json"
    words = ["bench", "rungs", str(exported.folder), "--repository", str(repository)]
    assert run([*words, "--batch", "1", "--rounds", "1", "--requests", "2", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    report = report_from_file(file)
    assert {rung.of for rung in report.rungs} == {f"{p}, batch 1" for p in ("fp32", "fp16", "int8")}
    assert "shared memory" in shown
    assert report.command.startswith(f"alexnet bench rungs {exported.folder}")
    # The encoded model is made of one precision; of the others that is said.
    assert len(report.left_out) == 2


def played(rates: dict[str, float | None]) -> object:
    def held_by(candidate: Candidate, *_: object) -> Held:
        rate = next((rate for words, rate in rates.items() if words in str(candidate)), 100.0)
        return Held(rate_per_s=rate, p99_ms=30.0, words="")

    return held_by


def test_the_winner_is_written_and_the_rest_stays_as_the_repository_had_it(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, file = tmp_path / "model_repository", tmp_path / "tune.json"
    write_repository(
        exported.manifest, exported.folder, repository, RepositoryOptions(queue_size=7, encoded=False)
    )
    monkeypatch.setattr(tuning, "_held_by", played({"500 us": 150.0, "fp": 20.0}))
    words = ["bench", "tune", str(exported.folder), "--limit-p99-ms", "50", "--repository", str(repository)]
    assert run([*words, "--json", str(file)]) == 0
    assert options_of_repository(repository) == RepositoryOptions(
        queue_size=7, encoded=False, queue_delay_us=500, instances=1, max_batch=16
    )
    assert lint(repository) == ()
    report = report_from_file(file)
    assert report.tuning is not None
    assert "queue delay 500 holds 1.50 times as much" in report.tuning.why
    assert "Next: alexnet serve" in capsys.readouterr().err


def test_a_limit_that_nothing_holds_writes_nothing_and_exits_1(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = exported.repository(tmp_path / "model_repository")
    before = options_of_repository(repository)
    monkeypatch.setattr(tuning, "_held_by", played({"": None}))
    words = ["bench", "tune", str(exported.folder), "--limit-p99-ms", "1", "--repository", str(repository)]
    assert run(words) == 1
    assert "no rate held 1 ms" in " ".join(capsys.readouterr().out.split())
    assert options_of_repository(repository) == before


def test_ctrl_c_keeps_the_report_and_writes_no_repository(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Held:
        raise KeyboardInterrupt

    repository, file = tmp_path / "model_repository", tmp_path / "tune.json"
    monkeypatch.setattr(tuning, "_held_by", interrupted)
    words = ["bench", "tune", str(exported.folder), "--limit-p99-ms", "50", "--repository", str(repository)]
    assert run([*words, "--json", str(file)]) == 130
    assert not repository.exists()
    assert "interrupted" in [reason.rule for reason in report_from_file(file).reasons]


def test_a_configuration_is_served_for_real(exported: Exported) -> None:
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["rungs", "nowhere"],
        ["rungs", "nowhere", "--batch", "one"],
        ["rungs", "nowhere", "--batch", "0"],
        ["tune", "nowhere", "--limit-p99-ms", "50"],
        ["tune", "nowhere", "--limit-p99-ms", "0"],
        ["tune", "nowhere"],
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", *arguments]) in (1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("Error: ")
