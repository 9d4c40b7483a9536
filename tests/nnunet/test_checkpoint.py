"""Checkpoints: nnU-Net's open, a stranger's code does not run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnsam3d.errors import UserError
from nnsam3d.nnunet.checkpoint import TRUST_VARIABLE, open_checkpoint
from nnsam3d.nnunet.datasets import STARTER
from nnsam3d.nnunet.doctor_model import check_model


class Intruder:
    """Leaves a file where it was run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def write(path: Path, **more: Any) -> Path:
    """As nnU-Net's `save_checkpoint` leaves it."""
    numbers = {kind: np.dtype(kind).type(1) for kind in ("float64", "float32", "float16", "int64", "uint8", "bool")}
    content = {
        "network_weights": {"weight": torch.arange(6.0)},
        "optimizer_state": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.999)}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5), *numbers.values()], "epoch_end_timestamps": [1.5]},
        "_best_ema": np.float64(0.25),
        "current_epoch": 3,
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu"), "plans": {"a": [1]}},
        "trainer_name": "SAM3DAdapterTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content | more, path)
    return path


@pytest.mark.parametrize("mapped", [False, True])
def test_what_nnunet_saves_opens_as_it_was(tmp_path: Path, mapped: bool) -> None:
    loaded = open_checkpoint(write(tmp_path / "checkpoint.pth"), mapped=mapped)
    assert loaded["network_weights"]["weight"].tolist() == list(range(6))
    assert loaded["_best_ema"] == 0.25
    assert [type(value) for value in loaded["logging"]["mean_fg_dice"][1:4]] == [np.float64, np.float32, np.float16]
    assert loaded["init_args"]["device"] == torch.device("cpu")


@pytest.mark.parametrize("way", ["flag", "environment"])
def test_code_runs_only_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    made = tmp_path / "made"
    path = write(tmp_path / "checkpoint.pth", logging=Intruder(made))
    for mapped in (False, True):
        with pytest.raises(UserError, match=r"checkpoint\.pth: .*would run \w+\.mkdir.*--trust_checkpoint"):
            open_checkpoint(path, mapped=mapped)
    assert not made.exists()
    if way == "environment":
        monkeypatch.setenv(TRUST_VARIABLE, "1")
    open_checkpoint(path, trusted=way == "flag")
    assert made.is_dir(), "else this test would prove nothing"


def test_the_doctor_trusts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    with pytest.raises(UserError, match="mkdir"):
        open_checkpoint(write(tmp_path / "checkpoint.pth", logging=Intruder(tmp_path / "made")), trusted=None)
    assert not (tmp_path / "made").exists()


def test_files_of_old_versions_of_torch(tmp_path: Path) -> None:
    content = open_checkpoint(write(tmp_path / "checkpoint.pth"))
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert open_checkpoint(tmp_path / "old.pth", mapped=True)["trainer_name"] == "SAM3DAdapterTrainer"


@pytest.mark.parametrize("content", [b"", b"no zip archive", b"PK\x03\x04 cut short"])
def test_other_files_are_told_apart(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint\.pth"):
        open_checkpoint(path)
    with pytest.raises(UserError, match="cannot be read"):
        open_checkpoint(tmp_path / "missing.pth")


def test_a_truncated_checkpoint_and_other_weights(tmp_path: Path) -> None:
    path = write(tmp_path / "checkpoint.pth")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="damaged"):
        open_checkpoint(path)
    torch.save({"model": {}}, path)
    with pytest.raises(UserError, match="not a checkpoint of an nnU-Net training"):
        open_checkpoint(path)


def test_the_doctor_looks_at_a_model_and_runs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"
    assert [finding.level for finding in check_model(folder)] == ["problem"]
    folder.mkdir()
    dataset = '{"labels": {"background": 0, "lesion": 1}, "modality": {"0": "CT"}, "file_ending": ".nii.gz"}'
    (folder / "dataset.json").write_text(dataset)
    (folder / "plans.json").write_text("{}")
    assert [finding.level for finding in check_model(folder)] == ["ok", "problem"], "no checkpoint"
    write(folder / "fold_0" / "checkpoint_final.pth")
    write(folder / "fold_1" / "checkpoint_final.pth", logging=Intruder(tmp_path / "made"))
    found = list(check_model(folder))
    assert [finding.level for finding in found] == ["ok", "ok", "problem", "ok"]
    assert "1 channel(s), labels background = 0, lesion = 1" in found[0].text
    assert "fold_0/checkpoint_final.pth: opens as data; SAM3DAdapterTrainer, 3d_fullres, fold 0" in found[1].text
    assert "takes click prompts" in found[3].text
    assert not (tmp_path / "made").exists()
    write(folder / "fold_1" / "checkpoint_final.pth", trainer_name="nnUNetTrainerOfAStranger")
    assert any("does not find the trainer nnUNetTrainerOfAStranger" in finding.text for finding in check_model(folder))


def test_a_model_that_was_passed_on_is_checked() -> None:
    assert {finding.level for finding in check_model(STARTER)} == {"ok"}
