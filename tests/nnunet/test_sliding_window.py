"""The prompt channel through nnU-Net's sliding window: tiling, mirroring and padding keep clicks in place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnsam3d.prompts import write_channel

PATCH = (8, 12, 16)


class PaintClicks(nn.Module):
    """A stand-in network whose answer is its prompt channel: class 1 exactly where a click is."""

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        clicked = x_BCDHW[:, -1:] * 10
        return torch.cat([5 - clicked, clicked - 5], 1)


def predictor(mirroring: bool) -> nnUNetPredictor:
    plans = PlansManager(
        {
            "dataset_name": "x",
            "label_manager": "LabelManager",
            "configurations": {"3d_fullres": {"architecture": {}, "patch_size": list(PATCH)}},
        }
    )
    made = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
    dataset_json = {"labels": {"background": 0, "lesion": 1}, "channel_names": {"0": "x"}, "file_ending": ".nii.gz"}
    configuration = plans.get_configuration("3d_fullres")
    made.manual_initialization(PaintClicks(), plans, configuration, None, dataset_json, "x", (0, 1, 2))
    return made


@pytest.mark.parametrize("mirroring", [False, True])
@pytest.mark.parametrize("shape", [(20, 30, 40), (5, 12, 33), (3, 4, 5)], ids=["many windows", "some", "padded"])
def test_clicks_stay_where_they_are(mirroring: bool, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(3)
    clicks_N3 = rng.integers(0, shape, size=(6, 3))
    channel = write_channel(shape, clicks_N3.astype(float), [1] * 6)
    data = torch.from_numpy(np.stack([np.zeros(shape, np.float32), channel]))
    logits = predictor(mirroring).predict_sliding_window_return_logits(data)
    np.testing.assert_array_equal(logits.argmax(0).numpy() == 1, channel > 0)
