"""A trained model's folder as plans, labels and networks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from nnsam3d.nnunet.checkpoint import open_checkpoint
from nnsam3d.nnunet.model import TrainedModel

from ..inference.conftest import PATCH, volume, write_model


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


def test_other_weights_are_those_of_the_sliding_window_too(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", folds=2)
    model, other = (TrainedModel(folder, [fold], mirroring=False) for fold in (0, 1))
    # as on a GPU, where the network's tensors are copies of the predictor's
    model.predictor.list_of_parameters = [{name: one.clone() for name, one in model.networks[0].state_dict().items()}]
    data, _ = model.preprocess(volume(PATCH)[None], {"spacing": [1.0, 1.0, 1.0]})
    before, wanted = model.everywhere(data), other.everywhere(data)
    assert not torch.equal(before, wanted)
    model.take_weights(open_checkpoint(other.checkpoint_files[0])["network_weights"])
    assert torch.equal(model.everywhere(data), wanted)
