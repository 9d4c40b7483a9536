"""What the short training is told: its plans, and which GPU it sees."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnsam3d.errors import UserError
from nnsam3d.inference.model import Model
from nnsam3d.learning import tune as tuned
from nnsam3d.learning.tune import Tuning, tune
from nnsam3d.nnunet.datasets import OPTIONS_KEY
from nnsam3d.training.options import ENVIRONMENT_VARIABLE, TrainingOptions, options_of_checkpoint, resolve_options

from ..inference.conftest import write_model

OLD = Path(__file__).parents[1] / "data" / "old_model" / "model"
BEGIN = Path("/begin.pth")


@pytest.fixture(autouse=True)
def _no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


def configuration(folder: Path) -> dict[str, Any]:
    return tuned._plans(Model(folder, [0]), BEGIN, Tuning(seconds=60))["configurations"]["3d_fullres"]


def test_what_a_configuration_inherits_is_kept(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    plans = json.loads((folder / "plans.json").read_text())
    whole = plans["configurations"]["3d_fullres"]
    plans["configurations"] = {"3d_base": whole, "3d_fullres": {"inherits_from": "3d_base", "batch_size": 3}}
    (folder / "plans.json").write_text(json.dumps(plans))
    entry = configuration(folder)
    ours = entry.pop(OPTIONS_KEY)
    assert entry == {**whole, "batch_size": 3}
    assert (ours["weights"], ours["max_minutes"]) == (str(BEGIN), 1)


def test_a_model_of_an_earlier_version_is_tuned_as_it_was_trained() -> None:
    """Its plans have a retired option, and not those that came later."""
    stored = json.loads((OLD / "plans.json").read_text())["configurations"]["3d_fullres"][OPTIONS_KEY]
    assert "refinement_share" in stored
    trained, found = options_of_checkpoint(stored, "old"), resolve_options(configuration(OLD), "3d_fullres")
    for name in ("preset", "rounds", "fine_click_maps", "detail_dim", "token_voxels", "kinds", "first_answer_weight"):
        assert getattr(found, name) == getattr(trained, name), name
    assert found.learning_rate == trained.learning_rate * tuned.LEARNING_RATE


def test_a_u_net_keeps_its_kinds_of_prompts(tmp_path: Path, unet_architecture: dict[str, Any]) -> None:
    """Its plans do not store its options, and its other ones had today's defaults."""
    kinds = ("click", "scribble")
    found = resolve_options(configuration(write_model(tmp_path / "model", kinds=kinds, unet=unet_architecture)), "")
    assert found.kinds == kinds
    assert found.rounds == TrainingOptions().rounds


def test_it_sees_the_gpu_of_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(command: list[str], env: dict[str, str], **_: Any) -> Any:
        seen.append(env["CUDA_VISIBLE_DEVICES"])
        return SimpleNamespace(returncode=1)

    (tmp_path / "preprocessed" / tuned.NAME).mkdir(parents=True)
    monkeypatch.setattr(tuned, "preprocess_finished", lambda *_: None)
    monkeypatch.setattr(tuned.subprocess, "run", run)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with pytest.raises(UserError, match="status 1"):
        tune(Model(OLD, [0]), BEGIN, [], {}, tmp_path, Tuning(device="cuda:1"))
    assert seen == ["5"]
