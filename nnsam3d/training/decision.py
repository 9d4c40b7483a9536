"""The decisions of SAM3DAdapterPlanner and their reasons: the entry "nnsam3d_plan" of a configuration in the plans.

The trainer reads `token_stride` and `window`, which may be edited by hand; the other keys are for information. The
entry "nnsam3d" contains the training options (preset, checkpointing, clicks). nnU-Net's own plans have neither entry;
the trainer then applies the same rules to their patch. This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.keys import known, mismatch

DECISION_KEY = "nnsam3d_plan"
LARGEST_STRIDE = 16  # voxels per token, as in nnsam3d.network


@dataclass(frozen=True)
class Decision:
    """The decisions for one configuration; triples are (D, H, W).

    Raises:
        UserError: an invalid value; the message names its key.
    """

    budget_gb: float  # 10^9 bytes, as given with -gpu_memory_target
    estimate_gb: float  # memory of a training step with the planned preset, patch, batch and checkpointing
    precision: str
    spacing_rule: str
    token_stride: Sequence[int]  # voxels per token
    token_grid: Sequence[int]  # tokens of one patch
    window: Sequence[int]  # tokens per attention window
    token_mm: Sequence[float]
    why: Sequence[str]

    def __post_init__(self) -> None:
        for name in ("token_stride", "token_grid", "window"):
            if not _is_triple(getattr(self, name)):
                raise UserError(f'"{name}" must be three positive whole numbers (D, H, W), not {getattr(self, name)!r}')
        if max(self.token_stride) > LARGEST_STRIDE:
            raise UserError(f'"token_stride" must be at most {LARGEST_STRIDE} voxels, not {list(self.token_stride)}')
        if any(edge > tokens for edge, tokens in zip(self.window, self.token_grid, strict=True)):
            raise UserError(
                f'"window" {list(self.window)} is larger than "token_grid" {list(self.token_grid)}: '
                f"use at most {[min(pair) for pair in zip(self.window, self.token_grid, strict=True)]}"
            )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready copy, as stored in the plans."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def read_decision(configuration: Mapping[str, Any], name: str) -> Decision | None:
    """The decision in one entry of ``plans["configurations"]`` (inheritance resolved), or None.

    Raises:
        UserError: unknown or missing keys, invalid values, or a token grid that does not match the patch.
    """
    entry = configuration.get(DECISION_KEY)
    if entry is None:
        return None
    where = f'plans, configuration {name}, entry "{DECISION_KEY}"'
    if not isinstance(entry, Mapping):
        raise UserError(f"{where} must be an object, not {entry!r}; remove it to let the trainer decide")
    unknown, missing = mismatch(Decision, entry)
    if unknown or missing:
        wrong = f"unknown key {', '.join(unknown)}" if unknown else f"missing key {', '.join(missing)}"
        raise UserError(
            f"{where}: {wrong}. Its keys are {', '.join(known(Decision))}; training options (preset, checkpointing, "
            '...) belong in the entry "nnsam3d" beside it.'
        )
    try:
        decision = Decision(**entry)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    _check_patch(decision, configuration["patch_size"], where)
    return decision


def _check_patch(decision: Decision, patch_DHW: Sequence[int], where: str) -> None:
    stride = decision.token_stride
    grid = [math.ceil(size / step) for size, step in zip(patch_DHW, stride, strict=True)]
    if grid != list(decision.token_grid):
        raise UserError(
            f"{where}: a patch_size of {list(patch_DHW)} voxels with token_stride {list(stride)} gives a token grid of "
            f'{grid}, but "token_grid" is {list(decision.token_grid)}. If the patch was changed on purpose, write '
            f'"token_grid": {grid} (the memory estimate then no longer applies); otherwise plan again.'
        )


def _is_triple(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(item, int) and not isinstance(item, bool) and item > 0 for item in value)
    )
