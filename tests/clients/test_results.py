from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from alexnet_clients import Classification, Prediction
from alexnet_clients.results import Format, LineFormat, ResultFile
from alexnet_model.errors import AlexnetError, DeadlineExceeded, PictureError, UsageError

MODEL = "alexnet_int8"


def answered(picture: str) -> Prediction:
    classes = (Classification('a, "b"', 3, 0.75), Classification("naïve", 1, 0.25))
    return Prediction(picture=picture, classes=classes, latency_ms=1.5, request_bytes=150_609)


def failed(picture: str, error: type[AlexnetError]) -> Prediction:
    return Prediction(picture=picture, error=error(picture, got="nothing", expected="a picture, whole"))


def opened(path: Path, kind: Format, *, resume: bool = False, top: int = 2, model: str = MODEL) -> ResultFile:
    return ResultFile(path, LineFormat(kind, top), model, resume)


@pytest.fixture(params=["json", "csv"])
def kind(request: pytest.FixtureRequest) -> Format:
    chosen: Format = request.param
    return chosen


def test_lines_are_json_or_csv(tmp_path: Path) -> None:
    for kind in ("json", "csv"):
        with opened(tmp_path / kind, kind) as file:
            file.write(answered("a,b.png"))
            file.write(failed("torn.png", PictureError))
    first, second = map(json.loads, (tmp_path / "json").read_text().splitlines())
    assert first["classes"][0] == {"label": 'a, "b"', "index": 3, "probability": 0.75}
    assert (second["classes"], second["error_type"]) == ([], "PictureError")
    first, second = csv.DictReader(io.StringIO((tmp_path / "csv").read_text()))
    assert (first["picture"], first["label_1"], first["probability_2"]) == ("a,b.png", 'a, "b"', "0.25")
    assert (second["label_1"], second["error_type"]) == ("", "PictureError")


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / "out"
    path.write_text("a year of work")
    with pytest.raises(UsageError, match="--resume"):
        opened(path, kind)
    assert path.read_text() == "a year of work"


def test_going_on_knows_what_is_done_and_appends(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / "out"
    with opened(path, kind, resume=True) as file:
        assert file.done == set()
        file.write(answered("one"))
        file.write(failed("torn", PictureError))
        file.write(failed("late", DeadlineExceeded))
    with opened(path, kind, resume=True) as file:
        assert file.done == {"one", "torn"}  # the server's failure is asked again, the picture's not
        file.write(answered("late"))
    with opened(path, kind, resume=True) as file:
        assert file.done == {"one", "torn", "late"}
    assert len(path.read_text().splitlines()) == (3 if kind == "json" else 4)


@pytest.mark.parametrize("torn_bytes", [1, 10, 40])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, kind: Format, torn_bytes: int) -> None:
    path = tmp_path / "out"
    with opened(path, kind) as file:
        file.write(answered("one"))
        whole = path.read_bytes()
        file.write(answered("two"))
    path.write_bytes(path.read_bytes()[: len(whole) + torn_bytes])
    with opened(path, kind, resume=True) as file:
        assert file.done == {"one"}
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"pict"])
def test_a_file_that_was_hardly_begun(tmp_path: Path, kind: Format, content: bytes) -> None:
    path = tmp_path / "out"
    path.write_bytes(content)
    with opened(path, kind, resume=True) as file:
        assert file.done == set()
    assert path.read_text() == LineFormat(kind, 2).header


def test_what_was_begun_otherwise_is_not_gone_on_with(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / "out"
    with opened(path, kind) as file:
        file.write(answered("one"))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="answers of alexnet_int8"):
        opened(path, kind, resume=True, model="alexnet_fp32")
    with pytest.raises(UsageError, match="expected"):
        opened(path, "json" if kind == "csv" else "csv", resume=True)
    assert path.read_bytes() == before


def test_another_number_of_columns_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with opened(path, "csv") as file:
        file.write(answered("one"))
    with pytest.raises(UsageError, match="3 classes a picture"):
        opened(path, "csv", resume=True, top=3)


@pytest.mark.parametrize("content", ["[]\n", "{}\n", "no json\n", '{"picture": 1}\n'])
def test_a_foreign_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "out"
    path.write_text(content)
    with pytest.raises(UsageError, match="no JSON of predictions"):
        opened(path, "json", resume=True)
    assert path.read_text() == content
