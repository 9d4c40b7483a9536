"""SAM3DAdapterTrainer in one process: weights, freezing, refusals, adoption of a checkpoint's options."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from nnsam3d.errors import UserError
from nnsam3d.network import PRESETS, SAM3D, SAM3DConfig
from nnsam3d.network.weights import WeightsError
from nnsam3d.nnunet.preprocessing import PromptedPreprocessor
from nnsam3d.training import trainer as trainer_module
from nnsam3d.training.decision import DECISION_KEY
from nnsam3d.training.options import ENVIRONMENT_VARIABLE
from nnsam3d.training.trainer import RECORD_KEY, SAM3DAdapterTrainer
from tests.network.test_decoder import OneConvolution

from .small import NANO
from .test_decision import GOOD

FROZEN_PARTS = ("patch_embed", "pos_embed", "attn.qkv", "attn.proj", "rel_pos_h", "rel_pos_w", "attn.lr", ".mlp.")


@pytest.fixture(autouse=True)
def _options(monkeypatch: pytest.MonkeyPatch, own_folders: None) -> None:
    monkeypatch.setitem(PRESETS, "nano", NANO)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "preset=nano weights=scratch num_epochs=5")


def make(plans: dict[str, Any], dataset_json: dict[str, Any], configuration: str = "3d_fullres") -> SAM3DAdapterTrainer:
    plans = plans | {"continue_training": False, "transpose_forward": [0, 1, 2]}
    return SAM3DAdapterTrainer(plans, configuration, 0, dataset_json, torch.device("cpu"))


def sam_checkpoint(path: Path) -> Path:
    """What Meta's file of such a backbone would hold: the parts of our encoder that come from SAM, and more."""
    config = trainer_module.SAM3DConfig(**NANO)
    state = {
        name: torch.randn_like(value)
        for name, value in SAM3D(config).state_dict().items()
        if name.startswith("image_encoder.")
        and not any(part in name for part in ("adapter", "attn.lr", "rel_pos_d", "depth_embed", "neck_3d", "slice_"))
    }
    torch.save(state | {"mask_decoder.iou_token.weight": torch.zeros(1, 8)}, path)
    return path


def test_scratch_trains_everything_and_says_so(plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    trainer = make(plans, dataset_json)
    trainer.initialize()
    frozen = [name for name, p in trainer.bare_network.named_parameters() if not p.requires_grad]
    assert all(name.endswith("attn.lr") for name in frozen)
    assert trainer.plans_manager.plans["configurations"]["3d_fullres"][RECORD_KEY] == {"source": "scratch"}
    assert "everything, from scratch" in Path(trainer.log_file).read_text()


def test_pretrained_backbone_is_loaded_frozen_and_recorded(
    plans: dict[str, Any], dataset_json: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sam_checkpoint(tmp_path / "sam.pth")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"preset=nano weights={file}")
    trainer = make(plans, dataset_json)
    trainer.initialize()
    stored = torch.load(file)
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.bare_network.image_encoder.named_parameters():
        frozen = any(part in name for part in FROZEN_PARTS)
        assert parameter.requires_grad != frozen, name
        assert (id(parameter) in held) != frozen, name
        if f"image_encoder.{name}" in stored:
            torch.testing.assert_close(parameter.detach(), stored[f"image_encoder.{name}"])
    record = trainer.plans_manager.plans["configurations"]["3d_fullres"][RECORD_KEY]
    assert record["source"] == str(file)
    assert len(record["sha256"]) == 64
    assert record["sha256"] in Path(trainer.log_file).read_text()

    before = {name: p.detach().clone() for name, p in trainer.bare_network.named_parameters()}
    channels = 1 + trainer.bare_network.config.prompt_channels
    batch = {"data": torch.randn(2, channels, 16, 32, 32), "target": torch.randint(0, 3, (2, 1, 16, 32, 32))}
    batch["data"][:, 1:] = 0
    batch["data"][0, 1, 3, 4, 5] = 2
    trainer.train_step(batch)
    for name, parameter in trainer.bare_network.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, before[name]), name
    assert not torch.equal(trainer.bare_network.mask_decoder.cls[0].weight, before["mask_decoder.cls.0.weight"])

    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    file.unlink()
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    continued = make(plans, dataset_json)
    continued.load_checkpoint(str(tmp_path / "checkpoint.pth"))  # needs SAM's file no more
    assert continued.options.preset == "nano"
    for (name, ours), theirs in zip(
        continued.bare_network.named_parameters(), trainer.bare_network.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
        assert ours.requires_grad == theirs.requires_grad, name


def test_an_option_that_the_planner_has_decided_is_named(
    plans: dict[str, Any], dataset_json: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = str(tmp_path / "checkpoint.pth")
    for number, (decision, options) in enumerate(((None, "token_voxels=4"), (GOOD, ""), (GOOD, "token_voxels=2"))):
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"preset=nano weights=scratch {options}")
        if decision is not None:
            plans["configurations"]["3d_fullres"][DECISION_KEY] = dict(decision)
        trainer = make(plans, dataset_json)
        Path(trainer.log_file).unlink(missing_ok=True)  # named after the second
        trainer.initialize()
        said = "token_voxels=2 is ignored: the plans determine tokens of [2, 4, 4] voxels"
        assert (said in Path(trainer.log_file).read_text()) == (number == 2)
    trainer.save_checkpoint(checkpoint)
    make(plans, dataset_json).load_checkpoint(checkpoint)


def test_a_second_continuation_keeps_what_the_first_was_given(
    plans: dict[str, Any], dataset_json: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = str(tmp_path / "checkpoint.pth")
    trainer = make(plans, dataset_json)
    trainer.initialize()
    trainer.save_checkpoint(checkpoint)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "num_epochs=40 weight_decay=0.05 max_clicks=12 weights=/ignored.pth")
    first = make(plans, dataset_json)
    first.load_checkpoint(checkpoint)
    first.save_checkpoint(checkpoint)
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    second = make(plans, dataset_json)
    second.load_checkpoint(checkpoint)
    for trainer in (first, second):
        assert (trainer.num_epochs, trainer.options.max_clicks, trainer.options.weights) == (40, 12, "scratch")
        assert all(group["weight_decay"] == 0.05 for group in trainer.optimizer.param_groups)
        assert trainer.bare_network.config.max_clicks == 12


def test_a_continuation_may_change_how_fast_prompts_learn(
    plans: dict[str, Any], dataset_json: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = str(tmp_path / "checkpoint.pth")
    trainer = make(plans, dataset_json)
    trainer.initialize()
    trainer.save_checkpoint(checkpoint)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "prompt_learning_rate_factor=5")
    continued = make(plans, dataset_json)
    continued.load_checkpoint(checkpoint)
    continued.lr_scheduler.step(3.0)
    slow, fast = (group["lr"] for group in continued.optimizer.param_groups)
    assert fast == pytest.approx(5 * slow)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "prompt_learning_rate_factor=1")
    with pytest.raises(UserError, match="prompt_learning_rate_factor=10 and cannot continue with 1"):
        make(plans, dataset_json).load_checkpoint(checkpoint)


def test_a_training_of_before_goes_on_as_it_was(
    plans: dict[str, Any], dataset_json: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its plans know nothing of rounds, factors and fine maps, and its optimiser has one group."""
    old = "rounds=0 prompt_learning_rate_factor=1 fine_click_maps=0"
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"preset=nano weights=scratch num_epochs=5 {old}")
    trainer = make(plans, dataset_json)
    trainer.initialize()
    entry = trainer.plans_manager.plans["configurations"]["3d_fullres"]
    for key in ("rounds", "prompt_learning_rate_factor", "fine_click_maps", "final_validation"):
        del entry["nnsam3d"][key]
    entry["nnsam3d"]["refinement_share"] = 0.0
    for key in ("fine_click_maps", "token_aspect"):
        del entry["architecture"]["arch_kwargs"][key]
    trainer.my_init_kwargs["plans"] = trainer.plans_manager.plans
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    continued = make(plans, dataset_json)
    continued.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert continued.options.rounds_range == (0, 0)
    assert len(continued.optimizer.param_groups) == 1
    assert continued.bare_network.mask_decoder.click_map is None


def test_a_checkpoint_of_another_network_is_refused_by_name(
    plans: dict[str, Any], dataset_json: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(plans, dataset_json)
    trainer.initialize()
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "preset=tiny")
    with pytest.raises(UserError, match=r"checkpoint\.pth contains another network.*embed_dim: 24 there, 96 now"):
        make(plans, dataset_json).load_checkpoint(str(tmp_path / "checkpoint.pth"))


def test_labels_that_were_added_to_the_dataset_are_named_as_the_reason(
    plans: dict[str, Any], dataset_json: dict[str, Any], tmp_path: Path
) -> None:
    """No option helps there."""
    trainer = make(plans, dataset_json)
    trainer.initialize()
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    labels = dataset_json["labels"]
    more = dataset_json | {"labels": labels | {"another": labels["ignore"], "ignore": labels["ignore"] + 1}}
    with pytest.raises(UserError, match=r"num_click_labels.*Channels and labels are defined by the dataset") as caught:
        make(plans, more).load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert ENVIRONMENT_VARIABLE not in str(caught.value)


def test_a_checkpoint_that_would_run_code_is_not_continued(
    plans: dict[str, Any], dataset_json: dict[str, Any], tmp_path: Path
) -> None:
    trainer = make(plans, dataset_json)
    trainer.initialize()
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    content = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    torch.save(content | {"logging": Path("anything that is no plain value")}, tmp_path / "checkpoint.pth")
    for target in (make(plans, dataset_json), trainer):  # before and after it was initialised
        with pytest.raises(UserError, match="trust_checkpoint"):
            target.load_checkpoint(str(tmp_path / "checkpoint.pth"))


def test_a_checkpoint_that_does_not_fit_the_preset_is_refused(
    plans: dict[str, Any], dataset_json: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sam_checkpoint(tmp_path / "sam.pth")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"preset=tiny weights={file}")
    with pytest.raises(WeightsError, match=r"sam\.pth does not fit"):
        make(plans, dataset_json).initialize()


@pytest.mark.parametrize("configuration", ["2d", "3d_cascade_fullres"])
def test_what_is_not_supported_is_refused_at_start(
    plans: dict[str, Any], dataset_json: dict[str, Any], configuration: str
) -> None:
    with pytest.raises(UserError, match=configuration):
        make(plans, dataset_json, configuration)


class OtherDecoderTrainer(SAM3DAdapterTrainer):
    """As docs/architecture.md shows it."""

    @staticmethod
    def make_decoder(config: SAM3DConfig) -> OneConvolution:
        return OneConvolution(config)


def test_a_subclass_makes_its_own_decoder_for_training_and_prediction(
    plans: dict[str, Any], dataset_json: dict[str, Any]
) -> None:
    plans = plans | {"continue_training": False, "transpose_forward": [0, 1, 2]}
    trainer = OtherDecoderTrainer(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    assert isinstance(trainer.bare_network.decoder, OneConvolution)
    configuration = trainer.plans_manager.get_configuration("3d_fullres")
    assert "plans_manager" in inspect.signature(OtherDecoderTrainer.build_network_architecture).parameters
    rebuilt = OtherDecoderTrainer.build_network_architecture(trainer.plans_manager, configuration, 1, 2)
    assert rebuilt.state_dict().keys() == trainer.bare_network.state_dict().keys()
    preprocessor = configuration.preprocessor_class(verbose=False)
    assert isinstance(preprocessor, PromptedPreprocessor), "its predictions read prompts"
