"""nnU-Net's preprocessor with one more output channel: the prompts of the case.

Used in prediction only (training data stay as nnU-Net wrote them). Reached through the configuration manager:
``use_prompted_preprocessor`` switches its class, and the switched object pickles into nnU-Net's worker processes.
Axis letters: C = image channels, D, H, W = array axes after nnU-Net's transposition.
"""

from __future__ import annotations

import itertools
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.geometry import Points, inside_grid, preprocessing_steps
from nnsam3d.nnunet.cases import case_name, check_all_prompts, open_prompt_file, read_case_prompts
from nnsam3d.nnunet.contract import ConfigurationManager, DefaultPreprocessor, PlansManager
from nnsam3d.nnunet.datasets import PROMPT_TYPES_KEY, num_channels
from nnsam3d.nnunet.reading import check_image, image_grid, image_remarks, read_volume
from nnsam3d.nnunet.size import check_whole
from nnsam3d.nnunet.worker_messages import WorkerMessages, shared_messages
from nnsam3d.prompts import (
    CasePrompts,
    Click,
    MaskPrompt,
    PromptCodec,
    PromptError,
    PromptWarning,
    click_labels,
    clicks_to_labels,
    place_clicks,
)
from nnsam3d.prompts.channel import DECIMALS
from nnsam3d.prompts.codec import CLICKS_ONLY
from nnsam3d.prompts.kinds import Prompt
from nnsam3d.prompts.labels import resolve_label
from nnsam3d.prompts.voxels import VoxelPrompts, reaches

PROPERTIES_KEY = "nnsam3d_prompts"
IN_AIR = "outside the non-zero part of the image, to which nnU-Net crops: there is nothing to segment."
_predictions = itertools.count()
LONGEST_CHECK = 60.0  # seconds that a worker waits for another one to check the prompt files


class PromptedConfigurationManager(ConfigurationManager):
    """A configuration manager whose preprocessor reads prompts.

    Only for nnU-Net's own prediction, which gets the preprocessor from its configuration manager. This library's own
    inference uses :class:`PromptedPreprocessor` directly.
    """

    worker_messages = WorkerMessages()
    prediction = ""

    @property
    def preprocessor_class(self):  # type: ignore[no-untyped-def, override]
        return partial(PromptedPreprocessor, worker_messages=self.worker_messages, prediction=self.prediction)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Pickled for a worker process, whose error messages nnU-Net's main process would not show."""
        return _in_worker, (self.configuration, shared_messages().path, self.prediction)


def _in_worker(configuration: dict[str, Any], path: Path, prediction: str) -> PromptedConfigurationManager:
    manager = PromptedConfigurationManager(configuration)
    manager.worker_messages, manager.prediction = WorkerMessages(path), prediction
    return manager


def use_prompted_preprocessor(configuration_manager: ConfigurationManager) -> None:
    """Make nnU-Net's prediction prompt-aware.

    The object is changed in place: during a prediction, nnU-Net calls the trainer only to build the network, and its
    predictor keeps the configuration manager that it passes there.
    """
    configuration_manager.__class__ = PromptedConfigurationManager
    configuration_manager.prediction = f"_{next(_predictions)}"  # type: ignore[attr-defined]


class PromptedPreprocessor(DefaultPreprocessor):
    """DefaultPreprocessor whose ``run_case`` and ``run_case_npy`` append the prompt channel.

    ``run_case`` looks for the case's prompt file (``<case>.json``, ``<case>.mrk.json`` and so on) in the folder named
    by the environment variable ``nnsam3d_prompts``, else beside the images. ``run_case_npy`` takes
    ``properties["nnsam3d_prompts"]``, a :class:`CasePrompts` (so that nnU-Net's Python predictor accepts prompts
    without files); without it, the case is segmented automatically.
    """

    def __init__(
        self, verbose: bool = True, worker_messages: WorkerMessages | None = None, prediction: str = ""
    ) -> None:
        """
        Args:
            worker_messages: shared by the workers of a command.
            prediction: distinguishes its workers from those of an earlier prediction in the same process.
        """
        super().__init__(verbose)
        self.prediction = prediction
        self.worker_messages = worker_messages or WorkerMessages()
        self._checked: set[Path] = set()

    def run_case(
        self,
        image_files: list[str],
        seg_file: str | None,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict[str, Any],
    ) -> tuple[NDArray, NDArray, dict[str, Any]]:
        """Like nnU-Net's, with the prompt channel last: data (C + 1, D, H, W).

        The first call checks the prompt files of the whole folder: an invalid one stops the prediction before any
        output exists.

        Raises:
            UserError: an image cannot be read or has a single slice.
            PromptError: a prompt file is invalid; the message names file, click and allowed values.
        """
        try:
            return self._run_case(image_files, seg_file, plans_manager, configuration_manager, dataset_json)
        except Exception as error:
            # nnU-Net's main process only reports that background workers died: keep the reason for its last line
            self.worker_messages.add(str(error))
            raise

    def _run_case(self, image_files, seg_file, plans_manager, configuration_manager, dataset_json):  # type: ignore[no-untyped-def]
        labels, ending = click_labels(dataset_json), dataset_json["file_ending"]
        codec = codec_of(configuration_manager.configuration, labels)
        reader = plans_manager.image_reader_writer_class()
        folder = Path(image_files[0]).parent
        self._check_folder(folder, partial(check_all_prompts, folder, ending, labels, type(reader).__name__, codec))
        case = case_name(image_files[0], ending)
        data, properties = read_volume(reader, image_files, num_channels(dataset_json))
        for remark in image_remarks(data, properties["spacing"], plans_manager.plans, files=image_files):
            print(f"nnsam3d: warning: case {case}: {remark}")
        path, loaded = open_prompt_file(image_files[0], ending, labels=labels)
        if path is not None:
            grid = partial(image_grid, properties=properties, shape_zyx=data.shape[1:])
            properties[PROPERTIES_KEY] = read_case_prompts(path, grid, labels, codec, loaded=loaded)
        elif self.worker_messages.first_time("automatic"):
            print(
                f"nnsam3d: case {case} has no prompt file and is segmented automatically, without clicks "
                "(as are all other cases without a prompt file; this message is not repeated)."
            )
        seg = reader.read_seg(seg_file)[0] if seg_file is not None else None
        return self.run_case_npy(data, seg, properties, plans_manager, configuration_manager, dataset_json)

    def _check_folder(self, folder: Path, check: Callable[[], str]) -> None:
        """Checks the prompt files of all cases in a folder, in one of the workers; the others wait for it."""
        if folder in self._checked:
            return
        self._checked.add(folder)
        name = f"{zlib.crc32(str(folder).encode()):08x}{self.prediction}"
        if self.worker_messages.path is None or self.worker_messages.first_time(f"checking_{name}"):
            try:
                print(check())
            finally:  # an invalid file ends the prediction: it need not be found again
                self.worker_messages.first_time(f"checked_{name}")
        elif not self.worker_messages.wait(f"checked_{name}", LONGEST_CHECK):
            check()  # the process that began has ended

    def run_case_npy(
        self,
        data: NDArray,
        seg: NDArray | None,
        properties: dict[str, Any],
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict[str, Any],
    ) -> tuple[NDArray, NDArray, dict[str, Any]]:
        """Like nnU-Net's, with the prompt channel of ``properties["nnsam3d_prompts"]`` appended.

        Raises:
            PromptError: a click outside the image, or with an unknown label.
        """
        # the caller may reuse the dictionary
        prompts: CasePrompts | None = properties.get(PROPERTIES_KEY)
        if prompts is not None and not isinstance(prompts, CasePrompts):
            raise PromptError(
                f'properties["{PROPERTIES_KEY}"] must be a CasePrompts, not a {type(prompts).__name__}: make one with '
                "nnsam3d.prompts.read_prompts, or CasePrompts(case, space, [Click(position, label)])"
            )
        check_image(data, "the image", num_channels(dataset_json))
        labels = click_labels(dataset_json)
        heads = max(1, len(labels) - 1)
        codec = codec_of(configuration_manager.configuration, labels)
        drawn = prompts is not None and any(one.kind in codec.kinds for one in _with_extent(prompts))
        maps = len(codec.maps) if drawn else 0
        check_whole(data, properties["spacing"], plans_manager, configuration_manager, heads, maps)
        properties = {key: value for key, value in properties.items() if key != PROPERTIES_KEY}
        shape_zyx = data.shape[1:]
        data, seg, properties = super().run_case_npy(
            data, seg, properties, plans_manager, configuration_manager, dataset_json
        )
        placed = network_prompts(prompts, labels, shape_zyx, properties, plans_manager, data.shape[1:], codec)
        channels = codec.write(data.shape[1:], placed, lean=True)
        return np.concatenate([data, channels]), seg, properties


def codec_of(configuration: Mapping[str, Any], labels: Mapping[str, int]) -> PromptCodec:
    """The prompts that a model supports.

    Args:
        configuration: of its plans, resolved.
        labels: :func:`nnsam3d.prompts.click_labels`.
    """
    return PromptCodec.of(configuration.get(PROMPT_TYPES_KEY, CLICKS_ONLY), labels, configuration["spacing"])


def network_prompts(
    prompts: CasePrompts | None,
    labels: Mapping[str, int],
    shape_zyx: tuple[int, ...],
    properties: dict[str, Any],
    plans_manager: PlansManager,
    shape_DHW: tuple[int, ...],
    codec: PromptCodec,
) -> VoxelPrompts:
    """Map the prompts of an image to voxels of the preprocessed image, with the clicks by which shapes act.

    Args:
        labels: :func:`nnsam3d.prompts.click_labels`.
        shape_zyx: of the image as read.
        properties: after nnU-Net's preprocessing.
        shape_DHW: of the preprocessed image.
        codec: of the model.

    Raises:
        PromptError: a prompt outside the image or with an unknown label, or only prompts of unsupported kinds.
    """
    if prompts is None or not prompts.prompts:
        return VoxelPrompts.of()
    prompts = codec.usable(prompts, f"case {prompts.case}")
    if prompts.paint.prompts:  # only nnU-Net's own commands come here with it
        warnings.warn(f"case {prompts.case}: paint is applied by nnsam3d predict only", PromptWarning, stacklevel=1)
        prompts = prompts.without_paint
    placed = image_prompts(prompts, labels, shape_zyx, properties)
    steps = preprocessing_steps(properties, plans_manager.transpose_forward, shape_DHW)
    kept_N = inside_grid(steps.apply(placed.voxels_N3), shape_DHW)
    for number, click in enumerate(prompts.clicks):
        if not kept_N[number] and placed.labels_N[number] != 0:
            raise PromptError(f"{_where(prompts, click)} is {IN_AIR}")
    shapes = [shape._replace(points_N3=steps.apply(shape.points_N3)) for shape in placed.shapes]
    for shape, prompt in zip(shapes, _with_extent(prompts), strict=True):
        if shape.label and not reaches(shape, shape_DHW):
            raise PromptError(f"{_where(prompts, prompt)} is {IN_AIR}")
    # the others are background clicks in air: the nearest remaining voxel is background as well
    positions_N3 = np.clip(steps.apply(placed.voxels_N3), -0.5, np.asarray(shape_DHW) - 0.5)
    clicks = place_clicks(shape_DHW, positions_N3, placed.labels_N)
    return codec.with_clicks_of_shapes(VoxelPrompts.of(clicks.items(), shapes), shape_DHW)


def image_prompts(
    prompts: CasePrompts, labels: Mapping[str, int], shape_zyx: Sequence[int], properties: dict[str, Any]
) -> VoxelPrompts:
    """The prompts on the image as read, in the order of the file: the voxel (z, y, x) of each click, and all shapes.

    Everything else is derived from these voxels, so that the same clicks, exact or rounded, in mm or voxels, give the
    same mask. Of several clicks in one voxel, the last one counts.

    Raises:
        PromptError: a prompt outside the image, or with an unknown label; a lasso that lies on no slice.
    """
    labels_N = clicks_to_labels(prompts, labels)
    grid = image_grid(prompts.space, properties, tuple(shape_zyx))
    for click, inside in zip(prompts.clicks, prompts.points.inside(grid), strict=True):
        if not inside:
            raise PromptError(f"{_where(prompts, click)} is outside the image of size (x, y, z) {grid.size_xyz}.")
    # halfway between two voxels, rounding errors must not decide
    positions_N3 = np.round(prompts.points.to("array", grid).values_N3, DECIMALS)
    voxels_N3 = np.clip(np.floor(positions_N3 + 0.5).astype(np.int64), 0, np.asarray(shape_zyx) - 1)
    shapes = []
    for prompt in _with_extent(prompts):
        label = resolve_label(prompt.label, labels, _where(prompts, prompt))
        points = Points(prompt.points(prompts.space), prompts.space).to("array", grid)
        try:
            shape = prompt.shape(np.round(points.values_N3, DECIMALS), label)
        except PromptError as error:
            raise PromptError(f"{_where(prompts, prompt)}: {error}") from None
        if not reaches(shape, shape_zyx):
            raise PromptError(f"{_where(prompts, prompt)} is outside the image of size (x, y, z) {grid.size_xyz}.")
        shapes.append(shape)
    return VoxelPrompts(voxels_N3, labels_N, tuple(shapes))


def _with_extent(prompts: CasePrompts) -> list[Prompt]:
    return [prompt for prompt in prompts.prompts if not isinstance(prompt, (Click, MaskPrompt))]


def _where(prompts: CasePrompts, prompt: Prompt) -> str:
    number = next(number for number, one in prompts.numbered() if one == prompt)
    return f"case {prompts.case}, {prompt.kind} {number} {prompt.describe()} ({prompts.space})"
