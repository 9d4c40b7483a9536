"""A workspace in which nnU-Net's own commands run: phantom data, own folders, the trainer joined both ways."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnsam3d.demo.phantom import DATASET_NAME, write_dataset
from nnsam3d.nnunet.run import nnunet_environment

from .command import run as run_command

QUICK = "preset=tiny num_epochs=2 num_iterations_per_epoch=2 num_val_iterations_per_epoch=1"


@dataclass(frozen=True)
class Workspace:
    """``run`` starts a command with this workspace's environment and returns it finished."""

    root: Path
    environment: dict[str, str]

    def run(self, command: str, *arguments: str | Path, ok: bool = True, **extra: str) -> str:
        output = self.root / "output.txt"
        code = run_command(command, [*map(str, arguments)], self.environment | extra, output)
        said = output.read_text()
        if ok != (code == 0):
            pytest.fail(f"{command} {arguments} ended with {code}:\n{said[-6000:]}", pytrace=False)
        return said

    @property
    def model(self) -> Path:
        return self.root / "results" / DATASET_NAME / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"

    @property
    def test_images(self) -> Path:
        return self.root / "raw" / DATASET_NAME / "imagesTs"


def _workspace(root: Path) -> Workspace:
    inherited = {key: value for key, value in os.environ.items() if not key.lower().startswith("nnsam3d")}
    # every further process of a pool imports torch first, which takes longer than its work on phantoms
    return Workspace(root, inherited | nnunet_environment(root) | {"nnUNet_def_n_proc": "1"})


def _own_copy(tmp_path_factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """A copy of the folder that ``build`` makes, for one of pytest's processes to change.

    The first process that asks builds it, and the others wait: a training is too long to be done in each of them.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    original = shared / f"original of {name}"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not original.is_dir():
            unfinished = Path(tempfile.mkdtemp(prefix="unfinished", dir=shared))
            build(unfinished)
            unfinished.rename(original)
    copy = tmp_path_factory.mktemp(name)
    shutil.copytree(original, copy, dirs_exist_ok=True)
    return copy


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Phantoms, planned and preprocessed."""

    def build(root: Path) -> None:
        for name in ("raw", "preprocessed", "results"):
            (root / name).mkdir()
        write_dataset(root / "raw", num_training=6, num_test=2, seed=1)
        command = ("nnUNetv2_plan_and_preprocess", "-d", "990", "-c", "3d_fullres", "--verify_dataset_integrity")
        _workspace(root).run(*command, "-npfp", "1", "-np", "1")

    return _workspace(_own_copy(tmp_path_factory, "nnU-Net with spaces", build))


@pytest.fixture(scope="session")
def trained(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Fold 0 of SAM3DAdapterTrainer (found through nnUNet_extTrainer), with probabilities of the validation."""

    def build(results: Path) -> None:
        workspace.run(
            "nnUNetv2_train", "990", "3d_fullres", "0", "-tr", "SAM3DAdapterTrainer", "-device", "cpu", "--npz",
            nnsam3d_options=QUICK, nnUNet_results=str(results),
        )  # fmt: skip

    results = _own_copy(tmp_path_factory, "results of a training", build)
    shutil.copytree(results, workspace.root / "results", dirs_exist_ok=True)
    return workspace
