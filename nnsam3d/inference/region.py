"""`--scope clicked`: windows around the clicks, extended as long as the segmentation reaches their rim.

Letters: K logit maps, D H W voxels of the preprocessed (and padded) image, N clicks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nnsam3d.geometry import Slices, Triple
from nnsam3d.geometry.boxes import box_between, moved, touch
from nnsam3d.inference.extent import allowed, limits, prompted
from nnsam3d.inference.windows import Windows
from nnsam3d.nnunet.export import Region
from nnsam3d.nnunet.resampling import window_weights
from nnsam3d.prompts.components import Components
from nnsam3d.prompts.kinds import KINDS, Shape
from nnsam3d.prompts.voxels import VoxelPrompts

RIM = 8  # the outer 1 / RIM of a window is its rim; components that reach it get another window
GRID = 4  # further windows are on a grid of 1 / GRID of a window, so that sessions can reuse them
CLEAR = 27  # voxels; smaller parts do not cause a window to be computed again
IsLabel = Callable[[NDArray[np.float32], int], NDArray[np.bool_]]


def segment_clicked(
    windows: Windows,
    prompts: VoxelPrompts,
    is_label: IsLabel,
    background: NDArray[np.float32],
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> list[Region]:
    """Segment the targets of the positive prompts; without any, the result is empty.

    1. Windows are placed along every positive shape that does not act by clicks, and around every positive click that
       is not in the core of an earlier window.
    2. While a component with a positive click reaches the rim of all windows there, another window is placed around
       that position. If the component has no click in the new window, its deepest voxel there becomes one.
    3. A window that was computed before such a component reached it, and that disagrees, is computed again with this
       information; then step 2 is repeated until nothing changes.

    A component is clicked if a positive prompt speaks of one of its voxels. Where boxes say how far a label reaches,
    its components end there (:func:`limits`). Distant prompts make separate regions, which do not touch: memory grows
    with the computed volume, not with the distance of the prompts.

    Args:
        windows: of the preprocessed image.
        prompts: on the voxels of the preprocessed image.
        is_label: logits (K, D, H, W) and a label -> where they predict this label (D, H, W).
        background: (K,) the logits of background.
        spacing: mm along D, H, W of the preprocessed image; depths are distances in mm.
    """
    clicks = prompts.shifted(windows.offset)
    seeds = list(_along_shapes(clicks, windows))
    for voxel, label in zip(clicks.voxels_N3, clicks.labels_N.tolist(), strict=True):
        if label > 0:
            seeds.append(_Seed(label, voxel, (_around(voxel, windows),)))
    groups = _touching([seed.box(windows.size) for seed in seeds])
    grown: dict[tuple[int, ...], _Canvas] = {}
    while True:
        for group in groups:
            if group not in grown:
                own = [seeds[number] for number in group]
                labels = sorted({seed.label for seed in own})
                grown[group] = _Canvas(windows, clicks, labels, is_label, background, spacing)
                grown[group].fill(own)
        canvases = [grown[group] for group in groups]
        joined = _touching([canvas.box for canvas in canvases])
        if len(joined) == len(groups):
            return [canvas.region() for canvas in canvases]
        # regions that now touch are computed again with all their seeds, mostly from cached results
        groups = [tuple(sorted(itertools.chain.from_iterable(groups[member] for member in one))) for one in joined]


def _along_shapes(prompts: VoxelPrompts, windows: Windows) -> Iterator[_Seed]:
    """The windows of the positive shapes that do not act by clicks: evenly along each axis, so that cores overlap."""
    for shape in prompts.shapes:
        kind = KINDS[shape.kind]
        if shape.label == 0 or len(kind.clicks(shape.points_N3, shape.label, windows.model.codec.pitch)):
            continue
        low, high = (np.clip(end, 0, np.asarray(windows.shape) - 1) for end in kind.bounds(shape.points_N3))
        middles = []
        for first, last, size in zip(low.tolist(), high.tolist(), windows.size, strict=True):
            core = max(1, size - 2 * (size // RIM))
            count = max(1, int(np.ceil((last - first + 1) / core)))
            middles.append(first + (np.arange(count) + 0.5) * (last - first) / count)
        places = itertools.product(*(np.rint(along).astype(np.int64) for along in middles))
        starts = dict.fromkeys(_around(np.array(place), windows) for place in places)
        yield _Seed(shape.label, None, tuple(starts))


def _touching(boxes: Sequence[Slices]) -> list[tuple[int, ...]]:
    """Groups of boxes (by index) that overlap or touch, directly or through others; ordered by their first."""
    groups: list[tuple[int, ...]] = []
    for number, box in enumerate(boxes):
        near = [group for group in groups if any(touch(box, boxes[member]) for member in group)]
        merged = tuple(sorted([number, *itertools.chain.from_iterable(near)]))
        groups = [*(group for group in groups if group not in near), merged]
    return sorted(groups)


@dataclass(frozen=True)
class _Seed:
    """A positive prompt: its label, its first windows, and its voxel if it is a click."""

    label: int
    voxel: NDArray[np.int64] | None
    starts: tuple[Triple, ...]

    def box(self, size: Triple) -> Slices:
        """The smallest box around its windows."""
        return box_between(np.min(self.starts, axis=0), np.max(self.starts, axis=0) + size)


@dataclass
class _Window:
    start: Triple
    clicks: VoxelPrompts
    denies: dict[int, NDArray[np.bool_]]  # label -> where its own output is not this label
    reconsidered: bool = False


class _Canvas:
    """Weighted sums over windows, on the smallest box around them.

    ``claims`` contains, for every clicked label, where the mean of the windows predicts this label; ``core`` whether a
    voxel is in the core of a window.
    """

    def __init__(
        self,
        windows: Windows,
        clicks: VoxelPrompts,
        labels: list[int],
        is_label: IsLabel,
        background: NDArray[np.float32],
        spacing: Sequence[float],
    ) -> None:
        self.windows = windows
        self.clicks = clicks
        self.labels = labels
        self.is_label = is_label
        self.background = background
        self.spacing = spacing
        self.origin = np.zeros(3, np.int64)
        self.total = np.zeros((len(background), 0, 0, 0), np.float32)
        self.weight = np.zeros((0, 0, 0), np.float32)
        self.core = np.zeros((0, 0, 0), bool)
        self.claims = np.zeros((len(self.labels), 0, 0, 0), bool)
        self._clicked: dict[int, NDArray[np.bool_]] = {}
        limited = limits(clicks, windows.shape)
        self._boxes: dict[int, tuple[Shape, ...]] = {label: limited[label] for label in labels if label in limited}
        self.computed: list[_Window] = []
        self.order: list[Triple] = []
        self.gaussian = window_weights(windows.size)

    # ------------------------------------------------------------------ outputs of windows

    def fill(self, seeds: Sequence[_Seed]) -> None:
        """Add the windows of these positive prompts, and further ones until nothing changes."""
        for seed in seeds:
            if seed.voxel is None or not self.in_core(seed.voxel):
                for start in seed.starts:
                    self.add(start)
        while self.grow() or self.reconsider():
            pass

    def add(self, start: Triple) -> None:
        """Add a window. Every clicked component without a click in it gets one, on its deepest voxel there."""
        implied = ((voxel, label) for voxel, label, _ in self._unclicked(start, self.clicks))
        clicks = self.clicks + VoxelPrompts.of(implied)
        self._make_room(start)
        logits = self.windows.logits(start, clicks)
        place = self._place(_box(start, self.windows.size))
        self.total[(slice(None), *place)] += self.gaussian * logits
        self.weight[place] += self.gaussian
        self.core[self._place(_core(start, self.windows))] = True
        self.computed.append(_Window(start, clicks, self._denials(logits)))
        self._update(start)

    def grow(self) -> bool:
        """Add windows where clicked components reach the rim; False if there are none."""
        reaching = np.any([self.clicked(label) for label in self.labels], axis=0) & ~self.core
        origin = self.origin.copy()
        for component in Components(reaching).largest_first():
            voxel = component.low + _middle(component.box) + origin
            if not self.in_core(voxel):
                self.add(_around(voxel, self.windows, on_grid=True))
        return bool(reaching.any())

    def reconsider(self) -> bool:
        """Recompute windows that disagree with others, each once; False if there are none."""
        changed = False
        for window in self.computed:
            if not window.reconsidered and len(more := self._denied(window)):
                before = self.windows.logits(window.start, window.clicks)
                window.clicks += more
                after = self.windows.logits(window.start, window.clicks)
                place = self._place(_box(window.start, self.windows.size))
                self.total[(slice(None), *place)] += self.gaussian * (after - before)
                window.denies = self._denials(after)
                window.reconsidered = changed = True
                self._update(window.start)
        return changed

    def _denials(self, logits_KDHW: NDArray[np.float32]) -> dict[int, NDArray[np.bool_]]:
        return {label: ~self.is_label(logits_KDHW, label) for label in self.labels}

    def _update(self, start: Triple) -> None:
        place = self._place(_box(start, self.windows.size))
        mean = self.total[(slice(None), *place)] / self.weight[place]
        for claim, label in zip(self.claims, self.labels, strict=True):
            claim[place] = self.is_label(mean, label)
            if label in self._boxes:
                claim[place] &= allowed(self._boxes[label], start, self.windows.size)
        self.order.append(start)
        self._clicked.clear()

    # ------------------------------------------------------------------ what is known

    def clicked(self, label: int) -> NDArray[np.bool_]:
        """The components of a label of which a prompt with this label speaks."""
        if label not in self._clicked:
            here = replace(self.clicks, mask=None).shifted((-self.origin).tolist())
            self._clicked[label] = prompted(self.claims[self.labels.index(label)], here, [label])
        return self._clicked[label]

    def _denied(self, window: _Window) -> VoxelPrompts:
        """The clicks that an existing window would get now, where its output disagrees."""
        found = self._unclicked(window.start, window.clicks)
        return VoxelPrompts.of(
            (voxel, label)
            for voxel, label, size in found
            if size >= CLEAR and window.denies[label][tuple(voxel - window.start)]
        )

    def _unclicked(self, start: Triple, clicks: VoxelPrompts) -> Iterator[tuple[NDArray[np.int64], int, int]]:
        """Deepest voxel, label and size of the parts of clicked components in a window without a click."""
        low = np.maximum(np.asarray(start), self.origin)
        high = np.minimum(np.asarray(start) + self.windows.size, self.origin + self.core.shape)
        if not self.computed or (low >= high).any():
            return
        part = self._place(box_between(low, high))
        for label in self.labels:
            if label in self._boxes:
                continue  # a box is seen in every window
            local_N3 = clicks.of_label(label) - low
            for voxel, size in _unclicked_middles(self.clicked(label)[part], local_N3, self.spacing):
                yield voxel + low, label, size

    # ------------------------------------------------------------------ positions

    @property
    def box(self) -> Slices:
        """The smallest box around all windows, in the padded image."""
        return box_between(self.origin, self.origin + self.core.shape)

    def in_core(self, voxel: NDArray[np.int64]) -> bool:
        local = voxel - self.origin
        inside = (local >= 0).all() and (local < self.core.shape).all()
        return bool(inside and self.core[tuple(local)])

    def _place(self, box: Slices) -> Slices:
        return moved(box, -self.origin)

    def _make_room(self, start: Triple) -> None:
        """Extend the box; memory grows with the computed volume, not with the image."""
        low, high = np.asarray(start), np.asarray(start) + self.windows.size
        if self.computed:
            low = np.minimum(low, self.origin)
            high = np.maximum(high, self.origin + self.core.shape)
        if (low == self.origin).all() and (high - low == self.core.shape).all():
            return
        before = self.origin - low
        old = box_between(before, before + self.core.shape)
        for name in ("total", "weight", "core", "claims"):
            array = getattr(self, name)
            larger = np.zeros((*array.shape[:-3], *(high - low)), array.dtype)
            if self.computed:
                larger[(..., *old)] = array
            setattr(self, name, larger)
        self.origin = low
        self._clicked.clear()

    def region(self) -> Region:
        """The result: mean logits, without the padding of images smaller than a window."""
        known = self.weight > 0
        np.divide(self.total, self.weight, out=self.total, where=known)
        self.total[:, ~known] = self.background[:, None]
        offset, padding = np.asarray(self.windows.offset), np.asarray(self.windows.padding)
        low = np.maximum(self.origin, offset)
        high = np.minimum(self.origin + self.core.shape, np.asarray(self.windows.shape) - (padding - offset))
        d, h, w = (low - offset).tolist()
        return Region((d, h, w), self.total[(slice(None), *self._place(box_between(low, high)))], tuple(self.order))


def _box(start: Triple, size: Triple) -> Slices:
    return box_between(start, np.add(start, size))


def _core(start: Triple, windows: Windows) -> Slices:
    """A window without its rim; there is no rim at the border of the image."""
    sides = []
    for low, size, length in zip(start, windows.size, windows.shape, strict=True):
        rim = size // RIM
        sides.append(slice(low + rim if low > 0 else 0, low + size - rim if low + size < length else length))
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


def _middle(component: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The voxel nearest to the centre of mass."""
    distance = np.zeros((1, 1, 1), np.float32)
    for axis, length in enumerate(component.shape):
        counts = component.sum(axis=tuple({0, 1, 2} - {axis}))
        offset = np.arange(length) - (counts * np.arange(length)).sum() / counts.sum()
        distance = distance + (offset**2).reshape([-1 if other == axis else 1 for other in range(3)]).astype(np.float32)
    return np.array(np.unravel_index(np.argmin(np.where(component, distance, np.inf)), component.shape), np.int64)


def _unclicked_middles(
    mask: NDArray[np.bool_], clicks_N3: NDArray[np.int64], spacing: Sequence[float]
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """The deepest voxel and the size in voxels of every component without a click."""
    # relative, so that rounding decides between equally deep voxels only where the axes differ
    pitch = [length / min(spacing) for length in spacing]
    for component in Components(mask):
        local_N3 = clicks_N3 - component.low
        inside = ((local_N3 >= 0) & (local_N3 < component.box.shape)).all(axis=1)
        if not component.box[tuple(local_N3[inside].T)].any():
            # the border of the window counts as outside, so that the voxel is well inside the window
            voxels_N3 = component.voxels()
            yield voxels_N3[int(np.argmax(component.depth(pitch)))], len(voxels_N3)
