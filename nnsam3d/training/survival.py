"""Fault-tolerant training: kills, full disks, preemption by a scheduler, losses that are not finite.

Checkpoints are written atomically, and the previous one is kept. They can be written within an epoch: in addition to
nnU-Net's content, they contain the position in the epoch, its losses so far, and the states of the random generators.
These are stored in the optimiser's part of the file, which prediction does not need, through torch's state-dict hooks.
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
from torch.backends import cudnn

from nnsam3d.checkpoints.pretrained import RECORD_KEY
from nnsam3d.errors import UserError
from nnsam3d.files import ask_system, file_sha256, keep_as, remove_unfinished, replacing
from nnsam3d.nnunet.checkpoint import is_damaged, open_checkpoint
from nnsam3d.nnunet.contract import get_allowed_n_proc_DA, nnUNetTrainer
from nnsam3d.nnunet.datasets import BEST, FINAL, LATEST, PREVIOUS, STOPPED
from nnsam3d.training import reproducible
from nnsam3d.training.options import TrainingOptions
from nnsam3d.training.reproducible import repeatable, seed_streams, stored_streams, use_streams, without_workers
from nnsam3d.training.started_from import being_loaded, innermost

STATE = "nnsam3d"  # key in the optimiser's part of a checkpoint
MOST_SKIPPED = 20  # consecutive updates without a finite loss or gradient
# sent by schedulers before they kill a job, and by Ctrl-C; Windows has no SIGUSR1
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))
PATIENCE = 2.0  # seconds to wait for a signal in this process after it has ended the data workers


class SurvivingTrainer(nnUNetTrainer):
    """nnU-Net's trainer that can be stopped between any two updates and continues from there.

    Subclasses override :meth:`update` instead of nnU-Net's ``train_step``, and call :meth:`pause_point` in their
    validation steps.
    """

    options: TrainingOptions
    disable_checkpointing = False  # nnU-Net's
    _iteration = 0  # updates in the current epoch, including the one being computed
    _offset = 0  # of these, the ones before an interruption
    _planned: int | None = None  # iterations planned for the epoch before an interruption
    _losses: tuple[float, ...] = ()  # of the current epoch
    _updates = 0  # since the start of the training
    _left: dict[str, Any] | None = None  # the interrupted epoch of a checkpoint, until it continues
    _streams: dict[str, Any] | None = None  # random states of a checkpoint, until the training continues
    _midway = False  # whether the checkpoint being written is from within an epoch
    _inside = False  # whether an update is being computed
    _epoch_runs = False  # whether an epoch is running, which can be interrupted between two updates
    _dropped = False  # whether the gradients of the current update were discarded
    _skipped_in_a_row = 0
    _stop_signal: str | None = None  # the signal that was received
    _saved = math.inf  # time.monotonic() of the last checkpoint
    _restoring = False  # whether a checkpoint is about to replace the initial weights
    _ours = False  # whether checkpoint_latest.pth belongs to this training

    # ------------------------------------------------------------------ start

    def initialize(self) -> None:
        """With a seed, the initial weights depend on it."""
        if self.options.seed >= 0:
            seed_streams(self.options.seed)
        super().initialize()
        innermost(self.network).register_load_state_dict_post_hook(self._note_pretrained)
        self.optimizer.register_state_dict_post_hook(self._put_state)
        self.optimizer.register_load_state_dict_pre_hook(self._take_state)
        self.optimizer.register_step_pre_hook(self._drop_invalid_gradients)

    @property
    def frozen_backbone(self) -> bool:
        """Whether a part of the network stays as it was loaded."""
        return False

    @property
    def _plans_entry(self) -> dict[str, Any]:
        """The configuration in the plans that the model's folder and the checkpoints contain."""
        return self.plans_manager.plans["configurations"][self.configuration_name]  # type: ignore[no-any-return]

    def _note_pretrained(self, *_: Any) -> None:
        """After weights were loaded: the log and the plans record those of -pretrained_weights."""
        file = being_loaded()
        if file is not None:
            digest = file_sha256(file)
            self._plans_entry[RECORD_KEY] = {"source": str(file), "sha256": digest, "frozen": self.frozen_backbone}
            self.print_to_log_file(f"nnsam3d: starts from the weights of {file} (SHA-256 {digest})")

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's; with a seed, batch n is always the same, regardless of interruptions."""
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
        """Also restores the random states of a checkpoint."""
        super().on_train_start()
        if self.local_rank == 0:
            for name in (LATEST, PREVIOUS, BEST, FINAL):
                remove_unfinished(Path(self.output_folder) / name)
            if not self._ours:  # from an earlier training, which this one replaces
                Path(self.output_folder, PREVIOUS).unlink(missing_ok=True)
        if self.options.seed >= 0:
            cudnn.deterministic, cudnn.benchmark = True, False
            self.print_to_log_file(f"nnsam3d seed: {self.options.seed} (weights, order, augmentation, clicks)")
        if self._streams is not None and self.local_rank == 0:
            use_streams(self._streams)
        self._streams = None
        self._saved = time.monotonic()

    def run_training(self) -> None:
        """nnU-Net's loop; on SIGTERM, SIGUSR1 or Ctrl-C it saves a checkpoint after the current iteration and exits.

        A second Ctrl-C ends the process at once. Raises SystemExit with status ``STOPPED``: continue with --c.
        """
        with self._handling_signals():
            try:
                self.run_epochs()
            except RuntimeError:
                # the signal may also have ended the data workers, which nnU-Net reports as an error between iterations
                if self._inside or not self._stop_requested_within(PATIENCE):
                    raise
                self._stop()
            if self._stop_signal:
                self.print_to_log_file(
                    f"nnsam3d: {self._stop_signal} received at the end of the training: validate it with --c"
                )
                raise SystemExit(STOPPED)

    def run_epochs(self) -> None:
        """nnU-Net's ``run_training``."""
        super().run_training()

    @contextmanager
    def _handling_signals(self) -> Iterator[None]:
        alone = threading.current_thread() is threading.main_thread() and not self.is_ddp
        if not alone or self.disable_checkpointing:
            yield  # with several processes, one must not stop without the others
            return
        owner = os.getpid()

        def note(number: int, _: Any) -> None:
            if number == signal.SIGINT:
                # the next one ends the process, even within a long operation of torch. A terminal sends Ctrl-C to the
                # data workers, too: the current iteration still needs them
                signal.signal(number, signal.SIG_DFL)
            if os.getpid() == owner:
                self._stop_signal = signal.Signals(number).name
                if number == signal.SIGINT:  # not by print, which the signal may have interrupted
                    os.write(2, b"nnsam3d: Ctrl-C: stopping after this iteration (again: at once, without saving)\n")
            elif number != signal.SIGINT:  # a forked data worker inherits this handler, but needs the default one
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)

        # a shell starts background jobs with Ctrl-C ignored
        heard = [one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
        before = {one: signal.signal(one, note) for one in heard}
        try:
            with reproducible.workers_end_with_this_process():
                yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _stop_requested_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self._stop_signal is None and time.monotonic() < end:
            time.sleep(0.05)
        return self._stop_signal is not None

    # ------------------------------------------------------------------ epochs and updates

    @property
    def planned_iterations(self) -> int:
        """The iterations of the current epoch, including those before an interruption."""
        return self._offset + self.num_iterations_per_epoch

    def on_epoch_start(self) -> None:
        """Sets the start time of an interrupted epoch back by the time it has already trained."""
        super().on_epoch_start()
        if self._left is not None:
            self.logger.get_value("epoch_start_timestamps", step=None)[-1] -= self._left["seconds"]

    def on_epoch_end(self) -> None:
        """From here on, the epoch can no longer be interrupted."""
        self._epoch_runs = False
        super().on_epoch_end()

    def on_train_epoch_start(self) -> None:
        """Restores the learning rate, position and losses of an interrupted epoch."""
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
        """Runs an :meth:`update`, checks and counts it; afterwards the training may be saved or stopped."""
        self._iteration += 1
        self._inside = True
        result = self.update(batch)
        self._inside = False
        self._updates += 1
        self._losses = (*self._losses, float(np.mean(result["loss"])))
        self._check_update(self._losses[-1])
        self.pause_point()
        return result

    def update(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One optimiser step: nnU-Net's ``train_step``."""
        return super().train_step(batch)  # type: ignore[no-any-return]

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Averages over all iterations of the epoch with a finite loss, including those before an interruption."""
        earlier = [{"loss": np.asarray(loss, np.float32)} for loss in self._losses[: self._offset]]
        outputs = [*earlier, *train_outputs]
        super().on_train_epoch_end([one for one in outputs if np.isfinite(one["loss"]).all()] or outputs)

    def _drop_invalid_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Before a step: discard gradients that are not finite, so that the step has no effect."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # on a GPU, the gradient scaler has already checked this
        if self.grad_scaler is None and gradients and not torch.nn.utils.get_total_norm(gradients).isfinite():
            self._dropped = True
            optimizer.zero_grad(set_to_none=True)

    def _check_update(self, loss: float) -> None:
        dropped, self._dropped = self._dropped, False
        if math.isfinite(loss) and not dropped:
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        self.print_to_log_file(
            f"nnsam3d: warning: iteration {self._iteration} of epoch {self.current_epoch}: loss {loss}, loss or "
            f"gradients not finite: this update was skipped ({self._skipped_in_a_row} in a row)"
        )
        if self._skipped_in_a_row >= MOST_SKIPPED:
            raise UserError(
                f"{MOST_SKIPPED} updates in a row had a loss or gradients that are not finite, so the training was "
                f"stopped; {self.output_folder}/{LATEST}, if it exists, is from before. Look for images with NaN or "
                "extreme values, try a smaller learning rate or, on a CPU, cpu_bfloat16=0; then continue with --c."
            )

    def pause_point(self) -> None:
        """Called between two steps of training or validation: saves a checkpoint when due, and stops on a signal."""
        if self._stop_signal:
            self._stop()
        minutes = self.options.checkpoint_minutes
        if self._epoch_runs and minutes and time.monotonic() - self._saved >= 60 * minutes:
            self._save_midway()

    def _stop(self) -> None:
        what = "nothing new to save"  # no epoch has started, or one has just ended
        if self._epoch_runs:
            self._save_midway()
            what = f"saved {LATEST} after iteration {self._iteration} of epoch {self.current_epoch}"
        self.print_to_log_file(
            f"nnsam3d: stopped by {self._stop_signal}: {what}; exit status {STOPPED}, continue with --c"
        )
        reproducible.end_workers(self.dataloader_train, self.dataloader_val)
        raise SystemExit(STOPPED)

    def on_train_end(self) -> None:
        """Also removes the previous checkpoint, which is no longer needed."""
        super().on_train_end()
        if self.local_rank == 0:
            Path(self.output_folder, PREVIOUS).unlink(missing_ok=True)

    # ------------------------------------------------------------------ checkpoints

    def save_checkpoint(self, filename: str) -> None:
        """Writes atomically; the previous ``checkpoint_latest.pth`` is kept."""
        if self.disable_checkpointing or self.local_rank != 0:
            super().save_checkpoint(filename)
            return
        path = Path(filename)
        latest = path.name == LATEST
        keep = path.with_name(PREVIOUS) if latest and self._ours else None
        with replacing(path, durable=True, keep=keep) as temporary:
            try:
                super().save_checkpoint(str(temporary))
            except RuntimeError:  # torch does not say that the disk is full
                if temporary.exists():
                    ask_system(temporary)
                raise
        if latest:
            self._ours = True
            self._saved = time.monotonic()

    def _save_midway(self) -> None:
        start = time.time()
        self._midway = True
        self.current_epoch -= 1  # nnU-Net stores the number of the next epoch
        try:
            self.save_checkpoint(str(Path(self.output_folder) / LATEST))
        finally:
            self.current_epoch += 1
            self._midway = False
        self._saved = time.monotonic()  # also in processes that write nothing
        self.not_training(time.time() - start)

    def not_training(self, seconds: float) -> None:
        """Called with the time that the current epoch spent on something else."""

    def kept(self) -> dict[str, Any]:
        """The additional content of a checkpoint: plain values and tensors."""
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
        """Training time of the current epoch so far."""
        return time.time() - float(self.logger.get_value("epoch_start_timestamps", step=None)[-1])

    def resume(self, kept: dict[str, Any]) -> None:
        """Restores the content that :meth:`kept` returned."""
        self._updates = kept["updates"]
        self._streams = kept["streams"]
        self._left = kept.get("epoch")

    def _put_state(self, _: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, STATE: self.kept()}

    def _take_state(self, _: Any, state: dict[str, Any]) -> None:
        self._left = self._streams = None
        if STATE in state:  # missing in checkpoints of earlier versions
            self.resume(state.pop(STATE))

    def load_checkpoint(self, *file: str | Path, **named_file: str | Path) -> None:
        """Loads a checkpoint after checking that it contains only data, because nnU-Net would execute code in it.

        If the latest checkpoint is damaged, the log says so and the previous one is used. The file is given by position
        or by keyword, whose name differs between versions of nnU-Net.

        Raises:
            UserError: as :func:`open_checkpoint`; or the latest checkpoint is damaged and there is no other.
        """
        (path,) = (Path(one) for one in (*file, *named_file.values()))
        if path.name == LATEST:
            path = self._undamaged(path)
        open_checkpoint(path, mapped=True)
        self._restoring = True
        self._restore(str(path))
        self._restoring = False
        entry = self.my_init_kwargs["plans"]["configurations"][self.configuration_name]  # the checkpoint's
        if RECORD_KEY in entry:
            self._plans_entry[RECORD_KEY] = entry[RECORD_KEY]
        # an interrupted epoch repeats its log entries
        for values in self.logger.get_checkpoint().values():
            del values[self.current_epoch :]
        self._ours = True

    def _restore(self, filename: str) -> None:
        super().load_checkpoint(filename)

    def _undamaged(self, latest: Path) -> Path:
        """The latest checkpoint, or if it is damaged the previous one, or the best one."""
        if not is_damaged(latest):
            return latest
        for other in (latest.with_name(PREVIOUS), latest.with_name(BEST)):
            if other.is_file() and not is_damaged(other):
                self.print_to_log_file(f"nnsam3d: warning: {latest} is damaged: continuing from {other.name}")
                if self.local_rank == 0:
                    keep_as(other, latest)  # otherwise the next save would keep the damaged one as the previous
                return latest if self.local_rank == 0 else other
        raise UserError(f"{latest} is damaged, and there is no intact {PREVIOUS} or {BEST} beside it: restart the "
                        "training without --c")  # fmt: skip
