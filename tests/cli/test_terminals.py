"""Names that the terminal cannot show are escaped, and the run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PREDICTIONS = """
import sys
from alexnet_cli import main as module
from alexnet_cli.prediction_output import print_prediction
from alexnet_cli.screen import note
from alexnet_clients import Classification, Prediction

def classify(arguments):
    for name in ("rose.jpg", "\\u00fcbung \\u732b.jpg", "caf\\udce9.jpg"):
        print_prediction(Prediction(image=name, classes=(Classification("\\u732b", 0, 1.0),)))
    note("caf\\udce9")
    return 0

module.run = classify
module.main()
"""
ENVIRONMENTS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
}


def run(*arguments: str, encoding: str, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **ENVIRONMENTS[encoding]}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, cwd=cwd, check=False
    )


@pytest.mark.parametrize("encoding", ENVIRONMENTS)
def test_names_and_labels_that_cannot_be_shown_are_escaped(encoding: str) -> None:
    done = run("-c", PREDICTIONS, encoding=encoding)
    assert done.returncode == 0, done.stderr
    names = {"utf-8": ["\u00fcbung \u732b.jpg", "\u732b"], "latin-1": ["\u00fcbung \\u732b.jpg", "\\u732b"]}
    for name in names.get(encoding, ["\\xfcbung \\u732b.jpg", "\\u732b"]):
        assert name.encode("latin-1" if encoding == "latin-1" else "utf-8") in done.stdout
    assert b"caf\\udce9.jpg" in done.stdout
    assert b"caf\\udce9" in done.stderr


@pytest.mark.parametrize("encoding", ENVIRONMENTS)
def test_an_error_about_a_name_that_cannot_be_shown_is_one_line(encoding: str, tmp_path: Path) -> None:
    for name in ("\u732b", os.fsdecode(b"caf\xe9")):
        (tmp_path / name).mkdir()
        done = run("-m", "alexnet_cli", "lint", name, encoding=encoding, cwd=tmp_path)
        assert done.returncode == 1
        assert b"got no model, expected a Triton model repository" in done.stderr
        assert len(done.stderr.splitlines()) == 1
