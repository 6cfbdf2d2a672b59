"""Compare our closed loop with perf_analyzer: `python benchmarks/perf_analyzer.py demo/model_repository`.

Both load the same embedded server in turn, over several rounds, every other round backwards. NVIDIA's binary
comes from the wheel of tritonclient 2.50.0; without `--binary` pip downloads that wheel, and the CUDA runtime
that the binary is linked to, into a temporary folder. Exits 1 if the median ratio of throughput or p50 is
more than 10% away from 1.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tools import run_recipe

from alexnet_bench import ClosedLoop, Load, Timing, open_server_bench
from alexnet_bench.figures.intervals import figure_from_repeats
from alexnet_bench.runs import Log
from alexnet_bench.schema import FigureRow
from alexnet_cli.screen import Bars
from alexnet_clients import ServerUrl
from alexnet_serving import EmbeddedServer

WHEELS = ("tritonclient==2.50.0", "nvidia-cuda-runtime-cu12")
TOLERANCE = 0.1
WINDOWS = 3  # over which perf_analyzer averages


@dataclass(frozen=True)
class Measurement:
    throughput_per_s: float
    p50_ms: float


@dataclass(frozen=True)
class PerfAnalyzer:
    """NVIDIA's binary, and the folders of the libraries that it needs."""

    binary: Path
    libraries: tuple[Path, ...]

    def measure(self, url: ServerUrl, model: str, concurrency: int, seconds: float) -> Measurement:
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "table.csv"
            window_ms = round(1e3 * seconds / WINDOWS)
            # By default it measures until three windows agree; here both tools measure for the same time.
            command = [str(self.binary), "-m", model, "-u", url.address, "-i", "grpc", "-f", str(table)]
            command += ["--concurrency-range", str(concurrency), "-p", str(window_ms)]
            command += ["-s", "1000", "-r", str(WINDOWS)]
            paths = os.pathsep.join(map(str, self.libraries))
            environment = {**os.environ, "LD_LIBRARY_PATH": paths}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{self.binary} failed:\n{done.stdout}{done.stderr}")
            row = next(csv.DictReader(table.read_text().splitlines()))
        return Measurement(float(row["Inferences/Second"]), float(row["p50 latency"]) / 1e3)


def perf_analyzer_in(folder: Path, binary: Path | None, beside: Sequence[Path]) -> PerfAnalyzer:
    """Use the given binary or NVIDIA's wheel. libb64 is that of the system or of nvidia-pytriton."""
    libraries = folder / "lib"
    libraries.mkdir()
    for found in (Path(sysconfig.get_path("purelib")) / "nvidia_pytriton.libs").glob("libb64-*.so.0d"):
        (libraries / "libb64.so.0d").symlink_to(found)
    if binary is not None:
        return PerfAnalyzer(binary.resolve(), (*beside, libraries))
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    download += ["--only-binary=:all:", "--platform", "manylinux1_x86_64", *WHEELS]
    subprocess.run(download, check=True)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                name = Path(member).name
                if name == "perf_analyzer" or name.startswith("libcudart.so"):
                    (libraries / name).write_bytes(archive.read(member))
    extracted = libraries / "perf_analyzer"
    extracted.chmod(0o755)
    return PerfAnalyzer(extracted, (libraries,))


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--binary", type=Path, help="a perf_analyzer binary; the default is downloaded")
    parser.add_argument(
        "--libraries",
        type=Path,
        nargs="*",
        default=[],
        help="folders of libraries that it needs, such as libcudart",
    )
    parser.add_argument("--model", default="alexnet_int8")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="of each tool in each round, at each concurrency"
    )
    return parser


def measure(log: Log, options: argparse.Namespace) -> None:
    timing = Timing(burn_in_s=1.0, seconds=options.seconds, repeats=1)
    found: defaultdict[tuple[str, int], list[Measurement]] = defaultdict(list)  # by tool and concurrency
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(options.repository) as server,
        open_server_bench(server.grpc_url, timing=timing) as bench,
        Bars() as progress,
    ):
        analyzer = perf_analyzer_in(Path(folder), options.binary, options.libraries)
        for number in range(options.rounds + 1):  # the first round only warms up
            progress("rounds", number, options.rounds + 1)
            for concurrency in options.concurrency:
                for tool in ["ours", "theirs"][:: 1 if number % 2 else -1]:
                    if tool == "ours":
                        loop = ClosedLoop(concurrency=concurrency)
                        row = bench.measure(Load(model=options.model, loop=loop)).row
                        assert row.latencies.p50_ms is not None
                        measured = Measurement(row.throughput.value, row.latencies.p50_ms)
                    else:
                        measured = analyzer.measure(bench.url, options.model, concurrency, options.seconds)
                    if number:
                        found[tool, concurrency].append(measured)
        progress("rounds", options.rounds + 1, options.rounds + 1)
    for concurrency in options.concurrency:
        of = f"{options.model} on the embedded server, batch 1, concurrency {concurrency}"
        log.figures += figures_of(of, found["ours", concurrency], found["theirs", concurrency])


def figures_of(of: str, ours: Sequence[Measurement], theirs: Sequence[Measurement]) -> list[FigureRow]:
    """Return the ratios of throughput and of p50, one repeat a round."""
    rows = []
    for name, unit in (("throughput_per_s", "requests/s"), ("p50_ms", "ms")):
        a = [float(getattr(measured, name)) for measured in ours]
        b = [float(getattr(measured, name)) for measured in theirs]
        rows.append(
            FigureRow(
                name=f"{name.partition('_')[0]}, ours / perf_analyzer",
                of=f"{of}: {median(a):,.4g} / {median(b):,.4g} {unit}",
                figure=figure_from_repeats([x / y for x, y in zip(a, b, strict=True)], "times"),
                at_least=1 - TOLERANCE,
                at_most=1 + TOLERANCE,
            )
        )
    return rows


if __name__ == "__main__":
    sys.exit(run_recipe("Closed loop against perf_analyzer", options(), measure))
