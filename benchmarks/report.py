"""This project's own figures on this machine: `make bench`, after `make demo`, in about a quarter of an hour.

Every part is one command of `alexnet bench`; their reports, the page and docs/performance.md are written from
what they measured and nothing else.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from alexnet_bench.reports.files import report_from_file
from alexnet_bench.reports.markdown import markdown_from_reports
from alexnet_bench.reports.page import html_from_reports
from alexnet_cli.main import run
from alexnet_cli.screen import note
from alexnet_model.files import write_text_atomically
from alexnet_serving import EmbeddedServer

PARTS = ("engine", "server", "rungs", "tune", "cold-start")
INTRODUCTION = """# Performance

Made by `make bench`, and by nothing else: each table with its command, its date and its verdict, and at the
end where it was measured. A figure is the median of its repeats with a 95% bootstrap interval; a percentile
is given only where there were enough requests to know it. `benchmarks/results/report.html` is the same as a
page with plots.

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--docs", type=Path, default=Path("docs/performance.md"))
    options = parser.parse_args()
    demo, results = options.demo, options.results
    export, repository = str(demo / "export"), str(demo / "model_repository")
    files = {part: str(results / f"{part}.json") for part in PARTS}
    checkpoint = str(demo / "checkpoint.safetensors")
    ladder = ["--batch", "1,8,32", "--seconds", "0.4", "--repeats", "5"]
    _bench("engine", export, "--checkpoint", checkpoint, *ladder, "--json", files["engine"])
    with EmbeddedServer(Path(repository)) as server:
        models = ["--model", "alexnet_fp32", "--model", "alexnet_int8", "--model", "alexnet"]
        loads = ["--concurrency", "1,4,16,64", "--seconds", "4", "--repeats", "3"]
        _bench("server", "--url", server.grpc_url, *models, *loads, "--json", files["server"])
    _bench("rungs", export, "--repository", repository, "--json", files["rungs"])
    _bench("tune", export, "--limit-p99-ms", "100", "--json", files["tune"])
    _bench("cold-start", repository, "--json", files["cold-start"])
    reports = [report_from_file(Path(file)) for file in files.values()]
    write_text_atomically(results / "report.html", html_from_reports(reports))
    write_text_atomically(options.docs, INTRODUCTION + markdown_from_reports(reports))
    note(f"Wrote {options.docs} and {results / 'report.html'}.")
    return 0


def _bench(*words: str) -> None:
    note(f"alexnet bench {' '.join(words)}")
    code = run(["bench", *words])
    if code:
        sys.exit(code)


if __name__ == "__main__":
    sys.exit(main())
