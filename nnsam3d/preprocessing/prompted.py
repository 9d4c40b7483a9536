"""nnU-Net's preprocessor with one more output channel: the prompts of the case.

Used in prediction only (training data stay as nnU-Net wrote them). Reached through the configuration manager:
``use_prompted_preprocessor`` switches its class, and the switched object pickles into nnU-Net's worker processes.
Axis letters: C = image channels, D, H, W = array axes after nnU-Net's transposition.
"""

from __future__ import annotations

import gzip
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import GeometryError, ImageGrid, inside_grid, preprocessing_steps
from nnsam3d.preprocessing.last_words import LastWords
from nnsam3d.preprocessing.lookup import case_name, check_all_prompts, find_prompt_file, read_case_prompts
from nnsam3d.prompts import (
    CasePrompts,
    PromptError,
    click_labels,
    clicks_to_labels,
    read_prompts,
    write_channel,
)

PROPERTIES_KEY = "nnsam3d_prompts"


class PromptedConfigurationManager(ConfigurationManager):
    """A configuration manager whose preprocessor reads prompts."""

    last_words: LastWords

    @property
    def preprocessor_class(self):  # type: ignore[no-untyped-def, override]
        return partial(PromptedPreprocessor, last_words=self.last_words)


def use_prompted_preprocessor(configuration_manager: ConfigurationManager) -> None:
    """Make ``configuration_manager`` (in place: nnU-Net's predictor keeps this very object) prompt-aware."""
    configuration_manager.__class__ = PromptedConfigurationManager
    configuration_manager.last_words = LastWords()  # type: ignore[attr-defined]


class PromptedPreprocessor(DefaultPreprocessor):
    """DefaultPreprocessor whose ``run_case`` and ``run_case_npy`` append the prompt channel.

    ``run_case`` looks for the case's prompt file (``<case>.json``, ``<case>.mrk.json`` and so on) in the folder named
    by the environment variable ``nnsam3d_prompts``, else beside the images. ``run_case_npy`` takes
    ``properties["nnsam3d_prompts"]``, a :class:`CasePrompts` (so nnU-Net's Python predictor can be given prompts
    without files); without it the case is automatic.
    """

    def __init__(self, verbose: bool = True, last_words: LastWords | None = None) -> None:
        super().__init__(verbose)
        self.last_words = last_words or LastWords()
        self._checked: set[Path] = set()

    def run_case(
        self,
        image_files: list[str],
        seg_file: str | None,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict[str, Any],
    ) -> tuple[NDArray, NDArray, dict[str, Any]]:
        """As nnU-Net's, with the prompt channel last: data (C + 1, D, H, W).

        The first call checks the prompt files of the whole folder: a bad one stops a prediction before any
        output exists.

        Raises:
            UserError: an image cannot be read or has a single slice.
            PromptError: a prompt file is wrong; the message names file, click and allowed values.
        """
        try:
            return self._run_case(image_files, seg_file, plans_manager, configuration_manager, dataset_json)
        except Exception as error:
            # nnU-Net's main process will only say "background workers died": keep the reason for its last line
            self.last_words.leave(str(error))
            raise

    def _run_case(self, image_files, seg_file, plans_manager, configuration_manager, dataset_json):  # type: ignore[no-untyped-def]
        labels, ending = click_labels(dataset_json), dataset_json["file_ending"]
        folder = Path(image_files[0]).parent
        if folder not in self._checked:
            report = check_all_prompts(folder, ending, labels)
            self._checked.add(folder)
            if self.last_words.first_time("checked"):
                print(report)
        case = case_name(image_files[0], ending)
        reader = plans_manager.image_reader_writer_class()
        data, properties = read_volume(reader, image_files)
        path = find_prompt_file(image_files[0], ending)
        if path is not None:
            grid = image_grid(read_prompts(path).space, properties, data.shape[1:])
            properties[PROPERTIES_KEY] = read_case_prompts(path, grid, labels)
        elif self.last_words.first_time("automatic"):
            print(
                f"nnsam3d: case {case} has no prompt file and is segmented automatically, without clicks (said once; "
                "the same holds for every other case without a prompt file)."
            )
        seg = reader.read_seg(seg_file)[0] if seg_file is not None else None
        return self.run_case_npy(data, seg, properties, plans_manager, configuration_manager, dataset_json)

    def run_case_npy(
        self,
        data: NDArray,
        seg: NDArray | None,
        properties: dict[str, Any],
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict[str, Any],
    ) -> tuple[NDArray, NDArray, dict[str, Any]]:
        """As nnU-Net's, with the prompt channel of ``properties["nnsam3d_prompts"]`` appended.

        Raises:
            PromptError: a click outside the image, or on an unknown label.
        """
        # the caller's dictionary may serve again, with the same clicks
        prompts: CasePrompts | None = properties.get(PROPERTIES_KEY)
        properties = {key: value for key, value in properties.items() if key != PROPERTIES_KEY}
        shape_zyx = data.shape[1:]
        data, seg, properties = super().run_case_npy(
            data, seg, properties, plans_manager, configuration_manager, dataset_json
        )
        channel = np.zeros(data.shape[1:], dtype=np.float32)
        if prompts is not None and prompts.clicks:
            labels_N = clicks_to_labels(prompts, click_labels(dataset_json))
            clicks_N3 = network_clicks(
                prompts, labels_N, shape_zyx, properties, plans_manager.transpose_forward, data.shape[1:]
            )
            channel = write_channel(data.shape[1:], clicks_N3, labels_N)
        return np.concatenate([data, channel[None]]), seg, properties


def read_volume(reader: Any, image_files: list[str]) -> tuple[NDArray, dict[str, Any]]:
    """A case's images (C, z, y, x) and properties from nnU-Net's reader.

    Raises:
        UserError: an image cannot be read or has a single slice.
    """
    for file in image_files:
        _check_gzip(file)
    try:
        data, properties = reader.read_images(image_files)
    except Exception as error:  # every reader has errors of its own
        raise UserError(f"{', '.join(image_files)}: the image cannot be read: {error}") from error
    if 1 in data.shape[1:]:
        raise UserError(
            f"{image_files[0]}: the image has the array shape {data.shape[1:]}, a single slice on one axis; "
            "a 3D network needs a volume."
        )
    return data, properties


def _check_gzip(file: str) -> None:
    """SimpleITK fills what a truncated .nii.gz lacks with zeros, without a word."""
    if not file.endswith(".gz"):
        return
    try:
        with gzip.open(file) as content:
            while content.read(2**22):
                pass
    except (EOFError, zlib.error, OSError) as error:
        raise UserError(f"{file}: the image cannot be read, it is truncated or damaged: {error}") from error


def network_clicks(
    prompts: CasePrompts,
    labels_N: NDArray[np.int64],
    shape_zyx: tuple[int, ...],
    properties: dict[str, Any],
    transpose_forward: list[int],
    new_shape: tuple[int, ...],
) -> NDArray[np.float64]:
    """Clicks as network voxel positions (N, 3) D, H, W."""
    grid = image_grid(prompts.space, properties, shape_zyx)
    steps = preprocessing_steps(properties, transpose_forward, new_shape)
    positions_N3 = steps.apply(prompts.points.to("array", grid).values_N3)
    in_image, kept = prompts.points.inside(grid), inside_grid(positions_N3, new_shape)
    for number, click in enumerate(prompts.clicks, start=1):
        where = f"case {prompts.case}, click {number} at {click.position} ({prompts.space})"
        if not in_image[number - 1]:
            raise PromptError(f"{where} lies outside the image of size (x, y, z) {grid.size_xyz}.")
        if not kept[number - 1] and labels_N[number - 1] != 0:
            raise PromptError(
                f"{where} lies outside the part of the image that is not zero, which is all that nnU-Net keeps: "
                "nothing is there to segment."
            )
    # what is still outside are background clicks in empty air: the nearest kept voxel is background just the same
    return np.clip(positions_N3, -0.5, np.asarray(new_shape) - 0.5)


def image_grid(space: str, properties: dict[str, Any], shape_zyx: tuple[int, ...]) -> ImageGrid:
    """The image's grid. Voxel positions need no geometry, so arrays and TIFF files, which have none, will do.

    Raises:
        GeometryError: world positions for an image without known geometry.
    """
    try:
        return ImageGrid.from_nnunet_properties(properties, shape_zyx)
    except GeometryError:
        if space != "voxel" or "sitk_stuff" in properties or "nibabel_stuff" in properties:
            raise
        identity = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        return ImageGrid((shape_zyx[2], shape_zyx[1], shape_zyx[0]), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), identity)
