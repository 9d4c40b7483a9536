"""A segmentation to start from, which clicks correct: somebody's label map, or an earlier result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnsam3d.errors import UserError
from nnsam3d.files import file_version
from nnsam3d.geometry import GeometryError, Slices, Triple, grid_of_file
from nnsam3d.geometry.boxes import overlap
from nnsam3d.geometry.segments import read_segments, segments_of
from nnsam3d.inference.extent import clear_background, is_pointed_at
from nnsam3d.inference.given import given_labels
from nnsam3d.inference.image import PreparedImage, Segmentation
from nnsam3d.inference.painting import painted_over
from nnsam3d.nnunet.model import TrainedModel
from nnsam3d.prompts import CasePrompts, Click, PromptError
from nnsam3d.prompts.components import Component, Components, bounding_box, in_the_middle
from nnsam3d.prompts.labels import numbered_labels
from nnsam3d.prompts.types import VoxelClick
from nnsam3d.prompts.voxels import VoxelPrompts

NEARLY = 1e-6  # mm


class StartMask:
    """A label map on the image's own grid, under what the network computes around the clicks.

    Where the network has looked, its answer replaces the mask; elsewhere the mask stays. A background click says two
    things: in the middle of a component of the mask, that the component is wrong as a whole; nearer to its rim, that
    the component reaches too far. In the second case the component's deepest voxel counts as one more click of its
    label, from which the network segments it anew.
    """

    def __init__(
        self,
        label_map_ZYX: NDArray[np.integer],
        labels: Mapping[str, int],
        regions: Mapping[int, frozenset[int]] | None,
        spacing: Sequence[float],
        file: Path | None = None,
    ) -> None:
        """
        Args:
            label_map_ZYX: is copied.
            labels: names and values of the dataset.
            regions: values of the label map by label, see :func:`bind_clicks`; None without regions.
            spacing: mm along z, y, x.
            file: that holds exactly this label map.

        Raises:
            UserError: the label map holds a value that no label has.
        """
        known = set(labels.values()) if regions is None else {0}.union(*regions.values())
        unknown = sorted(set(np.unique(label_map_ZYX).tolist()) - known)
        if unknown:
            raise UserError(f"the segmentation holds the values {unknown}, the model's labels are {dict(labels)}")
        # several may be kept in a history
        self.label_map_ZYX = label_map_ZYX.astype(np.min_scalar_type(max(known, default=0)))
        self.labels = dict(labels)
        self._file = None if file is None else (file, file_version(file))
        self._regions = {value: frozenset([value]) for value in known if value} if regions is None else regions
        self._spacing = tuple(spacing)
        self._components: dict[int, Components] = {}

    @property
    def nbytes(self) -> int:
        """Memory of the label map."""
        return self.label_map_ZYX.nbytes

    @property
    def unchanged_file(self) -> Path | None:
        """The file that it was read from, if that has not been written since."""
        return self._file[0] if self._file is not None and self._file[1] == file_version(self._file[0]) else None

    def stored_in(self, file: Path) -> None:
        """Call this when the label map has been written to a file."""
        self._file = file, file_version(file)

    @cached_property
    def _boxes(self) -> tuple[Slices, ...]:
        return (bounding_box(self.label_map_ZYX > 0),) if self.label_map_ZYX.any() else ()

    def correct(
        self, image: PreparedImage, prompts: CasePrompts, labels: Mapping[str, int] | None = None
    ) -> Segmentation:
        """The mask as these clicks change it.

        Args:
            image: the prepared image.
            prompts: of a user.
            labels: see :meth:`PreparedImage.label_values`.

        Raises:
            PromptError, UserError: as :meth:`PreparedImage.segment`.
        """
        names = image.label_values(prompts, {**self.labels, **(labels or {})})
        if prompts.paint.prompts:
            return painted_over(self.correct(image, prompts.without_paint, names), prompts, names, image)
        placed = image.placed(prompts, names)
        # of several clicks in one voxel the last one counts
        negative = [voxel for voxel, label in dict(placed.clicks()).items() if not label]
        implied, removed = self._reading(negative, placed)
        more = [click for click in (Click((i, j, k), label) for (k, j, i), label in implied) if _seen(image, click)]
        # behind the user's own, which remarks number
        asked = replace(prompts, prompts=(*prompts.prompts, *more))
        result = image.segment(asked, automatic=False, components="all", mask_ZYX=self.label_map_ZYX, labels=names)
        label_map = self.label_map_ZYX.astype(np.result_type(self.label_map_ZYX, result.label_map))
        for component in removed:
            label_map[component.place][component.box] = 0
        clear_background(label_map, placed)  # also where the network has not looked
        for box in result.boxes:
            answer, before = result.label_map[box], label_map[box]
            if result.owners:  # an object stays as it was where others have been computed, but not the object itself
                unseen = (answer == 0) & (before != 0)
                for other, owner in zip(result.boxes, result.owners, strict=True):
                    if (common := overlap(other, box)) is not None:
                        unseen[common] &= before[common] != owner
                answer = np.where(unseen, before, answer)
            label_map[box] = answer
        for voxel in negative:
            label_map[voxel] = 0
        own = tuple(number for number in result.ignored_clicks if number <= len(prompts.clicks))
        return replace(result, label_map=label_map, boxes=(*self._boxes, *result.boxes), ignored_clicks=own)

    def _reading(self, negative: Sequence[Triple], placed: VoxelPrompts) -> tuple[list[VoxelClick], list[Component]]:
        """What background clicks say about the mask: clicks that they imply, and components that they remove.

        Args:
            negative: voxels (z, y, x) of the background clicks.
            placed: all prompts.
        """
        implied: list[VoxelClick] = []
        removed: list[Component] = []
        for voxel in negative:
            if not self.label_map_ZYX[voxel]:
                continue
            label = self._label_at(voxel)
            component = self._component(label, voxel)
            if is_pointed_at(component, placed, [label], self.label_map_ZYX.shape):
                continue  # a prompt of the user's own says where it is
            deepest = self._deepest(component, negative)
            if deepest is None:
                removed.append(component)
            else:
                implied.append(VoxelClick(deepest, label))
        return list(dict.fromkeys(implied)), removed

    def _label_at(self, voxel: Triple) -> int:
        """The outermost label that holds a voxel."""
        value = int(self.label_map_ZYX[voxel])
        holding = [label for label, values in self._regions.items() if value in values]
        return max(holding, key=lambda label: len(self._regions[label]))

    def _component(self, label: int, voxel: Triple) -> Component:
        if label not in self._components:
            self._components[label] = Components(np.isin(self.label_map_ZYX, list(self._regions[label])))
        return self._components[label].holding(voxel)

    def _deepest(self, component: Component, negative: Sequence[Triple]) -> Triple | None:
        """The voxel in the middle of a component; None where a background click lies there."""
        voxels_N3, depth_N = component.voxels(), component.depth(self._spacing)
        clicked = (voxels_N3[:, None] == np.asarray(negative)).all(axis=2).any(axis=1)
        if in_the_middle(depth_N, self._spacing)[clicked].any():
            return None
        deepest_N3 = voxels_N3[depth_N > depth_N.max() - NEARLY]
        from_centre_N = np.linalg.norm((deepest_N3 - voxels_N3.mean(axis=0)) * self._spacing, axis=1)
        z, y, x = deepest_N3[int(from_centre_N.argmin())].tolist()  # in a slab many are equally deep
        return z, y, x


def _seen(image: PreparedImage, click: Click) -> bool:
    """Whether the network sees the place; it does not where the image is zero all around."""
    try:
        image.check(CasePrompts("", "voxel", [click]))
    except PromptError:
        return False
    return True


# ---------------------------------------------------------------------- from arrays and files


def read_start_mask(segmentation: ArrayLike | str | os.PathLike[str], image: PreparedImage) -> StartMask:
    """A mask to start from.

    Args:
        segmentation: a label map (z, y, x) of the image's shape, or a file with one.

    Raises:
        UserError: another shape, a file that lies elsewhere than the image, values that are no labels of the model, or
            an unreadable file.
    """
    if isinstance(segmentation, (str, os.PathLike)):
        array, file = read_mask(os.fspath(segmentation), image), Path(segmentation).absolute()
    else:
        array, file = given_labels(segmentation, "the segmentation"), None
        _check_shape(array, "the segmentation", image)
    labels = start_labels(array, image.model)
    return StartMask(array, labels, image.model.regions, image.raw_properties["spacing"], file)


def start_labels(array: NDArray[Any], model: TrainedModel) -> Mapping[str, int]:
    """The names and values that a mask to start from may have; for a class-agnostic model, all of its own."""
    if not model.open_labels:
        return model.labels
    return numbered_labels(value for value in np.unique(array).tolist() if value > 0)


def read_mask(file: str, image: PreparedImage) -> NDArray[Any]:
    """The label map (z, y, x) of a file, also of one of 3D Slicer's segmentations (:func:`read_segments`).

    Raises:
        UserError: as :func:`read_start_mask`.
    """
    if segments_of(file):
        grid = None
        with suppress(GeometryError):  # an image without a place in the world
            grid = image.grid()
        return read_segments(file, grid, image.shape_ZYX, image.model.labels, image.model.regions)
    array = image.model.read_labels(file)
    _check_shape(array, file, image)
    _check_place(file, image)
    return array


def _check_shape(array: NDArray[Any], where: str, image: PreparedImage) -> None:
    if array.shape != image.shape_ZYX:
        raise UserError(f"{where}: has the shape {array.shape} (z, y, x), the image {image.shape_ZYX}")


def _check_place(file: str, image: PreparedImage) -> None:
    """Raises UserError: the file's voxels lie elsewhere than the image's, as those of another case do."""
    try:
        own, theirs = image.grid(), grid_of_file(file, image.model.reader_name)("lps")
    except GeometryError:
        return  # an image without a place in the world
    ends = np.vstack([np.zeros(3), np.diag(np.subtract(own.size_xyz, 1))])
    apart_mm = np.linalg.norm(own.index_to_world(ends) - theirs.index_to_world(ends), axis=1).max()
    if apart_mm > max(image.raw_properties["spacing"]):
        raise UserError(
            f"{file}: has the image's shape, but lies up to {apart_mm:.0f} mm from it: is it of another case? "
            "Resample it to the image first"
        )
