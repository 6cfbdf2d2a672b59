"""The network of 2012 on two devices: the memory that training needs, and the same weights from two processes.

Each process holds one half of every layer's output channels or units. Where a layer reads from all channels,
the two exchange their halves; that is how the paper's two GPUs shared one network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from alexnet_model.architectures import LocalResponseNorm, build, parameter_count
from alexnet_training.initialisation import initialise
from counts import BATCH_2012, GTX_580_BYTES, stored_values
from plots import COLOURS, axes_of
from section import Experiment, Section, Values, table_of

WIDTH = 0.125
CLASSES = 10
IMAGES = 8
TOLERANCE = 1e-5
SEED = 3


class _Exchange(torch.autograd.Function):
    """Both halves beside one another, and on the way back the sum of both processes' gradients of each half."""

    @staticmethod
    def forward(ctx: Any, half: Tensor) -> Tensor:
        parts = [torch.empty_like(half) for _ in range(2)]
        dist.all_gather(parts, half.contiguous())
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(2, dim=1)[dist.get_rank()]


def _exchanged(half: Tensor) -> Tensor:
    whole: Tensor = _Exchange.apply(half)  # type: ignore[no-untyped-call]
    return whole


class Half(nn.Module):
    """One process's half of `alexnet-2012`.

    Args:
        layers: the layers of the whole network; weights are copied.
        rank: 0 or 1.
    """

    def __init__(self, layers: nn.Sequential, rank: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_half_of(layer, rank) for layer in layers)
        self.rank = rank
        self.exchanges = 0

    def forward(self, x: Tensor) -> Tensor:
        whole = True  # the image; afterwards each process has its half of the channels
        for layer in self.layers:
            # Convolutions 2, 4 and 5 have two groups, so a half reads only its own half.
            reads_all = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and not layer.own_half)
            if isinstance(layer, LocalResponseNorm):
                x = layer(_exchanged(x)).chunk(2, dim=1)[self.rank]  # its sums cross the halves
            elif reads_all:
                x = layer(x if whole else _exchanged(x))
                whole = False
            else:
                x = layer(x)
        return _exchanged(x)


def _half_of(layer: nn.Module, rank: int) -> nn.Module:
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        return layer
    assert layer.bias is not None
    weight, bias = (tensor.detach().chunk(2)[rank].clone() for tensor in (layer.weight, layer.bias))
    if isinstance(layer, nn.Linear):
        half: nn.Module = nn.Linear(layer.in_features, len(bias))
    else:
        half = nn.Conv2d(
            weight.shape[1],
            len(bias),
            layer.kernel_size,  # type: ignore[arg-type]
            stride=layer.stride,  # type: ignore[arg-type]
            padding=layer.padding,  # type: ignore[arg-type]
        )
        half.own_half = layer.groups == 2  # type: ignore[assignment]
    half.load_state_dict({"weight": weight, "bias": bias})
    return half


def _network() -> nn.Sequential:
    torch.manual_seed(SEED)
    network = build("alexnet-2012", CLASSES, width=WIDTH)
    initialise(network, "alexnet-2012")
    assert isinstance(network, nn.Sequential)
    for layer in network:
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # two processes would drop other units than one
    return network


def _steps(network: nn.Module, count: int, share: float) -> list[float]:
    """Train on random images with the paper's SGD; return the losses.

    `share` is that of one process: each computes the whole loss, and gradients of both are added.
    """
    generator = torch.Generator().manual_seed(SEED)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    losses = []
    for _ in range(count):
        images = torch.randn(IMAGES, 3, 224, 224, generator=generator)
        labels = torch.randint(0, CLASSES, (IMAGES,), generator=generator)
        loss = nn.functional.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        (share * loss).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def _process(rank: int, folder: str, steps: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    half = Half(_network(), rank)
    losses = _steps(half, steps, 0.5)
    torch.save({"losses": losses, "weights": half.state_dict()}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def measure(quick: bool) -> Values:
    steps = 2 if quick else 4
    before = [parameter.detach().clone() for parameter in _network().parameters()]
    network = _network()
    losses = _steps(network, steps, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        spawn(_process, (folder, steps), nprocs=2)  # type: ignore[no-untyped-call]
        halves = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]
    joined = [torch.cat(pair) for pair in zip(*(half["weights"].values() for half in halves), strict=True)]
    weights = list(network.parameters())
    whole = build("alexnet-2012", 1000)
    parameters, values = parameter_count(whole), stored_values(whole)
    return {
        "parameters": parameters,
        "stored_values_per_image": values,
        "steps": steps,
        "seed": SEED,
        "width": WIDTH,
        "images": IMAGES,
        "losses_one": losses,
        "losses_two": halves[0]["losses"],
        "largest_difference": max(
            float((a - b).detach().abs().max()) for a, b in zip(weights, joined, strict=True)
        ),
        "largest_change": max(
            float((a - b).detach().abs().max()) for a, b in zip(weights, before, strict=True)
        ),
    }


def section(values: Values) -> Section:
    parts = memory_of(values)
    total = sum(parts.values())
    same = values["largest_difference"] <= TOLERANCE
    needs_two = total > GTX_580_BYTES
    rows = [[name, f"{size / 1e6:,.0f}", f"{size / 2e6:,.0f}"] for name, size in parts.items()]
    rows.append(["all", f"{total / 1e6:,.0f}", f"{total / 2e6:,.0f}"])
    least = total - parts["gradients of outputs"]
    memory = (
        f"By count, training needs {total / 1e9:.1f} GB if the gradients of all outputs are kept, and "
        f"{least / 1e9:.1f} GB if each is freed once it was used. "
        + ("Both are" if least > GTX_580_BYTES else "The first is" if needs_two else "Neither is")
        + " more than 3 GB, so the count "
        + ("shows" if least > GTX_580_BYTES else "alone does not show")
        + " that two GPUs were necessary; with all gradients kept, there was little space for anything else. "
    )
    equal = (
        f"After {values['steps']} steps of SGD on {values['images']} images (width {values['width']:g}), the weights of the "
        f"two processes differ from those of one process by at most {values['largest_difference']:.1g}, "
        f"where training changed them by up to {values['largest_change']:.1g}."
    )
    return Section(
        title="Split over two GPUs in 2012",
        claim="AlexNet did not fit into the memory of one GPU of 2012, so it was trained as two halves on two.",
        explanation=(
            f"Training keeps weights, gradients, momentum and the outputs of the layers, here for {BATCH_2012} "
            "images in FP32. The GPUs of the paper had 3 GB each. The two groups of convolutions 2, 4 and 5 are "
            "the two GPUs: a half of the channels reads only that half. The halves exchange their outputs before "
            "convolution 3 and before every fully connected layer. Here two processes also exchange them for the "
            "local response normalisation, whose sums cross the halves in `alexnet-2012`. Dropout is off, because "
            "two processes would drop other units than one."
        ),
        verdict="Holds"
        if same and least > GTX_580_BYTES
        else "Holds only in part"
        if same
        else "Does not hold",
        reason=memory + equal,
        table=table_of(["memory for training", "MB on one GPU", "MB on each of two"], rows),
        plot=lambda: _plot(parts),
        plot_text="Counted memory for training at batch 128 on one and on two devices, against 3 GB",
    )


def memory_of(values: Values) -> dict[str, float]:
    """Return the bytes that training keeps in FP32 at the batch size of 2012."""
    weights = 4.0 * values["parameters"]
    outputs = 4.0 * values["stored_values_per_image"] * BATCH_2012
    return {
        "weights": weights,
        "gradients": weights,
        "momentum": weights,
        "outputs of layers": outputs,
        "gradients of outputs": outputs,
    }


def _plot(parts: dict[str, float]) -> Figure:
    figure, (axes,) = axes_of(height=2.2)
    for row, share in enumerate((1, 2)):
        start = 0.0
        for number, (name, size) in enumerate(parts.items()):
            width = size / share / 1e9
            axes.barh(row, width, 0.5, left=start, color=COLOURS[number], label=name if row == 0 else None)
            start += width
    axes.axvline(GTX_580_BYTES / 1e9, color="#222222", linestyle="--", linewidth=1.4)
    axes.annotate("3 GB", (GTX_580_BYTES / 1e9, 1.45), (4, 0), textcoords="offset points")
    axes.set_yticks((0, 1), ("one device", "each of two"))
    axes.set_xlim(0, 3.4)
    axes.set_ylim(-0.5, 1.7)
    axes.set_xlabel("GB")
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    return figure


HALVES = Experiment("halves", measure, section)
