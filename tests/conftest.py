"""What all tests share."""

from __future__ import annotations

import locale
import os
import signal
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import hypothesis
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

# an example that takes long on a busy machine is no failure
hypothesis.settings.register_profile("nnsam3d", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("nnsam3d")

# Shells start jobs in the background without Ctrl-C, and what a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKOUT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # of pytest-xdist, which would begin with the files of the most tests


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side, the long files come first: the last one must not keep one process busy while the others idle."""
    if hasattr(config, "workerinput"):
        long = [item for item in items if item.get_closest_marker("e2e") or item.get_closest_marker("browser")]
        sizes = Counter(item.path for item in long)
        items.sort(key=lambda item: -sizes[item.path])


@pytest.fixture(autouse=True)
def same_locale() -> Iterator[None]:
    """ITK leaves the process in the locale "C" when it has read a VTK file: whoever is next would read ASCII only."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    if locale.setlocale(locale.LC_ALL) != before:
        locale.setlocale(locale.LC_ALL, before)


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
