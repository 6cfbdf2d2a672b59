from __future__ import annotations

import csv
import io
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from alexnet_clients import Classification, Prediction
from alexnet_clients.results import Format, LineFormat, ResultFile
from alexnet_model.errors import AlexnetError, DeadlineExceeded, ImageError, UnreadableImage, UsageError

MODEL = "alexnet_int8"


def answered(image: str) -> Prediction:
    classes = (Classification('a, "b"', 3, 0.75), Classification("naïve", 1, 0.25))
    return Prediction(image=image, classes=classes, latency_ms=1.5, request_bytes=150_609)


def failed(image: str, error: type[AlexnetError]) -> Prediction:
    return Prediction(image=image, error=error(image, got="nothing", expected="an image, whole"))


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
            file.write(failed("torn.png", ImageError))
    first, second = map(json.loads, (tmp_path / "json").read_text().splitlines())
    assert first["classes"][0] == {"label": 'a, "b"', "index": 3, "probability": 0.75}
    assert (second["classes"], second["error_type"]) == ([], "ImageError")
    first, second = csv.DictReader(io.StringIO((tmp_path / "csv").read_text()))
    assert (first["image"], first["label_1"], first["probability_2"]) == ("a,b.png", 'a, "b"', "0.25")
    assert (second["label_1"], second["error_type"]) == ("", "ImageError")


def test_an_existing_file_is_not_overwritten(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / "out"
    path.write_text("a year of work")
    with pytest.raises(UsageError, match="--resume"):
        opened(path, kind)
    assert path.read_text() == "a year of work"


def test_resume_skips_final_results_and_appends(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / "out"
    with opened(path, kind, resume=True) as file:
        assert not file.done
        file.write(answered("one"))
        file.write(failed("torn", ImageError))
        file.write(failed("late", DeadlineExceeded))
        file.write(failed("missing", UnreadableImage))
    with opened(path, kind, resume=True) as file:
        assert set(file.done) == {"one", "torn"}  # only the server's failures are retried
        assert file.failed == 1
        file.write(answered("late"))
    with opened(path, kind, resume=True) as file:
        assert set(file.done) == {"one", "torn", "late"}
    assert len(path.read_text().splitlines()) == (3 if kind == "json" else 4)


@pytest.mark.parametrize("torn_bytes", [1, 10, 40])
def test_resume_removes_an_incomplete_last_line(tmp_path: Path, kind: Format, torn_bytes: int) -> None:
    path = tmp_path / "out"
    with opened(path, kind) as file:
        file.write(answered("one"))
        whole = path.read_bytes()
        file.write(answered("two"))
    path.write_bytes(path.read_bytes()[: len(whole) + torn_bytes])
    with opened(path, kind, resume=True) as file:
        assert set(file.done) == {"one"}
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"pict"])
def test_resume_accepts_a_file_without_a_whole_line(tmp_path: Path, kind: Format, content: bytes) -> None:
    path = tmp_path / "out"
    path.write_bytes(content)
    with opened(path, kind, resume=True) as file:
        assert not file.done
    assert path.read_bytes() == LineFormat(kind, 2).header


def test_resume_refuses_another_model_or_format(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / "out"
    with opened(path, kind) as file:
        file.write(answered("one"))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="predictions of alexnet_int8"):
        opened(path, kind, resume=True, model="alexnet_fp32")
    with pytest.raises(UsageError, match="expected"):
        opened(path, "json" if kind == "csv" else "csv", resume=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("top", [1, 3])
def test_resume_refuses_another_number_of_classes(tmp_path: Path, kind: Format, top: int) -> None:
    path = tmp_path / "out"
    with opened(path, kind) as file:
        file.write(answered("one"))
    with pytest.raises(UsageError, match=f"{top} classes per image"):
        opened(path, kind, resume=True, top=top)


@pytest.mark.parametrize(
    "content",
    [
        "[]\n",
        "{}\n",
        "no json\n",
        '{"image": 1}\n',
        '{"image": ["x"], "model": "alexnet_int8", "error_type": null, "classes": [1, 2]}\n',
        '{"image": "x", "model": "alexnet_int8", "error_type": null, "classes": 2}\n',
    ],
)
def test_resume_refuses_a_file_of_other_content(tmp_path: Path, content: str) -> None:
    path = tmp_path / "out"
    path.write_text(content)
    with pytest.raises(UsageError, match="lines that are not JSON of predictions"):
        opened(path, "json", resume=True)
    assert path.read_text() == content


AWKWARD_NAMES = [
    os.fsdecode(b"caf\xe9.png"),
    "line\u2028separator\x85.png",
    "carriage\rreturn.png",
    "line\nfeed.png",
    '"quoted", and "more".png',
    "\x1b[31m.png",
    " ",
]


def test_resume_reads_any_file_name(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / "out"
    with opened(path, kind) as file:
        for name in AWKWARD_NAMES:
            file.write(answered(name))
    before = path.read_bytes()
    with opened(path, kind, resume=True) as file:
        assert list(file.done) == AWKWARD_NAMES
    assert path.read_bytes() == before
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as text:
        rows = map(json.loads, text) if kind == "json" else csv.DictReader(text, strict=True)
        assert [row["image"] for row in rows] == AWKWARD_NAMES


def test_json_is_utf_8_for_any_file_name(tmp_path: Path) -> None:
    line = LineFormat("json", 2).line(answered(AWKWARD_NAMES[0]), MODEL)
    assert json.loads(line.decode())["image"] == AWKWARD_NAMES[0]


def test_resume_repairs_csv_cut_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with opened(path, "csv") as file:
        file.write(answered("one"))
        whole = path.read_bytes()
        file.write(answered('a "b"\n\nc\r\nd'))
    second = path.read_bytes().removeprefix(whole)
    for size in range(len(second)):
        path.write_bytes(whole + second[:size])
        with opened(path, "csv", resume=True) as file:
            assert set(file.done) == {"one"}, second[:size]
        assert path.read_bytes() == whole


def test_a_repeated_name_is_counted(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / "out"
    with opened(path, kind) as file:
        file.write(answered("one"))
        file.write(answered("one"))
    assert opened(path, kind, resume=True).done == {"one": 2}


def test_constructing_writes_nothing(tmp_path: Path, kind: Format) -> None:
    opened(tmp_path / "new", kind)
    (tmp_path / "torn").write_bytes(b"pict")
    opened(tmp_path / "torn", kind, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["torn"]
    assert (tmp_path / "torn").read_bytes() == b"pict"


@pytest.mark.parametrize("resume", [False, True])
def test_folders_pipes_and_devices_are_refused(tmp_path: Path, kind: Format, resume: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "a pipe or device"),
        (Path("/dev/full"), "a pipe or device"),
    ):
        with pytest.raises(UsageError, match=words):
            opened(path, kind, resume=resume)


def test_links_are_followed_and_modes_kept(tmp_path: Path, kind: Format) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    link.symlink_to(target)
    before = os.umask(0o027)
    try:
        with opened(link, kind) as file:
            file.write(answered("one"))
            whole = target.read_bytes()
            file.write(failed("late", DeadlineExceeded))
        assert target.stat().st_mode & 0o777 == 0o640
        target.chmod(0o606)
        with opened(link, kind, resume=True):
            pass
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert target.read_bytes() == whole
    assert target.stat().st_mode & 0o777 == 0o606
    assert list(target.parent.iterdir()) == [target]


def test_resume_reads_one_line_at_a_time(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / "out"
    with opened(path, kind) as file:
        for _ in range(3000):
            file.write(answered("the same"))
        file.write(failed("late", DeadlineExceeded))
    tracemalloc.start()
    try:
        with opened(path, kind, resume=True) as file:
            assert file.done.total() == 3000
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size
    finally:
        tracemalloc.stop()
