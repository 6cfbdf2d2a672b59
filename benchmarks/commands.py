"""Commands of `alexnet`, as the recipes here run them: shown, and again where the machine was busy."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Mapping
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
    """Commands that write a report, each a part of what is measured.

    The reports lie in a folder beside `results` until `keep`: what is committed is not changed while it is
    measured, since then a report would say that its commit had changes.
    """

    def __init__(self, results: Path, *, within_s: float) -> None:
        self._results = results
        self._new = results.with_name(f"{results.name}.new")
        self._ends_s = time.monotonic() + within_s
        self._took_s: dict[str, float] = {}
        shutil.rmtree(self._new, ignore_errors=True)

    def keep(self) -> None:
        """Put what was measured where earlier results are."""
        self._results.mkdir(parents=True, exist_ok=True)
        for file in self._new.glob("*.json"):
            file.replace(self._results / file.name)
        shutil.rmtree(self._new, ignore_errors=True)

    def __call__(self, part: str, *words: object) -> int:
        """Run it with `--output` to the end; its exit code."""
        started_s = time.monotonic()
        code = alexnet(*words, "--output", self._new / f"{part}.json")
        self._took_s[part] = time.monotonic() - started_s
        return code

    def all_of(self, parts: Mapping[str, Callable[[], int]]) -> int:
        """Every part once; then those in which the machine was busy once more, while there is time.

        What a quieter moment gives takes its place: an INVALID run is no result, so none is chosen among. It
        ends at the first exit code that is not 0, and gives it.
        """
        for part in parts.values():
            if code := part():
                return code
        for name, part in parts.items():
            if self._was_busy(name) and time.monotonic() + self._took_s[name] < self._ends_s:
                note(f"{name}: the machine was busy; once more.")
                if code := part():
                    return code
        return 0

    def _was_busy(self, part: str) -> bool:
        report = report_from_file(self._new / f"{part}.json")
        return any(reason.rule == "machine busy" for reason in report.reasons)
