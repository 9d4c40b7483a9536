"""-pretrained_weights of nnUNetv2_train: the log and the plans name the file, with each of our trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.run.run_training import maybe_load_checkpoint

from nnsam3d.checkpoints.pretrained import RECORD_KEY
from nnsam3d.errors import UserError
from nnsam3d.files import file_sha256
from nnsam3d.nnunet.checkpoint import open_checkpoint
from nnsam3d.nnunet.datasets import LATEST, PROMPT_TYPES_KEY, STARTER, WEIGHTS
from nnsam3d.training.options import ENVIRONMENT_VARIABLE
from nnsam3d.training.started_from import is_frozen, model_file, trained_kinds

from ..nnunet.test_checkpoint import Intruder, write
from . import small


@pytest.fixture(autouse=True)
def _prepared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in small.folders(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, small.LENGTH)
    small.prepare(monkeypatch)


def record_in(plans: dict[str, Any]) -> dict[str, Any]:
    return plans["configurations"]["3d_fullres"].get(RECORD_KEY, {})


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in trainer.network.state_dict().items()}


@pytest.mark.parametrize("name", small.TRAINERS)
@pytest.mark.parametrize("by_command", [True, False])
def test_the_file_and_its_digest_are_recorded(tmp_path: Path, name: str, by_command: bool) -> None:
    before = small.make(name)
    before.initialize()
    file = tmp_path / "before.pth"
    before.save_checkpoint(str(file))
    Path(before.log_file).unlink()  # named after the second, which both may share
    trainer = small.make(name)
    if by_command:
        maybe_load_checkpoint(trainer, False, False, str(file))
    else:
        trainer.initialize()
        load_pretrained_weights(trainer.network, str(file))
    wanted = {"source": str(file), "sha256": file_sha256(file), "frozen": False}
    log = Path(trainer.log_file).read_text()
    assert str(file) in log
    assert wanted["sha256"] in log
    assert not by_command or "from scratch" not in log
    assert record_in(trainer.plans_manager.plans) == wanted
    loaded = weights(before)
    assert all(torch.equal(value, loaded[key]) for key, value in weights(trainer).items() if ".seg_layers." not in key)

    latest = Path(trainer.output_folder) / LATEST
    trainer.save_checkpoint(str(latest))
    assert record_in(open_checkpoint(latest)["init_args"]["plans"]) == wanted
    continued = small.make(name, go_on=True)
    assert record_in(continued.plans_manager.plans) == wanted
    trains = [parameter.requires_grad for parameter in trainer.network.parameters()]
    assert [parameter.requires_grad for parameter in continued.network.parameters()] == trains
    continued.save_checkpoint(str(latest))
    assert record_in(open_checkpoint(latest)["init_args"]["plans"]) == wanted


@pytest.mark.parametrize("name", small.TRAINERS)
def test_continuing_records_nothing_new(name: str) -> None:
    trainer = small.make(name)
    trainer.initialize()
    trainer.save_checkpoint(f"{trainer.output_folder}/{LATEST}")
    record = dict(record_in(trainer.plans_manager.plans))
    assert record in ({}, {"source": "scratch"})
    continued = small.make(name)
    maybe_load_checkpoint(continued, True, False, None)
    assert record_in(continued.plans_manager.plans) == record


def test_a_model_that_would_run_code_is_not_taken_for_sams(tmp_path: Path) -> None:
    write(tmp_path / "model.pth", logging=Intruder(tmp_path / "made"))
    with pytest.raises(UserError, match=r"would run .*nnsam3d_trust_checkpoint=1"):
        model_file(str(tmp_path / "model.pth"))


def test_kinds_of_prompts_are_those_of_the_plans(tmp_path: Path) -> None:
    plans = {"configurations": {"3d_fullres": {PROMPT_TYPES_KEY: ["click", "box"]}, "other": {}}}
    file = tmp_path / "fold_0" / "checkpoint_final.safetensors"
    for given, kinds in (({"plans": plans}, ("click", "box")), ({}, None)):
        known = {"init_args": {"configuration": "3d_fullres", **given}}
        assert trained_kinds(known, file) == kinds
        assert trained_kinds(known, Path(file.name)) == kinds
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    assert trained_kinds({"init_args": {"configuration": "3d_fullres"}}, file) == ("click", "box")
    assert trained_kinds({"init_args": {"configuration": "other"}}, file) is None
    assert trained_kinds(open_checkpoint(STARTER / "fold_0" / WEIGHTS), STARTER / "fold_0" / WEIGHTS)


def test_a_box_begins_as_the_models_lasso_where_it_was_drawn_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, options = tmp_path / "before.pth", f"{small.LENGTH} prompt_kinds="
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, options + "click,lasso")
    before = small.make("SAM3DAdapterTrainer")
    before.initialize()
    torch.nn.init.normal_(before.bare_network.mask_decoder.extent_map.weight)
    before.save_checkpoint(str(file))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, (options + "click,box").replace("weights=scratch", f"weights={file}"))
    trainer = small.make("SAM3DAdapterTrainer")
    trainer.initialize()
    own, given = (weights(one)["mask_decoder.extent_map.weight"] for one in (trainer, before))
    torch.testing.assert_close(own[:, 2:], given)
    assert not own[:, :2].any(), "maps that the model does not know"


def test_only_sams_weights_are_frozen_by_themselves() -> None:
    assert is_frozen({"source": "sam.pth", "sha256": ""})
    assert not is_frozen({"source": "scratch"})
    assert not is_frozen({"source": "before.pth", "frozen": False})
    assert is_frozen({"source": "before.pth", "frozen": True})
