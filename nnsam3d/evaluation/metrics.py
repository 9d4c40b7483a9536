"""Scores of a mask, and of a sequence of masks over clicks.

Conventions for empty masks (nnU-Net's, if it has one):

=================  ====================  =================================
                   truth empty           truth not empty, prediction empty
=================  ====================  =================================
dice, nsd          1 voxel found: 0;     0
                   none found: None
hd95               None                  None (there is no surface to be far from); see ``detected``
volume_error       None                  -1
detected           None                  False
=================  ====================  =================================

None means "undefined"; it is excluded from means, and null in JSON. Axis letters: D, H, W.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.prompts.components import bounding_box

METRICS = {
    "dice": "Dice",
    "nsd_5mm": "NSD, 5 mm",
    "nsd_2mm": "NSD, 2 mm",
    "hd95": "HD95, mm",
    "volume_error": "volume error",
    "detected": "detected",
}
"""All scores, and their titles in the report."""
NSD_TOLERANCES_MM = (5.0, 2.0)  # the paper's; the CVPR 2025 challenge's
DETECTED_DICE = 0.1  # smaller overlaps are due to chance, or to the voxel that a click sets
AUC_CLICKS = (1, 2, 3, 4, 5)  # CVPR 2025: five steps, unit spacing, so that 4 is the best
TARGETS = (0.8, 0.85, 0.9)  # Dice values for "number of clicks to"

Scores: TypeAlias = dict[str, float | bool | None]


def score_mask(prediction_DHW: NDArray[np.bool_], truth_DHW: NDArray[np.bool_], spacing: Sequence[float]) -> Scores:
    """Scores of one mask.

    Args:
        spacing: mm along D, H, W.

    Returns:
        ``dice``; ``nsd_5mm`` and ``nsd_2mm``, surface Dice by surface area (sub-voxel surface elements); ``hd95``,
        mm, the larger of the 95th percentiles of both directed distances between border voxels;
        ``volume_error``, (predicted - true) / true; ``detected``, Dice of at least 0.1.
    """
    predicted, true = int(prediction_DHW.sum()), int(truth_DHW.sum())
    overlap = int(np.logical_and(prediction_DHW, truth_DHW).sum())
    dice = 2 * overlap / (predicted + true) if predicted + true else None
    return {
        "dice": dice,
        **_surface(prediction_DHW, truth_DHW, spacing),
        "volume_error": (predicted - true) / true if true else None,
        "detected": dice is not None and dice >= DETECTED_DICE if true else None,
    }


def _surface(prediction_DHW: NDArray[np.bool_], truth_DHW: NDArray[np.bool_], spacing: Sequence[float]) -> Scores:
    names = [f"nsd_{tolerance:g}mm" for tolerance in NSD_TOLERANCES_MM]
    there = prediction_DHW.any(), truth_DHW.any()
    if not all(there):
        return dict.fromkeys(names, 0.0 if any(there) else None) | {"hd95": None}
    # one empty voxel around both masks: the border of the volume counts as surface
    box = bounding_box(prediction_DHW | truth_DHW)
    pair = [np.pad(mask[box], 1) for mask in (prediction_DHW, truth_DHW)]
    surface_dice, hausdorff = _monai()
    import torch

    prediction, truth = (torch.from_numpy(mask)[None, None].float() for mask in pair)
    how = {"include_background": True, "spacing": [float(step) for step in spacing]}
    scores: Scores = {
        name: float(surface_dice(prediction, truth, [tolerance], use_subvoxels=True, **how))
        for name, tolerance in zip(names, NSD_TOLERANCES_MM, strict=True)
    }
    return scores | {"hd95": float(hausdorff(prediction, truth, percentile=95, **how))}


def need_monai() -> None:
    """Check before hours of training that MONAI is installed.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("monai") is None:
        raise UserError(
            "the benchmark measures surfaces with MONAI, which is not installed: "
            "pip install '/path/to/nnsam3d[benchmark]', or pip install monai"
        )


def _monai():  # type: ignore[no-untyped-def]
    need_monai()
    # MONAI warns about deprecated arguments at every call, and about torch's on import
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from monai.metrics import compute_hausdorff_distance, compute_surface_dice
    return compute_surface_dice, compute_hausdorff_distance


# ---- over the clicks: tables of sequences of clicks (rows) by their number (columns) ----


def area_under_curve(values: pd.DataFrame) -> pd.Series:
    """Trapezoid over 1..5 clicks with unit spacing, at most 4; NaN if a value is missing."""
    known = values.reindex(columns=AUC_CLICKS)
    return known.sum(axis=1, skipna=False) - (known[AUC_CLICKS[0]] + known[AUC_CLICKS[-1]]) / 2


def clicks_to_reach(dice: pd.DataFrame, target: float) -> pd.Series:
    """The smallest number of clicks with a Dice of ``target``; NaN if it is never reached."""
    return pd.DataFrame(np.where(dice >= target, dice.columns, np.nan), dice.index).min(axis=1)
