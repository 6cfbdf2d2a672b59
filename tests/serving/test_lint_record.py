"""Lint of a broken or edited record, with which everything else is compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_serving import lint

from .conftest import Artifacts
from .recorded_engines import repository_of_engines
from .test_lint import edited, only, rewritten

DIGEST_FIELD = 'parameters["export_sha256"].string_value'


@pytest.fixture
def engines(artifacts: Artifacts, tmp_path: Path) -> Path:
    return repository_of_engines(artifacts, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff", '{"schema_version": 2}'])
def test_none_that_can_be_read(text: str, engines: Path) -> None:
    rewritten(engines / "alexnet.1.export.json", text.encode("latin-1"))
    assert only(engines).startswith("alexnet.1.export.json: ")


def test_none(engines: Path) -> None:
    (engines / "alexnet.1.export.json").unlink()
    assert only(engines).startswith("alexnet.1.export.json: got no such file or directory")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda e: e["model"].update(weights_sha256="c" * 64),
            ["alexnet.1.export.json: fp32.onnx: got another we"],
        ),
        (
            lambda e: e["contract"].update(resize=232),
            ["alexnet.1.export.json: fp32.onnx: got another contract"],
        ),
        (
            lambda e: e["artifacts"][2].update(sha256="c" * 64),
            ["alexnet.1.export.json: alexnet_int8.sm90.plan: got"],
        ),
        (lambda e: e.update(max_batch=16), []),  # the engines decide
        (lambda e: e.update(max_batch=4), ["alexnet.1.export.json: profile of alexnet_fp32.sm90.plan"]),
        (lambda e: e.update(max_batch=-1), ["alexnet.1.export.json: profile of"]),
        (lambda e: e["artifacts"][1]["decision"].update(accepted=True), []),  # it has no engine
        (lambda e: e["artifacts"][2]["decision"].update(accepted=False), ["alexnet_int8: got a folder"]),
        (lambda e: e.update(reference_sha256="0" * 64), ["alexnet.1.reference.safetensors: SHA-256"]),
    ],
)
def test_edited(edit: Callable[[Any], object], words: list[str], engines: Path) -> None:
    edited(engines / "alexnet.1.export.json", edit)
    findings = [str(finding) for finding in lint(engines) if finding.field != DIGEST_FIELD]
    assert len(findings) == len(words)
    assert all(finding.startswith(word) for finding, word in zip(findings, words, strict=True))


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (
            lambda e: e.update(max_batch=10**12),
            "alexnet.1.export.json: got a record without a valid configuration",
        ),
        (
            lambda e: e["artifacts"][0].update(reports=[]),
            "alexnet.1.export.json: runtime of fp32.onnx: got none",
        ),
        (
            lambda e: e["artifacts"][1]["decision"].update(accepted=True),
            "alexnet_fp16: got no such folder",
        ),
    ],
)
def test_edited_for_onnx(edit: Callable[[Any], object], word: str, repository: Path) -> None:
    edited(repository / "alexnet.1.export.json", edit)
    (finding,) = [str(finding) for finding in lint(repository) if finding.field != DIGEST_FIELD]
    assert finding.startswith(word)


@pytest.mark.parametrize(
    "edit",
    [
        lambda e: e.update(max_batch=16),
        lambda e: e.update(machine="a faster one"),
        lambda e: e["evaluation"].update(pytorch_top1=1.0),
        lambda e: e["tolerances"].update(top1_drop=0.5),
        lambda e: e["artifacts"][2]["reports"][0].update(agreement=0.5),
        lambda e: e["artifacts"][2]["decision"].update(reason="better than ever"),
        lambda e: e["artifacts"][2]["engines"][0]["report"].update(signal_to_noise_db=99.0),
        lambda e: e["artifacts"][2]["engines"][0]["decision"].update(reason="better than ever"),
    ],
)
def test_no_figure_can_be_edited_alone(edit: Callable[[Any], object], engines: Path) -> None:
    edited(engines / "alexnet.1.export.json", edit)
    assert [(finding.file, finding.field) for finding in lint(engines, hashes=False)] == [
        ("alexnet_fp32/config.pbtxt", DIGEST_FIELD),
        ("alexnet_int8/config.pbtxt", DIGEST_FIELD),
    ]


def test_how_it_is_spelled_does_not_matter(engines: Path) -> None:
    path = engines / "alexnet.1.export.json"
    rewritten(path, json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert lint(engines) == ()
