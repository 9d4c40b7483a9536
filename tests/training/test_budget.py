"""A time budget: when a training ends, and how its learning rate gets there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnsam3d.errors import UserError
from nnsam3d.nnunet.datasets import FINAL
from nnsam3d.training import budget
from nnsam3d.training.budget import Stretched, TimedTrainer
from nnsam3d.training.optimizer import FINAL_SHARE, WarmupLinear
from nnsam3d.training.options import TrainingOptions, options_from_mapping


class Clock:
    """Every epoch takes ten minutes."""

    now = 0.0

    def time(self) -> float:
        return self.now


class Values:
    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {"epoch_start_timestamps": [], "epoch_end_timestamps": []}

    def get_value(self, key: str, step: Any) -> list[float]:
        return self.values[key]


class Trainer(TimedTrainer):
    """nnU-Net's loop and nothing else."""

    device = torch.device("cpu")

    def __init__(self, options: TrainingOptions) -> None:
        self.is_ddp = False
        self.current_epoch = 0
        self.logger = Values()
        self.rates: list[float] = []
        self.ended = 0
        self.use_length(options)
        self.optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)

    def print_to_log_file(self, *_: Any, **__: Any) -> None: ...

    def on_train_end(self) -> None:
        self.ended += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(budget.time, "time", made.time)

    def loop(self: Trainer) -> None:
        for _ in range(self.current_epoch, self.num_epochs):
            self.logger.values["epoch_start_timestamps"].append(made.now)
            made.now += 600
            self.rates.append(self.share_done(self.current_epoch + 1))
            self.on_epoch_end()
        self.on_train_end()

    def end_of_epoch(self: Trainer) -> None:
        self.logger.values["epoch_end_timestamps"].append(made.now)
        self.current_epoch += 1

    monkeypatch.setattr(nnUNetTrainer, "run_training", loop)
    monkeypatch.setattr(nnUNetTrainer, "on_epoch_end", end_of_epoch)
    return made


def test_without_a_budget_it_runs_all_epochs(clock: Clock):
    trainer = Trainer(TrainingOptions(num_epochs=7))
    trainer.run_training()
    assert (trainer.current_epoch, trainer.ended) == (7, 1)
    assert trainer.rates == pytest.approx([n / 7 for n in range(1, 8)])


@pytest.mark.parametrize(("minutes", "epochs"), [(30, 3), (31, 4), (5, 1)])
def test_it_ends_after_the_epoch_that_uses_the_budget_up(clock: Clock, minutes: float, epochs: int):
    trainer = Trainer(TrainingOptions(num_epochs=100, max_minutes=minutes))
    trainer.run_training()
    assert (trainer.current_epoch, trainer.ended) == (epochs, 1)
    assert trainer.rates[-1] == 1
    assert trainer.training_seconds() == 600 * epochs


def test_epochs_remain_a_limit(clock: Clock):
    trainer = Trainer(TrainingOptions(num_epochs=2, max_minutes=1000))
    trainer.run_training()
    assert (trainer.current_epoch, trainer.ended, trainer.rates[-1]) == (2, 1, 1)


def test_an_interruption_costs_no_budget(clock: Clock):
    trainer = Trainer(TrainingOptions(num_epochs=100, max_minutes=50))
    trainer.logger.values = {"epoch_start_timestamps": [0.0, 700.0], "epoch_end_timestamps": [600.0, 1300.0]}
    trainer.current_epoch, clock.now = 2, 1e6
    trainer.run_training()
    assert trainer.current_epoch == 5


def test_what_has_ended_does_not_go_on(clock: Clock, tmp_path: Path):
    trainer = Trainer(TrainingOptions(num_epochs=100, max_minutes=20))
    trainer.logger.values = {"epoch_start_timestamps": [0.0, 600.0], "epoch_end_timestamps": [600.0, 1200.0]}
    trainer.current_epoch, trainer.output_folder = 2, str(tmp_path)
    trainer.run_training()
    assert (trainer.current_epoch, trainer.ended, trainer.rates) == (2, 1, []), "its weights were not written yet"
    (tmp_path / FINAL).touch()
    trainer.run_training()
    assert (trainer.current_epoch, trainer.ended, trainer.rates) == (2, 1, [])
    assert trainer._trained, "a validation that final_validation=0 leaves out is not made"


def test_schedules_reach_their_end_with_the_budget(clock: Clock):
    options = TrainingOptions(num_epochs=1000, max_minutes=20, learning_rate=1.0, warmup_epochs=0)
    trainer = Trainer(options)
    trainer.logger.values["epoch_start_timestamps"].append(0.0)
    clock.now = 600
    linear = WarmupLinear(trainer.optimizer, options, trainer.share_done)
    assert linear.learning_rate_at(1) == pytest.approx(1 - (1 - FINAL_SHARE) / 2)

    class Poly:
        def step(self, epoch: float) -> None:
            trainer.optimizer.param_groups[0]["lr"] = (1 - epoch / options.num_epochs) ** 0.9

    stretched = Stretched(Poly(), trainer)
    stretched.step(1)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.5**0.9)
    clock.now = 5000  # the last epoch may end late
    stretched.step(2)
    assert 0 <= trainer.optimizer.param_groups[0]["lr"] < 1e-4


def test_several_gpus_are_refused_and_nonsense_too():
    trainer = Trainer(TrainingOptions())
    trainer.is_ddp = True
    with pytest.raises(UserError, match="one device only"):
        trainer.use_length(TrainingOptions(max_minutes=3))
    with pytest.raises(UserError, match="max_minutes"):
        options_from_mapping({"max_minutes": -1})


@pytest.mark.parametrize(("option", "trained", "validates"), [(1, True, True), (0, True, False), (0, False, True)])
def test_a_final_validation_may_be_left_out_and_made_later(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, option: int, trained: bool, validates: bool
):
    made: list[bool] = []
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda self, save: made.append(save))
    trainer = Trainer(TrainingOptions(num_epochs=1, final_validation=option))
    if trained:
        trainer.run_training()
    trainer.perform_actual_validation(True)
    assert made == ([True] if validates else [])


def test_validation_is_not_counted(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    for name in ("on_validation_epoch_start", "on_validation_epoch_end"):
        monkeypatch.setattr(nnUNetTrainer, name, lambda self, *_: None)
    trainer = Trainer(TrainingOptions(max_minutes=25))
    trainer.logger.values["epoch_start_timestamps"].append(clock.now)
    clock.now += 100
    trainer.on_validation_epoch_start()
    clock.now += 40
    assert trainer.training_seconds() == 100
    trainer.on_validation_epoch_end([])
    trainer.logger.values["epoch_end_timestamps"].append(clock.now)
    assert trainer.training_seconds() == 100


def test_the_last_epoch_is_cut_to_what_the_budget_allows(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nnUNetTrainer, "on_train_epoch_start", lambda self: None)
    trainer = Trainer(TrainingOptions(max_minutes=25, num_iterations_per_epoch=50))
    found = []
    for _ in range(4):
        trainer.logger.values["epoch_start_timestamps"].append(clock.now)
        trainer.on_train_epoch_start()
        found.append(trainer.num_iterations_per_epoch)
        clock.now += 12 * found[-1]  # seconds
        trainer.logger.values["epoch_end_timestamps"].append(clock.now)
    assert found == [budget.FIRST_ITERATIONS, 50, 50, 20]
    assert trainer.training_seconds() == 60 * 25
    trainer.on_train_epoch_start()
    assert trainer.num_iterations_per_epoch == 1, "late, but an epoch needs one"


def test_huge_patches_keep_to_the_budget(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    """Forty seconds per iteration: an epoch of 50 would take twice the budget of 15 minutes."""
    monkeypatch.setattr(nnUNetTrainer, "on_train_epoch_start", lambda self: None)
    trainer = Trainer(TrainingOptions(max_minutes=15, num_iterations_per_epoch=50))
    for _ in range(2):
        trainer.logger.values["epoch_start_timestamps"].append(clock.now)
        trainer.on_train_epoch_start()
        clock.now += 40 * trainer.num_iterations_per_epoch
        trainer.logger.values["epoch_end_timestamps"].append(clock.now)
    assert 60 * 15 <= trainer.training_seconds() < 60 * 15 + 40


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named_before_weights_are_looked_for() -> None:
    class OnGpu(Trainer):
        device = torch.device("cuda")

    with pytest.raises(UserError, match="-device cpu"):
        OnGpu(TrainingOptions())


def test_time_in_which_the_process_stood_still_is_no_training_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nnsam3d serve --learn` stops it while somebody waits for an answer."""
    busy = [0.0]
    monkeypatch.setattr(budget.time, "process_time", lambda: busy[0])
    monkeypatch.setattr(budget.SurvivingTrainer, "pause_point", lambda self: None)
    trainer = Trainer(TrainingOptions())
    trainer._epoch_runs = True
    trainer.logger.values["epoch_start_timestamps"].append(clock.now)

    def works(wall: float, on_processor: float) -> float:
        clock.now += wall
        busy[0] += on_processor
        trainer.pause_point()
        return trainer.training_seconds()

    assert works(10, 10) == 10
    assert works(100, 2) == 110, "waiting for data is training time where nobody stops it"
    monkeypatch.setenv(budget.STANDS_STILL, "1")
    assert works(1, 1) == 111
    assert works(60, 3) == 114
    assert works(0.9, 0.0) == pytest.approx(114.9), "short waits are not looked at"
