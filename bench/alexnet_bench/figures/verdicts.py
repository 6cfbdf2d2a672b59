"""Whether a result may be believed, in MLPerf's manner: VALID, or INVALID with every reason and what to do.

Each rule is a function from what was observed to a reason or None; what holds the observations calls them.
"""

from __future__ import annotations

from typing import Literal

from alexnet_model.records import Record

from .percentiles import NEEDED

# Beyond these a result is INVALID.
MOST_LATE_MS = 1.0  # p99 of how late an open loop sent, over the plan
MOST_UNANSWERED = 0.05  # of the rate of an open loop
MOST_CLIENT_CPU = 0.9  # of one core, by any one process of the generator
MOST_AWAY = 0.1  # of the time, that any one process of the generator was kept from running
MOST_CALIBRATION_CHANGE = 0.1  # of the calibration workload, from before to after
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
]


class Reason(Record):
    """Why a result is not to be believed, and what would mend it."""

    rule: Rule
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.found}. {self.advice}"


class Verdict(Record):
    """VALID where there is no reason against it."""

    reasons: tuple[Reason, ...] = ()

    @property
    def is_valid(self) -> bool:
        return not self.reasons

    @property
    def word(self) -> str:
        return "VALID" if self.is_valid else "INVALID"


def verdict_from(*reasons: Reason | None) -> Verdict:
    """Put together what the rules said."""
    return Verdict(reasons=tuple(reason for reason in reasons if reason is not None))


def errors_reason(failed: int, requests: int, example: str) -> Reason | None:
    """A rate over requests of which some were not answered is of something else."""
    if not failed:
        return None
    return Reason(
        rule="errors",
        found=f"{failed:,} of {requests:,} requests failed, such as: {example}",
        advice="Ask for less, or mend the server.",
    )


def late_reason(late_p99_ms: float | None) -> Reason | None:
    """An open loop that sends late measures a gentler load than it says."""
    if late_p99_ms is None or late_p99_ms <= MOST_LATE_MS:
        return None
    return Reason(
        rule="generator late",
        found=f"requests were sent up to {late_p99_ms:.2f} ms late (p99), more than {MOST_LATE_MS:g} ms",
        advice="Use more worker processes, a lower rate, or a client machine of its own.",
    )


def starved_reason(client_away_share: float) -> Reason | None:
    """A client that is kept from running sends less, and its latencies are its own."""
    if client_away_share <= MOST_AWAY:
        return None
    return Reason(
        rule="generator starved",
        found=f"a process of the load generator could not run for {client_away_share:.0%} of the time",
        advice="Give it a core of its own, a higher limit of processor time, or a client machine of its own.",
    )


def saturation_reason(client_cpu_share: float) -> Reason | None:
    """A client that is at its limit is what is measured."""
    if client_cpu_share <= MOST_CLIENT_CPU:
        return None
    return Reason(
        rule="client saturated",
        found=f"a process of the load generator used {client_cpu_share:.0%} of a core",
        advice="Use more worker processes or larger batches, or a client machine of its own.",
    )


def answers_reason(wrong: int, checked: int, example: str) -> Reason | None:
    """A model that answers wrongly may do so quickly."""
    if not wrong:
        return None
    return Reason(
        rule="wrong answers",
        found=f"{wrong:,} of {checked:,} checked answers were wrong, such as: {example}",
        advice="Lint the repository and see which export is served.",
    )


def wrong_model_reason(refusal: str) -> Reason | None:
    """Of an engine that the gate refuses; empty where it does not."""
    if not refusal:
        return None
    return Reason(
        rule="wrong answers",
        found=f"it is not the model any more: {refusal}",
        advice="See its row among the proofs; its speed is of no use.",
    )


def gone_reason(found: str) -> Reason:
    """Of a run whose server was not there to its end."""
    return Reason(
        rule="server gone",
        found=found.rstrip("."),
        advice="See the server's log; what came after was not measured.",
    )


def samples_reason(samples: int, of: str, advice: str) -> Reason | None:
    """Not even the median of so few of them (answers, calls) is known."""
    if samples >= NEEDED["p50"]:
        return None
    return Reason(
        rule="too few samples",
        found=f"{samples} {of}, where a median needs {NEEDED['p50']}",
        advice=advice,
    )


def calibration_reason(before: float, after: float) -> Reason | None:
    """The same work, in operations a second before and after: what else the machine did."""
    change = abs(after / before - 1)
    if change <= MOST_CALIBRATION_CHANGE:
        return None
    rates = f"{before / 1e9:.4g} to {after / 1e9:.4g} x 10^9 operations/s"
    return Reason(
        rule="machine busy",
        found=f"the calibration workload went from {rates}, {change:.0%}",
        advice="End what else runs on this machine, and measure again.",
    )


def interrupted_reason(was_interrupted: bool) -> Reason | None:
    """Of a run that Ctrl-C has ended: a part of what was to be measured."""
    if not was_interrupted:
        return None
    return Reason(
        rule="interrupted",
        found="the run was ended before its end",
        advice="What there is of it is whole, but there was more to measure: run it again.",
    )


def not_judged_reason(why: str) -> Reason | None:
    """Of an engine that the gate was to judge, and did not; empty where it did, or was not to."""
    if not why:
        return None
    return Reason(
        rule="not judged",
        found=f"whether it is still the model is not known: {why}",
        advice="Mend that and measure again, or measure with --no-judge where answers do not matter.",
    )
