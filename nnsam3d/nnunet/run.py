"""nnU-Net's own commands: where they are, and folders of their own for a run that must touch nothing else."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.nnunet.link import nnunet_folder, trainers_folder


def nnunet_command(name: str) -> str:
    """nnU-Net's command of this Python, whether or not its folder is on the PATH.

    Raises:
        UserError: it is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise UserError(f"the command {name} is not installed beside {sys.executable}. Run `nnsam3d doctor`.")
    return found


def nnunet_environment(folder: Path) -> dict[str, str]:
    """Own nnU-Net folders; the trainer through ``nnUNet_extTrainer``, so that no installation is touched.

    Args:
        folder: holds raw, preprocessed and results.

    Raises:
        UserError: the installed nnU-Net does not know ``nnUNet_extTrainer``.
    """
    if not (nnunet_folder() / "utilities" / "find_objects.py").is_file():
        raise UserError(
            "the demo needs nnUNet_extTrainer, which nnunetv2 knows since 2.8: pip install 'nnunetv2>=2.8,<2.9'"
        )
    return {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
        "nnUNet_extTrainer": str(trainers_folder()),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "2",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONUNBUFFERED": "1",
        "MPLBACKEND": "Agg",
    }
