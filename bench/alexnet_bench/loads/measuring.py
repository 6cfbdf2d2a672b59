"""One load at a time on one server: what is asked, who generates it, and the row that comes of it.

with Workers(url, 1) as workers:
    bench = ServerBench(transport, ServerUrl.parse(url), workers)
    measured = bench.measure("alexnet_int8", ClosedLoop(concurrency=16), batch=1)

A load may also be run several times and its outcomes be measured together: `run` and `measured`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from alexnet_clients import InferReply, ModelStatistics, ServerUrl, Transport
from alexnet_model.errors import BadResponse, ClientError, Unreachable, UsageError
from alexnet_model.gpus import gpus_here
from alexnet_model.progress import Progress, silent

from ..figures.percentiles import NEEDED
from ..schema import HeldRate, LoadRow, RateProbe
from .answers import Expected, TrueAnswers, expected_from_replies
from .generators import Generator, Tick, no_tick
from .inputs import Asked, Shapes, asked_from_config
from .load_results import Outcome, in_turn
from .plans import ClosedLoop, Loop, OpenLoop, Part, Timing, check_bounds
from .rows import Measured, Subject, load_row, was_restarted
from .searching import Found, SearchOptions, search
from .server_counts import began_anew
from .worker_protocol import Target

ReferencePredictions = Callable[[Subject, Asked], TrueAnswers]
_ALONE = Timing(burn_in_s=0.2, seconds=1.0, repeats=1)


class ServerReplaced(BadResponse):
    """Between two loads the server was started again, or another took its place."""


@dataclass(frozen=True)
class Held:
    """What a search found, the load at that rate, and what cut it short: a load, Ctrl-C or an error."""

    record: HeldRate
    kept: Measured | None
    over: Measured | None
    cut_by: KeyboardInterrupt | ClientError | None = None


@dataclass(frozen=True)
class _Aimed:
    """What the generator asks at the moment."""

    asked: Asked
    expected: Expected
    request_bytes: int


class ServerBench:
    """Holds what was read of each model, so that a sweep reads it once.

    `truth` gives the true answers from another place than the server, such as the export in process; without
    it what the server answers before the first load is what it is held to.
    """

    def __init__(
        self,
        transport: Transport,
        url: ServerUrl,
        generator: Generator,
        *,
        timing: Timing | None = None,
        timeout_s: float = 30.0,
        shapes: Shapes | None = None,
        truth: ReferencePredictions | None = None,
    ) -> None:
        self.timing = timing or Timing()
        self._transport = transport
        self._url = url
        self._generator = generator
        self._timeout_s = timeout_s
        self._shapes = shapes or {}
        self._truth = truth
        self._subjects: dict[str, Subject] = {}
        self._known: dict[tuple[str, int], _Aimed] = {}
        self._aimed: _Aimed | None = None  # at the moment
        self._counted: dict[str, ModelStatistics] = {}  # after the latest load

    def subject(self, model: str) -> Subject:
        """Read the configuration of a model, and of what computes it.

        Raises:
            ClientError: the server cannot be reached, or has no such model.
        """
        if model not in self._subjects:
            self._subjects[model] = self._read(model)
        return self._subjects[model]

    def check(self, model: str, batch: int) -> None:
        """Whether the model can be asked in this batch.

        Raises:
            ClientError: as of `subject`.
            UsageError: it takes no such batch, or has an input that cannot be made up.
        """
        self._asked(model, batch)

    def check_loops(self, loops: Iterable[Loop]) -> None:
        """Whether the generator can send them for as long as they are to last.

        Raises:
            UsageError: one has too many requests.
        """
        for loop in loops:
            check_bounds(loop, self.timing)

    def check_shapes(self, models: Iterable[str]) -> None:
        """Whether every shape that was given is of an input of one of these models.

        Raises:
            ClientError: as of `subject`.
            UsageError: there is no such input.
        """
        inputs = dict.fromkeys(name for model in models for name in self.subject(model).config.inputs)
        for name in self._shapes:
            if name not in inputs:
                raise UsageError(f"shape of {name}", got="no such input", expected=" or ".join(inputs))

    def measure(
        self, model: str, loop: Loop, batch: int = 1, *, timing: Timing | None = None, tick: Tick = no_tick
    ) -> Measured:
        """Burn in, measure, and judge: a load that is run once.

        Raises:
            ClientError: as of `run` and of `measured`.
            KeyboardInterrupt: it was interrupted before anything was measured.
            UsageError: as of `check` and of `check_loops`.
        """
        outcome = self.run(model, loop, batch, timing=timing, tick=tick)
        return self.measured(model, loop, batch, [outcome])

    def run(
        self,
        model: str,
        loop: Loop,
        batch: int = 1,
        *,
        timing: Timing | None = None,
        seed: int = 0,
        tick: Tick = no_tick,
    ) -> Outcome:
        """Burn in and measure. An open loop sends at other times with another `seed`.

        Raises:
            ServerReplaced: since the load before, it was started again, or its model is another.
            ClientError: the server did not answer before the load.
            UsageError: as of `check` and of `check_loops`.
        """
        timing = timing or self.timing
        check_bounds(loop, timing)
        self._aim(model, batch)
        subject = self.subject(model)
        self._check_same_server(subject)
        part = Part(loop=loop, timing=timing, seed=seed, statistics_of=subject.counted)
        try:
            outcome = self._generator.run(part, tick)
        except ClientError:
            self._aimed = None  # the generator has to start anew
            raise
        for name, spans in outcome.statistics.items():
            self._counted[name] = spans[-1][1]
        return outcome

    def measured(self, model: str, loop: Loop, batch: int, outcomes: Sequence[Outcome]) -> Measured:
        """The row of one load that was run so often, and its verdict.

        Raises:
            ClientError: no request was answered.
            KeyboardInterrupt: it was interrupted before anything was measured.
        """
        subject, aimed = self.subject(model), self._known[model, batch]
        outcome = in_turn(outcomes)
        row = load_row(subject, loop, batch=batch, request_bytes=aimed.request_bytes, outcome=outcome)
        if row is None:
            if outcome.interrupted:
                raise KeyboardInterrupt
            raise _nothing_answered(f"{self._url} {model}, {loop}, batch {batch}", outcome)
        restarted = was_restarted(outcome, outcome.statistics.get(subject.network.name, ()))
        return Measured(row=row, outcome=outcome, restarted=restarted)

    def held_rate(
        self,
        model: str,
        batch: int,
        options: SearchOptions,
        *,
        estimate_per_s: float,
        progress: Progress = silent,
    ) -> Held:
        """The highest rate whose p99 holds the limit. Where a request alone takes longer, none is tried.

        `estimate_per_s` is what a closed loop reached, in requests a second. Ctrl-C and errors cut it short.

        Raises:
            ClientError: the server did not answer a request alone.
            KeyboardInterrupt: it came before a rate was tried.
            UsageError: as of `check`.
        """
        subject = self.subject(model)
        tried: list[Measured] = []
        cut_by: list[KeyboardInterrupt | ClientError] = []
        stage = f"rates of {model} within {options.limit_p99_ms:g} ms"

        def probing(rate_per_s: float) -> RateProbe | None:
            loop, timing = OpenLoop(rate_per_s=rate_per_s), options.timing_at(rate_per_s, self.timing)
            progress(stage, len(tried), options.most_probes, str(loop))
            try:
                tried.append(self.measure(model, loop, batch, timing=timing))
            except (KeyboardInterrupt, ClientError) as error:
                cut_by.append(error)
                return None
            return None if tried[-1].is_over else _probe(tried[-1].row, options)

        alone_ms = self.measure(model, ClosedLoop(concurrency=1), batch, timing=_ALONE).row.latencies.p50_ms
        if alone_ms is not None and alone_ms > options.limit_p99_ms:
            found = Found((), alone_ms=alone_ms)
        else:
            found = search(probing, estimate_per_s, options)
        progress(stage, options.most_probes, options.most_probes)
        held, best = found.held, found.held or found.best
        kept = next((m for m in tried if held and m.row.rate_per_s == held.rate_per_s), None)
        over = tried[-1] if tried and tried[-1].is_over else None
        words = found.words(options.limit_p99_ms)
        record = HeldRate(
            model=model,
            engine=subject.engine,
            url_scheme=self._url.scheme,
            batch=batch,
            limit_p99_ms=options.limit_p99_ms,
            rate_per_s=held.rate_per_s if held else None,
            throughput=kept.row.throughput if kept else None,
            p99_ms=best.p99_ms if best else None,
            probes=found.probes,
            words=f"{words}; the search was cut short" if over or cut_by else words,
        )
        return Held(record, kept, over, next(iter(cut_by), None))

    def _read(self, model: str) -> Subject:
        config = self._transport.model_config(model, timeout_s=self._timeout_s).result()
        network = config
        if config.steps:
            network = self._transport.model_config(config.steps[-1], timeout_s=self._timeout_s).result()
        return Subject(
            url=self._url, config=config, network=network, device=_device(network.device, self._url)
        )

    def _check_same_server(self, subject: Subject) -> None:
        """As far as its configuration and its statistics tell."""
        name = subject.network.name
        found = self._read(subject.config.name)
        if (found.config, found.network) != (subject.config, subject.network):
            raise _replaced(self._url, subject, "another configuration of it than before")
        if name in self._counted:
            now = self._transport.statistics(name, timeout_s=self._timeout_s).result()
            if began_anew(self._counted[name], now):
                raise _replaced(self._url, subject, "statistics that began anew since the load before")

    def _asked(self, model: str, batch: int) -> Asked:
        return asked_from_config(self.subject(model).config, batch, self._shapes)

    def _aim(self, model: str, batch: int) -> None:
        """Let the generator ask this, and know what it must be answered with."""
        if (model, batch) not in self._known:
            asked = self._asked(model, batch)
            replies = self._answers_alone(asked)
            truth = None if self._truth is None else self._truth(self.subject(model), asked)
            expected = expected_from_replies(asked, replies, truth)
            self._known[model, batch] = _Aimed(asked, expected, max(reply.request_bytes for reply in replies))
        aimed = self._known[model, batch]
        if self._aimed is not aimed:
            self._aimed = None
            self._generator.aim(Target(asked=aimed.asked, expected=aimed.expected, timeout_s=self._timeout_s))
            self._aimed = aimed

    def _answers_alone(self, asked: Asked) -> list[InferReply]:
        """Every distinct request, one at a time."""
        replies = [
            self._transport.submit(self._transport.prepare(request), timeout_s=self._timeout_s).result()
            for request in asked.requests()
        ]
        missing = set(asked.outputs) - set(replies[0].outputs)
        if missing:
            subject = f"{self._url} {asked.model}"
            raise BadResponse(subject, got="no " + ", ".join(sorted(missing)), expected="what was asked for")
        return replies


def _probe(row: LoadRow, options: SearchOptions) -> RateProbe:
    assert row.rate_per_s is not None
    p99_ms = row.latencies.p99_ms
    notes: list[str] = [reason.rule for reason in row.verdict.reasons]
    if p99_ms is None:
        notes.append(f"{row.latencies.samples} answers, where p99 needs {NEEDED['p99']}")
    held = row.verdict.is_valid and p99_ms is not None and p99_ms <= options.limit_p99_ms
    return RateProbe(rate_per_s=row.rate_per_s, p99_ms=p99_ms, held=held, note=", ".join(notes))


def _replaced(url: ServerUrl, subject: Subject, got: str) -> ServerReplaced:
    return ServerReplaced(
        f"{url} {subject.config.name}",
        got=got,
        expected="the server that the loads before were on",
        next_step="See the server's log, and measure again.",
    )


def _nothing_answered(subject: str, outcome: Outcome) -> ClientError:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in outcome.failed.items())
    kind = Unreachable if outcome.server_gone else ClientError
    return kind(
        subject,
        got=f"no answer to any of {outcome.requests:,} requests ({kinds or 'none was counted'})",
        expected="at least one",
        next_step=outcome.failure or "Measure for longer.",
    )


def _device(device: str, url: ServerUrl) -> str:
    """A GPU's name where the server is on this machine, which is all that a client can know."""
    where = "" if url.is_loopback else f" at {url.host}"
    if device == "GPU" and not where:
        names = dict.fromkeys(gpu.name for gpu in gpus_here().gpus)
        return " + ".join(names) or device
    return f"{device or 'unknown'}{where}"
