from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_model import Contract, shards, splits_from
from alexnet_model.errors import AlexnetError, DatasetError
from alexnet_model.image_table import ImageInShard

CONTRACT = Contract(size=8, resize=8)


def png(colour: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (10, 12), (colour % 256, 255 - colour % 256, colour // 256)).save(stream, "png")
    return stream.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(first: int, count: int, *, classes: int = 2) -> dict[str, bytes]:
    """`0001.png` with `0001.cls` and a file that is ignored."""
    members = {}
    for number in range(first, first + count):
        members[f"{number:04d}.cls"] = f"{number % classes}\n".encode()
        members[f"{number:04d}.png"] = png(number)
        members[f"{number:04d}.json"] = b'{"author": 1}'
    return members


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards for training and one for validation, with two classes."""
    root = tmp_path / "images"
    write_shard(root / "set-train-0000.tar", samples(0, 6))
    write_shard(root / "set-train-0001.tar", samples(6, 4))
    write_shard(root / "set-val-0000.tar", samples(100, 4))
    return root


def test_the_images_of_shards_equal_those_of_files(folder: Path) -> None:
    splits = splits_from(str(folder))
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [10, 4, 4]
    assert splits.train.class_names == ("0", "1")
    assert splits.train.labels.tolist() == [0, 1] * 5
    assert splits.train.left_out == ()
    for number, image in enumerate(splits.train.images):
        assert image.name == f"set-train-000{number // 6}.tar/{number:04d}.png"
        np.testing.assert_array_equal(CONTRACT.prepared(image.source), CONTRACT.prepared(png(number)))
    assert splits.test.split == "test"
    assert splits.test.images is splits.validation.images


def test_shards_in_folders_of_splits_and_class_names_from_a_file(tmp_path: Path) -> None:
    write_shard(tmp_path / "train/0.tar", samples(0, 6))
    write_shard(tmp_path / "val/0.tar", samples(6, 3))
    write_shard(tmp_path / "test/0.tar", samples(9, 2))
    (tmp_path / "classes.txt").write_text("cat\ndog\nrose\n")
    splits = splits_from(str(tmp_path))
    assert splits.train.class_names == splits.test.class_names == ("cat", "dog", "rose")
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [6, 3, 2]


def test_shards_without_a_split_are_split_by_the_seed_with_their_copies(tmp_path: Path) -> None:
    members = samples(0, 30)
    members |= {"copy.png": members["0003.png"], "copy.cls": b"1"}
    splits = splits_from(str(write_shard(tmp_path / "all.tar", members)))
    every = (splits.train, splits.validation, splits.test)
    assert sum(map(len, every)) == 31
    assert splits.duplicates == 1
    assert len({image.name for split in every for image in split.images}) == 31
    (holder,) = (split for split in every if any("copy" in image.name for image in split.images))
    assert any("0003" in image.name for image in holder.images)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("imagenet1k-train-0001.tar", "train"),
        ("validation/0001.tar", "validation"),
        ("train-val.txt.shards/val-0001.tar", "validation"),
        ("training/test/0001.tar", "test"),
        ("contest/0001.tar", None),
    ],
)
def test_the_last_word_that_names_a_split_counts(path: str, split: str | None) -> None:
    assert shards.split_of(path) == split


def test_a_list_names_shards_below_its_folder_and_elsewhere(folder: Path, tmp_path: Path) -> None:
    listing = tmp_path / "shards.txt"
    listing.write_text(f"# shards\nimages/set-train-0000.tar\n\n{folder}/set-val-0000.tar\n")
    splits = splits_from(str(listing))
    assert (len(splits.train), len(splits.test)) == (6, 4)
    CONTRACT.prepared(splits.test.images[3].source)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no line"),
        ("a picture", "got a picture"),
        ("a.tar\na.tar", "2 shards with the name a.tar"),
        ("ftp://host/a.tar", "another kind"),
        ("http://host/%2e%2e.tar", "another kind"),
        ("nowhere.tar", "no such file"),
        ("http://127.0.0.1:9/a.tar", "refused.*Run again"),
    ],
)
def test_lists_that_cannot_be_used_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "shards.txt").write_text(text)
    with pytest.raises(DatasetError, match=words) as refused:
        splits_from(str(tmp_path / "shards.txt"))
    assert "\n" not in str(refused.value)


class Handler(SimpleHTTPRequestHandler):
    requests: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if "short" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "10000")
            self.end_headers()
            self.wfile.write(b"only this")
            return
        super().do_GET()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    Handler.requests.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_shards_of_urls_are_downloaded_once(url: str, tmp_path: Path) -> None:
    names = ["set-train-0000.tar", "set-val-0000.tar"]
    listing = tmp_path / "urls.txt"
    listing.write_text("\n".join(f"{url}/{name}?token=1" for name in names))
    assert len(splits_from(str(listing)).train) == len(splits_from(str(listing)).train) == 6
    assert Handler.requests == [f"/{name}?token=1" for name in names]
    assert sorted(path.name for path in (tmp_path / "urls.txt.shards").iterdir()) == names


@pytest.mark.parametrize("name", ["short.tar", "missing.tar"])
def test_a_failed_download_leaves_nothing(url: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "urls.txt").write_text(f"{url}/{name}")
    with pytest.raises(DatasetError, match=r"9 of 10,000 bytes|IncompleteRead|404"):
        splits_from(str(tmp_path / "urls.txt"))
    assert not list(tmp_path.glob("urls.txt.shards/*"))


def cut_into_the_last_image(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"IDAT")])


def cut_before_a_member(path: Path) -> None:
    with tarfile.open(path) as tar:
        place = tar.getmember("0002.cls").offset
    path.write_bytes(path.read_bytes()[:place])


def overwrite_a_header(path: Path) -> None:
    with tarfile.open(path) as tar:
        place = tar.getmember("0002.cls").offset
    content = bytearray(path.read_bytes())
    content[place : place + 512] = b"x" * 512
    path.write_bytes(content)


def negative_size(path: Path) -> None:
    with tarfile.open(path) as tar:
        place = tar.getmember("0002.cls").offset
    content = bytearray(path.read_bytes())
    header = bytearray(content[place : place + 512])
    header[124:136] = (2**96 - 1024).to_bytes(12, "big")  # GNU's base 256, negative
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    content[place : place + 512] = header
    path.write_bytes(content)


def huge_size(path: Path) -> None:
    with tarfile.open(path) as tar:
        place = tar.getmember("0002.png").offset
    info = tarfile.TarInfo("0002.png")
    info.size = 2**50
    content = bytearray(path.read_bytes())
    content[place : place + 512] = info.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(content)


def huge_extended_header(path: Path) -> None:
    content = path.read_bytes()
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 2 * 1024 * 1024
    with tarfile.open(path) as tar:
        place = tar.getmember("0002.cls").offset
    path.write_bytes(content[:place] + info.tobuf(tarfile.USTAR_FORMAT) + bytes(info.size) + content[place:])


@pytest.mark.parametrize(
    ("damage", "samples_left"),
    [
        (cut_into_the_last_image, 5),
        (cut_before_a_member, 2),
        (overwrite_a_header, 2),
        (negative_size, 2),
        (huge_size, 2),
        (huge_extended_header, 2),
    ],
)
def test_a_damaged_shard_is_named_and_used_up_to_there(
    folder: Path, damage: Callable[[Path], None], samples_left: int
) -> None:
    damage(folder / "set-train-0000.tar")
    train = splits_from(str(folder)).train
    assert len(train) == samples_left + 4
    named = [one for one in train.left_out if one.name == "set-train-0000.tar"]
    assert len(named) == 1
    assert "damaged or truncated after" in named[0].reason
    for image in train.images:
        CONTRACT.prepared(image.source)


@pytest.mark.parametrize("content", [b"", b"no tar file" * 100, bytes(5000)], ids=["empty", "text", "zeros"])
def test_a_shard_without_images_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DatasetError, match="no labelled images in 1 shards"):
        splits_from(str(tmp_path / "a.tar"))


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("members", "name", "reason"),
    [
        ({"../../out.png": png(1), "../../out.cls": b"1"}, "../../out.png", "leads out of the shard"),
        ({"/etc/out.png": png(1)}, "/etc/out.png", "leads out of the shard"),
        ({"0001.jpg": png(1)}, "0001", "two images with this key, 0001.png and 0001.jpg"),
        ({"0001.cls": b"1"}, "0001", "two labels with this key"),
        ({"0077.png": png(1)}, "0077", "an image without its label"),
        ({"0077.cls": b"1"}, "0077", "a label without an image"),
        ({"0077.cls": b"cat", "0077.png": png(1)}, "0077", "the label 'cat'"),
        ({"0077.cls": b"-1", "0077.png": png(1)}, "0077", "the label '-1'"),
        ({"0077.cls": b"9" * 1000, "0077.png": png(1)}, "0077", "the label '9999"),
        ({"0077.cls": b"100000", "0077.png": png(1)}, "0077", "the label '100000'"),
        ({"link.png": link("link.png", tarfile.SYMTYPE)}, "link", "a link or another special member"),
        ({"link.png": link("link.png", tarfile.LNKTYPE)}, "link", "a link or another special member"),
        ({"pipe.png": link("pipe.png", tarfile.FIFOTYPE)}, "pipe", "a link or another special member"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_members_that_cannot_be_used_are_named(
    folder: Path, members: dict[str, bytes | tarfile.TarInfo], name: str, reason: str
) -> None:
    shard = folder / "set-train-0000.tar"
    with tarfile.open(shard, "a") as tar:
        for path, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(path)
            info.size = len(content) if isinstance(content, bytes) else 0
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    train = splits_from(str(folder)).train
    assert any(one.name == f"set-train-0000.tar/{name}" and reason in one.reason for one in train.left_out)
    assert len(train) >= 9


def test_an_image_of_too_many_bytes_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_ENCODED_BYTES", 10)
    with pytest.raises(DatasetError, match=r"no labelled images.*bytes, more than 10"):
        splits_from(str(folder))


def test_folders_and_hidden_members_are_ignored(folder: Path) -> None:
    members = {"._0001.png": b"x", "a/0001.png": png(1), "a/0001.cls": b"0"}
    shard = write_shard(folder / "set-train-0000.tar", members)
    with tarfile.open(shard, "a") as tar:
        info = tarfile.TarInfo("a")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    train = splits_from(str(folder)).train
    assert (len(train), train.left_out) == (5, ())


def test_a_label_that_is_no_class_is_refused(folder: Path) -> None:
    write_shard(folder / "set-val-0000.tar", samples(100, 4, classes=4))
    with pytest.raises(DatasetError, match=r"0103\.png: got the label 3, expected 0 to 1, the 2 classes"):
        splits_from(str(folder))
    (folder / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(DatasetError, match=r"the 3 classes of classes\.txt"):
        splits_from(str(folder))
    (folder / "classes.txt").write_text("a\na\n")
    with pytest.raises(AlexnetError, match="names that differ"):
        splits_from(str(folder))


def test_one_shard_without_a_split_among_others_is_refused(folder: Path) -> None:
    write_shard(folder / "more.tar", samples(0, 2))
    with pytest.raises(DatasetError, match=r"more\.tar: got a name without a split"):
        splits_from(str(folder))


def test_shards_without_train_are_refused(folder: Path) -> None:
    for path in folder.glob("*train*"):
        path.unlink()
    with pytest.raises(DatasetError, match="shards for validation without train"):
        splits_from(str(folder))


def test_an_archive_beside_class_folders_is_no_shard(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        for number in range(20):
            (folder / name / f"{number}.png").write_bytes(png(number))
    assert splits_from(str(folder)).train.class_names == ("a", "b")


def test_a_shard_that_is_changed_during_the_run_stops_it(folder: Path) -> None:
    image = splits_from(str(folder)).train.images[3]
    assert isinstance(image.source, ImageInShard)
    write_shard(folder / "set-train-0000.tar", samples(50, 6))
    with pytest.raises(DatasetError, match=r"shard .*set-train-0000\.tar: got a file that has changed"):
        CONTRACT.prepared(image.source)
    (folder / "set-train-0000.tar").unlink()
    with pytest.raises(DatasetError, match=r"no such file"):
        CONTRACT.prepared(image.source)


def test_the_index_of_shards_keeps_what_was_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("alexnet_model.image_index.INDEXED_IMAGES", 1)
    monkeypatch.setattr("alexnet_model.image_index.SETTLED_NS", 0)
    cut_into_the_last_image(folder / "set-train-0000.tar")
    before = splits_from(str(folder))
    monkeypatch.setattr(shards, "_search", None)
    after = splits_from(str(folder))
    assert after == before
    assert after.train.left_out[-1].name == "set-train-0000.tar/0005"
    assert after.train.digest == before.train.digest
