"""A table of the plans for memory budgets, for included or given datasets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnsam3d.errors import UserError
from nnsam3d.planning.facts import DatasetFacts, read_facts, shipped, shipped_facts, shipped_names
from nnsam3d.tables import markdown

if TYPE_CHECKING:  # imports torch, which would delay the help
    from nnsam3d.planning.ladder import Choice

NNUNET_FINGERPRINT = "dataset_fingerprint.json"
BUDGETS_GB = (8.0, 12.0, 16.0, 24.0, 40.0, 80.0)
HEAD: tuple[str, ...] = ("dataset", "budget, GB", "backbone", "patch, voxels", "tokens", "token, mm")
HEAD += ("batch", "checkpointing", "estimate, GB")


def plan_table(fingerprints: Sequence[str] | None, budgets_gb: Sequence[float], why: bool) -> tuple[str, bool]:
    """The plans of all datasets and budgets, and whether any budget is large enough.

    Args:
        fingerprints: see :func:`facts_of`; None: the included datasets.
        why: also give the reasons.

    Raises:
        UserError: an unreadable fingerprint or an invalid budget.
    """
    from nnsam3d.planning.ladder import BudgetTooSmall, choose
    from nnsam3d.progress import tqdm

    datasets = [facts_of(given) for given in fingerprints] if fingerprints else shipped_facts()
    pairs = [(facts, budget) for facts in datasets for budget in sorted(budgets_gb)]
    rows, reasons, refused = [], [], []
    for facts, budget in tqdm(pairs, desc="plan", unit="plan"):
        try:
            choice = choose(facts, budget)
        except BudgetTooSmall as error:
            rows.append((facts.name, f"{budget:g}", *["–"] * (len(HEAD) - 2)))
            refused.append(str(error))
            continue
        rows.append(_row(facts, choice))
        reasons += [f"\n{facts.name}, {choice.budget_gb:g} GB:", *(f"- {reason}" for reason in choice.why)]
    table = markdown(HEAD, rows, aligned=True)
    return "\n".join([table, *refused, *(reasons if why else [])]), len(refused) < len(pairs)


def facts_of(given: str) -> DatasetFacts:
    """Facts from a file, an included dataset by name, or an nnU-Net dataset by id, name or fingerprint file.

    Raises:
        UserError: none of them.
    """
    path = Path(given)
    if path.name == NNUNET_FINGERPRINT:
        # labels and channels come from the dataset that its folder is named after
        return _dataset_facts(path.absolute().parent.name)
    if path.suffix == ".json" or path.is_file():
        return read_facts(path)
    return shipped(given) or _dataset_facts(given)


def _dataset_facts(dataset: str) -> DatasetFacts:
    from nnsam3d.planning.planner import SAM3DAdapterPlanner

    unknown = f"{dataset} is neither a file nor one of {', '.join(shipped_names())}"
    if not (os.environ.get("nnUNet_raw") and os.environ.get("nnUNet_preprocessed")):
        raise UserError(f"{unknown}; for a dataset of nnU-Net set nnUNet_raw and nnUNet_preprocessed.")
    try:
        planner = SAM3DAdapterPlanner(int(dataset) if dataset.isdigit() else dataset)
    except (RuntimeError, ValueError, AssertionError, FileNotFoundError) as error:
        raise UserError(f"{unknown} nor a dataset of nnU-Net: {error}") from None
    return planner.fullres_facts()


def _row(facts: DatasetFacts, choice: Choice) -> tuple[str, ...]:
    config = choice.config
    token_mm = [step * mm for step, mm in zip(config.token_stride, facts.spacing_DHW, strict=True)]
    return (
        facts.name,
        f"{choice.budget_gb:g}",
        choice.preset,
        "x".join(map(str, config.patch_size)),
        "x".join(map(str, config.token_grid)),
        "x".join(f"{mm:.2g}" for mm in token_mm),
        str(choice.batch),
        config.checkpointing,
        f"{choice.estimate_gb:.1f}",
    )
