"""Refuses images whose segmentation cannot fit into memory, before anything is allocated.

A wrong spacing in a header of a few bytes makes an image of terabytes on a model's grid. The estimates are lower
bounds, so that only what could not work is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import Slices
from nnsam3d.geometry.declared import memory_bytes
from nnsam3d.geometry.plausible import checked_spacing
from nnsam3d.nnunet.contract import compute_new_shape

LONGEST_AXIS = 2**16  # voxels on the model's grid, if the image has not as many itself
MOST_VOXELS = 2**34  # on the model's grid: a cube of 2580


def check_grid(
    model_spacing_DHW: Sequence[float], shape_DHW: Sequence[int], spacing_DHW: Sequence[float], where: str
) -> list[int]:
    """Voxels of an image on the model's grid; refuse one of which not even one window could be resampled.

    Args:
        model_spacing_DHW: mm, of the model's grid.
        shape_DHW: voxels of the image without its border of zeros, in the axes of the model's grid.
        spacing_DHW: mm, in the same axes.
        where: the image, for messages.

    Raises:
        UserError: an implausible spacing, or an image that is too large on the model's grid.
    """
    new = _new_shape(shape_DHW, spacing_DHW, model_spacing_DHW, where)
    # matrices along each axis, in float64, of which the columns are computed first
    matrices = sum(2 * 8 * n * old for n, old in zip(new, shape_DHW, strict=True) if n != old)
    _refuse_above(matrices, "a window", shape_DHW, spacing_DHW, new, where)
    return new


def check_windows(
    window_DHW: Sequence[int],
    heads: int,
    new_DHW: Sequence[int],
    shape_DHW: Sequence[int],
    spacing_DHW: Sequence[float],
    where: str,
) -> None:
    """Refuse an image if the result of one window, on the image's grid, would not fit into memory.

    Args:
        window_DHW: voxels of a window. heads: logit maps.
        new_DHW: voxels of the image on the model's grid.
        shape_DHW, spacing_DHW, where: see :func:`check_grid`.

    Raises:
        UserError: so.
    """
    sides = [min(old, size * old / n) for old, n, size in zip(shape_DHW, new_DHW, window_DHW, strict=True)]
    needed = 4 * heads * math.prod(sides) + math.prod(shape_DHW)
    _refuse_above(needed, "a window", shape_DHW, spacing_DHW, new_DHW, where)


def check_whole(
    image_CZYX: NDArray[Any],
    spacing_ZYX: Sequence[float],
    plans_manager: Any,
    configuration_manager: Any,
    heads: int,
    maps: int = 0,
) -> None:
    """Refuse an image that could not be segmented as a whole; errors as in :func:`check_grid`.

    Args:
        image_CZYX: as returned by nnU-Net's reader.
        spacing_ZYX: mm.
        plans_manager, configuration_manager: nnU-Net's.
        heads: logit maps, at least. maps: of prompts, in single precision.
    """
    where = "the image"
    spacing = checked_spacing(spacing_ZYX, where)
    forward, box = plans_manager.transpose_forward, nonzero_box(image_CZYX)
    old, steps = [box[axis].stop - box[axis].start for axis in forward], [spacing[axis] for axis in forward]
    new = _new_shape(old, steps, [float(step) for step in configuration_manager.spacing], where)
    resampled, logits = 4 * len(image_CZYX), 2 * heads  # bytes a voxel; nnU-Net's logits are of half precision
    needed = (logits + 4 * maps) * math.prod(new) + max(resampled * math.prod(new), logits * math.prod(old))
    _refuse_above(needed, "the whole image", old, steps, new, where)


def _new_shape(
    shape_DHW: Sequence[int], spacing_DHW: Sequence[float], target: Sequence[float], where: str
) -> list[int]:
    spacing = checked_spacing(spacing_DHW, where)
    new = [int(n) for n in compute_new_shape(tuple(shape_DHW), list(spacing), list(target))]
    longest = any(n > max(LONGEST_AXIS, old) for n, old in zip(new, shape_DHW, strict=True))
    if longest or math.prod(new) > max(MOST_VOXELS, math.prod(shape_DHW)):
        raise UserError(
            f"{where}: {_size(shape_DHW)} voxels of {_size(spacing)} mm would be {_size(new)} voxels on the model's "
            f"grid ({_size(target)} mm), {_gigabytes(4 * math.prod(new))} for one channel. {_CURE}"
        )
    return new


_CURE = "Correct the spacing in the header (or the one that was given): is it in another unit than mm?"


def _refuse_above(
    needed: float, what: str, shape: Sequence[int], spacing: Sequence[float], new: Sequence[int], where: str
) -> None:
    if needed > (limit := memory_bytes()):
        raise UserError(
            f"{where}: {_size(shape)} voxels of {_size(spacing)} mm are {_size(new)} voxels on the model's grid: "
            f"{what} would take at least {_gigabytes(needed)} of memory, and there are {_gigabytes(limit)}. {_CURE}"
        )


def _size(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"


def nonzero_box(data_CDHW: NDArray[Any]) -> Slices:
    """The box to which nnU-Net crops: the non-zero voxels of any channel, or the whole image if all are zero.

    nnU-Net fills holes first, which does not change a box.
    """
    shape = data_CDHW.shape[1:]
    used = [np.zeros(length, bool) for length in shape]
    for number in range(shape[0]):  # slice by slice, without a mask of the image's size
        marked_HW = (data_CDHW[:, number] != 0).any(axis=0)
        used[0][number] = marked_HW.any()
        used[1] |= marked_HW.any(axis=1)
        used[2] |= marked_HW.any(axis=0)
    sides = []
    for axis, length in enumerate(shape):
        places = np.flatnonzero(used[axis])
        sides.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, length))
    return sides[0], sides[1], sides[2]
