"""The lecture's experiments run, and the committed page is what the committed results give."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "lecture.md"
NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.fixture
def lecture(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module lecture/run.py."""
    monkeypatch.syspath_prepend(str(ROOT / "lecture"))
    return import_module("run")


def test_the_committed_page_and_plots_are_what_the_committed_results_give(
    lecture: Any, tmp_path: Path
) -> None:
    assert lecture.main(["--no-run", "--docs", str(tmp_path / "lecture.md")]) == 0
    assert (tmp_path / "lecture.md").read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    made, committed = (
        {path.name: drawing_of(path) for path in folder.iterdir()}
        for folder in (tmp_path / "lecture", ROOT / "docs" / "lecture")
    )
    assert made.keys() == committed.keys()
    for name, (words, numbers) in made.items():
        assert words == committed[name][0], name
        assert numbers == pytest.approx(committed[name][1], abs=1e-3), name


def drawing_of(path: Path) -> tuple[list[str], list[float]]:
    """An SVG as its numbers and what is between them. CPUs round the last digit in different ways."""
    text = re.sub(r"\bp[0-9a-f]{10}\b", "clip", path.read_text(encoding="utf-8"))  # ids are hashes of numbers
    return NUMBER.split(text), [float(number) for number in NUMBER.findall(text)]


def test_committed_results_are_of_the_full_size(lecture: Any) -> None:
    results = {
        path.stem: json.loads(path.read_text()) for path in (ROOT / "lecture" / "results").glob("*.json")
    }
    assert results.keys() == {experiment.name for experiment in lecture.EXPERIMENTS}
    assert not any(values["run"]["quick"] for values in results.values())


@pytest.mark.parametrize("name", ["decades", "size", "ratio", "roofline", "dropout"])
def test_a_cheap_experiment_runs_in_quick_size(
    lecture: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = json.loads(json.dumps(lecture.measured(name, True)))
    experiment = next(each for each in lecture.EXPERIMENTS if each.name == name)
    section = experiment.section(values)
    text = sys.modules["page"].page_of([(name, section, values)], "plots")
    assert f"**{section.verdict}.** " in text
    assert section.plot is None or section.plot().axes
    if name == "dropout":
        rows = values["rows"]
        assert len(rows) == 4
        # A quick training must have learned something: chance is 10%.
        assert all(row["training"] > 0.2 for row in rows if row["dropout"] == 0)


@pytest.mark.slow
def test_two_halves_get_the_weights_of_the_grouped_network(lecture: Any) -> None:
    halves = sys.modules["halves"]
    values = halves.measure(True)
    assert values["largest_difference"] <= halves.TOLERANCE
    assert values["largest_change"] > 100 * halves.TOLERANCE


def test_a_quick_run_does_not_replace_the_full_results(
    lecture: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        lecture.main(["--quick"])
    assert "--quick: got the folders of the full run" in capsys.readouterr().err
