"""Bulk classification: its shards, and how a run continues after a fault."""

from __future__ import annotations

import io
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_model.errors import BulkError, ManifestError, UsageError
from alexnet_pipeline import BulkModel, classify_in_bulk

from .bulk_runs import (
    CONTRACT,
    IMAGES,
    NAMES,
    Opened,
    assert_complete,
    by_brightness,
    contents,
    images_in,
    kill_until_complete,
    pq,
    rows,
)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return images_in(tmp_path_factory.mktemp("images"))


def test_every_image_has_one_row_with_the_predictions_of_the_model(names: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[tuple[int, int]] = []
    result = classify_in_bulk(
        reversed(names),
        Opened(),
        out,
        top=2,
        shards=3,
        workers=2,
        progress=lambda stage, done, total, note="": seen.append((done, total)),
    )
    assert (result.inputs, result.errors, result.shards, result.kept) == (IMAGES, 2, 3, 0)
    assert seen[-1] == (IMAGES, IMAGES)
    assert [path.name for path in sorted(out.iterdir())] == [
        "_bulk.json",
        *(f"part-0000{number}-of-00003.parquet" for number in range(3)),
    ]
    assert_complete(out, names)
    for row in rows(out):
        name = str(row["image"])
        if name.endswith(("torn.png", "missing.png")):
            assert str(row["error"]).startswith(name)
            assert row["classes"] == []
            continue
        probabilities = by_brightness(CONTRACT.prepared(name)[None])[0]
        best = np.argsort(-probabilities, kind="stable")[:2]
        assert row["error"] is None
        assert row["classes"] == [
            {"label": NAMES[index], "index": index, "probability": probabilities[index]} for index in best
        ]


def test_a_finished_shard_is_never_computed_again(names: list[str], tmp_path: Path) -> None:
    classify_in_bulk(names, Opened(), tmp_path / "out", shards=4, workers=0)
    before = contents(tmp_path / "out")
    removed = tmp_path / "out" / "part-00001-of-00004.parquet"
    removed.unlink()
    model = Opened()
    result = classify_in_bulk(names, model, tmp_path / "out", shards=4, workers=0)
    assert (result.kept, result.shards, model.images) == (3, 4, IMAGES // 4)
    after = contents(tmp_path / "out")
    assert after.pop(removed.name)[1] == before.pop(removed.name)[1]
    assert after == before


def test_an_image_that_is_named_twice_has_one_row(names: list[str], tmp_path: Path) -> None:
    result = classify_in_bulk([*names, *names[:3]], Opened(), tmp_path / "out", workers=0)
    assert (result.inputs, result.repeated) == (IMAGES, 3)
    assert_complete(tmp_path / "out", names)


def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/rose\xff.png")
    Image.new("RGB", (20, 20)).save(name)
    result = classify_in_bulk([name], Opened(), tmp_path / "out", workers=1)
    assert result.errors == 0
    assert rows(tmp_path / "out")[0]["image"] == f"{tmp_path}/rose\\udcff.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": 39}, "inputs: got 39, expected 40, with which it was begun"),
        ({"model": "brightness_int8"}, "model: got brightness_int8, expected brightness_fp32"),
        ({"top": 1}, "top: got 1, expected 2"),
        ({"shards": 3}, "shards: got 3, expected 2"),
    ],
)
def test_other_images_models_and_options_do_not_continue_a_run(
    names: list[str], tmp_path: Path, change: dict[str, object], message: str
) -> None:
    out = tmp_path / "out"
    classify_in_bulk(names, Opened(), out, top=2, shards=2, workers=0)
    before = contents(out)
    values = {"names": len(names), "model": "brightness_fp32", "top": 2, "shards": 2, **change}
    with pytest.raises(UsageError) as refused:
        classify_in_bulk(
            names[: int(str(values["names"]))],
            Opened(str(values["model"])),
            out,
            top=int(str(values["top"])),
            shards=int(str(values["shards"])),
            workers=0,
        )
    assert message in str(refused.value)
    assert str(refused.value).endswith(
        "Continue with the same images, model and options, or choose another --out."
    )
    assert contents(out) == before


def test_other_names_of_the_same_number_do_not_continue_a_run(names: list[str], tmp_path: Path) -> None:
    classify_in_bulk(names, Opened(), tmp_path / "out", workers=0)
    with pytest.raises(UsageError, match="inputs_sha256"):
        classify_in_bulk([*names[1:], "other.png"], Opened(), tmp_path / "out", workers=0)


@contextmanager
def no_model() -> Iterator[BulkModel]:
    raise RuntimeError("no model")
    yield


def test_a_folder_that_no_run_has_begun_is_refused(names: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"other files \(notes.txt\)"):
        classify_in_bulk(names, Opened(), tmp_path, workers=0)
    with pytest.raises(UsageError, match="got a file"):
        classify_in_bulk(names, Opened(), tmp_path / "notes.txt", workers=0)
    with pytest.raises(UsageError, match="got none"):
        classify_in_bulk([], Opened(), tmp_path / "out", workers=0)
    with pytest.raises(RuntimeError, match="no model"):
        classify_in_bulk(names, no_model, tmp_path / "out", workers=0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_runs_do_not_write_to_one_folder(names: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused: list[str] = []

    def second(stage: str, done: int, total: int, note: str = "") -> None:
        with pytest.raises(UsageError) as error:
            classify_in_bulk(names, Opened(), out, workers=0)
        refused.append(str(error.value))

    classify_in_bulk(names, Opened(), out, workers=0, progress=second)
    assert "that another run is writing" in refused[0]
    assert_complete(out, names)


def test_broken_shards_and_records_are_found(names: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    classify_in_bulk(names, Opened(), out, shards=2, workers=0)
    shard = out / "part-00000-of-00002.parquet"
    whole, other = shard.read_bytes(), (out / "part-00001-of-00002.parquet").read_bytes()
    shard.write_bytes(whole[:-20])
    with pytest.raises(BulkError, match=r"broken file .* Remove this file and run the same command again"):
        classify_in_bulk(names, Opened(), out, shards=2, workers=0)
    probabilities = pq.read_metadata(io.BytesIO(whole)).row_group(0).column(4)
    altered = bytearray(whole)
    altered[probabilities.data_page_offset + 30] ^= 1
    shard.write_bytes(altered)
    with pytest.raises(BulkError, match=r"checksum.* Remove this file"):
        classify_in_bulk(names, Opened(), out, shards=2, workers=0)
    shard.write_bytes(other)  # of the same run, with as many rows
    with pytest.raises(BulkError, match="other images than the inputs from row 0"):
        classify_in_bulk(names, Opened(), out, shards=2, workers=0)
    classify_in_bulk(names[:20], Opened(), tmp_path / "other", shards=1, workers=0)
    shard.write_bytes((tmp_path / "other" / "part-00000-of-00001.parquet").read_bytes())
    with pytest.raises(BulkError, match="20 rows of the run"):
        classify_in_bulk(names, Opened(), out, shards=2, workers=0)
    shard.unlink()
    classify_in_bulk(names, Opened(), out, shards=2, workers=0)
    assert shard.read_bytes() == whole
    (out / "_bulk.json").write_text("{}")
    with pytest.raises(ManifestError):
        classify_in_bulk(names, Opened(), out, shards=2, workers=0)


def test_a_full_disk_leaves_the_finished_shards_and_no_part(names: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(stage: str, done: int, total: int, note: str = "") -> None:
        if done > total // 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))

    try:
        with pytest.raises(OSError, match=r"part-0000[23]-of-00004\.parquet") as full:
            classify_in_bulk(names, Opened(), out, shards=4, workers=0, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert str(full.value.filename).startswith(str(out))
    before = contents(out)
    assert "part-00001-of-00004.parquet" in before
    assert all(name.endswith((".parquet", ".json")) for name in before)
    classify_in_bulk(names, Opened(), out, shards=4, workers=0)
    assert_complete(out, names)
    assert before.items() <= contents(out).items()


def test_a_killed_decoding_process_ends_the_run_which_then_continues(
    names: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def kill(stage: str, done: int, total: int, note: str = "") -> None:
        if done > total // 2:
            for child in active_children():
                child.kill()

    with pytest.raises(BulkError, match="run the same command again; it continues"):
        # More batches than are decoded ahead.
        classify_in_bulk(names, Opened(), out, shards=4, workers=1, progress=kill)
    before = contents(out)
    assert len(before) > 1
    classify_in_bulk(names, Opened(), out, shards=4, workers=1)
    assert_complete(out, names)
    assert before.items() <= contents(out).items()


def test_an_address_where_no_ray_listens_is_refused_at_once(names: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the [ray] extra")
    with pytest.raises(BulkError, match=r"--ray 127.0.0.1:1: got Connection refused, expected a Ray cluster"):
        classify_in_bulk(names, Opened(), tmp_path / "out", ray="127.0.0.1:1")


def test_a_run_that_is_killed_again_and_again_completes(names: list[str], tmp_path: Path) -> None:
    kill_until_complete(tmp_path / "out", names, kills=2)
