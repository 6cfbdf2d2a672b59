"""`alexnet classify --out`: what the command line adds to bulk classification."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_cli.main import run
from alexnet_export import runner_from_artifact
from alexnet_pipeline import ExportResult
from alexnet_serving import EmbeddedServer

from .bulk_runs import contents_without_parts, interrupt, linked_images, rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(3):
        Image.effect_noise((300, 260), 60 * number + 20).save(folder / f"{number}.png")
    return folder


def test_an_export_in_this_process_predicts_what_its_runner_does(
    capsys: pytest.CaptureFixture[str], result: ExportResult, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / "images.txt").write_text(f"# two of them\n{folder}/0.png\n\n{folder}/1.png\n")
    command = ["classify", str(tmp_path / "images.txt"), str(folder), "--out", str(out), "--top", "3"]
    command += ["--in-process", "--export", str(result.repository), "--workers", "0"]
    assert run(command) == 0
    assert capsys.readouterr().out == f"{out}: 3 images in 1 shards\n"
    assert result.folder is not None
    contract = result.manifest.contract
    images = np.stack([contract.prepared(path) for path in sorted(folder.iterdir())])
    with runner_from_artifact(result.manifest.accepted[0], result.folder) as runner:
        expected = runner.infer(images).probabilities
    assert [row["image"] for row in rows(out)] == [str(path) for path in sorted(folder.iterdir())]
    for row, probabilities in zip(rows(out), expected, strict=True):
        classes = row["classes"]
        assert isinstance(classes, list)
        assert [each["index"] for each in classes] == np.argsort(-probabilities)[:3].tolist()
        assert [each["probability"] for each in classes] == pytest.approx(
            sorted(probabilities)[:-4:-1], rel=1e-4
        )
    (folder / "3.png").write_bytes(b"")
    assert run(command) == 2
    assert "_bulk.json: inputs: got 4, expected 3, with which it was begun." in capsys.readouterr().err
    command[command.index(str(out))] = str(tmp_path / "other")
    assert run(command) == 1
    assert capsys.readouterr().out.endswith("4 images in 1 shards; 1 could not be read\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shards", "2"], "--shards: got no --out"),
        (["--ray", "auto"], "--ray: got no --out"),
        (["--in-process"], "--in-process: got no --out"),
        (["--out", "out", "--export", "export"], "--export: got no --in-process"),
        (["--out", "out", "--json"], "--json and --out: got both"),
        (
            ["--out", "out", "--resume"],
            "--resume and --out: got both, expected one of them. It is the default",
        ),
        (["--out", "out", "--in-process", "--model", "alexnet"], "--model and --in-process: got both"),
        (["--out", "out", "-"], "-: got standard input"),
        (["--out", "out", "missing.txt"], "missing.txt: got no such file or directory"),
        (["--out", "out", "nosuch://bucket/images"], "nosuch://bucket/images: got Protocol not known"),
    ],
)
def test_options_and_inputs_that_do_not_fit_together(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["classify", "rose.png", *words]) != 0
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_with_one_line_and_the_same_command_continues(
    result: ExportResult, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    linked_images(tmp_path / "images", 2000)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "alexnet_cli", "classify", str(tmp_path / "images"), "--out", str(out)]
    command += ["--in-process", "--export", str(result.folder), "--shards", "100", "--workers", "1"]
    code, errors = interrupt(command, out, 0.2)
    assert (code, errors.splitlines()[-1:]) == (130, ["Interrupted."])
    assert "Traceback" not in errors
    before = contents_without_parts(out)
    assert all(name.endswith((".parquet", ".json")) for name in before)
    code, _ = interrupt(command, out, 0)
    assert code == 130
    # A signal may have left a hidden part, which the next run removes.
    assert before.items() < contents_without_parts(out).items()


@pytest.mark.slow
def test_a_server_gives_the_same_rows_and_its_end_ends_the_run(
    capsys: pytest.CaptureFixture[str], result: ExportResult, folder: Path, tmp_path: Path
) -> None:
    assert result.repository is not None
    command = ["classify", str(folder), "--shards", "3", "--timeout", "3"]
    here = ["--out", str(tmp_path / "here"), "--in-process", "--export", str(result.repository)]
    run([*command, *here, "--workers", "0"])
    with EmbeddedServer(result.repository) as server:
        there = ["--out", str(tmp_path / "there"), "--url", server.grpc_url]
        run([*command, *there])
        assert (
            run([*command, "--out", str(tmp_path / "other"), "--url", server.grpc_url, "--model", "alexnet"])
            == 2
        )
    assert "got a model that decodes images itself" in capsys.readouterr().err
    for mine, theirs in zip(rows(tmp_path / "here"), rows(tmp_path / "there"), strict=True):
        assert (mine["image"], mine["error"]) == (theirs["image"], theirs["error"])
        classes, expected = mine["classes"], theirs["classes"]
        assert isinstance(classes, list)
        assert isinstance(expected, list)
        assert [each["index"] for each in classes] == [each["index"] for each in expected]
        assert [each["probability"] for each in classes] == pytest.approx(
            [each["probability"] for each in expected], rel=1e-3
        )
    (tmp_path / "there" / "part-00002-of-00003.parquet").unlink()
    assert run([*command, *there]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
