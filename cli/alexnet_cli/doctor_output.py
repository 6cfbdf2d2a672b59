"""Print the doctor's report: checks, fixes, engines and commands."""

from __future__ import annotations

from rich.text import Text

from alexnet_serving import DoctorReport, EngineFound, GpuRuntime, jobs

from .screen import out, say

MARKS = {"ok": ("ok", "green"), "missing": ("MISSING", "red"), "warning": ("note", "yellow")}


def print_report(report: DoctorReport) -> None:
    """Print a report within 80 columns. Fixes may be longer: they are not wrapped, so they can be copied."""
    say(f"{report.machine}:")
    _print_checks(report)
    to_fix = sorted((c for c in report.checks if c.fix), key=lambda check: check.status != "missing")
    if to_fix:
        say("\nTo fix:")
    for fix in dict.fromkeys(check.fix for check in to_fix):
        for check in to_fix:
            if check.fix == fix:
                _say_wrapped(f"{check.name}{_for(check.needed_by)}", indent=2)
        say(f"    {fix}")
    _print_gpu_runtimes(report.gpu_runtimes)
    _print_engines(report.engines)
    say("\nCommands:")
    for job in report.jobs:
        say(f"  {'runs   ' if job.runs else 'MISSING'}  {job.command}")
        if job.missing:
            _say_wrapped(", ".join(job.missing), indent=11)
    if report.main_job.runs:
        say(f"\n{main_job_text(report)}: runs here.")


def main_job_text(report: DoctorReport) -> str:
    """Return a name such as `The main path (export, serve --with embedded, classify)`."""
    return f"The main path ({', '.join(report.main_job.commands)})"


def _print_checks(report: DoctorReport) -> None:
    name_width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        mark, style = MARKS[check.status]
        head = Text.assemble((f"{mark:<7}  ", style), f"{check.name:<{name_width}}  ")
        for line in _wrapped(check.found, indent=head.cell_len):
            out.print(Text.assemble(head, line), soft_wrap=True)
            head = Text(" " * head.cell_len)


def _print_gpu_runtimes(runtimes: tuple[GpuRuntime, ...]) -> None:
    """Print each runtime for GPUs with the command that exports for it, or what is missing here."""
    if runtimes:
        say("\nRuntimes for the GPU here:")
    for runtime in runtimes:
        note = "" if runtime.served else " (not served by Triton)"
        say(f"  {'runs   ' if runtime.runs else 'MISSING'}  {runtime.title}{note}")
        if runtime.missing:
            _say_wrapped(f"needs {', '.join(runtime.missing)}", indent=11)
        for command in filter(None, (runtime.fix, runtime.command if runtime.runs else "")):
            say(f"    {command}")


def _print_engines(engines: tuple[EngineFound, ...]) -> None:
    """Print each engine and whether it loads on each GPU here; without a GPU, what it needs."""
    if engines:
        say("\nEngines:")
    for engine in engines:
        _say_wrapped(f"{engine.folder}: {engine.file}, built for {engine.built_for}", indent=2)
        if not engine.results:
            _say_wrapped(f"needs {engine.needs}", indent=4)
        for result in engine.results:
            _say_wrapped(f"{'loads' if result.loads else 'DOES NOT LOAD'} with {result.target}", indent=4)
            if result.reason:
                _say_wrapped(result.reason, indent=6)
        if engine.fix:
            say(f"    {engine.fix}")


def _say_wrapped(text: str, *, indent: int) -> None:
    for line in _wrapped(text, indent=indent):
        say(f"{'':{indent}}{line}")


def _wrapped(text: str, *, indent: int) -> list[str]:
    return [str(line).rstrip() for line in Text(text).wrap(out, out.width - indent)]


def _for(commands: tuple[str, ...]) -> str:
    if not commands:
        return ""
    return ", for every command" if commands == jobs() else f", for {', '.join(commands)}"
