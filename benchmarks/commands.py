"""Commands of `alexnet`, as the recipes here run them: shown, and again where the machine was busy."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from alexnet_bench.reports.files import report_from_file
from alexnet_cli.main import run
from alexnet_cli.screen import note


def alexnet(*words: object) -> int:
    """Run one, and give its exit code."""
    line = [str(word) for word in words]
    note(f"alexnet {shlex.join(line)}")
    return run(line)


class Measuring:
    """Commands that write a report. One in which the machine was busy is run again while there is time.

    What a quieter moment gives takes its place: an INVALID run is no result, so none is chosen among.
    """

    def __init__(self, results: Path, *, within_s: float) -> None:
        self._results = results
        self._ends_s = time.monotonic() + within_s

    def __call__(self, part: str, *words: object) -> int:
        """Run it with `--json results/part.json` to the end; its last exit code."""
        file = self._results / f"{part}.json"
        while True:
            started_s = time.monotonic()
            code = alexnet(*words, "--json", file)
            took_s = time.monotonic() - started_s
            if code or not _was_busy(file) or time.monotonic() + took_s > self._ends_s:
                return code
            note(f"{part}: the machine was busy; once more.")


def _was_busy(file: Path) -> bool:
    return any(reason.rule == "machine busy" for reason in report_from_file(file).reasons)
