from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_bench.reports.files import check_one_page, report_from_file, write_report
from alexnet_bench.schema import LoadRow, Report
from alexnet_model.errors import ReportError, UsageError

from .reports_for_tests import H200, engine, engine_row, environment, gpu, load_row, report


@pytest.fixture(scope="module")
def whole() -> Report:
    return report()


def test_a_report_is_read_as_it_was_written(whole: Report, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    write_report(path, whole)
    assert report_from_file(path) == whole
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


def test_a_report_that_cannot_be_written_keeps_the_old_file(
    whole: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def no_space(self: Path, *_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", no_space)
    with pytest.raises(OSError, match="No space"):
        write_report(path, whole)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def changed(**changes: Any) -> Callable[[dict[str, Any]], str]:
    return lambda content: json.dumps(content | changes)


def without(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda content: json.dumps({key: value for key, value in content.items() if key != name})


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (
            changed(schema_version=3),
            "schema_version: got 3, expected 2. A newer version of alexnet-serving wrote it",
        ),
        (changed(schema_version=1), "schema_version: got 1, expected 2. Measure again"),
        (changed(schema_version="2"), 'schema_version: got "2", expected 2'),
        (changed(schema_version=True), "schema_version: got true, expected 2"),
        (without("schema_version"), "schema_version: got none, expected 2"),
        (
            without("seconds"),
            "seconds: got field required, expected a report of alexnet bench of schema version 2",
        ),
        (changed(artifacts=[]), "got the record of an export, expected a report of alexnet bench"),
        (changed(surprise=1), "surprise: got extra inputs are not permitted"),
        (changed(seconds="soon"), "seconds: got input should be a valid number"),
        (changed(engines=[{"batch": 1}]), "engines.0.engine: got field required"),
        (lambda content: json.dumps(content)[:-9], "report.json: got no JSON"),
        (lambda content: "[" * 100_000, "report.json: got no JSON"),
        (lambda content: "[1]", "root: got list, expected a report of alexnet bench"),
    ],
)
def test_a_file_that_is_not_a_report_is_refused_in_one_line(
    broken: Callable[[dict[str, Any]], str], line: str, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    path.write_text(broken(report(loads=(), engines=()).model_dump(mode="json")))
    with pytest.raises(ReportError) as refused:
        report_from_file(path)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no such file"):
        report_from_file(tmp_path / "none.json")
    with pytest.raises(ReportError, match="is a directory"):
        report_from_file(tmp_path)
    (tmp_path / "image.json").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ReportError, match="no JSON"):
        report_from_file(tmp_path / "image.json")


def test_reports_of_one_machine_without_common_rows_share_a_page() -> None:
    check_one_page([report(loads=()), report(engines=(), title="server")])


def test_a_page_is_of_one_machine() -> None:
    other = report(engines=(), loads=(), environment=environment(gpus=(gpu(),)))
    with pytest.raises(UsageError, match=f"2 machines: .*; .*{H200}"):
        check_one_page([report(), other])
    with pytest.raises(UsageError, match="got none"):
        check_one_page([])


@pytest.mark.parametrize(
    "parts",
    [
        {"engines": (engine_row(batch=4),), "loads": ()},
        {"engines": (), "loads": (load_row(concurrency=4, samples=50),)},
    ],
    ids=["engine", "load"],
)
def test_a_row_in_two_reports_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"in both 'one' and 'two'.*alexnet compare") as refused:
        check_one_page([report(title="one", **parts), report(title="two", **parts)])
    assert "int8 on openvino" in str(refused.value)


@pytest.mark.parametrize(
    "difference", [{"url_scheme": "http"}, {"batch": 8}, {"engine": engine(options="x")}]
)
def test_loads_with_different_labels_are_different_rows(difference: dict[str, Any]) -> None:
    def one_load(row: LoadRow, title: str) -> Report:
        return report(title=title, engines=(), loads=(row,))

    check_one_page([one_load(load_row(samples=50), "a"), one_load(load_row(samples=50, **difference), "b")])
