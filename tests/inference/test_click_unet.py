"""Sessions and folders with nnUNetClickTrainer, whose network takes prompts as channels and keeps nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnsam3d.errors import UserError
from nnsam3d.inference import Session
from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.model import Model
from nnsam3d.inference.predictor import WholeImage
from nnsam3d.prompts import CasePrompts, Click, Lasso, PromptCodec
from nnsam3d.prompts.kinds import KINDS

from .conftest import PATCH, opened, volume, write_model

SPACING = (1.0, 1.0, 1.0)
CLICK = Click((10, 12, 8), "lesion")  # i, j, k
OTHER = Click((14, 6, 4), "background")
LASSO = Lasso(((4, 4, 8), (18, 5, 8), (16, 19, 8), (5, 17, 8)), "organ")


def _listens(network: Any, codec: PromptCodec) -> None:
    """Balls and maps weigh more than the image."""
    first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv3d))
    with torch.no_grad():
        first.weight[:, 1:] *= 30


@pytest.fixture(scope="module")
def unet_folder(tmp_path_factory: pytest.TempPathFactory, unet_architecture: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("unet") / "nnUNetClickTrainer__nnUNetPlans__3d_fullres"
    return write_model(folder, kinds=tuple(KINDS), unet=unet_architecture, hears=_listens)


@pytest.fixture
def unet(unet_folder: Path) -> Model:
    return Model(unet_folder, [0], mirroring=False)


@pytest.mark.parametrize("mirroring", [False, True])
@pytest.mark.parametrize("prompts", [[CLICK], [CLICK, OTHER], [LASSO, CLICK]], ids=["click", "clicks", "lasso"])
def test_one_window_is_the_whole_image_to_the_network(unet_folder: Path, prompts: list, mirroring: bool) -> None:
    model = Model(unet_folder, mirroring=mirroring)
    image, properties = volume(PATCH)[None], {"spacing": list(SPACING)}
    asked = CasePrompts("case", "voxel", prompts)
    whole, made = WholeImage(model, image, properties), PreparedImage(model, image, properties)
    expected = whole.answer(asked)
    # nnU-Net adds windows up in half precision, so that nearly equal logits of a random network may be exchanged
    assert (made.answer(asked) != expected).mean() < 0.02
    assert (whole.answer(None) != expected).mean() > 0.05, "the network listens"
    assert (made.windows.encoded, made.windows.decoded) == (0, 8 if mirroring else 1)


def test_a_session_clicks_undoes_and_keeps_what_a_click_does_not_reach(unet: Model) -> None:
    session = Session(unet)
    session.warm_up()
    far = tuple(4 * n for n in PATCH)
    session.set_image(volume(far), SPACING)
    session.add([CLICK])
    first = session.segmentation.copy()
    assert first[8, 12, 10] == 1
    session.add([Click((far[2] - 10, far[1] - 12, far[0] - 8), "organ")])
    second = session.segmentation.copy()
    assert second[far[0] - 8, far[1] - 12, far[2] - 10] == 2
    computed = session._prepared.windows.decoded
    session.undo()
    np.testing.assert_array_equal(session.segmentation, first)
    assert session._prepared.windows.decoded == computed, "its windows are still known"
    assert session.kept_bytes > 0


def test_a_mask_is_corrected_around_the_clicks(unet: Model) -> None:
    session = opened(unet, volume((16, 24, 96)), SPACING)
    start = np.zeros((16, 24, 96), np.uint8)
    start[6:10, 8:16, 80:90] = 2
    session.start_from(start)
    session.add([CLICK])
    np.testing.assert_array_equal(session.segmentation[..., 70:], start[..., 70:])
    assert session.segmentation[8, 12, 10] == 1


def test_networks_without_prompts_are_refused(unet_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nnUNetBaselineTrainer__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    for name in ("plans.json", "dataset.json"):
        (folder / name).write_bytes((unet_folder / name).read_bytes())
    checkpoint = torch.load(unet_folder / "fold_0/checkpoint_final.pth", weights_only=False)
    checkpoint |= {"trainer_name": "nnUNetBaselineTrainer"}
    torch.save(checkpoint, folder / "fold_0/checkpoint_final.pth")
    with pytest.raises(UserError, match=r"networks without prompts; predict with nnUNetv2_predict"):
        Model(folder, [0])
