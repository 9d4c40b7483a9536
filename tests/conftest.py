"""What all tests share."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from .fake_slurm import fake_slurm as fake_slurm
from .weights_server import no_local_weights as no_local_weights
from .weights_server import server as server

# Before torch is imported anywhere. Idle threads must sleep: few cores are shared with nnU-Net's workers,
# which inherit these settings.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("nnUNet_n_proc_DA", "1")
os.environ.setdefault("nnUNet_def_n_proc", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return CHECKOUT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real datasets that NNSAM3D_REAL_DATA names; tests that need it are skipped without it."""
    given = os.environ.get("NNSAM3D_REAL_DATA")
    folder = Path(given) if given else CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: set NNSAM3D_REAL_DATA to a folder of nnU-Net raw datasets")
    return folder.resolve()


@pytest.fixture(scope="session")
def unet_architecture() -> dict[str, Any]:
    """Of nnU-Net's plans: a U-Net of two stages."""
    from .training.small import UNET  # late: it imports torch

    return deepcopy(UNET)
