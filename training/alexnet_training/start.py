"""The network that a run starts with: random weights, or pretrained weights with a new last layer."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from alexnet_model.architectures import ARCHITECTURES, build, expected_weights, takes_option
from alexnet_model.checkpoint import Checkpoint
from alexnet_model.contract import Contract
from alexnet_model.errors import UsageError
from alexnet_model.extras import needs
from alexnet_model.factories import Option
from alexnet_model.network_check import count_outputs
from alexnet_model.pretrained import DEFAULT_ARCHITECTURE, WeightsOptions, checkpoint_from

from .initialisation import (
    NEW_LAYER_FACTOR,
    PRETRAINED_SHARE,
    default_learning_rate,
    initialise,
    initialise_last,
)
from .options import TrainingOptions
from .recipes import Recipe

with needs("train"):
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Start:
    """A network before its first step.

    Args:
        network: with its weights; those of frozen modules have `requires_grad` False.
        architecture: as for `architectures.build`.
        options: the factory's arguments besides the number of classes.
        contract: how images are prepared.
        learning_rate: the highest of the schedule; that of the new layers, if there are weights.
        pretrained: what the other layers started from, as JSON, with their highest learning rate. None: the
            network has random weights.
        new_weights: names of the random weights beside pretrained ones.
        frozen: names of the modules whose weights stay fixed.
    """

    network: nn.Module
    architecture: str
    options: Mapping[str, Option]
    contract: Contract
    learning_rate: float
    pretrained: Mapping[str, Any] | None = None
    new_weights: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()

    @property
    def new_layers(self) -> tuple[str, ...]:
        """The names of the layers with the new weights."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.new_weights))

    def optimiser(self, recipe: Recipe) -> torch.optim.Optimizer:
        """Return the recipe's optimiser of the weights that are trained.

        There is one group for each learning rate, and with AdamW one more for the weights without decay.
        Every group has `peak_learning_rate`: its learning rate at the highest of the schedule.

        Args:
            recipe: the rule and its weight decay.
        """
        trained = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        if self.pretrained is None:
            by_rate = [([p for _, p in trained], self.learning_rate)]
        else:
            by_rate = [
                ([p for name, p in trained if name in self.new_weights], self.learning_rate),
                (
                    [p for name, p in trained if name not in self.new_weights],
                    self.pretrained["learning_rate"],
                ),
            ]
        groups: list[dict[str, Any]] = []
        for parameters, rate in by_rate:
            decays = [(parameters, recipe.weight_decay)]
            if recipe.optimiser == "adamw":
                decays = [
                    ([p for p in parameters if p.dim() > 1], recipe.weight_decay),
                    ([p for p in parameters if p.dim() <= 1], 0.0),
                ]
            groups += [
                {"params": chosen, "peak_learning_rate": rate, "weight_decay": decay}
                for chosen, decay in decays
                if chosen
            ]
        if recipe.optimiser == "sgd":
            return torch.optim.SGD(groups, lr=self.learning_rate, momentum=0.9, fused=True)
        kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
        return kind(groups, fused=True)


def start_of(options: TrainingOptions, classes: int, *, note: Callable[[str], None]) -> Start:
    """Make the network of a run. It draws random weights from PyTorch's global generator.

    This project's architectures are initialised by the recipe; other networks keep what their factory gives
    them, which may be pretrained. With weights only the new last layer is initialised.

    Args:
        options: the network, the weights and what is frozen.
        classes: the number of classes.
        note: called with each sentence about what was chosen in the weights.

    Raises:
        CheckpointError: the weights are missing, broken or of another architecture.
        UsageError: the network cannot be built or fitted to the classes, or cannot be frozen as the options
            say.
        ExportError: the network does not map images to one logit for each class.
    """
    if options.weights is None:
        start = _from_random_weights(options, classes)
    else:
        start = _from_weights(options, classes, note)
    _freeze(start)
    return start


def _from_random_weights(options: TrainingOptions, classes: int) -> Start:
    architecture = options.architecture or DEFAULT_ARCHITECTURE
    arguments = options.factory_options
    if options.width is not None and not takes_option(architecture, "width"):
        raise UsageError(
            "width", got=f"{options.width:g}", expected=f"none: {architecture} has no such argument"
        )
    network = build(architecture, classes, **arguments)
    own = architecture in ARCHITECTURES
    if own:
        initialise(network, architecture, options.recipe_values.initialisation)
    if options.freeze and own:
        raise UsageError(
            "freeze",
            got=f"{options.freeze[0]!r} of a network with random weights",
            expected="weights to fine-tune",
            next_step="Add --weights FILE, or leave this option out.",
        )
    contract = options.contract or Contract()
    if not own or options.contract:  # whose images can be too small for the network
        _check_logits(network, contract, classes)
    return Start(
        network=network,
        architecture=architecture,
        options=arguments,
        contract=contract,
        learning_rate=options.learning_rate
        or options.recipe_values.learning_rate
        or default_learning_rate(architecture, _width(arguments)),
        frozen=options.freeze,
    )


def _from_weights(options: TrainingOptions, classes: int, note: Callable[[str], None]) -> Start:
    assert options.weights is not None
    checkpoint = checkpoint_from(
        options.weights,
        WeightsOptions(
            architecture=options.architecture,
            options=options.factory_options,
            key=options.key,
            contract=options.contract,
            name_classes=False,
        ),
        note=note,
    )
    architecture, arguments = checkpoint.architecture, checkpoint.options
    network = build(architecture, classes, **arguments)
    fresh = network.state_dict()
    new_weights = _sized_by_classes(checkpoint, fresh, classes)
    network.load_state_dict(
        {name: tensor if name in new_weights else checkpoint.weights[name] for name, tensor in fresh.items()}
    )
    default = NEW_LAYER_FACTOR * default_learning_rate(architecture, _width(arguments))
    learning_rate = options.learning_rate or options.recipe_values.learning_rate or default
    start = Start(
        network=network,
        architecture=architecture,
        options=arguments,
        contract=checkpoint.contract,
        learning_rate=learning_rate,
        pretrained={
            "source": str(options.weights),
            "weights_sha256": checkpoint.weights_sha256,
            "learning_rate": options.body_learning_rate or PRETRAINED_SHARE * learning_rate,
        },
        new_weights=new_weights,
        frozen=options.freeze,
    )
    for layer in start.new_layers:
        initialise_last(network.get_submodule(layer))
    _check_logits(network, start.contract, classes)
    layers = ", ".join(start.new_layers)
    note(f"Replaced the layer {layers} of {len(checkpoint.class_names)} classes by one of {classes}.")
    return start


def _sized_by_classes(checkpoint: Checkpoint, fresh: Mapping[str, Tensor], classes: int) -> tuple[str, ...]:
    """Return the names of the tensors whose shape depends on the number of classes: the last layer's.

    Raises:
        UsageError: there are none, so that the network cannot be fitted to other classes.
    """
    before = len(checkpoint.class_names)
    other: Mapping[str, Tensor] = checkpoint.weights
    if before == classes:
        other = expected_weights(checkpoint.architecture, classes + 1, **checkpoint.options)
    sized = tuple(
        name for name, value in fresh.items() if name not in other or other[name].shape != value.shape
    )
    if not sized:
        raise UsageError(
            f"architecture {checkpoint.architecture}",
            got=f"no layer whose size depends on the number of classes, {classes}",
            expected="a last layer that can be replaced",
            next_step="Give its factory the argument num_classes, and use it for the last layer.",
        )
    return sized


def _check_logits(network: nn.Module, contract: Contract, classes: int) -> None:
    """Raise if the network does not return one logit for each class, in evaluation or in training.

    Some networks return more than the logits in training. A copy is run, whose BatchNorm may change.
    """
    with torch.random.fork_rng(devices=[]):
        trial = copy.deepcopy(network)
        count_outputs(trial.eval(), contract, expected=classes)
        count_outputs(trial.train(), contract, expected=classes)


def _freeze(start: Start) -> None:
    """Exclude the frozen modules' weights from training.

    Raises:
        UsageError: a name is no module's, or a new layer or everything would be frozen.
    """
    modules = dict(start.network.named_modules())
    for name in start.frozen:
        if name not in modules or not name:
            children = [child for child, _ in start.network.named_children()]
            close = difflib.get_close_matches(name, modules, n=1)
            raise UsageError(
                "freeze",
                got=f"{name!r}, which is no module of {start.architecture}",
                expected=f"a module such as {', '.join(children[:8])}",
                next_step=f"Did you mean {close[0]}?" if close else "",
            )
        new = next((weight for weight in start.new_weights if weight.startswith(f"{name}.")), None)
        if new:
            raise UsageError(
                "freeze",
                got=f"{name!r}, which holds the new {new}",
                expected="modules before the new layer, whose weights are random",
            )
        modules[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in start.network.parameters()):
        raise UsageError(
            "freeze",
            got=", ".join(start.frozen) or "a network without weights",
            expected="at least one module that is trained",
        )


def _width(arguments: Mapping[str, Option]) -> float:
    """Return the argument `width` of this project's architectures; in others it can be a text."""
    width = arguments.get("width")
    return float(width) if isinstance(width, int | float) else 1.0
