"""The recipes in benchmarks/: the pages that they write, and the report and exit code of a tool check."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_bench.reports.files import report_from_file, write_report
from alexnet_bench.schema import Report

from .reports_for_tests import H200, engine, engine_row, environment, gpu, report

RECIPE = Path(__file__).parents[2] / "benchmarks" / "report.py"
EMPTY = {
    "roofs": (),
    "engines": (),
    "loads": (),
    "held_rates": (),
    "breakdown": (),
    "cold_starts": (),
    "tuning": None,
}


def part(title: str, **changes: object) -> Report:
    return report(**(EMPTY | {"title": title} | changes))


def composed(folder: Path) -> subprocess.CompletedProcess[str]:
    words = ["--no-run", "--results", str(folder / "results"), "--docs", str(folder / "docs" / "figures.md")]
    return subprocess.run(
        [sys.executable, str(RECIPE), *words], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Two known parts and another one, in an order that differs from their file names."""
    cpu = tmp_path / "results" / "cpu"
    write_report(cpu / "an-other.json", part("The other"))
    write_report(cpu / "cold-start.json", part("Cold start", cold_starts=report().cold_starts))
    write_report(cpu / "engine.json", part("Engines", engines=(engine_row(),)))
    return tmp_path


def test_pages_have_the_parts_in_order(measured: Path) -> None:
    assert composed(measured).returncode == 0
    text = (measured / "docs" / "figures.md").read_text(encoding="utf-8")
    titles = ["Engines", "Cold start", "The other", "Environment"]
    assert re.findall("^### (.*)", text, re.MULTILINE) == titles
    page = (measured / "results" / "report.html").read_text(encoding="utf-8")
    assert "<h1>Engines, Cold start, The other</h1>" in page
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (measured / "docs" / target).exists(), target
    assert [path.name for path in (measured / "results").glob("*.html")] == ["report.html"]


def test_a_second_machine_has_its_own_page_and_chapter(measured: Path) -> None:
    on_gpu = engine_row(9000, of=engine("fp16", "tensorrt", device=H200))
    there = environment(machine="EPYC, 16 cores", gpus=(gpu(),))
    write_report(
        measured / "results" / "gpu" / "nvidia-h200" / "engine.json",
        part("On a GPU", engines=(on_gpu,), environment=there),
    )
    interrupted = measured / "results" / "gpu" / "nvidia-l4.new" / "engine.json"
    write_report(interrupted, part("Interrupted", engines=(on_gpu,), environment=there))
    assert composed(measured).returncode == 0
    text = (measured / "docs" / "figures.md").read_text(encoding="utf-8")
    assert text.index("## AMD EPYC 9B14, 2 cores") < text.index(f"## EPYC, 16 cores + {H200}")
    assert "../results/report-nvidia-h200.html" in text
    assert "Interrupted" not in text
    page = (measured / "results" / "report-nvidia-h200.html").read_text(encoding="utf-8")
    assert "<h1>On a GPU</h1>" in page
    assert "AMD EPYC" not in page
    images = {file.name for file in (measured / "docs" / "figures").iterdir()}
    assert {"engine-throughput.svg", "nvidia-h200-engine-throughput.svg"} <= images


def test_no_reports_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    found = composed(tmp_path)
    assert found.returncode == 1
    assert f"{tmp_path / 'results'}: got no reports, expected cpu/*.json or gpu/GPU/*.json" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "docs").exists()


@pytest.mark.parametrize(("target", "code"), [(100.0, 0), (10.0, 1)])
def test_a_tool_check_writes_a_report_and_fails_if_it_misses_its_target(
    target: float, code: int, tmp_path: Path
) -> None:
    script = tmp_path / "check.py"
    script.write_text(
        f"""import argparse, sys
sys.path.insert(0, {str(RECIPE.parent)!r})
from tools import run_recipe
from alexnet_bench import FigureRow, figure_from_repeats

def measure(log, options):
    figure = figure_from_repeats([30.0, 31.0, options.value], "ms")
    log.figures.append(FigureRow(name="late", of="a test", figure=figure, at_most={target}))
    log.notes.append("A note.")

parser = argparse.ArgumentParser()
parser.add_argument("--value", type=float)
sys.exit(run_recipe("A check", parser, measure))
"""
    )
    written = tmp_path / "results" / "tools" / "check.json"
    words = [sys.executable, str(script), "--output", str(written), "--value", "32", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    found = report_from_file(written)
    assert Report.model_validate_json(done.stdout) == found
    assert found.command == f"python {script} --value 32"
    assert found.calibration_before is not None
    assert [row.reached for row in found.figures] == [code == 0]
    write_report(tmp_path / "results" / "cpu" / "engine.json", part("Engines", engines=(engine_row(),)))
    assert composed(tmp_path).returncode == 0
    text = (tmp_path / "docs" / "figures.md").read_text(encoding="utf-8")
    assert text.index("## Checks of the tools") < text.index("### A check")
    assert "- A note." in text
