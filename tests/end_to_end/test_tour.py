"""The notebook examples/tour.ipynb, run from its first cell to its last in a copy of its folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results that the notebook shows, as data by MIME type, in their order."""
    folder = tmp_path_factory.mktemp("tour")
    for program in EXAMPLES.glob("*.py"):
        shutil.copy(program, folder)
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return [
        output["data"] for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output
    ]


def tables(outputs: list[dict[str, Any]]) -> list[list[list[str]]]:
    """The tables in Markdown, as cells, without their second line."""
    found = []
    for data in outputs:
        lines = [line.strip("| ").split(" | ") for line in data.get("text/markdown", "").splitlines()]
        if len(lines) > 1 and set(lines[1]) == {"---"}:
            found.append([lines[0], *lines[2:]])
    return found


def accepted(outputs: list[dict[str, Any]]) -> list[str]:
    """The precisions that the gate accepted.

    The weights are those of a training of seconds, whose result depends on the machine's rounding. With some
    of them, INT8 agrees with PyTorch on 98% of the images instead of 99%.
    """
    return [row[0] for row in tables(outputs)[0][1:] if row[-1] == "accepted"]


def test_every_accepted_precision_classifies_the_samples(outputs: list[dict[str, Any]]) -> None:
    parity, matrix, predictions, _ = tables(outputs)
    assert [row[0] for row in parity[1:]] == list(PRECISIONS)
    assert accepted(outputs)[:2] == ["fp32", "fp16"]
    assert matrix[0][1:] == list(PRECISIONS)
    assert [row[0] for row in matrix[1:]] == ["1", "2", "3", "8"]
    assert predictions[0][1:] == [f"shapes_{name}" for name in accepted(outputs)]
    for column in range(1, len(predictions[0])):
        right = sum(row[column].split()[0] == row[0] for row in predictions[1:])
        assert right >= 3  # of 5; chance is 1


def test_the_notebook_plots_latency_against_throughput_and_answers_for_int8(
    outputs: list[dict[str, Any]],
) -> None:
    assert sum("image/png" in data for data in outputs) == 2  # the samples, and the plot
    loads = tables(outputs)[-1][1:]
    assert len(loads) == 3 * len(accepted(outputs))
    assert all(float(load[2].replace(",", "")) > 0 for load in loads)
    assert {load[4] for load in loads} <= {"VALID", "INVALID"}
    answer = outputs[-1]["text/markdown"]
    assert re.search(
        r"size: [\d.]+ times smaller\n- throughput: ([\d.]+ times FP32's|unknown, because)", answer
    )


def test_the_notebook_is_kept_without_outputs_and_paths_of_a_machine() -> None:
    text = (EXAMPLES / "tour.ipynb").read_text()
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert not re.search(r"/(?:home|root|work|tmp|Users)/", text)
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links
    assert all((EXAMPLES / link).is_file() for link in links)
