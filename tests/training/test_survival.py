"""A training that is stopped, killed or damaged goes on as if nothing had happened, with each of our trainers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnsam3d.errors import UserError
from nnsam3d.nnunet.checkpoint import is_damaged, open_checkpoint
from nnsam3d.nnunet.datasets import BEST, FINAL, LATEST, PREVIOUS, STOPPED
from nnsam3d.training import survival
from nnsam3d.training.options import ENVIRONMENT_VARIABLE

from . import small

NAMES = tuple(small.TRAINERS)
STEPS = small.EPOCHS * (small.ITERATIONS + small.VALIDATIONS)


class Interruptions:
    """Batches asked for, and what happens at one of them."""

    def __init__(self) -> None:
        self.asked, self.at, self.action, self.each = 0, -1, lambda: None, lambda: None

    def __call__(self) -> None:
        self.asked += 1
        self.each()
        if self.asked == self.at:
            self.action()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Interruptions:
    made = Interruptions()
    for name, value in small.folders(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, small.LENGTH + " seed=3")
    small.prepare(monkeypatch, made)
    return made


class Clock:
    """On which every batch takes ten seconds, and nothing else takes any time."""

    def __init__(self) -> None:
        self.now = 1.7e9

    def tick(self) -> None:
        self.now += 10


@pytest.fixture
def clock(batches: Interruptions, monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(survival.time, "time", lambda: made.now)
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.time", lambda: made.now)
    batches.each = made.tick
    return made


def options(monkeypatch: pytest.MonkeyPatch, more: str) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"{small.LENGTH} {more}")


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([value.detach().flatten().double() for value in trainer.network.state_dict().values()])


def content(trainer: Any, name: str) -> dict[str, Any]:
    return open_checkpoint(Path(trainer.output_folder) / name, trusted=None)


def run(trainer: Any) -> Any:
    """The exit status; None where the training came to its end."""
    try:
        trainer.run_training()
    except SystemExit as stop:
        return stop.code
    return None


def log_of(trainer: Any) -> str:
    return Path(trainer.log_file).read_text()


@pytest.fixture
def finished(batches: Interruptions, request: pytest.FixtureRequest) -> Any:
    """A training without an interruption, whose folder was moved away."""
    trainer = small.make(request.param)
    trainer.run_training()
    folder = Path(trainer.output_folder)
    folder.rename(folder.with_name("without"))
    batches.asked = 0
    return trainer


@pytest.mark.parametrize("finished", NAMES, indirect=True)
def test_wherever_it_is_stopped_it_goes_on_as_if_nothing_had_happened(batches: Interruptions, finished: Any) -> None:
    """Stopped at every third of its batches, in training and in validation, again and again."""
    batches.action = lambda: os.kill(os.getpid(), signal.SIGUSR1)
    name, stops = type(finished).__name__, 0
    trainer = small.make(name)
    batches.asked, batches.at = 0, 2 + 3  # two are drawn to begin with
    while (status := run(trainer)) is not None:
        assert status == STOPPED
        assert "stopped by SIGUSR1" in log_of(trainer)
        stops += 1
        assert stops < STEPS
        trainer = small.make(name, go_on=True)
        batches.asked = 0
    assert stops >= 3
    assert torch.equal(weights(trainer), weights(finished))
    assert trainer._updates == finished._updates == small.EPOCHS * small.ITERATIONS
    ours, theirs = (one.logger.get_checkpoint() for one in (trainer, finished))
    for key in ("lrs", "train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice"):
        assert ours[key] == theirs[key], key
    assert {path.name for path in Path(trainer.output_folder).glob("checkpoint*")} == {FINAL, BEST}


@pytest.mark.parametrize("finished", NAMES, indirect=True)
def test_it_goes_on_with_its_options_although_the_variable_is_gone(
    batches: Interruptions, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches.at, batches.action = 2 + 3, lambda: os.kill(os.getpid(), signal.SIGUSR1)
    assert run(small.make(type(finished).__name__)) == STOPPED
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    trainer = small.make(type(finished).__name__, go_on=True)
    batches.at = -1
    assert trainer.options == finished.options
    trainer.run_training()
    assert trainer.current_epoch == small.EPOCHS
    assert torch.equal(weights(trainer), weights(finished))


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("name", NAMES)
def test_continuing_what_has_used_up_its_minutes_changes_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    endless = small.LENGTH.replace(f"num_epochs={small.EPOCHS}", "num_epochs=9999")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"{endless} max_minutes=1")
    trainer = small.make(name)
    trainer.run_training()
    assert trainer._updates == 6
    final = Path(trainer.output_folder) / FINAL
    written = final.read_bytes()
    for moved in (False, True):  # True: it was stopped before it wrote the final checkpoint
        if moved:
            final.rename(final.with_name(LATEST))
        again = small.make(name)
        again.load_checkpoint(str(final.with_name(LATEST) if moved else final))
        again.run_training()
        assert again._updates == 6
        assert torch.equal(weights(again), weights(trainer))
        assert (final.read_bytes() == written) or moved
    assert not final.with_name(LATEST).exists()


@pytest.mark.parametrize("finished", NAMES[:1], indirect=True)
def test_a_seed_repeats_a_training_and_another_one_does_not(
    batches: Interruptions, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, same in ((3, True), (4, False)):
        options(monkeypatch, f"seed={seed}")
        torch.manual_seed(seed + 77)  # what was before makes no difference
        trainer = small.make(type(finished).__name__)
        trainer.run_training()
        assert torch.equal(weights(trainer), weights(finished)) == same
        assert f"nnsam3d seed: {seed}" in log_of(trainer)


@pytest.mark.parametrize("name", NAMES)
def test_streams_go_on_without_a_seed(batches: Interruptions, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Batches are computed in the process itself here, so its streams are all there are."""
    options(monkeypatch, "checkpoint_minutes=0")
    found = []
    for stop_at in (-1, 2 + 2):
        batches.asked, batches.at, batches.action = 0, stop_at, lambda: os.kill(os.getpid(), signal.SIGTERM)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        trainer = small.make(name)
        try:
            trainer.run_training()
        except SystemExit:
            torch.manual_seed(99)
            np.random.seed(99)  # noqa: NPY002
            batches.at = -1
            trainer = small.make(name, go_on=True)
            trainer.run_training()
        found.append(weights(trainer))
        for path in Path(trainer.output_folder).glob("checkpoint*"):
            path.unlink()
    assert torch.equal(*found)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_saved_every_so_many_minutes_and_the_one_before_is_kept(
    batches: Interruptions, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    options(monkeypatch, "checkpoint_minutes=1e-9")
    batches.at, batches.action = 2 + 4, lambda: (_ for _ in ()).throw(MemoryError)
    trainer = small.make(name)
    with pytest.raises(MemoryError):
        trainer.run_training()
    updates = [content(trainer, file)["optimizer_state"]["nnsam3d"]["updates"] for file in (PREVIOUS, LATEST)]
    assert updates == [2, 3]
    assert content(trainer, LATEST)["current_epoch"] == 0
    assert trainer.training_seconds() >= 0


def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(
    batches: Interruptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    options(monkeypatch, "checkpoint_minutes=1e-9")
    batches.at, batches.action = 2 + 4, lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit):
        small.make(NAMES[0]).run_training()
    batches.at = -1
    latest = next(Path(os.environ["nnUNet_results"]).rglob(LATEST))
    data = latest.read_bytes()
    middle = len(data) // 2
    zeros = data[:middle] + bytes(4096) + data[middle + 4096 :]
    for damaged in (data[:middle], zeros, b""):
        latest.unlink()  # it may be a link to the one before
        latest.write_bytes(damaged)
        trainer = small.make(NAMES[0], go_on=True)
        assert f"{latest} is damaged: continuing from {PREVIOUS}" in log_of(trainer)
        assert trainer._updates == 3
        assert not is_damaged(latest), "the next checkpoint keeps a good one beside it"
    trainer.run_training()
    assert trainer._updates == small.EPOCHS * small.ITERATIONS

    for name in (LATEST, PREVIOUS, BEST):
        latest.with_name(name).write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged, and there is no intact"):
        small.make(NAMES[0], go_on=True)


def test_a_full_disk_costs_no_checkpoint(batches: Interruptions, monkeypatch: pytest.MonkeyPatch) -> None:
    options(monkeypatch, "checkpoint_minutes=1e-9")
    stock = torch.save
    written = []

    def fills_up(what: Any, path: str) -> None:
        stock(what, path)
        written.append(path)
        if len(written) == 3:
            os.truncate(path, 1000)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fills_up)
    trainer = small.make(NAMES[0])
    with pytest.raises(OSError, match="No space"):
        trainer.run_training()
    assert content(trainer, LATEST)["optimizer_state"]["nnsam3d"]["updates"] == 2
    assert sorted(path.name for path in Path(trainer.output_folder).glob("*checkpoint*")) == [LATEST, PREVIOUS]


def test_a_full_disk_of_which_torch_does_not_tell(batches: Interruptions, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = small.make(NAMES[0])
    trainer.initialize()
    latest = Path(trainer.output_folder) / LATEST
    trainer.save_checkpoint(str(latest))
    old = latest.read_bytes()

    def limited(what: Any, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 512 vs 406")

    def full(file: Path, size: int = 0) -> None:
        assert file.read_bytes() == b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", limited)
    with pytest.raises(RuntimeError, match="enforce fail"):  # there is space: something else is wrong
        trainer.save_checkpoint(str(latest))
    monkeypatch.setattr(survival, "ask_system", full)
    with pytest.raises(UserError, match="No space left on device: free space") as caught:
        trainer.save_checkpoint(str(latest))
    assert str(caught.value).startswith(str(latest))
    assert latest.read_bytes() == old


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_is_no_number_changes_nothing_and_stops_in_the_end(
    batches: Interruptions, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    trainer = small.make(name)
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    good, bad = next(trainer.dataloader_train), next(trainer.dataloader_train)
    bad["data"][:, 0] = float("nan")
    trainer.train_step(good)
    before = weights(trainer)
    trainer.train_step(bad)
    assert torch.equal(weights(trainer), before)
    assert trainer._skipped_in_a_row == 1
    trainer.train_step(good)
    assert trainer._skipped_in_a_row == 0
    assert not torch.equal(weights(trainer), before)
    assert weights(trainer).isfinite().all()
    trainer.on_train_epoch_end([{"loss": np.float32(one)[None]} for one in (1.0, np.nan, 2.0)])
    assert trainer.logger.get_value("train_losses", step=-1) == 1.5
    for _ in range(survival.MOST_SKIPPED - 1):
        trainer.train_step(bad)
    with pytest.raises(UserError, match="20 updates in a row"):
        trainer.train_step(bad)
    assert log_of(trainer).count("this update was skipped") == 21


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_before_goes_on(batches: Interruptions, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of a version that kept nothing but nnU-Net's content."""
    options(monkeypatch, "seed=-1")
    trainer = small.make(name)
    trainer.initialize()
    trainer.save_checkpoint(f"{trainer.output_folder}/{LATEST}")
    stored = torch.load(f"{trainer.output_folder}/{LATEST}", weights_only=False)
    del stored["optimizer_state"]["nnsam3d"]
    torch.save(stored, f"{trainer.output_folder}/{LATEST}")
    continued = small.make(name, go_on=True)
    continued.run_training()
    assert continued.current_epoch == small.EPOCHS


def test_data_workers_that_the_signal_ends_do_not_lose_the_training(
    batches: Interruptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler signals all processes of a job; nnU-Net then misses its workers between two iterations."""

    def workers_gone() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("One or more background workers are no longer alive.")

    batches.at, batches.action = 2 + 3, workers_gone
    trainer = small.make(NAMES[0])
    with pytest.raises(SystemExit) as stop:
        trainer.run_training()
    assert stop.value.code == STOPPED
    assert content(trainer, LATEST)["optimizer_state"]["nnsam3d"]["epoch"]["iteration"] == 2

    batches.at, batches.asked = 1, 0  # before anything has begun
    trainer = small.make(NAMES[0], go_on=True)
    assert run(trainer) == STOPPED
    assert "nothing new to save" in log_of(trainer)
    batches.at = -1

    def out_of_memory(self: Any, batch: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("out of memory")

    batches.at = -1
    monkeypatch.setattr(nnUNetTrainer, "train_step", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):  # in the middle of an update there is nothing to save
        small.make("nnUNetBaselineTrainer").run_training()


def test_the_clock_goes_on(batches: Interruptions, clock: Clock) -> None:
    batches.at, batches.action = 2 + 3, lambda: os.kill(os.getpid(), signal.SIGTERM)
    trainer = small.make(NAMES[0])
    with pytest.raises(SystemExit):
        trainer.run_training()
    stored = content(trainer, LATEST)["optimizer_state"]["nnsam3d"]
    assert stored["done"] == 3
    continued = small.make(NAMES[0], go_on=True)
    continued.on_train_start()
    continued.on_epoch_start()
    assert continued.training_seconds() == stored["epoch"]["seconds"] == 30
    clock.now += 5
    assert continued.training_seconds() == 35
    continued.on_train_epoch_start()
    assert continued.num_iterations_per_epoch == small.ITERATIONS - 3
    assert continued._done == small.ITERATIONS


@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_saves_like_other_signals(
    batches: Interruptions, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    before = signal.getsignal(signal.SIGINT)
    batches.at, batches.action = 2 + 3, lambda: os.kill(os.getpid(), signal.SIGINT)
    trainer = small.make(name)
    assert run(trainer) == STOPPED
    assert content(trainer, LATEST)["optimizer_state"]["nnsam3d"]["epoch"]["iteration"] == 3
    assert log_of(trainer).count("stopped by SIGINT: saved") == 1
    assert capfd.readouterr().err.count("stopping after this iteration") == 1
    assert signal.getsignal(signal.SIGINT) is before
    batches.at = -1
    small.make(name, go_on=True).run_training()


def test_an_ignored_ctrl_c_stays_ignored(batches: Interruptions) -> None:
    """As of a background job of a shell."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        batches.at, batches.action = 2 + 3, lambda: os.kill(os.getpid(), signal.SIGINT)
        assert run(small.make(NAMES[0])) is None
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="no groups of processes")
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_at_a_terminal_reaches_the_data_workers_too(tmp_path: Path, times: int) -> None:
    """The first one saves, with the workers' help; the second one ends all of them at once."""
    endless = small.LENGTH.replace(f"num_epochs={small.EPOCHS}", "num_epochs=9999")
    environment = os.environ | {ENVIRONMENT_VARIABLE: endless, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, small.__file__, str(tmp_path), NAMES[2], "--workers"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        said = iter(process.stdout.readline, "")
        assert any(line.startswith("asking for batch 3") for line in said)
        os.killpg(process.pid, signal.SIGINT)
        if times == 2:
            assert any("stopping after this iteration" in line for line in said)
            os.killpg(process.pid, signal.SIGINT)
        rest = "".join(said)  # ends when the last process has closed it
        status = process.wait(timeout=120)
    # a second one may interrupt multiprocessing's own threads, which say so
    assert ("Traceback" if times == 1 else "KeyboardInterrupt") not in rest
    saved = list(tmp_path.glob(f"results/*/*/fold_0/{LATEST}"))
    if times == 1:
        assert status == STOPPED, rest
        assert "stopped by SIGINT: saved" in rest
        open_checkpoint(saved[0], trusted=None)
    else:
        assert status == -signal.SIGINT, rest
        assert not saved


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_kill_9_at_any_moment_leaves_a_checkpoint_to_go_on_from(tmp_path: Path, name: str) -> None:
    """Ten kills each, half of them while a checkpoint is written; every update is saved, so at most one is lost."""
    rng, updates, inside = random.Random(name), 0, 0
    endless = small.LENGTH.replace(f"num_epochs={small.EPOCHS}", "num_epochs=9999")
    environment = os.environ | {ENVIRONMENT_VARIABLE: f"{endless} checkpoint_minutes=1e-9"}
    for kill in range(10):
        command = [sys.executable, small.__file__, tmp_path, name, "--c"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = iter(process.stdout.readline, "")
            begun = next(int(line.split()[1]) for line in said if line.startswith("begin"))
            assert begun >= updates, "more than the last update was lost"
            wanted, lines = rng.randint(3, 9), []
            for line in said:
                lines.append(line)
                if line == f"saving {LATEST}\n" and lines.count(line) > wanted:
                    break
            # a checkpoint takes some hundredths of a second here: now it is being written, or another time is drawn
            time.sleep(rng.uniform(0, 0.005) if kill % 2 else rng.uniform(0, 0.5))
            process.kill()
            lines += said
        inside += lines[-1].startswith("saving")
        # the last of them was whole, but may not have had its name yet
        saved = [int(line.split()[2]) for line in lines if line.startswith(f"saved {LATEST}")]
        updates = [begun, *saved][-2] if saved else begun
        (latest,) = tmp_path.glob(f"results/*/*/fold_0/{LATEST}")
        for path in (latest, latest.with_name(PREVIOUS)):
            assert not is_damaged(path)
            open_checkpoint(path, trusted=None)
    assert inside >= 3
