"""The codec between prompts and the additional image channels in nnU-Net. Every model has its own.

nnU-Net augments, crops, tiles and mirrors channels. Prompts are channels behind those of the image, so they take part
in all of it: first one channel with the clicks, then the dense maps of kinds with an extent.

Axis letters: C image channels, P prompt channels, M dense maps, D H W voxels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.geometry import inside_grid
from nnsam3d.prompts.channel import place_clicks, write_channel
from nnsam3d.prompts.kinds import KINDS, MaskPrompt, Shape, Window
from nnsam3d.prompts.kinds.checks import PromptError, PromptWarning
from nnsam3d.prompts.types import CasePrompts
from nnsam3d.prompts.voxels import VoxelPrompts

CLICKS_ONLY = ("click",)
TOKEN = 4  # T, the maps' unit of length, in voxels of the finest axis


@dataclass(frozen=True)
class PromptCodec:
    """The kinds of prompts that a model supports, and their channels.

    Attributes:
        kinds: names, see :data:`nnsam3d.prompts.kinds.KINDS`.
        labels: number of click labels, background included.
        pitch: edges of a voxel along D, H, W in T.

    >>> codec = PromptCodec()
    >>> channels = codec.write((2, 3, 4), VoxelPrompts.of([((1, 2, 3), 1)]))
    >>> channels.shape
    (1, 2, 3, 4)
    >>> float(channels[0, 1, 2, 3])
    2.0
    >>> PromptCodec(("click", "lasso"), labels=3).maps
    (('plane_near', 1), ('plane_near', 2), ('plane_far', 1), ('plane_far', 2))
    """

    kinds: tuple[str, ...] = CLICKS_ONLY
    labels: int = 2
    pitch: tuple[float, float, float] = (0.25, 0.25, 0.25)

    @classmethod
    def of(cls, kinds: Sequence[str], labels: Mapping[str, int], spacing: Sequence[float]) -> PromptCodec:
        """
        Args:
            kinds: as in the plans.
            labels: :func:`nnsam3d.prompts.click_labels`.
            spacing: mm along D, H, W of preprocessed images.
        """
        d, h, w = (float(length) / (TOKEN * min(spacing)) for length in spacing)
        known = tuple(kind for kind in KINDS if kind in kinds)
        return cls(known, max(labels.values()) + 1, (d, h, w))

    @cached_property
    def maps(self) -> tuple[tuple[str, int], ...]:
        """Name and label of every dense map, in the order of their channels.

        Those of a mask to start from are the last ones, whatever kinds there are: training writes them
        (:meth:`PromptTensors.started`).
        """
        kinds = sorted(self.kinds, key=lambda kind: kind == "mask")
        names = dict.fromkeys(name for kind in kinds for name in KINDS[kind].maps)
        return tuple((name, label) for name in names for label in range(1, self.labels))

    @property
    def num_channels(self) -> int:
        """The number P of channels behind those of the image."""
        return 1 + len(self.maps)

    # ------------------------------------------------------------------ channels

    def write(self, shape_DHW: Sequence[int], prompts: VoxelPrompts, lean: bool = False) -> NDArray[np.float32]:
        """Prompts on the voxels of a grid -> (P, D, H, W).

        Args:
            shape_DHW: voxels of the grid.
            prompts: on its voxels.
            lean: only the channel with the clicks if no prompt has maps, to save memory; networks take both in
                prediction.

        Raises:
            PromptError: see :func:`place_clicks`.
        """
        clicks = write_channel(shape_DHW, prompts.voxels_N3, prompts.labels_N)[None]
        if not self.maps or (lean and not prompts.shapes and prompts.mask is None):
            return clicks
        return np.concatenate([clicks, self.dense(shape_DHW, prompts)])

    def dense(self, shape_DHW: Sequence[int], prompts: VoxelPrompts) -> NDArray[np.float32]:
        """The dense maps (M, D, H, W) of a grid; zero where no prompt says anything.

        Of several shapes with one label, the map with the largest value holds: of a distance, the union. Of lassos on
        several slices, the one that says most at a voxel holds.
        """
        d, h, w = (int(n) for n in shape_DHW)
        window = Window((0, 0, 0), (d, h, w), self.pitch)
        place = {key: number for number, key in enumerate(self.maps)}
        found = np.zeros((len(self.maps), d, h, w), np.float32)
        drawn: set[int] = set()
        for together in _together(prompts.shapes):
            kind, label = KINDS[together[0].kind], together[0].label
            maps: dict[str, NDArray[np.float32]] = {}
            for shape in together:
                for name, values in kind.render(shape.points_N3, window).items():
                    maps[name] = np.maximum(maps[name], values) if name in maps else values
            for name, values in maps.items():
                number = place.get((name, label))
                if number is not None:
                    found[number] = kind.joined_maps(found[number], values) if number in drawn else values
                    drawn.add(number)
        if prompts.mask is not None and "mask" in self.kinds:
            label_map = prompts.mask.array()
            for label in range(1, self.labels):
                found[place["mask", label]] = np.where(label_map == label, 1, -1)
        return found

    def with_clicks_of_shapes(self, prompts: VoxelPrompts, shape_DHW: Sequence[int]) -> VoxelPrompts:
        """The prompts with the clicks by which some shapes act, where these lie on the grid and are free."""
        positions_N3, labels_N = [], []
        for shape in prompts.shapes:
            for position in KINDS[shape.kind].clicks(shape.points_N3, shape.label, self.pitch):
                if inside_grid(position[None], shape_DHW)[0]:
                    positions_N3.append(position)
                    labels_N.append(shape.label)
        if not positions_N3:
            return prompts
        taken = set(map(tuple, prompts.voxels_N3.tolist()))
        placed = place_clicks(shape_DHW, np.array(positions_N3), labels_N)
        more = VoxelPrompts.of((voxel, label) for voxel, label in placed.items() if voxel not in taken)
        return prompts + more

    # ------------------------------------------------------------------ prompts

    def usable(self, prompts: CasePrompts, where: str) -> CasePrompts:
        """The prompts without those of kinds that the model does not support. Masks to start from need no support, nor
        does what is applied to the network's answer.

        Args:
            where: file or case of the prompts, for messages.

        Raises:
            PromptError: there are no others.

        Warns:
            PromptWarning: prompts were skipped.
        """
        supported = {*self.kinds, MaskPrompt.kind, *(name for name, kind in KINDS.items() if not kind.trained)}
        kept = [prompt for prompt in prompts.prompts if prompt.kind in supported]
        others = [kind for kind in prompts.kinds if kind not in supported]
        if not others:
            return prompts
        types = ", ".join(self.kinds) or "none"
        message = f"{where}: this model was trained with prompts of type {types}, not {', '.join(others)}"
        if not kept:
            raise PromptError(f"{message}; use clicks instead" if "click" in self.kinds else message)
        warnings.warn(f"{message}: {len(prompts.prompts) - len(kept)} skipped", PromptWarning, stacklevel=1)
        return replace(prompts, prompts=tuple(kept))


def _together(shapes: Sequence[Shape]) -> list[list[Shape]]:
    """Shapes of one kind and label whose maps are one. Shapes around background have no maps, but clicks."""
    groups: dict[tuple[Any, ...], list[Shape]] = {}
    for shape in shapes:
        if shape.label:
            own = KINDS[shape.kind].together(shape.points_N3)
            groups.setdefault((shape.kind, shape.label, *own), []).append(shape)
    return list(groups.values())
