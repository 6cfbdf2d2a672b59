"""The process of one engine, or of the ceilings: requests on standard input, replies on standard output.

    python -P -m alexnet_bench.engines.worker

One JSON object a line, a reply a request, in order; `process.py` is the other end. The first request says
what it is to be, and when standard input ends, so does it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from alexnet_model.errors import AlexnetError
from alexnet_model.gpus import Gpu
from alexnet_model.records import Record

Verbs = dict[str, Callable[..., object]]


def answer(requests: Iterable[str], replies: TextIO, verbs: Verbs) -> None:
    """Do what each request asks for; an error is its reply, and the next request is awaited."""
    for line in requests:
        request: dict[str, Any] = json.loads(line)
        number, verb = request.pop("number"), request.pop("verb")
        try:
            reply = {"number": number, "value": _plain(verbs[verb](**request))}
        except AlexnetError as error:
            reply = {"number": number, "error": str(error)}
        except Exception as error:  # whatever a runtime raises costs its engine alone
            said = next(iter(str(error).strip().splitlines()), "")
            reply = {"number": number, "error": f"{type(error).__name__}: {said}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def verbs_here() -> Verbs:
    """`engine` and `ceilings` become something, which brings the other verbs."""
    verbs: Verbs = {}

    def engine(spec: dict[str, Any], largest: int) -> None:
        from .hosting import hosted_from_spec
        from .specs import EngineSpec

        hosted = hosted_from_spec(EngineSpec.model_validate(spec), largest)
        for verb in (hosted.load, hosted.warm, hosted.slice, hosted.judge, hosted.describe):
            verbs[verb.__name__] = verb

    def ceilings(gpu: dict[str, Any] | None) -> None:
        from .ceilings import bench_from_gpu

        verbs["roofs"] = bench_from_gpu(None if gpu is None else Gpu(**gpu)).roofs

    verbs.update(engine=engine, ceilings=ceilings)
    return verbs


def _plain(value: object) -> object:
    if isinstance(value, Record):
        return value.model_dump(mode="json")
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def main() -> None:
    """Libraries may print to standard output: only replies go there, and the rest to standard error."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    answer(sys.stdin, replies, verbs_here())


if __name__ == "__main__":
    main()
