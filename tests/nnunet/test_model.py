"""A trained model's folder as plans, labels and networks."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("chosen", ["matplotlib.use('svg')", "pass"])
def test_finding_a_trainer_leaves_figures_alone(chosen: str) -> None:
    """nnU-Net's logger selects "agg" when it is imported: a notebook would show no figures any more."""
    script = (
        f"import matplotlib; {chosen}\n"
        "backend = lambda: dict.__getitem__(matplotlib.rcParams, 'backend')\n"
        "before = backend()\n"
        "from nnsam3d.nnunet.model import find_trainer\n"
        "assert find_trainer('SAM3DAdapterTrainer')\n"
        "assert backend() is before or backend() == before, (before, backend())\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)
