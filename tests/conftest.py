"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported anywhere. Idle threads must sleep: few cores are shared with nnU-Net's workers,
# which inherit these settings.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("nnUNet_n_proc_DA", "1")
os.environ.setdefault("nnUNet_def_n_proc", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

CHECKOUT = Path(__file__).resolve().parents[1]


def _folder_or_skip(variable: str, default: Path, what: str) -> Path:
    folder = Path(os.environ.get(variable) or default)
    if not folder.is_dir():
        pytest.skip(f"{what} not found: {folder} (set {variable})")
    return folder.resolve()


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder with real data beside the checkout, or where NNSAM3D_SHARED says."""
    return _folder_or_skip("NNSAM3D_SHARED", CHECKOUT.parent / "shared", "the folder with real data")


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """The folder with the reference outputs of the paper's network, or where NNSAM3D_REFERENCE says."""
    shared = Path(os.environ.get("NNSAM3D_SHARED") or CHECKOUT.parent / "shared")
    return _folder_or_skip("NNSAM3D_REFERENCE", shared / "reference", "the reference folder")
