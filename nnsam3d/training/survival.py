"""Trainings that survive: a kill, a full disk, a scheduler that wants the machine back, a loss that is no number.

A checkpoint is whole or not there, and the one before it is kept. It may be written in the middle of an epoch: beside
nnU-Net's content it holds where in the epoch it was, what was measured until then, and the random streams. These travel
in the optimiser's part of the file, which nobody needs for prediction, through torch's hooks for it.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch.backends import cudnn

from nnsam3d.errors import UserError
from nnsam3d.files import keep_as, remove_unfinished, replacing
from nnsam3d.nnunet.checkpoint import is_damaged, open_checkpoint
from nnsam3d.nnunet.datasets import BEST, FINAL, LATEST, PREVIOUS, STOPPED
from nnsam3d.training.options import TrainingOptions
from nnsam3d.training.streams import repeatable, seed_streams, stored_streams, use_streams, without_workers

STATE = "nnsam3d"  # key in the optimiser's part of a checkpoint
MOST_SKIPPED = 20  # updates in a row without a number for a loss
# what schedulers send before they kill; SIGUSR1 is not known to Windows
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
PATIENCE = 2.0  # seconds in which a signal that ended our data workers must have reached this process, too


class SurvivingTrainer(nnUNetTrainer):
    """nnU-Net's trainer that can be stopped between any two updates and goes on there.

    Trainers say what an update is in :meth:`update` (nnU-Net's ``train_step``), and call :meth:`pause_point` in their
    validation steps.
    """

    options: TrainingOptions
    disable_checkpointing = False  # nnU-Net's
    _iteration = 0  # updates of the running epoch, counted from 1 while one is computed
    _offset = 0  # of these, the ones before an interruption
    _planned: int | None = None  # of the epoch, where it was begun before an interruption
    _losses: tuple[float, ...] = ()  # of the running epoch
    _updates = 0  # since the training began
    _left: dict[str, Any] | None = None  # the epoch that was left in its middle, until it goes on
    _streams: dict[str, Any] | None = None  # of a checkpoint, until the training goes on
    _midway = False  # whether the checkpoint that is being written is one from the middle of an epoch
    _inside = False  # whether an update is being computed
    _epoch_runs = False  # whether an epoch runs, which can be left between two updates
    _dropped = False  # whether the running update was
    _skipped_in_a_row = 0
    _told: str | None = None  # the signal that asks to stop
    _saved = math.inf  # time.monotonic() of the last checkpoint to go on from
    _ours = False  # whether checkpoint_latest.pth is of this training

    # ------------------------------------------------------------------ begin

    def initialize(self) -> None:
        """As nnU-Net's; with a seed the first weights are drawn from it."""
        if self.options.seed >= 0:
            seed_streams(self.options.seed)
        super().initialize()
        self.optimizer.register_state_dict_post_hook(self._put_state)
        self.optimizer.register_load_state_dict_pre_hook(self._take_state)
        self.optimizer.register_step_pre_hook(self._drop_nonsense)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's; with a seed batch number n is always the same, however often the training was interrupted."""
        seed = self.options.seed
        if seed < 0:
            return super().get_dataloaders()  # type: ignore[no-any-return]
        workers = get_allowed_n_proc_DA()
        with without_workers():
            loaders = super().get_dataloaders()
        firsts = (self._updates, self.current_epoch * self.num_val_iterations_per_epoch)
        processes = (workers, max(1, workers // 2) if workers else 0)
        training, validation = (
            repeatable(loader.data_loader, (seed, self.local_rank, kind), first, number, self.device.type == "cuda")
            for kind, (loader, first, number) in enumerate(zip(loaders, firsts, processes, strict=True))
        )
        return training, validation

    def on_train_start(self) -> None:
        """As nnU-Net's; random streams go on where a checkpoint left them."""
        super().on_train_start()
        if self.local_rank == 0:
            for name in (LATEST, PREVIOUS, BEST, FINAL):
                remove_unfinished(Path(self.output_folder) / name)
            if not self._ours:  # of another training, which this one replaces
                Path(self.output_folder, PREVIOUS).unlink(missing_ok=True)
        if self.options.seed >= 0:
            cudnn.deterministic, cudnn.benchmark = True, False
            self.print_to_log_file(f"nnsam3d seed: {self.options.seed} (weights, order, augmentation, clicks)")
        if self._streams is not None and self.local_rank == 0:
            use_streams(self._streams)
        self._streams = None
        self._saved = time.monotonic()

    def run_training(self) -> None:
        """nnU-Net's loop; told by SIGTERM or SIGUSR1 it saves after the running iteration and leaves.

        Raises:
            SystemExit: with status ``STOPPED``, which means: start again with --c.
        """
        with self._listening():
            try:
                self.run_epochs()
            except RuntimeError:
                # the signal reached our data workers as well, and nnU-Net misses them between two iterations
                if self._inside or not self._told_within(PATIENCE):
                    raise
                self._leave()
            if self._told:
                self.print_to_log_file(f"nnsam3d: {self._told} came at the end of the training: --c validates it")
                raise SystemExit(STOPPED)

    def run_epochs(self) -> None:
        """nnU-Net's ``run_training``."""
        super().run_training()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        alone = threading.current_thread() is threading.main_thread() and not self.is_ddp
        if not alone or self.disable_checkpointing:
            yield  # processes that compute together cannot stop each for itself
            return
        owner = os.getpid()

        def note(number: int, _: Any) -> None:
            if os.getpid() != owner:  # a data worker, forked with this handler: as if there were none
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self._told = signal.Signals(number).name

        before = {one: signal.signal(one, note) for one in SIGNALS}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _told_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self._told is None and time.monotonic() < end:
            time.sleep(0.05)
        return self._told is not None

    # ------------------------------------------------------------------ epochs and updates

    @property
    def planned_iterations(self) -> int:
        """Of the running epoch, those before an interruption included."""
        return self._offset + self.num_iterations_per_epoch

    def on_epoch_start(self) -> None:
        """As nnU-Net's; an epoch that was left in its middle began as long ago as it has trained."""
        super().on_epoch_start()
        if self._left is not None:
            self.logger.get_value("epoch_start_timestamps", step=None)[-1] -= self._left["seconds"]

    def on_epoch_end(self) -> None:
        """As nnU-Net's."""
        self._epoch_runs = False
        super().on_epoch_end()

    def on_train_epoch_start(self) -> None:
        """As nnU-Net's; an epoch that was left in its middle goes on with its learning rate and losses."""
        left, self._left = self._left, None
        rates = [group["lr"] for group in self.optimizer.param_groups]
        super().on_train_epoch_start()
        self._iteration = self._offset = left["iteration"] if left else 0
        self._planned = left["planned"] if left else None
        self._losses = tuple(left["losses"]) if left else ()
        if left:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            self.logger.get_value("lrs", step=None)[-1] = left["rate"]
        self._epoch_runs = True

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """An :meth:`update`, judged and counted; then a moment in which the training may be saved or left."""
        self._iteration += 1
        self._inside = True
        result = self.update(batch)
        self._inside = False
        self._updates += 1
        self._losses = (*self._losses, float(np.mean(result["loss"])))
        self._judge(self._losses[-1])
        self.pause_point()
        return result

    def update(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step of the optimiser: nnU-Net's ``train_step``."""
        return super().train_step(batch)  # type: ignore[no-any-return]

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """As nnU-Net's, over all iterations of the epoch whose loss is a number."""
        earlier = [{"loss": np.asarray(loss, np.float32)} for loss in self._losses[: self._offset]]
        outputs = [*earlier, *train_outputs]
        super().on_train_epoch_end([one for one in outputs if np.isfinite(one["loss"]).all()] or outputs)

    def _drop_nonsense(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Before a step: gradients that are no numbers are taken away, so that the step changes nothing."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # the gradient scaler of a GPU has looked before it came here
        if self.grad_scaler is None and gradients and not torch.nn.utils.get_total_norm(gradients).isfinite():
            self._dropped = True
            optimizer.zero_grad(set_to_none=True)

    def _judge(self, loss: float) -> None:
        dropped, self._dropped = self._dropped, False
        if math.isfinite(loss) and not dropped:
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        self.print_to_log_file(
            f"nnsam3d: warning: iteration {self._iteration} of epoch {self.current_epoch}: loss {loss}, gradients "
            f"without numbers: this update was skipped ({self._skipped_in_a_row} in a row)"
        )
        if self._skipped_in_a_row >= MOST_SKIPPED:
            raise UserError(
                f"{MOST_SKIPPED} updates in a row had a loss or gradients that are no numbers, so the training was "
                f"stopped; {self.output_folder}/{LATEST}, if it is there, is from before. Look for images with NaN or "
                "huge values, try a smaller learning rate, or, on a CPU, cpu_bfloat16=0; then go on with --c."
            )

    def pause_point(self) -> None:
        """Between two steps of training or validation: here a training is saved if it is time, or left if told to."""
        if self._told:
            self._leave()
        minutes = self.options.checkpoint_minutes
        if self._epoch_runs and minutes and time.monotonic() - self._saved >= 60 * minutes:
            self._save_midway()

    def _leave(self) -> None:
        what = "nothing new to save"  # no epoch has begun, or one has just ended
        if self._epoch_runs:
            self._save_midway()
            what = f"saved {LATEST} after iteration {self._iteration} of epoch {self.current_epoch}"
        self.print_to_log_file(f"nnsam3d: told by {self._told} to stop: {what}; exit status {STOPPED}, --c goes on")
        raise SystemExit(STOPPED)

    def on_train_end(self) -> None:
        """As nnU-Net's; what was kept to go on from is not needed any more."""
        super().on_train_end()
        if self.local_rank == 0:
            Path(self.output_folder, PREVIOUS).unlink(missing_ok=True)

    # ------------------------------------------------------------------ checkpoints

    def save_checkpoint(self, filename: str) -> None:
        """As nnU-Net's, but whole or not at all; of ``checkpoint_latest.pth`` the one before is kept."""
        if self.disable_checkpointing or self.local_rank != 0:
            super().save_checkpoint(filename)
            return
        path = Path(filename)
        latest = path.name == LATEST
        keep = path.with_name(PREVIOUS) if latest and self._ours else None
        with replacing(path, durable=True, keep=keep) as temporary:
            super().save_checkpoint(str(temporary))
        if latest:
            self._ours = True
            self._saved = time.monotonic()

    def _save_midway(self) -> None:
        start = time.time()
        self._midway = True
        self.current_epoch -= 1  # nnU-Net writes the epoch that comes next
        try:
            self.save_checkpoint(str(Path(self.output_folder) / LATEST))
        finally:
            self.current_epoch += 1
            self._midway = False
        self._saved = time.monotonic()  # also of a process that writes nothing
        self.not_training(time.time() - start)

    def not_training(self, seconds: float) -> None:
        """So long the running epoch did something else."""

    def kept(self) -> dict[str, Any]:
        """What a checkpoint holds beside nnU-Net's content; plain values and tensors."""
        kept: dict[str, Any] = {"updates": self._updates, "streams": stored_streams()}
        if self._midway:
            kept["epoch"] = {
                "iteration": self._iteration,
                "planned": self.planned_iterations,
                "losses": list(self._losses),
                "seconds": self.seconds_of_epoch(),
                "rate": float(self.logger.get_value("lrs", step=None)[-1]),
            }
        return kept

    def seconds_of_epoch(self) -> float:
        """That the running epoch has trained so far."""
        return time.time() - float(self.logger.get_value("epoch_start_timestamps", step=None)[-1])

    def resume(self, kept: dict[str, Any]) -> None:
        """Takes what :meth:`kept` gave."""
        self._updates = kept["updates"]
        self._streams = kept["streams"]
        self._left = kept.get("epoch")

    def _put_state(self, _: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, STATE: self.kept()}

    def _take_state(self, _: Any, state: dict[str, Any]) -> None:
        self._left = self._streams = None
        if STATE in state:  # not of an earlier version
            self.resume(state.pop(STATE))

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """As nnU-Net's, which opens whatever a file holds: only data get that far. A damaged latest checkpoint is told,
        and the one before it taken.

        Raises:
            UserError: as :func:`open_checkpoint`, or there is no other one to take.
        """
        path = Path(str(filename_or_checkpoint))
        if path.name == LATEST:
            path = self._sound(path)
        open_checkpoint(path, mapped=True)
        self._restore(str(path))
        # what an epoch that was left in its middle has logged already, it logs again
        for values in self.logger.get_checkpoint().values():
            del values[self.current_epoch :]
        self._ours = True

    def _restore(self, filename: str) -> None:
        super().load_checkpoint(filename)

    def _sound(self, latest: Path) -> Path:
        """The first whole one of the latest checkpoint, the one before it, and the best one."""
        if not is_damaged(latest):
            return latest
        for other in (latest.with_name(PREVIOUS), latest.with_name(BEST)):
            if other.is_file() and not is_damaged(other):
                self.print_to_log_file(f"nnsam3d: warning: {latest} is damaged: going on from {other.name}")
                if self.local_rank == 0:
                    keep_as(other, latest)  # the next one that is written keeps a good one beside it
                return latest if self.local_rank == 0 else other
        raise UserError(f"{latest} is damaged, and there is no whole {PREVIOUS} or {BEST} beside it: train anew, "
                        "without --c")  # fmt: skip
