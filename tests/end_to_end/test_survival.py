"""nnU-Net's own command is told to stop, and goes on: with its data workers, its loop and its checkpoints."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nnsam3d.demo.phantom import DATASET_NAME
from nnsam3d.nnunet.checkpoint import open_checkpoint
from nnsam3d.nnunet.datasets import FINAL, LATEST, STOPPED
from nnsam3d.nnunet.run import nnunet_command

from .conftest import Workspace

pytestmark = pytest.mark.e2e
OPTIONS = "preset=tiny num_epochs=2 num_iterations_per_epoch=6 num_val_iterations_per_epoch=1 seed=3 final_validation=0"


def start(space: Workspace, trainer: str, *more: str) -> subprocess.Popen[bytes]:
    command = [nnunet_command("nnUNetv2_train"), "990", "3d_fullres", "2", "-tr", trainer, "-device", "cpu", *more]
    return subprocess.Popen(
        command, env=space.environment | {"nnsam3d_options": OPTIONS}, stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def fold(space: Workspace, trainer: str) -> Path:
    return Path(space.environment["nnUNet_results"]) / DATASET_NAME / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_2"


@pytest.mark.parametrize(
    ("trainer", "sent", "all_processes"),
    [
        ("SAM3DAdapterTrainer", signal.SIGUSR1, False),
        pytest.param("nnUNetClickTrainer", signal.SIGTERM, True, marks=pytest.mark.slow),
        pytest.param("nnUNetBaselineTrainer", signal.SIGINT, True, marks=pytest.mark.slow),
    ],
)
def test_stopped_and_continued_is_bit_for_bit_the_training_without_a_stop(
    workspace: Workspace, tmp_path: Path, trainer: str, sent: int, all_processes: bool
) -> None:
    """The signal comes to the process alone, or, as from a scheduler or a terminal, to its data workers as well."""
    weights = []
    for name in ("without", "with"):
        (tmp_path / name).mkdir()
        space = replace(workspace, environment=workspace.environment | {"nnUNet_results": str(tmp_path / name)})
        process = start(space, trainer)
        if name == "with":
            logs = fold(space, trainer)
            while not any("Epoch 0" in log.read_text() for log in logs.glob("training_log*.txt")):
                assert process.poll() is None
                time.sleep(0.1)
            if all_processes:
                os.killpg(process.pid, sent)
            else:
                process.send_signal(sent)
            assert process.wait(timeout=600) == STOPPED
            stored = open_checkpoint(logs / LATEST, trusted=None)
            assert stored["optimizer_state"]["nnsam3d"]["updates"] < 12
            process = start(space, trainer, "--c")
        assert process.wait(timeout=600) == 0
        weights.append(torch.load(fold(space, trainer) / FINAL, weights_only=False)["network_weights"])
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
