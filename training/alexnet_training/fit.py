"""Train a network from a dataset to a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from alexnet_model.checkpoint import Checkpoint, save_checkpoint
from alexnet_model.classifier import Classifier
from alexnet_model.datasets import splits_from
from alexnet_model.errors import LossNotFinite, TrainingError, TrainingStopped, UsageError
from alexnet_model.extras import needs
from alexnet_model.files import check_writable
from alexnet_model.labelled_images import Unreadable
from alexnet_model.progress import Progress, silent

from .augmentation import augmentation_of
from .devices import Compute, compute_on
from .logs import Log, curves_to, log_to
from .loop import Loop, accuracy_of, epoch_means
from .options import TrainingOptions
from .ranks import Ranks, StopRequested, connect, joined_ranks, shared_by
from .record import run_identity, training_record
from .resume import restore_state, resume_path, save_state
from .splits import (
    PreparedSplits,
    check_ten_crops,
    notes_on_duplicates,
    prepared_from_splits,
    prepared_split,
    with_margin,
)
from .start import start_of
from .state import Accuracy, EpochRecord, MovingAverage, Position, TrainingState

with needs("train"):
    import torch
    from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """The result of `train`.

    Args:
        checkpoint: what was written.
        epochs: one record for each epoch, also for those of the run that was resumed.
        epochs_resumed: how many epochs the resumed run had finished; 0 if none was resumed.
        test_accuracy: on the test split.
        ten_crop_accuracy: that over ten crops of each test image. None: the options do not request it.
        missing_classes: the classes of which the test split has no image, so that the accuracy says nothing
            about them.
        unreadable: the images of all splits that were left out.
        notes: sentences about what was chosen, converted and replaced in the weights, and about images that
            are in the data twice.
    """

    checkpoint: Checkpoint
    epochs: tuple[EpochRecord, ...]
    epochs_resumed: int
    test_accuracy: Accuracy
    ten_crop_accuracy: Accuracy | None
    missing_classes: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """The time of all epochs together."""
        return sum(epoch.seconds for epoch in self.epochs)


def train(
    options: TrainingOptions,
    out: Path,
    *,
    resume: bool = True,
    checkpoint_every: int | None = None,
    log: Path | None = None,
    tensorboard: Path | None = None,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingReport:
    """Train a network, from random weights or from pretrained ones, and write its checkpoint.

    With `options.weights` the last layer is replaced by one for the classes of the dataset, and images are
    prepared by the contract of the weights, if they are a checkpoint.

    After every epoch but the last, the state of the run is written to `<out>.resume`. If the run is stopped,
    the same call continues after the last state and gives the same weights on a CPU. The state is removed
    once the checkpoint is written.

    If a launcher such as `torchrun` has started several processes, all call this function with equal
    arguments and train one network together. Rank 0 alone writes files and calls `progress`. An error of
    one process ends all: it is raised there, and the others raise `OtherRankFailed`.

    Args:
        options: the dataset, the network and how it is trained.
        out: the checkpoint to create or replace; an error leaves an existing one as it was.
        resume: continue the run that `<out>.resume` belongs to; False starts again and replaces the state.
        checkpoint_every: write the state after so many steps too, 1 to 1,000,000. None: only after epochs.
        log: a file to append events to, one JSON object a line. None: no log.
        tensorboard: a folder to write curves for TensorBoard to. None: no curves.
        progress: called after every step, image and batch.
        should_stop: called as often as `progress`; on a GPU and of several processes only every few steps.
            If it returns True, the state is written and `TrainingStopped` is raised, in all processes.

    Raises:
        UsageError: an option has a wrong value, the device does not exist, `out` is a folder, or ten crops
            of the test images are not possible.
        MissingExtra: TensorBoard is not installed.
        CheckpointError: the weights are missing, broken or of another architecture.
        ExportError: the network does not map images to one logit for each class.
        DatasetError: the dataset is missing, a split or a class of it has no readable image, or a shard was
            changed during training.
        LossNotFinite: the loss or a weight is not finite. The weights of the last state, if there is one, are
            written to `<name of out>.last-good.safetensors` beside it, and the state is kept.
        TrainingStopped: `should_stop` returned True; the state is written if the training had begun.
        TrainingError: `<out>.resume` is broken or belongs to another run, a worker that decodes images was
            killed, or the device cannot be used, has too little memory, or cannot run the compiled network;
            or ranks have different options or images, or lost the connection to each other.
        OtherRankFailed: another process failed.
        OSError: a file cannot be written.
    """
    if checkpoint_every is not None and not 1 <= checkpoint_every <= 1_000_000:
        raise UsageError("checkpoint every", got=str(checkpoint_every), expected="1 to 1,000,000 steps")
    with joined_ranks(options.processes) as ranks:
        options.check_divisible(ranks.count)
        compute = compute_on(options.device, ranks)
        connect(ranks, compute.device)
        with (
            compute.settings(),
            log_to(log if ranks.is_first else None) as write_line,
            curves_to(tensorboard if ranks.is_first else None) as write_curves,
            _device_errors(options, compute),
        ):

            def write_log(event: str, **values: Any) -> None:
                write_line(event, **values)
                write_curves(event, **values)

            shown = progress if ranks.is_first else silent
            return _Run(options, out, compute, ranks, write_log, checkpoint_every, shown).train(
                resume=resume, progress=shown, should_stop=should_stop
            )


class _Run:
    """One call of `train`."""

    def __init__(
        self,
        options: TrainingOptions,
        out: Path,
        compute: Compute,
        ranks: Ranks,
        log: Log,
        checkpoint_every: int | None,
        progress: Progress,
    ) -> None:
        self.options, self.out, self.compute, self.ranks, self.log = options, out, compute, ranks, log
        self.checkpoint_every = checkpoint_every
        self.recipe = options.recipe_values
        self.path = resume_path(out)
        self.has_state = False  # whether the file at `path` is of this run
        self.notes: list[str] = []
        with ranks.first_alone("index"):  # which the first writes and the others read, as downloaded shards
            self.splits = splits_from(options.data, progress=progress)
        self.class_names = self.splits.train.class_names
        torch.manual_seed(options.seed)
        with ranks.first_alone("weights"):  # which may be downloaded
            self.start = start_of(options, len(self.class_names), note=self.notes.append)
        if options.ten_crop:
            check_ten_crops(self.splits.test, self.start.contract)
        if ranks.is_first:
            _check_out(out)
        network = shared_by(ranks, compute.moved(self.start.network), compute.device)
        self.state = TrainingState(
            network=network,
            optimiser=self.start.optimiser(self.recipe),
            scaler=compute.scaler(),
            average=MovingAverage(network, self.recipe.average) if self.recipe.average else None,
        )
        self.identity = run_identity(options, self.start, self.splits.train)

    def train(self, *, resume: bool, progress: Progress, should_stop: Callable[[], bool]) -> TrainingReport:
        """Read the data, train, and write the checkpoint; see the function `train`."""
        if resume and self.path.exists():
            restore_state(self.path, self.state, run=self.identity)
            self.has_state = True
        self.ranks.check_equal(
            "options",
            {
                **self.identity,
                "resumed after": self.state.described,
                "ten crops": self.options.ten_crop,  # all ranks measure it, or none
            },
        )

        def stoppable(stage: str, done: int, total: int, note: str = "") -> None:
            progress(stage, done, total, note)
            if should_stop():
                raise StopRequested

        epochs_resumed = len(self.state.history)
        try:
            prepared = prepared_from_splits(
                self.splits,
                self.start.contract,
                keep_margin=self.recipe.keeps_margin,
                workers=self.options.workers,
                progress=stoppable,
            )
            self._check_images(prepared)
            self.notes += prepared.notes
            if self.options.workers and not prepared.notes:
                self.notes.append("No worker process was used, because all images fit into memory.")
            if self.ranks.is_first:  # which alone prints them
                self.notes += notes_on_duplicates(self.splits, prepared, stoppable)
            loop = self._loop(prepared, should_stop)
            # Ranks stop together, after a step. One that stopped elsewhere would leave the others waiting.
            shown = stoppable if self.ranks.count == 1 else progress
            test, ten_crops = self._accuracies_after_training(loop, prepared, shown)
        except StopRequested:
            self.ranks.stop()
            raise self._stopped() from None
        except LossNotFinite as error:
            raise self._not_finite(error) from error
        report = self._report(loop, prepared, test, ten_crops, epochs_resumed)
        if self.ranks.is_first:
            save_checkpoint(report.checkpoint, self.out)
            self.path.unlink(missing_ok=True)
        self.log("end", checkpoint=str(self.out), test_accuracy=test.share)
        return report

    def _check_images(self, prepared: PreparedSplits) -> None:
        """Check that all ranks read the same images, and that there are enough for one batch."""
        splits = {"train": prepared.train, "validation": prepared.validation, "test": prepared.test}
        self.ranks.check_equal(
            "images",
            {name: sha256(split.labels.tobytes()).hexdigest()[:12] for name, split in splits.items()},
        )
        images, size = len(prepared.train.labels), self.options.batch_size_or_default
        if self.ranks.count > 1 and images < size:
            raise UsageError(
                "batch size",
                got=f"{size} with {images} training images",
                expected=f"at most {images} for several processes",
            )

    def _loop(self, prepared: PreparedSplits, should_stop: Callable[[], bool]) -> Loop:
        contract = self.start.contract
        augmentation = augmentation_of(
            self.recipe,
            contract.size,
            prepared.train,
            mirrorable=self.splits.train.mirrorable,
            ranks=self.ranks,
        )
        classifier = self.compute.moved(Classifier(self.state.network, contract))
        forward: Any = classifier
        if self.options.compile:
            forward = torch.compile(classifier, dynamic=False)
        if self.ranks.count > 1:
            # A static graph may have weights that the forward pass does not use.
            forward = DistributedDataParallel(forward, static_graph=True)
        return Loop(
            options=self.options,
            state=self.state,
            classifier=classifier,
            compute=self.compute,
            augmentation=self.compute.moved(augmentation),
            split=prepared.train,
            log=self.log,
            frozen=tuple(self.state.network.get_submodule(name) for name in self.start.frozen),
            forward=forward,
            ranks=self.ranks,
            should_stop=should_stop,
        )

    def _accuracies_after_training(
        self, loop: Loop, prepared: PreparedSplits, progress: Progress
    ) -> tuple[Accuracy, Accuracy | None]:
        """Train the epochs that are left and return the accuracy on the test split, also over ten crops.

        Raises:
            StopRequested: what is new is saved.
        """
        state = self.state
        began = (len(state.history), state.position.step)
        self._log_start(loop)
        try:
            self._epochs(loop, prepared, progress)
            evaluated, compute, ranks = self._evaluated(), self.compute, self.ranks
            if prepared.test is prepared.validation:
                test = state.history[-1].validation
            else:
                test = accuracy_of(evaluated, compute, prepared.test, "test accuracy", progress, ranks)
            if not self.options.ten_crop:
                return test, None
            wide = prepared_split(
                self.splits.test,
                with_margin(self.start.contract),
                workers=self.options.workers,
                progress=progress,
            )
            crop = self.start.contract.size
            return test, accuracy_of(
                evaluated, compute, wide, "accuracy over ten crops", progress, ranks, crop=crop
            )
        except StopRequested:
            if began != (len(state.history), state.position.step):
                self._save(loop)
            raise

    def _evaluated(self) -> Classifier:
        return self.compute.moved(Classifier(self.state.result, self.start.contract))

    def _epochs(self, loop: Loop, prepared: PreparedSplits, progress: Progress) -> None:
        """Train the epochs that are left, each with its validation."""
        state, compute, epochs = self.state, self.compute, self.options.epochs_or_default
        evaluated = self._evaluated()

        def after_step() -> None:
            if self.checkpoint_every and state.position.step % self.checkpoint_every == 0:
                self._save(loop)

        while len(state.history) < epochs:
            loop.train_epoch(progress, after_step)
            self._check_weights()
            epoch, started = len(state.history) + 1, time.perf_counter()
            self.ranks.copy_buffers(state.result)
            stage = f"validating epoch {epoch}/{epochs}"
            validation = accuracy_of(evaluated, compute, prepared.validation, stage, progress, self.ranks)
            loss, accuracy = epoch_means(state.position)
            seconds = state.position.seconds + time.perf_counter() - started
            state.history.append(EpochRecord(loss, accuracy, validation, seconds))
            state.position = Position()
            self.log("epoch", epoch=epoch, **asdict(state.history[-1]))
            if epoch < epochs:
                self._save(loop)

    def _save(self, loop: Loop) -> None:
        loop.read_losses()  # a state after a loss that is not finite must not replace a good one
        self._check_weights()
        if self.ranks.is_first:
            save_state(self.path, self.state, run=self.identity)
        self.has_state = True
        self.log(
            "state", epoch=len(self.state.history) + 1, step=self.state.position.step, path=str(self.path)
        )

    def _check_weights(self) -> None:
        """Raise if a weight is not finite, which a step with a finite loss can cause."""
        for name, tensor in self.state.network.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise LossNotFinite(
                    f"training {self.state.described}",
                    got=f"a weight of {name} that is not finite",
                    expected="finite weights",
                    next_step=f"Lower the learning rate, which is {self.start.learning_rate:g}.",
                )

    def _log_start(self, loop: Loop) -> None:
        state = self.state
        self.log(
            "resume" if state.history or state.position.step else "start",
            run=self.identity,
            epoch=len(state.history) + 1,
            step=state.position.step,
            epochs=self.options.epochs_or_default,
            steps_per_epoch=loop.steps_per_epoch,
            device=self.compute.name,
            computes_in=self.compute.computes_in,
        )

    def _stopped(self) -> TrainingStopped:
        self.log("stop", epoch=len(self.state.history) + 1, step=self.state.position.step)
        if not self.has_state:
            return TrainingStopped("training", got="a request to stop before the first step")
        return TrainingStopped(
            "training",
            got=f"a request to stop after {self.state.described}",
            next_step=f"{self.path} holds the state of the run.",
        )

    def _not_finite(self, error: LossNotFinite) -> LossNotFinite:
        """Write the weights of the last state to a checkpoint; return the error with its path."""
        self.log("not_finite", message=f"{error.subject}: {error.got}")
        next_step = error.next_step
        if self.has_state:
            restore_state(self.path, self.state, run=self.identity)
            kept = self.out.with_name(f"{self.out.stem}.last-good.safetensors")
            where = self.state.described
            if self.ranks.is_first:
                save_checkpoint(self._checkpoint({"data": self.options.data, "stopped_after": where}), kept)
            next_step += f" The weights after {where} are in {kept}: start from them with --weights {kept}"
            next_step += " --no-resume."
        return LossNotFinite(error.subject, got=error.got, expected=error.expected, next_step=next_step)

    def _checkpoint(self, training: dict[str, Any]) -> Checkpoint:
        weights = self.state.result.state_dict()
        return Checkpoint(
            architecture=self.start.architecture,
            options=self.start.options,
            class_names=self.class_names,
            contract=self.start.contract,
            training=training,
            weights={name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
        )

    def _report(
        self,
        loop: Loop,
        prepared: PreparedSplits,
        test: Accuracy,
        ten_crops: Accuracy | None,
        epochs_resumed: int,
    ) -> TrainingReport:
        present = set(prepared.test.labels.tolist())
        missing = tuple(name for label, name in enumerate(self.class_names) if label not in present)
        history = self.state.history
        record = training_record(loop, self.start, prepared, history, test, ten_crops, missing)
        return TrainingReport(
            checkpoint=self._checkpoint(record),
            epochs=tuple(history),
            epochs_resumed=epochs_resumed,
            test_accuracy=test,
            ten_crop_accuracy=ten_crops,
            missing_classes=missing,
            unreadable=prepared.unreadable,
            notes=tuple(self.notes),
        )


def _check_out(out: Path) -> None:
    """Raise before the training, not after it, if `out` cannot be written."""
    if out.is_dir():
        raise UsageError("out", got=f"the folder {out}", expected="a file to write the checkpoint to")
    check_writable(out)


@contextmanager
def _device_errors(options: TrainingOptions, compute: Compute) -> Iterator[None]:
    """Translate what a device cannot do into one line.

    Raises:
        TrainingError: too little memory, or the network cannot be compiled.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"device {compute.device}",
            got="too little free memory",
            expected=f"enough for {options.batch_size_or_default} images per step",
            next_step="Lower the batch size, or use another device.",
        ) from error
    except RuntimeError as error:
        if not options.compile or not isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise
        raise TrainingError(
            "torch.compile",
            got=" ".join(str(error).split("\n")[:2]).strip(),
            expected="a network and a machine that it can compile for",
            next_step="Leave --compile out.",
        ) from error
