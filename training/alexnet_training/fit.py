"""Train a network from a dataset to a checkpoint."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexnet_model.architectures import build, takes_option
from alexnet_model.checkpoint import Checkpoint, save_checkpoint
from alexnet_model.classifier import Classifier
from alexnet_model.contract import Contract, canonical_json
from alexnet_model.datasets import ImageDataset, Unreadable, splits_from
from alexnet_model.environment import machine_name, versions_of
from alexnet_model.errors import UsageError
from alexnet_model.extras import needs
from alexnet_model.progress import Progress, silent

from .loop import Accuracy, EpochRecord, Loop, accuracy_of
from .options import TrainingOptions
from .recipe import Augmentation, has_bf16_instructions, initialise
from .resume import restore_state, resume_path, save_state
from .splits import PreparedSplits, prepared_from_splits

with needs("train"):
    import torch

NAMED_UNREADABLE = 20  # names of unreadable images in the checkpoint; the report has all of them


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """The result of `train`.

    Args:
        checkpoint: what was written.
        epochs: one record for each epoch, also for those of the run that was resumed.
        epochs_resumed: how many epochs the resumed run had finished; 0 if none was resumed.
        held_out: the accuracy on the test split.
        unreadable: the images of all splits that were left out.
    """

    checkpoint: Checkpoint
    epochs: tuple[EpochRecord, ...]
    epochs_resumed: int
    held_out: Accuracy
    unreadable: tuple[Unreadable, ...]

    @property
    def seconds(self) -> float:
        """The time of all epochs together."""
        return sum(epoch.seconds for epoch in self.epochs)


def train(
    options: TrainingOptions, out: Path, *, resume: bool = True, progress: Progress = silent
) -> TrainingReport:
    """Train a network and write its checkpoint.

    After every epoch but the last, the state of the run is written to `<out>.resume`. If the run is stopped,
    the same call continues after the last finished epoch and gives the same weights. The state is removed
    once the checkpoint is written.

    Args:
        options: the dataset, the network and how it is trained.
        out: the checkpoint to create or replace; an error leaves an existing one as it was.
        resume: continue the run that `<out>.resume` belongs to; False starts again and replaces the state.
        progress: called after every step, image and batch.

    Raises:
        UsageError: an option has a wrong value, or `out` is a folder.
        DatasetError: the dataset is missing, or a split or a class of it has no readable image.
        ImageError: an image became unreadable during training.
        TrainingError: the loss is not finite, or `<out>.resume` is broken or belongs to another run.
        OSError: a file cannot be written.
    """
    contract, splits = Contract(), splits_from(options.data)
    with _reproducible():
        torch.manual_seed(options.seed)
        arguments = _factory_options(options)
        network = build(options.architecture, len(splits.train.class_names), **arguments)
        initialise(network, options.architecture)
        optimiser = torch.optim.Adam(network.parameters(), fused=True)
        _check_writable(out)
        state = resume_path(out)
        run = _run_identity(options, splits.train, contract)
        history = restore_state(state, network, optimiser, run=run) if resume and state.exists() else []
        epochs_resumed = len(history)

        prepared = prepared_from_splits(splits, contract, progress=progress)
        classifier = Classifier(network, contract)
        augmentation = Augmentation(contract.size, mirrorable=splits.train.mirrorable)
        loop = Loop(options, classifier, optimiser, augmentation, prepared.train)
        for epoch in range(epochs_resumed, options.epochs):
            started = time.perf_counter()
            loss, accuracy = loop.train_epoch(epoch, progress)
            validation = accuracy_of(
                classifier, prepared.validation, f"validating epoch {epoch + 1}/{options.epochs}", progress
            )
            history.append(EpochRecord(loss, accuracy, validation, time.perf_counter() - started))
            if epoch + 1 < options.epochs:
                save_state(state, network, optimiser, run=run, history=history)
        held_out = history[-1].validation
        if prepared.test is not prepared.validation:
            held_out = accuracy_of(classifier, prepared.test, "held-out accuracy", progress)

    report = TrainingReport(
        checkpoint=Checkpoint(
            architecture=options.architecture,
            options=arguments,
            class_names=splits.train.class_names,
            contract=contract,
            training=_training_record(loop, prepared, history, held_out),
            weights=network.state_dict(),
        ),
        epochs=tuple(history),
        epochs_resumed=epochs_resumed,
        held_out=held_out,
        unreadable=prepared.unreadable,
    )
    save_checkpoint(report.checkpoint, out)
    state.unlink(missing_ok=True)
    return report


def _factory_options(options: TrainingOptions) -> dict[str, float]:
    """Return the arguments of the network's factory: the width, where it has one."""
    if takes_option(options.architecture, "width"):
        return {"width": options.width}
    if options.width != 1.0:
        raise UsageError(
            "width", got=f"{options.width:g}", expected=f"1: {options.architecture} has no such argument"
        )
    return {}


def _check_writable(out: Path) -> None:
    """Raise before the training, not after it, if `out` cannot be written."""
    if out.is_dir():
        raise UsageError("out", got=f"the folder {out}", expected="a file to write the checkpoint to")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent):
        pass


def _training_record(
    loop: Loop, splits: PreparedSplits, history: list[EpochRecord], held_out: Accuracy
) -> dict[str, Any]:
    """Return the checkpoint's `training` as JSON: where the weights come from."""
    options, last = loop.options, history[-1]
    return {
        "data": options.data,
        "images": {
            "train": len(splits.train.labels),
            "validation": len(splits.validation.labels),
            "test": len(splits.test.labels),
        },
        "unreadable": {
            "count": len(splits.unreadable),
            "names": [image.name for image in splits.unreadable[:NAMED_UNREADABLE]],
        },
        "seed": options.seed,
        "epochs": options.epochs,
        "steps": options.epochs * loop.steps_per_epoch,
        "batch_size": options.batch_size,
        "optimiser": "Adam, linear warm-up and decay",
        "learning_rate": loop.learning_rate,
        "computed_in": "bf16 autocast" if has_bf16_instructions() else "fp32",
        "loss": last.loss,
        "validation_accuracy": asdict(last.validation),
        "held_out_accuracy": asdict(held_out),
        "seconds": round(sum(epoch.seconds for epoch in history), 1),
        "machine": machine_name(),
        "versions": versions_of("torch", "kornia", "numpy", "pillow", "scikit-learn", "alexnet-serving"),
    }


def _run_identity(options: TrainingOptions, images: ImageDataset, contract: Contract) -> dict[str, Any]:
    """Return, as JSON, what two runs must have in common for one to continue the other."""
    digest = hashlib.sha256()
    for image in images.images:
        size = image.source.stat().st_size if isinstance(image.source, Path) else 0
        digest.update(canonical_json([image.name, image.label, size]).encode())
    return {**asdict(options), "images": digest.hexdigest()[:12], "contract": contract.digest[:12]}


@contextmanager
def _reproducible() -> Iterator[None]:
    """Use deterministic algorithms; restore the caller's setting and random generator afterwards."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
