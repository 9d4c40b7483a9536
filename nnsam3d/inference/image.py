"""An image, preprocessed where needed, to be segmented with any clicks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import ImageGrid, Slices, preprocessing_steps
from nnsam3d.geometry.boxes import box_between
from nnsam3d.inference.binding import enforce, ignored_clicks
from nnsam3d.inference.extent import with_voxels
from nnsam3d.inference.objects import NO_PROMPT, Claim, joined, objects_of, prompts_of_object
from nnsam3d.inference.painting import painted_over
from nnsam3d.inference.region import segment_clicked
from nnsam3d.inference.scale import CACHES, STEPS, first_spacing, next_spacing, without_outgrown_lines
from nnsam3d.inference.windows import Windows
from nnsam3d.nnunet.contract import window_count
from nnsam3d.nnunet.export import Exporter, Region, background_logits, is_label
from nnsam3d.nnunet.lazy import volume_of
from nnsam3d.nnunet.model import TrainedModel
from nnsam3d.nnunet.preprocessing import image_prompts, network_prompts
from nnsam3d.nnunet.reading import image_grid, image_remarks
from nnsam3d.nnunet.size import check_windows
from nnsam3d.prompts import CasePrompts
from nnsam3d.prompts.labels import numbered_labels
from nnsam3d.prompts.voxels import VoxelMask, VoxelPrompts

SEPARATE = (
    "a class-agnostic model segments every object separately, so that there are no probabilities of all labels: give "
    "prompts for one object only"
)


@dataclass(frozen=True)
class Segmentation:
    """A result on the image's grid, with the axes of nnU-Net's reader (z, y, x).

    Attributes:
        label_map: (z, y, x).
        boxes: everything outside is background. They are disjoint, except those of several objects of a class-agnostic
            model.
        owners: the object that was computed in each of the boxes, with a class-agnostic model.
        windows: number of computed windows, repetitions included.
        regions: the computed parts on the preprocessed grid; none for the sliding window.
        spacing_mm: of that grid, for a model of any spacing.
        probabilities: (K, z, y, x), if requested.
        ignored_clicks: numbers (from 1) of the positive clicks at which the network found nothing.
        notes: further warnings.
    """

    label_map: NDArray[Any]
    boxes: tuple[Slices, ...]
    windows: int
    regions: tuple[Region, ...] = ()
    spacing_mm: float | None = None
    probabilities: NDArray[np.float32] | None = None
    ignored_clicks: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    owners: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Memory of the label map and the computed parts."""
        return int(self.label_map.nbytes) + sum(int(region.logits_KDHW.nbytes) for region in self.regions)

    @property
    def remarks(self) -> list[str]:
        """Warnings for the user."""
        return [
            *self.notes,
            *(
                f"the network found nothing at click {number}; there, the mask contains at most the clicked voxel"
                for number in self.ignored_clicks
            ),
        ]


class PreparedImage:
    """An image on the network's grid, and the mapping back to its own grid."""

    def __init__(
        self,
        model: TrainedModel,
        image_CZYX: NDArray[Any],
        properties: dict[str, Any],
        cache_bytes: int = 0,
        on_window: Callable[[int], None] = lambda number: None,
        files: Sequence[str] = (),
        spacing_mm: float | None = None,
    ) -> None:
        """
        Args:
            model: whose networks are used.
            image_CZYX: as returned by nnU-Net's reader, with its ``properties``.
            properties: of nnU-Net's reader, with the spacing in mm along z, y, x.
            cache_bytes: memory for the features of windows that are kept for further clicks.
            on_window: see :class:`Windows`.
            files: with the image, for messages and remarks about their headers; none for arrays.
            spacing_mm: of the network's grid, for a model of any spacing; None: one that suits the image.

        Raises:
            UserError: see :func:`volume_of`.
        """
        self.shape_ZYX = tuple(int(n) for n in image_CZYX.shape[1:])
        self._scaled: dict[float | None, PreparedImage] = {}  # by spacing, for a model of any spacing: other grids
        if model.any_spacing and spacing_mm is None:
            spacing_mm = first_spacing(self.shape_ZYX, properties["spacing"])
        if spacing_mm is not None:
            self._at = partial(PreparedImage, model, image_CZYX, properties, cache_bytes, on_window, files)
            model = model.at_spacing(spacing_mm)
            cache_bytes //= CACHES
        self.spacing_mm = spacing_mm
        self.model = model
        self.nbytes = image_CZYX.nbytes
        self.raw_properties = dict(properties)
        where = ", ".join(files) or "the image"
        self.volume = volume_of(model, image_CZYX, properties, where)
        self.remarks = image_remarks(image_CZYX, properties["spacing"], model.plans_of_spacing, model.folder, files)
        self.properties = self.volume.properties
        cropped = self.properties["shape_after_cropping_and_before_resampling"]
        steps = [float(properties["spacing"][axis]) for axis in model.plans_manager.transpose_forward]
        heads = model.label_manager.num_segmentation_heads
        check_windows(model.patch_size, heads, self.volume.shape, cropped, steps, where)
        self.windows = Windows(model, self.volume, cache_bytes, on_window)
        self.exporter = Exporter(model, self.properties, self.volume.shape)
        self._whole: NDArray[np.float32] | None = None

    @property
    def stock_windows(self) -> int:
        """Number of windows of the sliding window."""
        return window_count(self.model.predictor, self.windows.shape)

    @property
    def every_windows(self) -> list[Windows]:
        """The windows of this grid, and of all others that a model of any spacing has used."""
        return [self.windows, *(image.windows for image in self._scaled.copy().values())]

    @property
    def kept_bytes(self) -> int:
        """Memory of what is kept for further clicks."""
        return sum(windows.kept_bytes for windows in self.every_windows)

    @property
    def computed(self) -> int:
        """Number of windows computed so far."""
        return sum(windows.computed for windows in self.every_windows)

    def forget(self) -> None:
        """Drops what is kept for further clicks."""
        for windows in self.every_windows:
            windows.forget()

    def grid(self, space: str = "lps") -> ImageGrid:
        """Where the voxels lie, see :func:`image_grid`."""
        return image_grid(space, self.raw_properties, self.shape_ZYX)

    def placed(self, prompts: CasePrompts, labels: Mapping[str, int]) -> VoxelPrompts:
        """Prompts on the voxels of the image as read, see :func:`image_prompts`."""
        return image_prompts(prompts, labels, self.shape_ZYX, self.raw_properties)

    def prepare_for(self, prompts: CasePrompts | None, scope: str = "clicked") -> None:
        """Preprocess the whole image now if :meth:`segment` will need all of it."""
        if self.model.class_agnostic and scope != "everything":
            return
        if scope == "everything" or prompts is None or not self._network_prompts(prompts).positive_labels:
            self._whole = self.volume.whole()

    def segment(
        self,
        prompts: CasePrompts | None,
        scope: str = "clicked",
        bind: bool = True,
        probabilities: bool = False,
        automatic: bool = True,
        components: str | None = None,
        mask_ZYX: NDArray[Any] | None = None,
        labels: Mapping[str, int] | None = None,
    ) -> Segmentation:
        """A segmentation with these prompts; deterministic.

        A class-agnostic model segments each label separately (:mod:`nnsam3d.inference.objects`), and without a prompt
        nothing.

        Args:
            prompts: in any space; None: none.
            scope: "clicked": only around the positive prompts; "everything": the sliding window.
            probabilities: compute them, too.
            automatic: for "clicked" without positive prompts: True: the sliding window; False: background.
            bind: make the result agree with the prompts: clicks (:func:`bind_clicks`), boxes and components
                (:func:`enforce`).
            components: for "clicked": "prompted" (:func:`keep_prompted`) or "all"; None: the model's default.
            mask_ZYX: a label map on the image's grid that the network corrects, if it was trained with masks.
            labels: names and values, see :meth:`label_values`.

        Raises:
            PromptError: an unknown label, or a click outside the image.
            UserError: the network's output contains NaN.
        """
        if prompts is not None and prompts.paint.prompts and bind:
            known = self.label_values(prompts, labels)
            how = (scope, bind, probabilities, automatic, components, mask_ZYX, known)
            return painted_over(self.segment(prompts.without_paint, *how), prompts, known, self)
        if not self.model.class_agnostic:
            return self._segment(prompts, scope, bind, probabilities, automatic, components, mask_ZYX)
        asked = CasePrompts("", "voxel") if prompts is None else prompts
        names = self.label_values(asked, labels)
        values = objects_of(asked, names)
        if not values:
            return Segmentation(self.exporter.empty(), (), 0, notes=(NO_PROMPT,) if automatic or asked.prompts else ())
        if probabilities and values != [1]:
            raise UserError(SEPARATE)
        claims, results, ignored = [], [], []
        for value in values:
            own, numbers = prompts_of_object(asked, names, value)
            mask = None if mask_ZYX is None else (mask_ZYX == value).astype(np.uint8)
            maps = probabilities or (scope == "everything" and len(values) > 1)
            one = self._at_its_scale(own, scope, bind, maps, False, components, mask)
            if values == [1]:
                own_numbers = tuple(numbers[number - 1] for number in one.ignored_clicks)
                return replace(one, ignored_clicks=own_numbers, owners=(1,) * len(one.boxes))
            results.append(one)
            claims.append(Claim(value, one.label_map, one.boxes, self._strength(one) if len(values) > 1 else ()))
            ignored += [numbers[number - 1] for number in one.ignored_clicks]
        return Segmentation(
            joined(claims, self.shape_ZYX),
            tuple(box for one in results for box in one.boxes),
            sum(one.windows for one in results),
            ignored_clicks=tuple(sorted(ignored)),
            owners=tuple(value for value, one in zip(values, results, strict=True) for _ in one.boxes),
        )

    def _at_its_scale(self, prompts: CasePrompts, scope: str, *how: Any) -> Segmentation:
        """:meth:`_segment` for one object, with a model of any spacing on a grid that suits the object."""
        if not self.model.any_spacing or scope != "clicked":
            return self._segment(prompts, scope, *how)
        used = self.model.codec.usable(prompts, f"case {prompts.case}")
        raw = self.placed(used, self.model.labels)
        steps = self.raw_properties["spacing"]
        if (clicked := without_outgrown_lines(used, raw, steps)) is not None:
            result = self._at_its_scale(clicked, scope, *how)
            own = tuple(number for number in result.ignored_clicks if number <= len(used.clicks))
            return replace(result, ignored_clicks=own)
        tried = [first_spacing(self.shape_ZYX, steps, raw.shapes)]
        while True:
            result = self._on_grid(tried[-1])._segment(prompts, scope, *how)
            if any(shape.label for shape in raw.shapes) or len(tried) == STEPS:
                return result
            better = next_spacing(tried[-1], result.label_map, result.boxes, steps)
            if better in tried:
                return result
            tried.append(better)

    def _on_grid(self, spacing_mm: float | None) -> PreparedImage:
        if spacing_mm == self.spacing_mm:
            return self
        if spacing_mm not in self._scaled:
            self._scaled[spacing_mm] = self._at(spacing_mm=spacing_mm)
        return self._scaled[spacing_mm]

    def _strength(self, result: Segmentation) -> list[tuple[Slices, NDArray[np.float32]]]:
        """Boxes with the probability of the object in them."""
        if result.probabilities is not None:
            return [(box_between((0, 0, 0), self.shape_ZYX), result.probabilities[1])]
        found = self._on_grid(result.spacing_mm).exporter.parts(result.regions, probabilities=True)
        return [(box, maps[1]) for box, _, maps in found if maps is not None]

    def label_values(self, prompts: CasePrompts, labels: Mapping[str, int] | None = None) -> Mapping[str, int]:
        """Names and values of the labels: the model's; for a class-agnostic one also those that prompts use.

        Args:
            labels: names and values that such prompts have already; those of others are the smallest free ones.
        """
        if not self.model.open_labels:
            return self.model.labels
        return numbered_labels((prompt.label for prompt in prompts.prompts), labels)

    def _segment(
        self,
        prompts: CasePrompts | None,
        scope: str,
        bind: bool,
        probabilities: bool,
        automatic: bool,
        components: str | None,
        mask_ZYX: NDArray[Any] | None,
    ) -> Segmentation:
        """:meth:`segment` for the labels of the network."""
        placed = self._network_prompts(prompts)  # refuses unsupported prompts
        if mask_ZYX is not None and "mask" in self.model.codec.kinds:
            mask = network_mask(mask_ZYX, self.model, self.properties, self.volume.shape)
            placed = replace(placed, mask=mask)
        regions: list[Region] = []
        if scope == "clicked":
            predicted, background = partial(is_label, self.model), background_logits(self.model)
            regions = segment_clicked(self.windows, placed, predicted, background, self.model.spacing)
        if regions:
            result = self._export(regions, probabilities)
        elif scope == "everything" or automatic:
            result = self._everywhere(placed, probabilities)
        else:
            result = Segmentation(self.exporter.empty(), (), 0)
        if prompts is None or not prompts.prompts:
            return result
        used = self.model.codec.usable(prompts, f"case {prompts.case}")
        raw = self.placed(used, self.model.labels)
        result = replace(result, ignored_clicks=ignored_clicks(result.label_map, raw, self.model.regions))
        if bind:
            result = replace(result, boxes=with_voxels(result.boxes, raw.positive))
            only_prompted = bool(regions) and (components or self.model.components) == "prompted"
            spacing = self.raw_properties["spacing"]
            enforce(result.label_map, raw, self.model.regions, spacing, only_prompted, result.boxes)
        return result

    def answer(self, prompts: CasePrompts | None) -> NDArray[Any]:
        """The network's label map (z, y, x) around the clicks, without binding."""
        return self.segment(prompts, bind=False).label_map

    def check(self, prompts: CasePrompts) -> None:
        """Raises PromptError if :meth:`segment` would."""
        names = self.label_values(prompts)
        self.placed(prompts.paint, names)
        prompts = prompts.without_paint
        if self.model.class_agnostic:
            for value in objects_of(prompts, names) or [1]:
                self._network_prompts(prompts_of_object(prompts, names, value)[0])
        else:
            self._network_prompts(prompts)

    def probabilities(self, result: Segmentation) -> NDArray[np.float32]:
        """(K, z, y, x) of a result with scope "clicked"; certain background elsewhere.

        Raises:
            UserError: of several objects.
        """
        if result.boxes and not result.regions and self.model.class_agnostic:
            raise UserError(SEPARATE)
        return self._on_grid(result.spacing_mm).exporter.probabilities(result.regions)

    def _network_prompts(self, prompts: CasePrompts | None) -> VoxelPrompts:
        """Prompts on the voxels of the preprocessed image."""
        shape, model = self.volume.shape, self.model
        asked = None if prompts is None else prompts.without_paint
        return network_prompts(
            asked, model.labels, self.shape_ZYX, self.properties, model.plans_manager, shape, model.codec
        )

    def _export(self, regions: Sequence[Region], probabilities: bool) -> Segmentation:
        label_map = self.exporter.empty()
        boxes = []
        for box, part, _ in self.exporter.parts(regions):
            label_map[box] = part
            boxes.append(box)
        maps = self.exporter.probabilities(regions) if probabilities else None
        windows = sum(len(region.windows) for region in regions)
        return Segmentation(label_map, tuple(boxes), windows, tuple(regions), self.spacing_mm, maps)

    def _everywhere(self, placed: VoxelPrompts, probabilities: bool) -> Segmentation:
        image_CDHW = self.volume.whole() if self._whole is None else self._whole
        self._whole = None
        channels = self.model.codec.write(image_CDHW.shape[1:], placed, lean=True)
        logits = self.model.everywhere(np.concatenate([image_CDHW, channels])).float().numpy()
        label_map, maps = self.model.export(logits, self.properties, probabilities)
        whole = box_between((0, 0, 0), label_map.shape)
        return Segmentation(label_map, (whole,), self.stock_windows, probabilities=maps)


def network_mask(
    mask_ZYX: NDArray[Any], model: TrainedModel, properties: dict[str, Any], shape_DHW: Sequence[int]
) -> VoxelMask:
    """A label map of the image on the voxels of the preprocessed image.

    Args:
        mask_ZYX: on the image as read.
        model: whose plans define the preprocessed image's axes and labels.
        properties: after nnU-Net's preprocessing.
        shape_DHW: of the preprocessed image.
    """
    transpose = model.plans_manager.transpose_forward
    steps = preprocessing_steps(properties, transpose, shape_DHW)
    places = []
    for axis, length in enumerate(shape_DHW):
        along = np.zeros((length, 3))
        along[:, axis] = np.arange(length)
        index = np.rint(steps.invert(along)[:, transpose[axis]]).astype(np.int64)
        places.append(np.clip(index, 0, mask_ZYX.shape[transpose[axis]] - 1))
    d, h, w = (int(axis) for axis in transpose)
    return VoxelMask(mask_ZYX, (d, h, w), (places[0], places[1], places[2]))
