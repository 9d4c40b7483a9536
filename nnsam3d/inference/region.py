"""`--scope clicked`: windows around the clicks, grown while what was found reaches their rim.

Letters: K logit maps, D H W voxels of the preprocessed (and padded) image, N clicks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from numpy.typing import NDArray
from scipy import ndimage

from nnsam3d.inference.model import Triple
from nnsam3d.inference.windows import Windows

RIM = 8  # the outer 1 / RIM of a window is its rim: what reaches it is looked at from another window as well
GRID = 4  # further windows lie on a grid of 1 / GRID of a window, so that a session can meet them again
BACKGROUND_LOGIT = 10.0
TOUCHING = np.ones((3, 3, 3), bool)  # 26 neighbours
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Region:
    """The part of an image that was computed.

    Attributes:
        start: (D, H, W) first voxel of the logits in the preprocessed image (without padding).
        logits_KDHW: of the smallest box around all windows; background where there was no window.
        windows: (D, H, W) starts of the windows in the padded image, in the order they were computed.
    """

    start: Triple
    logits_KDHW: NDArray[np.float32]
    windows: tuple[Triple, ...]


def segment_clicked(
    windows: Windows,
    clicks_N3: NDArray[np.int64],
    labels_N: NDArray[np.int64],
    to_labels: Callable[[NDArray[np.float32]], NDArray[Any]],
    background: NDArray[np.float32],
) -> Region | None:
    """Segments what the positive clicks point at; None without positive clicks.

    A window is put around every positive click that lies in no earlier window's core. Then, while a component
    that holds a positive click reaches the rim of all windows there, a window is put around the place where it
    does. Where what is already known of the component has no click in that window, its deepest voxel is one.

    Args:
        clicks_N3, labels_N: voxels (D, H, W) of the preprocessed image and labels, 0 = negative.
        to_labels: logits (K, D, H, W) -> label map (D, H, W).
        background: (K,) the logits of background.
    """
    clicks_N3 = clicks_N3.reshape(-1, 3) + np.asarray(windows.offset)
    positive = labels_N > 0
    if not positive.any():
        return None
    canvas = _Canvas(windows, background)
    for click in clicks_N3[positive]:
        if not canvas.core[tuple(click)]:
            canvas.add(_around(click, windows), clicks_N3, labels_N)
    while True:
        box = canvas.box()
        label_map = to_labels(canvas.logits(box))
        found = _clicked_components(label_map, box, clicks_N3[positive], labels_N[positive])
        reaching = found & ~canvas.core[box]
        if not reaching.any():
            return canvas.region(box)
        place = _middle(reaching) + np.array([side.start for side in box])
        start = _around(place, windows, on_grid=True)
        known = np.where(found, label_map, 0)
        more_N3, more_N = _conditions(known, box, start, windows.size, clicks_N3[positive], labels_N[positive])
        canvas.add(start, np.concatenate([clicks_N3, more_N3]), np.concatenate([labels_N, more_N]))


class _Canvas:
    """Weighted sums over windows. Untouched memory of a large image is never committed."""

    def __init__(self, windows: Windows, background: NDArray[np.float32]) -> None:
        self.windows = windows
        self.background = background
        self.total = np.zeros((len(background), *windows.shape), np.float32)
        self.weight = np.zeros(windows.shape, np.float32)
        self.core = np.zeros(windows.shape, bool)
        self.starts: list[Triple] = []
        cpu = torch.device("cpu")
        gaussian = compute_gaussian(windows.size, sigma_scale=1 / 8, value_scaling_factor=10, device=cpu)
        self.gaussian: NDArray[np.float32] = gaussian.float().numpy()

    def add(self, start: Triple, clicks_N3: NDArray[np.int64], labels_N: NDArray[np.int64]) -> None:
        place = _box(start, self.windows.size)
        self.total[(slice(None), *place)] += self.gaussian * self.windows.logits(start, clicks_N3, labels_N)
        self.weight[place] += self.gaussian
        self.core[_core(start, self.windows)] = True
        self.starts.append(start)

    def box(self) -> Box:
        low = np.min(self.starts, axis=0)
        high = np.max(self.starts, axis=0) + np.asarray(self.windows.size)
        return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))  # type: ignore[return-value]

    def logits(self, box: Box) -> NDArray[np.float32]:
        weight = self.weight[box]
        known = weight > 0
        logits: NDArray[np.float32] = self.total[(slice(None), *box)].copy()
        logits /= np.where(known, weight, 1)
        logits[:, ~known] = self.background[:, None]
        return logits

    def region(self, box: Box) -> Region:
        """Without the padding of images smaller than a window."""
        offset = self.windows.offset
        keep = [
            slice(max(side.start, low), min(side.stop, size - (padded - low)))
            for side, low, size, padded in zip(box, offset, self.windows.shape, self.windows.padding, strict=True)
        ]
        start = tuple(side.start - low for side, low in zip(keep, offset, strict=True))
        kept: Box = (keep[0], keep[1], keep[2])
        return Region(start, self.logits(kept), tuple(self.starts))  # type: ignore[arg-type]


def _box(start: Triple, size: Triple) -> Box:
    d, h, w = (slice(low, low + length) for low, length in zip(start, size, strict=True))
    return d, h, w


def _core(start: Triple, windows: Windows) -> Box:
    """A window without its rim; there is no rim where the image ends."""
    sides = []
    for low, size, length in zip(start, windows.size, windows.shape, strict=True):
        rim = size // RIM
        sides.append(
            slice(low + rim if low > 0 else 0, low + size - rim if low + size < length else length)
        )
    return sides[0], sides[1], sides[2]


def _around(place: NDArray[np.int64], windows: Windows, on_grid: bool = False) -> Triple:
    """The start of the window around a voxel, moved into the image."""
    start = []
    for middle, size, length in zip(place.tolist(), windows.size, windows.shape, strict=True):
        low = middle - size // 2
        step = max(1, size // GRID)
        low = round(low / step) * step if on_grid else low
        start.append(min(max(low, 0), length - size))
    return start[0], start[1], start[2]


def _clicked_components(
    label_map: NDArray[Any], box: Box, clicks_N3: NDArray[np.int64], labels_N: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Of every label's components those that hold a click of this label: a tumour does not stand for its organ."""
    local_N3 = clicks_N3 - np.array([side.start for side in box])
    found = np.zeros(label_map.shape, bool)
    for label in np.unique(labels_N):
        components, _ = ndimage.label(label_map == label, TOUCHING)
        hit = np.unique(components[tuple(local_N3[labels_N == label].T)])
        found |= np.isin(components, hit[hit > 0])
    return found


def _middle(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The voxel of the largest component that is nearest to its centre of mass."""
    components, count = ndimage.label(mask, TOUCHING)
    largest = 1 + int(np.argmax(np.bincount(components.ravel(), minlength=count + 1)[1:]))
    voxels = np.argwhere(components == largest)
    distance = ((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1)
    return voxels[int(np.argmin(distance))]


def _conditions(
    known: NDArray[Any],
    box: Box,
    start: Triple,
    size: Triple,
    clicks_N3: NDArray[np.int64],
    labels_N: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clicks that tell a new window what is known: the deepest voxel of every component without a click there."""
    origin = np.array([side.start for side in box])
    low = np.maximum(np.asarray(start) - origin, 0)
    high = np.minimum(np.asarray(start) + size - origin, known.shape)
    part = known[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    local_N3 = clicks_N3 - origin - low
    inside = ((local_N3 >= 0) & (local_N3 < part.shape)).all(axis=1)
    voxels, labels = [], []
    for label in np.unique(part[part > 0]).tolist():
        components, count = ndimage.label(part == label, TOUCHING)
        clicked = components[tuple(local_N3[inside & (labels_N == label)].T)]
        depth = ndimage.distance_transform_edt(np.pad(part == label, 1))[1:-1, 1:-1, 1:-1]
        rest = [number for number in range(1, count + 1) if number not in clicked]
        voxels += ndimage.maximum_position(depth, components, rest) if rest else []
        labels += [label] * len(rest)
    return np.array(voxels, np.int64).reshape(-1, 3) + low + origin, np.array(labels, np.int64)
