"""A workspace in which nnU-Net's own commands run: phantom data, own folders, the trainer joined both ways."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnsam3d.demo.phantom import DATASET_NAME, write_dataset
from nnsam3d.nnunet.run import nnunet_command, nnunet_environment

QUICK = "preset=tiny num_epochs=2 num_iterations_per_epoch=2 num_val_iterations_per_epoch=1"


@dataclass(frozen=True)
class Workspace:
    """``run`` starts a command with this workspace's environment and returns it finished."""

    root: Path
    environment: dict[str, str]

    def run(self, command: str, *arguments: str | Path, ok: bool = True, **extra: str) -> str:
        done = subprocess.run(
            [nnunet_command(command), *map(str, arguments)],
            env=self.environment | extra,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        if ok != (done.returncode == 0):
            pytest.fail(f"{command} {arguments} ended with {done.returncode}:\n{done.stdout[-6000:]}", pytrace=False)
        return done.stdout

    @property
    def model(self) -> Path:
        return self.root / "results" / DATASET_NAME / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"

    @property
    def test_images(self) -> Path:
        return self.root / "raw" / DATASET_NAME / "imagesTs"


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Phantoms, planned and preprocessed."""
    root = tmp_path_factory.mktemp("nnU-Net with spaces")
    inherited = {key: value for key, value in os.environ.items() if not key.lower().startswith("nnsam3d")}
    environment = inherited | nnunet_environment(root)
    for name in ("raw", "preprocessed", "results"):
        (root / name).mkdir()
    write_dataset(root / "raw", num_training=6, num_test=2, seed=1)
    space = Workspace(root, environment)
    space.run("nnUNetv2_plan_and_preprocess", "-d", "990", "-c", "3d_fullres", "--verify_dataset_integrity")
    return space


@pytest.fixture(scope="session")
def trained(workspace: Workspace) -> Workspace:
    """Fold 0 of SAM3DAdapterTrainer (found through nnUNet_extTrainer), with probabilities of the validation."""
    workspace.run(
        "nnUNetv2_train", "990", "3d_fullres", "0", "-tr", "SAM3DAdapterTrainer", "-device", "cpu", "--npz",
        nnsam3d_options=QUICK,
    )  # fmt: skip
    return workspace
