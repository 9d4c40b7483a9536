"""nnUNetClickTrainer in one process: its plans, its network, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnsam3d.errors import UserError
from nnsam3d.training.click_unet import CLICK_CHANNELS_KEY, nnUNetClickTrainer


@pytest.fixture(autouse=True)
def _options(monkeypatch: pytest.MonkeyPatch, own_folders: None) -> None:
    monkeypatch.setenv("nnsam3d_options", "num_epochs=5 max_minutes=2")


@pytest.fixture
def plans(plans: dict[str, Any], unet_architecture: dict[str, Any]) -> dict[str, Any]:
    """The folder's, of a network that can be built."""
    plans["configurations"]["3d_fullres"]["architecture"] = unet_architecture
    return plans


def make(plans: dict[str, Any], dataset_json: dict[str, Any], configuration: str = "3d_fullres") -> nnUNetClickTrainer:
    plans = plans | {"continue_training": False, "transpose_forward": [0, 1, 2], "label_manager": "LabelManager"}
    return nnUNetClickTrainer(plans, configuration, 0, dataset_json, torch.device("cpu"))


def test_the_plans_describe_the_channels_and_build_the_network(plans: dict[str, Any], dataset_json: dict[str, Any]):
    trainer = make(plans, dataset_json)
    assert (trainer.num_epochs, trainer.options.max_minutes) == (5, 2)
    saved = trainer.plans_manager.plans
    entry = saved["configurations"]["3d_fullres"][CLICK_CHANNELS_KEY]
    # background, organ, tumour; slices twice as far apart; seven maps of prompts with an extent for each of two labels
    assert entry == {"labels": 3, "radius": [2, 4, 4], "maps": 14}
    assert CLICK_CHANNELS_KEY not in plans["configurations"]["3d_fullres"]

    trainer.initialize()
    trainer.set_deep_supervision_enabled(False)
    manager = PlansManager(saved)
    configuration = manager.get_configuration("3d_fullres")
    # as nnUNetv2_predict rebuilds it
    rebuilt = nnUNetClickTrainer.build_network_architecture(manager, configuration, 1, 3, False)
    rebuilt.load_state_dict(trainer.network.state_dict())
    x = torch.randn(1, 2 + 14, 16, 32, 32)
    x[:, 1:] = 0
    with torch.no_grad():
        without = rebuilt.eval()(x)
        torch.testing.assert_close(without, trainer.network.eval()(x))
        x[0, 1, 8, 16, 16] = 2
        assert (rebuilt(x) - without).abs().max() > 1e-3
    assert without.shape == (1, 3, 16, 32, 32)


def test_a_continuation_has_the_network_of_its_checkpoint_and_the_options_that_are_given(
    plans: dict[str, Any], dataset_json: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnsam3d_options", "prompt_kinds=click max_minutes=2 seed=3 first_answer_weight=0.5")
    trainer = make(plans, dataset_json)
    trainer.initialize()
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert "does not use" not in Path(trainer.log_file).read_text()
    monkeypatch.setenv("nnsam3d_options", "max_minutes=4 prompt_kinds=click,box")
    continued = make(plans, dataset_json)
    continued.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert continued.options == replace(trainer.options, max_minutes=4)
    assert continued.configuration_manager.configuration[CLICK_CHANNELS_KEY]["maps"] == 0
    theirs = trainer.network.state_dict()
    assert all(torch.equal(values, theirs[name]) for name, values in continued.network.state_dict().items())


def test_corrections_keep_all_clicks_of_a_scribble(
    plans: dict[str, Any], dataset_json: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnsam3d_options", "prompt_kinds=click,scribble max_clicks=1 cpu_bfloat16=0")
    trainer = make(plans, dataset_json)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(False)
    data = torch.randn(2, 2, 16, 32, 32)
    data[:, 1] = 0
    data[:, 1, 4, 5, 2:18:2] = 2
    corrected = trainer._corrected(data, torch.ones(2, 16, 32, 32, dtype=torch.int16), 1)
    assert (corrected[:, 1, 4, 5, 2:18:2] == 2).all()


def test_it_refuses_what_has_no_clicks_under_its_own_name(plans: dict[str, Any], dataset_json: dict[str, Any]):
    with pytest.raises(UserError, match="nnUNetClickTrainer"):
        make(plans, dataset_json, "2d")
