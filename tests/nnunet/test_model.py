"""A trained model's folder as plans, labels and networks."""

from __future__ import annotations

import subprocess
import sys


def test_finding_a_trainer_leaves_figures_alone() -> None:
    """nnU-Net's logger selects "agg" when it is imported: a notebook would show no figures any more."""
    script = (
        "import matplotlib\n"
        "backend = lambda: dict.__getitem__(matplotlib.rcParams, 'backend')\n"
        "before = backend()\n"
        "from nnsam3d.nnunet.model import _keep_matplotlib_backend, find_trainer\n"
        "assert find_trainer('SAM3DAdapterTrainer')\n"
        "assert backend() is before, (before, backend())\n"
        "matplotlib.use('svg')\n"
        "with _keep_matplotlib_backend():\n"
        "    matplotlib.use('agg')\n"
        "assert backend() == 'svg', backend()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)
