"""What the networks cost, counted layer by layer: sections on size, on 3 GB, on the ratio, and on the roofline."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from alexnet_model.architectures import LocalResponseNorm, build, multiply_adds, parameter_count
from plots import COLOURS, MARKERS, axes_of
from section import Experiment, Section, Values, table_of

ENGINES = Path(__file__).parents[1] / "benchmarks" / "results" / "cpu" / "engine.json"
BATCH_2012 = 128
GTX_580_BYTES = 3e9  # the memory of the paper's GPUs (section 2)
BATCHES = (1, 8, 32, 128)
NETWORKS = (
    ("lenet", 10, "LeNet, 1x28x28 to 10"),
    ("alexnet-lecture", 10, "the lecture's AlexNet, 10 classes"),
    ("alexnet-lecture", 1000, "the lecture's AlexNet, 1000 classes"),
    ("alexnet-2012", 1000, "the 2012 paper's AlexNet, 1000 classes"),
    ("alexnet", 1000, "torchvision's AlexNet, 1000 classes"),
)


def layers_of(network: nn.Module) -> list[Values]:
    """Count each layer with weights, for one image: `kind`, `parameters`, `multiply_adds`, `inputs`, `outputs`.

    Inputs and outputs are numbers of values.
    """
    rows: list[Values] = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            uses = output[0].numel() // module.weight.shape[0]  # of each weight
            rows.append(
                {
                    "kind": "conv" if isinstance(module, nn.Conv2d) else "linear",
                    "parameters": sum(p.numel() for p in module.parameters()),
                    "multiply_adds": module.weight.numel() * uses,
                    "inputs": inputs[0][0].numel(),
                    "outputs": output[0].numel(),
                }
            )

    _with_hooks(network, count)
    numbers = {"conv": 0, "linear": 0}
    for row in rows:
        numbers[row["kind"]] += 1
        row["name"] = f"{row['kind']} {numbers[row['kind']]}"
    return rows


def stored_values(network: nn.Module) -> int:
    """Count the values that training keeps of one image: the outputs of all layers but those in place."""
    total = 0

    def count(module: nn.Module, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        in_place = getattr(module, "inplace", False) or isinstance(module, nn.Flatten)
        leaf = not list(module.children()) or isinstance(module, LocalResponseNorm)
        if leaf and not in_place:
            total += output[0].numel()

    _with_hooks(network, count)
    return total


def _with_hooks(network: nn.Module, hook: object) -> None:
    hooks = [module.register_forward_hook(hook) for module in network.modules()]  # type: ignore[arg-type]
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 3, 224, 224))
    for each in hooks:
        each.remove()


def measure_size(_: bool) -> Values:
    networks = {name: build(name, 10 if name == "lenet" else 1000) for name in ("lenet", "alexnet")}
    return {"layers": {name: layers_of(network) for name, network in networks.items()}}


def section_size(values: Values) -> Section:
    layers = values["layers"]
    total = {name: sum(row["parameters"] for row in rows) for name, rows in layers.items()}
    adds = {name: sum(row["multiply_adds"] for row in rows) for name, rows in layers.items()}
    linear = [row for row in layers["alexnet"] if row["kind"] == "linear"]
    in_linear = sum(row["parameters"] for row in linear) / total["alexnet"]
    in_conv = 1 - sum(row["multiply_adds"] for row in linear) / adds["alexnet"]
    last = linear[-1]["parameters"] / total["alexnet"]

    def row_of(network: str, row: Values) -> list[str]:
        counted = [f"{row[key]:,}" for key in ("parameters", "multiply_adds")]
        return [f"{network}, {row['name']}", *counted, f"{4 * row['outputs']:,}"]

    rows = [row_of(title, row) for title, name in TITLES.items() for row in layers[name]]
    first, second = (row["parameters"] for row in linear[:2])
    return Section(
        title="Larger input, more channels, hidden layers of 4096",
        claim="AlexNet is a larger LeNet: its images, its channels and its hidden layers are larger.",
        explanation=(
            "The table counts one image in FP32. The three fully connected layers "
            f"hold {in_linear:.0%} of the parameters of torchvision's AlexNet, and the five convolutions "
            f"do {in_conv:.0%} of the multiply-adds: a convolution uses each weight at many places, "
            "a fully connected layer uses it once."
        ),
        verdict="Holds",
        reason=(
            f"AlexNet has {total['alexnet'] / total['lenet']:,.0f} times the parameters of LeNet and does "
            f"{adds['alexnet'] / adds['lenet']:,.0f} times the multiply-adds. The 1000 classes themselves are "
            f"not what makes it large: the last layer has {last:.0%} of the parameters, and the two hidden "
            f"layers of 4096 have {(first + second) / total['alexnet']:.0%}."
        ),
        table=table_of(["layer", "parameters", "multiply-adds", "bytes of output"], rows),
        plot=lambda: _size_plot(layers),
        plot_text="Parameters and multiply-adds of each layer of LeNet and AlexNet, logarithmic",
    )


TITLES = {"LeNet": "lenet", "AlexNet": "alexnet"}


def _size_plot(layers: dict[str, list[Values]]) -> Figure:
    figure, axes = axes_of(2, height=3.6)
    for each, (title, name) in zip(axes, TITLES.items(), strict=True):
        rows = layers[name]
        for number, (key, words) in enumerate(
            (("parameters", "parameters"), ("multiply_adds", "multiply-adds"), ("outputs", "output values"))
        ):
            x = [index + 0.27 * (number - 1) for index in range(len(rows))]
            each.bar(x, [row[key] for row in rows], 0.25, color=COLOURS[number], label=words)
        each.set_yscale("log")
        each.set_ylim(1, 1e9)
        each.set_title(title)
        each.grid(visible=False, axis="x")
        each.set_xticks(
            range(len(rows)), [row["name"] for row in rows], rotation=45, ha="right", rotation_mode="anchor"
        )
    axes[0].set_ylabel("count for one image")
    axes[0].legend(loc="upper left")
    return figure


def measure_ratio(_: bool) -> Values:
    rows = []
    for name, classes, title in NETWORKS:
        network = build(name, classes)
        rows.append(
            {"title": title, "parameters": parameter_count(network), "multiply_adds": multiply_adds(network)}
        )
    return {"networks": rows}


def section_ratio(values: Values) -> Section:
    lenet, *others = values["networks"]

    def ratios(row: Values) -> tuple[float, float]:
        return row["parameters"] / lenet["parameters"], row["multiply_adds"] / lenet["multiply_adds"]

    rows = [
        [
            row["title"],
            f"{row['parameters']:,}",
            f"{row['multiply_adds']:,}",
            " / ".join(f"{ratio:.0f}" for ratio in ratios(row)),
        ]
        for row in values["networks"]
    ]
    least = [min(ratios(row)[index] for row in others) for index in (0, 1)]
    holds = least[0] <= 20 and least[1] <= 500
    return Section(
        title="250 times the compute and 10 times the parameters",
        claim='AlexNet has "250 times the compute and 10 times the parameters" of LeNet.',
        explanation=(
            "Parameters are weights and biases. A multiply-add is one multiplication and one addition in a "
            "convolution or a fully connected layer. LeNet is that of Dive into Deep Learning, with 6 and 16 "
            "channels and 120 and 84 hidden units."
        ),
        verdict="Holds" if holds else "Does not hold",
        reason=(
            f"Every AlexNet of the table has at least {least[0]:.0f} times the parameters and at least "
            f"{least[1]:,.0f} times the multiply-adds of LeNet."
        ),
        table=table_of(
            ["model", "parameters", "multiply-adds per image", "ratio to LeNet: parameters / multiply-adds"],
            rows,
        ),
    )


def measure_roofline(_: bool) -> Values:
    """Read the machine's limits and the engines' rates from the committed engine benchmark."""
    report = json.loads(ENGINES.read_text(encoding="utf-8"))
    engines = [
        {
            "runtime": row["engine"]["runtime"],
            "precision": row["engine"]["precision"],
            "computes_in": row["engine"]["computes_in"],
            "batch": row["batch"],
            "images_per_s": row["throughput"]["value"],
        }
        for row in report["engines"]
        if not row["verdict"]["reasons"] and row["engine"]["runtime"] in ("pytorch", "openvino")
    ]
    return {
        "layers": layers_of(build("alexnet", 10)),
        "engine_machine": report["environment"]["machine"],
        "engine_date": report["environment"]["date"],
        "roofs": report["roofs"],
        "engines": engines,
    }


def intensity(layer: Values, batch: int) -> float:
    """Return the operations of a layer per byte that it must move in FP32; a multiply-add is 2 operations."""
    moved = 4 * (layer["parameters"] + batch * (layer["inputs"] + layer["outputs"]))
    return float(2 * batch * layer["multiply_adds"] / moved)


def network_intensity(layers: list[Values], batch: int) -> float:
    """Return the same for a network, each of whose layers reads and writes memory."""
    moved = sum(4 * (row["parameters"] + batch * (row["inputs"] + row["outputs"])) for row in layers)
    return float(2 * batch * sum(row["multiply_adds"] for row in layers) / moved)


def section_roofline(values: Values) -> Section:
    layers = values["layers"]
    roof = next(row for row in values["roofs"] if row["computes_in"] == "f32")
    ridge = roof["operations_per_s"] / roof["bytes_per_s"]
    rows = [
        [
            row["name"],
            *(f"{intensity(row, batch):,.1f}" for batch in BATCHES),
            _first_batch(row, ridge),
        ]
        for row in layers
    ]
    linear = [row for row in layers if row["kind"] == "linear"]
    convolutions = [row for row in layers if row["kind"] == "conv"]
    bound = all(intensity(row, 1) < ridge for row in linear) and all(
        intensity(row, 1) > ridge for row in convolutions
    )
    return Section(
        title="Memory against compute",
        claim="Whether memory or arithmetic limits a network differs from layer to layer.",
        explanation=(
            "The layers are those of torchvision's AlexNet with 10 classes. A layer that does many operations for each byte it reads or writes is limited by arithmetic, "
            "one that does few is limited by memory. The limit is the machine's own ratio, here "
            f"{ridge:.1f} operations per byte in FP32 ({roof['operations_per_s'] / 1e9:,.0f} GFLOP/s and "
            f"{roof['bytes_per_s'] / 1e9:.0f} GB/s, measured by the engine benchmark on {values['engine_machine']}). "
            "At batch 1 a fully connected layer does half an operation for each byte, because it reads each "
            "weight of 4 bytes for one multiply-add; a larger batch reads the weights once for all its images."
        ),
        verdict="Holds" if bound else "Holds only in part",
        reason=(
            f"At batch 1 the fully connected layers do {min(intensity(r, 1) for r in linear):.1f} operations per "
            f"byte and the convolutions at least {min(intensity(r, 1) for r in convolutions):.0f}, on either side "
            f"of {ridge:.1f}."
            if bound
            else "Not all layers are on the side that the claim puts them on."
        ),
        table=table_of(
            [
                "layer",
                *(f"operations per byte, batch {batch}" for batch in BATCHES),
                "limited by arithmetic from",
            ],
            rows,
        ),
        plot=lambda: _roofline_plot(values, roof),
        plot_text="Roofline of the CPU with the layers of AlexNet and the measured FP32 engines",
    )


def _first_batch(layer: Values, ridge: float) -> str:
    return next((f"batch {batch}" for batch in range(1, 1025) if intensity(layer, batch) >= ridge), "never")


def _best_by_batch(engines: list[Values], runtime: str) -> list[Values]:
    """Return the fastest FP32 engine of a runtime at each batch size."""
    found = [row for row in engines if row["runtime"] == runtime and row["computes_in"] == "f32"]
    best = {row["batch"]: row for row in sorted(found, key=lambda row: row["images_per_s"])}
    return [best[batch] for batch in sorted(best)]


def _roofline_plot(values: Values, roof: Values) -> Figure:
    figure, (axes,) = axes_of()
    peak, bandwidth = roof["operations_per_s"], roof["bytes_per_s"]
    x = [0.2, peak / bandwidth, 500]
    axes.plot(x, [min(peak, bandwidth * each) / 1e9 for each in x], color="#222222", linewidth=1.8)
    axes.annotate("the machine's limit", (12, peak / 1e9), (0, 5), textcoords="offset points", ha="center")
    for number, batch in enumerate((1, 32)):
        for kind, marker in (("conv", "o"), ("linear", "s")):
            at = [intensity(row, batch) for row in values["layers"] if row["kind"] == kind]
            y = [min(peak, bandwidth * each) / 1e9 for each in at]
            words = f"{'convolutions' if kind == 'conv' else 'fully connected'}, batch {batch} (counted)"
            axes.plot(at, y, marker, color=COLOURS[number], markersize=6, label=words, fillstyle="none")
    adds = sum(row["multiply_adds"] for row in values["layers"])
    for number, runtime in enumerate(("pytorch", "openvino")):
        found = _best_by_batch(values["engines"], runtime)
        if found:
            axes.plot(
                [network_intensity(values["layers"], row["batch"]) for row in found],
                [2 * adds * row["images_per_s"] / 1e9 for row in found],
                MARKERS[number + 2],
                color=COLOURS[number + 2],
                markersize=8,
                label=f"AlexNet by {runtime}, FP32, batch {', '.join(str(r['batch']) for r in found)} (measured)",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("GFLOP/s")
    axes.set_yticks((20, 50, 100, 200, 500), ("20", "50", "100", "200", "500"))
    axes.set_yticks((), minor=True)
    axes.set_ylim(15, 800)
    axes.set_xticks((0.5, 1, 5, 10, 50, 100, 500), ("0.5", "1", "5", "10", "50", "100", "500"))
    axes.set_xticks((), minor=True)
    axes.legend(loc="lower right", fontsize=8)
    return figure


SIZE = Experiment("size", measure_size, section_size)
RATIO = Experiment("ratio", measure_ratio, section_ratio)
ROOFLINE = Experiment("roofline", measure_roofline, section_roofline)
