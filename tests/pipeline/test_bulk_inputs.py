"""Where the inputs of a bulk classification come from: lists and object stores."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from alexnet_model import decoding
from alexnet_model.errors import BulkError, DatasetError, UsageError
from alexnet_pipeline import bulk_inputs, classify_in_bulk, names_at_url, names_in_list

from .bulk_runs import Opened, rows

fsspec = pytest.importorskip("fsspec", reason="needs the [bulk] extra")


def encoded(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (20, 18), level).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def bucket() -> Iterator[str]:
    """The URL of a folder in memory with images and other objects."""
    store = fsspec.filesystem("memory")
    for name in ("a.png", "b.PNG", "notes.csv", ".hidden.png", "deep/c.png", "deep/@eaDir/d.png"):
        store.pipe(f"/bucket/{name}", encoded(100))
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


def test_a_folder_of_a_store_has_its_images(bucket: str) -> None:
    assert names_at_url(bucket) == ["memory:///bucket/a.png", "memory:///bucket/b.PNG"]
    assert names_at_url(bucket, recursive=True) == [
        "memory:///bucket/a.png",
        "memory:///bucket/b.PNG",
        "memory:///bucket/deep/c.png",
    ]
    assert names_at_url(f"{bucket}/*/*.png") == ["memory:///bucket/deep/c.png"]
    assert names_at_url(f"{bucket}/missing.png") == [f"{bucket}/missing.png"]


def test_a_folder_on_disk_by_its_url(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(0))
    url = f"file://{tmp_path}"
    assert names_at_url(url) == [f"{url}/a.png"]
    classify_in_bulk(names_at_url(url), Opened(), tmp_path / "out", workers=1)
    assert [row["error"] for row in rows(tmp_path / "out")] == [None]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bucket/deep/@eaDir/*.jpg", "got no image, expected a pattern that matches objects"),
        ("nosuch://bucket", "got Protocol not known: nosuch, expected a URL that fsspec can open"),
    ],
)
def test_urls_without_images(bucket: str, url: str, message: str) -> None:
    with pytest.raises((DatasetError, UsageError)) as error:
        names_at_url(url)
    assert message in str(error.value)


def test_a_list_names_paths_beside_it_and_urls(tmp_path: Path) -> None:
    listed = tmp_path / "images.txt"
    listed.write_text("# images\nroses/é.png\n\n/data/b.png\ns3://bucket/c.png\n", encoding="utf-8")
    assert names_in_list(str(listed)) == [f"{tmp_path}/roses/é.png", "/data/b.png", "s3://bucket/c.png"]
    assert names_in_list(f"file://{listed}") == [
        f"file://{tmp_path}/roses/é.png",
        "/data/b.png",
        "s3://bucket/c.png",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# nothing\n", "got no name, expected a UTF-8 list of images, one path or URL a line"),
        (b"rose\xff.png", "codec can't decode byte 0xff"),
        (b"rose.png\n" * 20, "got more than 100 bytes"),
    ],
)
def test_lists_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.setattr(bulk_inputs, "MAX_LIST_BYTES", 100)
    (tmp_path / "images.txt").write_bytes(content)
    with pytest.raises(DatasetError) as error:
        names_in_list(str(tmp_path / "images.txt"))
    assert message in str(error.value)


def test_objects_that_cannot_be_read_are_rows_and_reads_are_bounded(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/empty.png", b"")
    store.pipe("/bucket/large.png", bytes(5000))
    for module in (bulk_inputs, decoding):
        monkeypatch.setattr(module, "MAX_ENCODED_BYTES", 1000)
    sizes: list[int] = []
    kind = type(store.open("/bucket/a.png", "rb"))
    read = kind.read

    def bounded(file: object, size: int = -1) -> bytes:
        sizes.append(size)
        content: bytes = read(file, size)
        return content

    monkeypatch.setattr(kind, "read", bounded)
    names = [f"{bucket}/{name}.png" for name in ("a", "empty", "large", "missing")]
    result = classify_in_bulk(names, Opened(), tmp_path / "out", workers=0)
    assert result.errors == 3
    assert set(sizes) == {1001}
    errors = [row["error"] for row in rows(tmp_path / "out")]
    assert errors[0] is None
    assert str(errors[1]).startswith("memory://bucket/empty.png: got 0 bytes")
    assert str(errors[2]).startswith("memory://bucket/large.png: got more than 1,000 bytes")
    assert str(errors[3]).startswith("memory://bucket/missing.png: got")


def test_a_store_that_fails_ends_the_run_and_is_no_row(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fsspec.filesystem("memory")

    def fail(*_: object, **__: object) -> None:
        raise TimeoutError("no reply in 60 s")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "open", fail)
        with pytest.raises(BulkError) as error:
            classify_in_bulk([f"{bucket}/a.png"], Opened(), tmp_path / "out", workers=0)
    assert str(error.value) == (
        "memory://bucket/a.png: got TimeoutError: no reply in 60 s, "
        "expected a store or disk that can be read. Run the same command again; it continues."
    )
    assert classify_in_bulk([f"{bucket}/a.png"], Opened(), tmp_path / "out", workers=0).errors == 0


def test_a_disk_that_fails_ends_the_run_and_is_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(decoding, "_content_of_file", fail)
    with pytest.raises(BulkError, match=r"rose.png: got OSError: \[Errno 116\] Stale file handle"):
        classify_in_bulk([str(tmp_path / "rose.png")], Opened(), tmp_path / "out", workers=0)
