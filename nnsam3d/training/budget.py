"""Training for a given time: the same wall-clock budget, and the same precision, for every trainer of a comparison.

nnU-Net measures the length of a training in epochs. With the option ``max_minutes``, training ends when the budget is
used up; the last epoch is shortened accordingly. The learning rate follows the used share of the budget or of the
epochs, whichever is larger.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nnsam3d.errors import UserError
from nnsam3d.nnunet.checkpoint import open_checkpoint
from nnsam3d.nnunet.datasets import FINAL
from nnsam3d.training.options import TrainingOptions, options_from_environment, options_of_checkpoint
from nnsam3d.training.precision import half_precision
from nnsam3d.training.survival import STATE, SurvivingTrainer

STANDS_STILL = "nnsam3d_stands_still"
"""Environment variable: the process is stopped now and then (SIGSTOP), which is no training time."""
STILL_SECONDS, STILL_SHARE = 1.0, 0.2  # an iteration that takes longer, and uses less of this time on the processor
FIRST_ITERATIONS = 5  # length of the first epoch with a budget, because the time per iteration is not yet known
ALMOST = 1 - 1e-6  # polynomial decay is undefined after its end, which the last epoch may exceed by a second


class TimedTrainer(SurvivingTrainer):
    """nnU-Net's trainer with the length set by ``options``: epochs, iterations, minutes.

    Only training time counts, summed over interruptions. Start-up, validation and checkpoints do not count, because
    their cost differs between networks.
    """

    timed = True
    uses: tuple[str, ...] = (
        *("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "max_minutes"),
        *("final_validation", "cpu_bfloat16", "seed", "checkpoint_minutes"),
    )  # the options that affect this trainer

    def use_length(self, options: TrainingOptions) -> None:
        """Call this when the options are known, after ``super().__init__``.

        Raises:
            UserError: a GPU that is missing; or a budget in minutes for a training on several GPUs, whose processes
                would not stop together.
        """
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise UserError("no GPU was found: add -device cpu to the command (it trains a small network by default)")
        if options.max_minutes and self.is_ddp:
            raise UserError("the option max_minutes works on one device only: omit -num_gpus or max_minutes")
        self.options = options
        self.num_epochs = options.num_epochs
        self.num_iterations_per_epoch = options.num_iterations_per_epoch
        self.num_val_iterations_per_epoch = options.num_val_iterations_per_epoch
        self._clocks: tuple[float, float] | None = None  # wall and processor, at the last pause point
        self._trained = False
        self._validated = 0.0  # seconds of online validation
        self._validating_since: float | None = None
        self._done = 0  # iterations that count for the speed estimate, including the planned ones of this epoch
        self._seconds_before = 0.0  # training time before these iterations

    def tell_ignored(self, given: Iterable[str]) -> None:
        """Log options that were given but do not affect this trainer."""
        ignored = sorted(set(given) - set(self.uses))
        if ignored:
            self.print_to_log_file(
                f"nnsam3d: {type(self).__name__} does not use {', '.join(ignored)}: ignored. It uses "
                f"{', '.join(self.uses)}."
            )

    def half_precision(self) -> Any:
        """See :func:`nnsam3d.training.precision.half_precision`."""
        return half_precision(self.device, bool(self.options.cpu_bfloat16))

    def _outside_cuda(self) -> Any:
        """Context for nnU-Net's own steps, which use autocast on a GPU but not on other devices."""
        return nullcontext() if self.device.type == "cuda" else self.half_precision()

    def pause_point(self) -> None:
        """Also takes out of the training time what the process has stood still."""
        super().pause_point()
        if os.environ.get(STANDS_STILL) and self._epoch_runs:
            now = time.time(), time.process_time()
            wall, busy = (new - old for new, old in zip(now, self._clocks or now, strict=True))
            if wall > STILL_SECONDS and busy < STILL_SHARE * wall:
                self.not_training(wall - busy)
            self._clocks = now

    def update(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's training step in the precision of the options."""
        with self._outside_cuda():
            return super().update(batch)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's validation step in the precision of the options."""
        self.pause_point()
        with self._outside_cuda():
            return super().validation_step(batch)  # type: ignore[no-any-return]

    def training_seconds(self) -> float:
        """Training time so far, in seconds."""
        starts = self.logger.get_value("epoch_start_timestamps", step=None)
        ends = self.logger.get_value("epoch_end_timestamps", step=None)
        running = time.time() - starts[-1] if len(starts) > len(ends) else 0.0
        epochs = sum(end - start for start, end in zip(starts, ends, strict=False))
        return float(epochs + running - self._validated - self._validating())

    def _validating(self) -> float:
        return 0.0 if self._validating_since is None else time.time() - self._validating_since

    def seconds_of_epoch(self) -> float:
        """Excludes an online validation in progress, because it is repeated after an interruption."""
        return super().seconds_of_epoch() - self._validating()

    def not_training(self, seconds: float) -> None:
        """Exclude the time for a checkpoint within an epoch."""
        if self._validating_since is None:
            self.logger.get_value("epoch_start_timestamps", step=None)[-1] += seconds

    def kept(self) -> dict[str, Any]:
        """Adds the training clock and the options."""
        remaining = self.planned_iterations - self._iteration if self._midway else 0
        clock = {"validated": self._validated, "done": self._done - remaining, "seconds_before": self._seconds_before}
        return super().kept() | clock | {"options": self.options.as_dict()}

    def resume(self, kept: dict[str, Any]) -> None:
        """Restores the training clock."""
        super().resume(kept)
        self._validated, self._done, self._seconds_before = (
            kept[name] for name in ("validated", "done", "seconds_before")
        )

    def _restore(self, filename: str) -> None:
        """Restores the options of the checkpoint, too; the environment takes precedence."""
        if not self.was_initialized:
            # memory-mapped: only the options are read here; nnU-Net reads the tensors below
            self._adopt(open_checkpoint(filename, mapped=True), filename)
        super()._restore(filename)

    def _adopt(self, checkpoint: dict[str, Any], filename: str) -> None:
        stored = checkpoint.get("optimizer_state", {}).get(STATE, {}).get("options")
        if stored is not None:  # missing in checkpoints of earlier versions
            trained = options_of_checkpoint(stored, filename)
            given = options_from_environment(trained).resolved(self.device.type)
            # the environment cannot change the network, nor the weights from which the training started
            self.use_length(replace(given, weights=trained.weights, prompt_kinds=trained.prompt_kinds))

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._validating_since = time.time()

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        super().on_validation_epoch_end(val_outputs)
        if self._validating_since is not None:
            self._validated += time.time() - self._validating_since
        self._validating_since = None

    def share_done(self, epoch: float) -> float:
        """The completed share of the training, 0..1: of the epochs or of the time, whichever is larger."""
        share = epoch / self.num_epochs
        if self.options.max_minutes:
            share = max(share, self.training_seconds() / (60 * self.options.max_minutes))
        return min(share, 1.0)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """nnU-Net's optimiser; with a budget, the schedule is stretched over it."""
        optimizer, schedule = super().configure_optimizers()
        return optimizer, Stretched(schedule, self) if self.options.max_minutes else schedule

    def on_train_epoch_start(self) -> None:
        """Limits the epoch to the iterations that fit into the remaining budget, estimated from the previous ones.

        The first epoch is short, because with large patches a full epoch may take longer than the budget.
        """
        super().on_train_epoch_start()
        whole = self.options.num_iterations_per_epoch if self._planned is None else self._planned
        wanted = max(0, whole - self._offset)
        seconds = self.training_seconds()
        if not self._done:
            self._seconds_before = seconds
            if self.options.max_minutes and self._planned is None:
                wanted = min(wanted, FIRST_ITERATIONS)
        elif self.options.max_minutes:
            left = 60 * self.options.max_minutes - seconds
            wanted = min(wanted, max(1, round(left * self._done / (seconds - self._seconds_before))))
        self.num_iterations_per_epoch = wanted
        self._done += wanted

    def on_epoch_end(self) -> None:
        """Ends the training after the epoch in which the budget is used up."""
        super().on_epoch_end()
        limit = 60 * self.options.max_minutes
        if limit and self.training_seconds() >= limit and self.current_epoch < self.num_epochs:
            raise _BudgetUsed

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's final validation, unless ``final_validation=0`` skips it after the training."""
        if self.leaves_validation_out:
            self.print_to_log_file("final validation skipped (final_validation=0); --val runs it later")
        else:
            super().perform_actual_validation(save_probabilities)

    @property
    def leaves_validation_out(self) -> bool:
        """Whether ``final_validation=0`` applies: after a training, but not with --val, which requests a validation."""
        return not self.options.final_validation and self._trained

    def run_epochs(self) -> None:
        """nnU-Net's loop, which ends early when the budget is used up."""
        self._trained = True
        if self.share_done(self.current_epoch) >= 1:  # it was continued after its end
            self.print_to_log_file(f"nothing is left to train after {self.current_epoch} epochs")
            if not Path(self.output_folder, FINAL).is_file():  # it was stopped before this was written
                self.on_train_end()
            return
        try:
            super().run_epochs()
        except _BudgetUsed:
            self.print_to_log_file(
                f"the budget of {self.options.max_minutes:g} minutes is used up after {self.current_epoch} epochs "
                f"({self.training_seconds():.0f} s)"
            )
            self.on_train_end()


class _BudgetUsed(Exception):
    """Exits nnU-Net's loop over epochs, whose length is fixed at the start."""


class Stretched:
    """A learning-rate schedule over epochs, driven by the completed share of the training."""

    def __init__(self, schedule: Any, trainer: TimedTrainer) -> None:
        self.schedule = schedule
        self.trainer = trainer

    def step(self, epoch: float) -> None:
        self.schedule.step(min(self.trainer.share_done(epoch), ALMOST) * self.trainer.num_epochs)
