"""Run nnU-Net's commands, with separate folders."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.nnunet.link import trainers_folder


def nnunet_command(name: str) -> str:
    """The path of one of nnU-Net's commands in this Python environment, which need not be on the PATH.

    Raises:
        UserError: it is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise UserError(f"the command {name} is not installed beside {sys.executable}. Run `nnsam3d doctor`.")
    return found


def nnunet_environment(folder: Path) -> dict[str, str]:
    """Environment variables for separate nnU-Net folders, and ``nnUNet_extTrainer``, so that nothing is installed.

    The user's own folders of trainers stay on ``nnUNet_extTrainer``.

    Args:
        folder: contains raw, preprocessed and results.
    """
    trainers = [str(trainers_folder()), *filter(None, [os.environ.get("nnUNet_extTrainer")])]
    return {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
        "nnUNet_extTrainer": os.pathsep.join(trainers),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "2",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONUNBUFFERED": "1",
        "MPLBACKEND": "Agg",
    }
