"""Which folds of a model are trained."""

from __future__ import annotations

import json
from pathlib import Path

from nnsam3d.nnunet.datasets import FINAL
from nnsam3d.training.options import PLANS_KEY, environment_overrides


def is_trained(model: Path, configuration: str, fold: str, npz: bool) -> bool:
    """Whether a training and its validation have ended; a training stopped during its validation repeats that.

    Args:
        model: its folder in nnUNet_results.
        configuration: for example 3d_fullres.
        fold: a number, or "all".
        npz: the validation also has to save its probabilities.
    """
    validation, plans = model / f"fold_{fold}" / "validation", model / "plans.json"
    validated = (validation / "summary.json").is_file()
    if npz:
        files = list(validation.glob("*"))
        masks = [file for file in files if file.suffix not in (".npz", ".pkl", ".json")]
        validated = validated and sum(file.suffix == ".npz" for file in files) >= max(1, len(masks))
    # the environment says whether trainings end with a validation, or the plans of the trained model
    stored = json.loads(plans.read_text(encoding="utf-8")) if plans.is_file() else {}
    own = stored.get("configurations", {}).get(configuration, {}).get(PLANS_KEY, {}).get("final_validation", 1)
    validates = str(environment_overrides().get("final_validation", own)) not in ("0", "False")
    return (model / f"fold_{fold}" / FINAL).is_file() and (validated or not validates)
