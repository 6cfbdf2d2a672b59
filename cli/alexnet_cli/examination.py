"""How `alexnet doctor` prints what it found: checks, what mends them, engines, jobs."""

from __future__ import annotations

from rich.text import Text

from alexnet_serving import JOBS, EngineFound, Examination

from .screen import out, say

MARKS = {"ok": ("ok", "green"), "missing": ("MISSING", "red"), "warning": ("note", "yellow")}


def print_examination(found: Examination) -> None:
    """Within 80 columns but for commands, which are never wrapped: they are there to be copied."""
    say(f"{found.machine}:")
    _print_checks(found)
    to_mend = sorted((c for c in found.checks if c.mend), key=lambda check: check.status != "missing")
    if to_mend:
        say("\nTo mend:")
    for mend in dict.fromkeys(check.mend for check in to_mend):
        for check in to_mend:
            if check.mend == mend:
                _say_wrapped(f"{check.name}{_for(check.needed_by)}", indent=2)
        say(f"    {mend}")
    _print_engines(found.engines)
    say("\nJobs:")
    for job in found.jobs:
        say(f"  {'runs   ' if job.runs else 'MISSING'}  {job.command}")
        if job.misses:
            _say_wrapped(", ".join(job.misses), indent=11)
    if found.main_job.runs:
        say(f"\n{main_job_in_words(found)}: runs here.")


def _print_checks(found: Examination) -> None:
    name_width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        mark, style = MARKS[check.status]
        head = Text.assemble((f"{mark:<7}  ", style), f"{check.name:<{name_width}}  ")
        for line in _wrapped(check.found, indent=head.cell_len):
            out.print(Text.assemble(head, line), soft_wrap=True)
            head = Text(" " * head.cell_len)


def _print_engines(engines: tuple[EngineFound, ...]) -> None:
    """Each engine, and whether it loads on each GPU here; without one, what it needs."""
    if engines:
        say("\nEngines:")
    for engine in engines:
        _say_wrapped(f"{engine.folder}: {engine.file}, built for {engine.built_for}", indent=2)
        if not engine.here:
            _say_wrapped(f"needs {engine.needs}", indent=4)
        for loading in engine.here:
            _say_wrapped(f"{'loads' if loading.loads else 'DOES NOT LOAD'} with {loading.target}", indent=4)
            if loading.reason:
                _say_wrapped(loading.reason, indent=6)
        if engine.mend:
            say(f"    {engine.mend}")


def _say_wrapped(text: str, *, indent: int) -> None:
    for line in _wrapped(text, indent=indent):
        say(f"{'':{indent}}{line}")


def _wrapped(text: str, *, indent: int) -> list[str]:
    return [str(line).rstrip() for line in Text(text).wrap(out, out.width - indent)]


def _for(jobs: tuple[str, ...]) -> str:
    if not jobs:
        return ""
    return ", for every command" if jobs == JOBS else f", for {', '.join(jobs)}"


def main_job_in_words(found: Examination) -> str:
    """Such as `The main job (export, serve --with embedded, classify)`."""
    return f"The main job ({', '.join(found.main_job.commands)})"
