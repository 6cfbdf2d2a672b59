"""Run commands of `alexnet` from the recipes, and repeat those during which the machine was busy."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from alexnet_bench import report_from_file
from alexnet_cli.main import run
from alexnet_cli.screen import note

NEW = ".new"  # how the folder of a run's reports ends until they are kept


def alexnet(*words: object) -> int:
    """Print a command, run it, and return its exit code."""
    line = [str(word) for word in words]
    note(f"alexnet {shlex.join(line)}")
    return run(line)


class Measuring:
    """Runs commands that write a report each.

    New reports are in a folder beside `results` until `keep`: committed files do not change during the run,
    since the reports would then say that their commit had changes.

    Args:
        results: The folder of the committed reports.
        within_s: The time after which no part is repeated, in seconds.
    """

    def __init__(self, results: Path, *, within_s: float) -> None:
        self._results = results
        self._new = results.with_name(f"{results.name}{NEW}")
        self._ends_s = time.monotonic() + within_s
        self._took_s: dict[str, float] = {}
        shutil.rmtree(self._new, ignore_errors=True)

    def keep(self) -> None:
        """Replace the committed reports by the new ones."""
        self._results.mkdir(parents=True, exist_ok=True)
        for file in self._new.glob("*.json"):
            file.replace(self._results / file.name)
        shutil.rmtree(self._new, ignore_errors=True)

    @property
    def seconds_left(self) -> float:
        """The time that is left; below 0 afterwards."""
        return self._ends_s - time.monotonic()

    def __call__(self, part: str, *words: object) -> int:
        """Run a command with `--output`, and return its exit code."""
        started_s = time.monotonic()
        code = alexnet(*words, "--output", self._new / f"{part}.json")
        self._took_s[part] = time.monotonic() - started_s
        return code

    def all_of(self, parts: Mapping[str, Callable[[], int]]) -> int:
        """Run every part once, then repeat those during which the machine was busy, while there is time.

        A repeat replaces an INVALID run, which is no result: this selects nothing among valid results.

        Returns:
            0, or the first exit code that is not 0, at which it stops.
        """
        for part in parts.values():
            if code := part():
                return code
        for name, part in parts.items():
            if self._was_busy(name) and self._took_s[name] < self.seconds_left:
                note(f"{name}: the machine was busy; measuring again.")
                if code := part():
                    return code
        return 0

    def _was_busy(self, part: str) -> bool:
        report = report_from_file(self._new / f"{part}.json")
        return any(reason.rule == "machine busy" for reason in report.reasons)
