"""Verdicts, as MLPerf gives them: VALID, or INVALID with every reason and what to do.

Each rule is a function that returns a reason, or None if it has nothing against the result.
"""

from __future__ import annotations

from typing import Literal

from alexnet_model.records import Record

from .percentiles import NEEDED

# Beyond these limits a result is INVALID.
MOST_LATE_MS = 1.0  # p99 of the delay between planned and actual send time of an open loop
MOST_UNANSWERED = 0.05  # of the rate of an open loop
MOST_CLIENT_CPU = 0.9  # of one core, by one process of the load generator
MOST_AWAY = 0.1  # share of time in which one process of the load generator could not run
MOST_CALIBRATION_CHANGE = 0.1  # relative change of the calibration workload during the run
Rule = Literal[
    "errors",
    "server overloaded",
    "generator late",
    "generator starved",
    "client saturated",
    "wrong answers",
    "machine busy",
    "server gone",
    "interrupted",
    "too few samples",
    "not judged",
    "above the limit",
    "not on the GPU",
]


class Reason(Record):
    """Why a result is INVALID, and what to do."""

    rule: Rule
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.found}. {self.advice}"


class Verdict(Record):
    """VALID if there is no reason against the result, else INVALID."""

    reasons: tuple[Reason, ...] = ()

    @property
    def is_valid(self) -> bool:
        return not self.reasons

    @property
    def word(self) -> str:
        return "VALID" if self.is_valid else "INVALID"


def verdict_from(*reasons: Reason | None) -> Verdict:
    """Return a verdict with the reasons that are not None."""
    return Verdict(reasons=tuple(reason for reason in reasons if reason is not None))


def _reason_if(is_bad: object, rule: Rule, found: str, advice: str) -> Reason | None:
    return Reason(rule=rule, found=found, advice=advice) if is_bad else None


def errors_reason(failed: int, requests: int, example: str) -> Reason | None:
    """Throughput is meaningless if requests failed."""
    return _reason_if(
        failed,
        "errors",
        f"{failed:,} of {requests:,} requests failed, such as: {example}",
        "Lower the load, or fix the server.",
    )


def late_reason(late_p99_ms: float | None) -> Reason | None:
    """An open loop that sends late generates less load than planned."""
    if late_p99_ms is None or late_p99_ms <= MOST_LATE_MS:
        return None
    return Reason(
        rule="generator late",
        found=f"requests were sent up to {late_p99_ms:.2f} ms late (p99), more than {MOST_LATE_MS:g} ms",
        advice="Use more worker processes (--workers), a lower rate, or a separate client machine.",
    )


def starved_reason(client_away_share: float) -> Reason | None:
    """A starved client sends less, and measures its own delays as latencies."""
    return _reason_if(
        client_away_share > MOST_AWAY,
        "generator starved",
        f"a process of the load generator could not run for {client_away_share:.0%} of the time",
        "Give it its own core, a higher CPU limit, or a separate client machine.",
    )


def saturation_reason(client_cpu_share: float) -> Reason | None:
    """A saturated client measures itself."""
    return _reason_if(
        client_cpu_share > MOST_CLIENT_CPU,
        "client saturated",
        f"a process of the load generator used {client_cpu_share:.0%} of a core",
        "Use more worker processes (--workers), larger batches, or a separate client machine.",
    )


def answers_reason(wrong: int, checked: int, example: str) -> Reason | None:
    """A fast model with wrong outputs is no result."""
    return _reason_if(
        wrong,
        "wrong answers",
        f"{wrong:,} of {checked:,} checked responses were wrong, such as: {example}",
        "Run alexnet lint on the repository, and check which export is served.",
    )


def wrong_model_reason(refusal: str) -> Reason | None:
    """An engine that the accuracy gate refuses; `refusal` is empty if it does not."""
    return _reason_if(
        refusal,
        "wrong answers",
        f"its outputs differ too much from the trained model's: {refusal}",
        "See its row in the table `Is it still the model?`.",
    )


def gone_reason(found: str) -> Reason:
    """A run whose server stopped or was replaced."""
    return Reason(
        rule="server gone",
        found=found.rstrip("."),
        advice="See the server's log. Nothing was measured after that.",
    )


def samples_reason(samples: int, of: str, advice: str) -> Reason | None:
    """Too few samples (responses, calls) even for a median."""
    return _reason_if(
        samples < NEEDED["p50"],
        "too few samples",
        f"{samples} {of}, where a median needs {NEEDED['p50']}",
        advice,
    )


def calibration_reason(before: float, after: float, *, of: str = "") -> Reason | None:
    """The machine was busy if the same work ran at another speed after the run.

    Args:
        before: The operations per second before the run.
        after: And after it.
        of: Such as ` of the GPU`.
    """
    change = abs(after / before - 1)
    rates = f"{before / 1e9:.4g} to {after / 1e9:.4g} x 10^9 operations/s"
    return _reason_if(
        change > MOST_CALIBRATION_CHANGE,
        "machine busy",
        f"the calibration workload{of} went from {rates}, {change:.0%}",
        "Stop other programs on this machine, and measure again.",
    )


def interrupted_reason(was_interrupted: bool) -> Reason | None:
    """A run that was ended by Ctrl-C: it is incomplete."""
    return _reason_if(
        was_interrupted,
        "interrupted",
        "the run was stopped before its end",
        "The rows shown are complete, but others are missing. Run it again.",
    )


def not_judged_reason(why: str) -> Reason | None:
    """An engine that the accuracy gate could not judge; `why` is empty if it did, or was not requested."""
    return _reason_if(
        why,
        "not judged",
        f"the accuracy gate could not check it: {why}",
        "Fix that and measure again, or use --no-judge if outputs do not matter.",
    )


def above_limit_reason(found: str) -> Reason | None:
    """Rows that are faster than their device allows; `found` names them, and is empty if there are none."""
    return _reason_if(
        found,
        "above the limit",
        f"{found}: faster than the limit, which no call can be",
        "The ceilings were measured too low, or weights stayed in a cache from call to call: measure again "
        "on a quiet machine.",
    )


def elsewhere_reason(computes_in: str, device: str) -> Reason | None:
    """A row of a GPU that a CPU computed: ONNX Runtime runs layers there that CUDA has no kernel for."""
    return _reason_if(
        device != "CPU" and "on the CPU" in computes_in,
        "not on the GPU",
        f"it computes in {computes_in}",
        "Use another runtime or precision on this GPU.",
    )
