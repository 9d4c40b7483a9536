"""Which folds of a model are trained."""

from __future__ import annotations

import json
from pathlib import Path

from nnsam3d.nnunet.datasets import FINAL
from nnsam3d.prompts.targets import DECLARED, ENTRY
from nnsam3d.training.options import PLANS_KEY, environment_overrides


def is_trained(model: Path, configuration: str, fold: str, npz: bool) -> bool:
    """Whether a training and its validation have ended; a training stopped during its validation repeats that.

    Args:
        model: its folder in nnUNet_results.
        configuration: for example 3d_fullres.
        fold: a number, or "all".
        npz: the validation also has to save its probabilities.
    """
    validation = model / f"fold_{fold}" / "validation"
    validated = (validation / "summary.json").is_file()
    if npz:
        files = list(validation.glob("*"))
        masks = [file for file in files if file.suffix not in (".npz", ".pkl", ".json")]
        validated = validated and sum(file.suffix == ".npz" for file in files) >= max(1, len(masks))
    plans, dataset_json = (
        json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        for file in (model / "plans.json", model / "dataset.json")
    )
    # the environment says whether trainings end with a validation, or the plans of the trained model
    own = plans.get("configurations", {}).get(configuration, {}).get(PLANS_KEY, {}).get("final_validation", 1)
    validates = str(environment_overrides().get("final_validation", own)) not in ("0", "False")
    validates = validates and DECLARED not in dataset_json.get(ENTRY, {})  # class-agnostic ones never do
    return (model / f"fold_{fold}" / FINAL).is_file() and (validated or not validates)
