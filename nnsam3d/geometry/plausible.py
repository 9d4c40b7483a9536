"""Whether an image's voxels can have the size that its header says; NumPy only."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from nnsam3d.errors import UserError

SPACING_MM = (1e-3, 1e3)  # what a voxel may measure; outside, the header is wrong or in another unit
FINGERPRINT = "dataset_fingerprint.json"  # nnU-Net's, with the spacing of every training case
MEDIAN = "original_median_spacing_after_transp"  # in nnU-Net's plans
FACTOR = 4.0  # of the finest axis, or of the mean of all three; thick slices change one axis only
ONE_AXIS = 10.0  # of any single axis
UNITS = {0.001: "metres", 0.1: "centimetres", 1000.0: "micrometres"}  # the number of them in 1 mm
CLOSE = 3.0  # how far a factor may be from one of these

Ranges: TypeAlias = list[tuple[float, float]]
"""The smallest and the largest value for each axis."""


def checked_spacing(spacing: Any, where: str) -> tuple[float, float, float]:
    """The size of a voxel, if it is three plausible numbers.

    Args:
        spacing: mm along three axes.
        where: the image, for messages.

    Raises:
        UserError: not three numbers, or not all between 0.001 and 1000.

    >>> checked_spacing([2.5, 1, 1], "the image")
    (2.5, 1.0, 1.0)
    >>> checked_spacing([1e8, 1, 1], "the image")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    nnsam3d.errors.UserError: the image: spacing 1e+08, 1, 1 mm: a voxel must measure 0.001 to 1000 mm...
    """
    try:
        if isinstance(spacing, (str, bytes)):
            raise TypeError
        values = [float(value) for value in spacing]
    except (TypeError, ValueError, OverflowError):
        values = []
    if len(values) != 3 or not all(0 < value < math.inf for value in values):
        given = ", ".join(f"{value:g}" for value in values) or repr(spacing)[:80]
        raise UserError(f"{where}: spacing {given}: three positive numbers are needed, mm along z, y, x")
    low, high = SPACING_MM
    # headers store float32: 0.001 there is a little less
    if not all(low * 0.999 <= value <= high * 1.001 for value in values):
        text = ", ".join(f"{value:g}" for value in values)
        raise UserError(
            f"{where}: spacing {text} mm: a voxel must measure {low:g} to {high:g} mm. Correct the header, or the "
            "spacing that was given; is it in another unit?"
        )
    return values[0], values[1], values[2]


def trained_spacings(plans: Mapping[str, Any], folder: Path | None = None) -> Ranges:
    """The smallest and the largest spacing that a model knows, mm, for each axis of its grid.

    Args:
        plans: content of the model's plans.json: the median of the training data; where it is missing, the spacings of
            the 3D configurations.
        folder: of the model; nnU-Net puts the spacings of all training cases there. They extend the range.

    Returns an empty list if the plans say nothing.
    """
    rows = [row for row in _planned(plans) if _usable(row)]
    if not rows:
        return []
    forward = plans.get("transpose_forward", (0, 1, 2))
    rows += [[row[axis] for axis in forward] for row in _seen(folder) if _usable(row)]
    return [(min(column), max(column)) for column in zip(*rows, strict=True)]


def _planned(plans: Mapping[str, Any]) -> Iterator[Any]:
    if _usable(plans.get(MEDIAN)):
        yield plans[MEDIAN]
        return
    for configuration in plans.get("configurations", {}).values():
        yield configuration.get("spacing")


def _seen(folder: Path | None) -> list[Any]:
    """The spacings of the training cases (z, y, x); none if they are unknown."""
    try:
        return list(json.loads((folder / FINGERPRINT).read_text(encoding="utf-8"))["spacings"]) if folder else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _usable(row: Any) -> bool:
    return (
        isinstance(row, (list, tuple))
        and len(row) == 3
        and all(isinstance(value, (int, float)) and 0 < value < math.inf for value in row)
    )


def spacing_remark(
    plans: Mapping[str, Any], spacing_zyx: Sequence[float], folder: Path | None = None, known: Ranges | None = None
) -> str | None:
    """A warning if an image's voxels are far larger or smaller than those that the model was trained on; else None.

    Far: a factor of more than 4 of the finest axis or of the geometric mean, or of more than 10 of one axis, from the
    range of the training. Thick slices alone are common.

    Args:
        plans, folder: see :func:`trained_spacings`.
        spacing_zyx: of the image, mm, axes as read.
        known: from :func:`trained_spacings`, for callers with many images; None: it is called.

    >>> spacing_remark({"original_median_spacing_after_transp": [1, 1, 1]}, (3.0, 0.7, 0.7))
    >>> print(spacing_remark({"original_median_spacing_after_transp": [1, 1, 1]}, (0.1, 0.1, 0.1)))
    its voxels measure 0.1 x 0.1 x 0.1 mm (z, y, x), those of the training data about 1 x 1 x 1 mm: 10 times smaller. \
Is the spacing in centimetres instead of mm? The segmentation is probably wrong
    """
    known = trained_spacings(plans, folder) if known is None else known
    if not known:
        return None
    forward = [int(axis) for axis in plans.get("transpose_forward", (0, 1, 2))]
    own = [float(spacing_zyx[axis]) for axis in forward]
    each = [_beyond(value, *ends) for value, ends in zip(own, known, strict=True)]
    finest = _beyond(min(own), min(low for low, _ in known), min(high for _, high in known))
    mean = _beyond(*map(statistics.geometric_mean, (own, *zip(*known, strict=True))))
    size = [math.log(factor) for factor in (finest, mean)]
    alone = max((math.log(factor) for factor in each), key=abs)
    if max(map(abs, size)) <= math.log(FACTOR) and abs(alone) <= math.log(ONE_AXIS):
        return None
    factor = math.exp(max(size, key=abs) if max(map(abs, size)) > math.log(FACTOR) else alone)
    backward = [forward.index(axis) for axis in range(3)]
    theirs = [known[axis] for axis in backward]
    text = " x ".join(f"{low:.3g}" if high < 1.05 * low else f"{low:.3g}-{high:.3g}" for low, high in theirs)
    much = f"{factor:.3g} times larger" if factor > 1 else f"{1 / factor:.3g} times smaller"
    return (
        f"its voxels measure {' x '.join(f'{value:.4g}' for value in spacing_zyx)} mm (z, y, x), those of the training "
        f"data about {text} mm: {much}. {_cause(factor)} The segmentation is probably wrong"
    )


def _beyond(value: float, low: float, high: float) -> float:
    """By which factor a value lies outside a range; 1 inside."""
    return value / high if value > high else value / low if value < low else 1.0


def _cause(factor: float) -> str:
    for expected, unit in UNITS.items():
        if expected / CLOSE <= factor <= expected * CLOSE:
            return f"Is the spacing in {unit} instead of mm?"
    return "Is the spacing wrong, or in another unit than mm?"
