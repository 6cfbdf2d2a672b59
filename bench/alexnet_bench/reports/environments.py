"""Environments as rows of words: for pages, and to show where two of them differ."""

from __future__ import annotations

from collections.abc import Sequence

from ..environment import Environment
from ..schema import Report

Fact = tuple[str, str]
_CPU_VECTORS = "CPU vectors"  # as `environment.cpu_facts` calls them


def facts_of(environment: Environment) -> dict[str, str]:
    """Return by name, in words, what a figure may depend on."""
    facts = {
        "machine": environment.machine,
        **environment.cpu,
        "memory": f"{environment.memory_gb:g} GB",
        "kernel": environment.kernel,
    }
    for index, gpu in enumerate(environment.gpus):
        facts[f"GPU {index}"] = f"{gpu.name}, compute capability {gpu.compute_capability}"
        facts[f"GPU {index} driver"] = gpu.driver
        facts |= {f"GPU {index} {name}": reading for name, reading in gpu.readings.items()}
    facts |= {"load before": f"{environment.load_1_min:g} (1 min)", "commit": environment.commit or "none"}
    return facts | dict(environment.versions)


def environment_rows(reports: Sequence[Report]) -> tuple[Fact, ...]:
    """Return every fact once; if the reports differ, with the value of each."""
    return tuple(_fact(name, reports, _environments(reports)) for name in _names(_environments(reports)))


def calibration_in_words(report: Report) -> str:
    """Return the calibration before and after: what else the machine did in between."""
    before, after = report.calibration_before, report.calibration_after
    if before is None or after is None:
        return "not measured"
    change = f" ({after / before - 1:+.1%})" if before else ""
    return f"{before / 1e9:.4g} x 10^9 operations/s before, {after / 1e9:.4g} x 10^9 after{change}"


def devices_in_words(before: Environment, after: Environment) -> tuple[str, str]:
    """Return the devices of both, in equal words if their figures may be compared.

    Clouds give many CPUs one name, such as `Intel Xeon Processor`: CPUs with different vector instructions
    are different devices.
    """
    first, second = (" + ".join(environment.devices) for environment in (before, after))
    vectors = [environment.cpu.get(_CPU_VECTORS, "") for environment in (before, after)]
    if all(vectors) and vectors[0] != vectors[1]:
        return f"{first} (with {vectors[0]})", f"{second} (with {vectors[1]})"
    return first, second


def differences_of(before: Environment, after: Environment) -> tuple[tuple[str, str, str], ...]:
    """Return (name, before, after) of every fact that differs; `none` if one does not have it."""
    facts = facts_of(before), facts_of(after)
    return tuple(
        (name, facts[0].get(name, "none"), facts[1].get(name, "none"))
        for name in _names(facts)
        if facts[0].get(name) != facts[1].get(name)
    )


def _environments(reports: Sequence[Report]) -> list[dict[str, str]]:
    return [facts_of(report.environment) for report in reports]


def _fact(name: str, reports: Sequence[Report], facts: Sequence[dict[str, str]]) -> Fact:
    values = [found.get(name, "none") for found in facts]
    if len(set(values)) == 1:
        return name, values[0]
    return name, "; ".join(f"{report.title}: {value}" for report, value in zip(reports, values, strict=True))


def _names(facts: Sequence[dict[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for found in facts for name in found))
