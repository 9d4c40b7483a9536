"""nnU-Net's preprocessor with one more output channel: the prompts of the case.

Used in prediction only (training data stay as nnU-Net wrote them). Reached through the configuration manager:
``use_prompted_preprocessor`` switches its class, and the switched object pickles into nnU-Net's worker processes.
Axis letters: C = image channels, D, H, W = array axes after nnU-Net's transposition.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import ImageGrid, preprocessing_steps, xyz_to_zyx
from nnsam3d.preprocessing.last_words import LastWords
from nnsam3d.prompts import CasePrompts, PromptError, click_labels, read_prompts, resolve_label, write_channel

PROMPTS_FOLDER_VARIABLE = "nnsam3d_prompts"
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

    ``run_case`` looks for ``<case>.json`` in the folder named by the environment variable ``nnsam3d_prompts``,
    else beside the images. ``run_case_npy`` takes ``properties["nnsam3d_prompts"]``, a :class:`CasePrompts`
    (so nnU-Net's Python predictor can be given prompts without files); without it the case is automatic.
    """

    def __init__(self, verbose: bool = True, last_words: LastWords | None = None) -> None:
        super().__init__(verbose)
        self.last_words = last_words

    def run_case(
        self,
        image_files: list[str],
        seg_file: str | None,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict[str, Any],
    ) -> tuple[NDArray, NDArray, dict[str, Any]]:
        """As nnU-Net's, with the prompt channel last: data (C + 1, D, H, W).

        Raises:
            UserError: an image cannot be read or has a single slice.
            PromptError: the prompt file is wrong; the message names file, click and allowed values.
        """
        try:
            return self._run_case(image_files, seg_file, plans_manager, configuration_manager, dataset_json)
        except ValueError as error:
            # nnU-Net's main process will only say "background workers died": keep the reason for its last line
            if self.last_words is not None:
                self.last_words.leave(str(error))
            raise

    def _run_case(self, image_files, seg_file, plans_manager, configuration_manager, dataset_json):  # type: ignore[no-untyped-def]
        reader = plans_manager.image_reader_writer_class()
        try:
            data, properties = reader.read_images(image_files)
        except RuntimeError as error:
            raise UserError(f"{', '.join(image_files)}: the image cannot be read: {error}") from error
        case = case_name(image_files[0], dataset_json["file_ending"])
        if 1 in data.shape[1:]:
            raise UserError(
                f"case {case}: the image has the array shape {data.shape[1:]}, a single slice on one axis; "
                "a 3D network needs a volume."
            )
        path = prompt_file(image_files[0], case)
        if path.is_file():
            grid = ImageGrid.from_nnunet_properties(properties, data.shape[1:])
            prompts = read_prompts(path, image=grid, labels=click_labels(dataset_json))
            if not prompts.clicks:
                raise PromptError(
                    f"{path}: the list of clicks is empty. Add a click, or remove the file: a case without a prompt "
                    "file is segmented automatically."
                )
            properties[PROPERTIES_KEY] = prompts
        else:
            _say_automatic(case, path)
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
        """As nnU-Net's, with the prompt channel of ``properties["nnsam3d_prompts"]`` appended."""
        prompts: CasePrompts | None = properties.pop(PROPERTIES_KEY, None)
        shape_zyx = data.shape[1:]
        data, seg, properties = super().run_case_npy(
            data, seg, properties, plans_manager, configuration_manager, dataset_json
        )
        channel = np.zeros(data.shape[1:], dtype=np.float32)
        if prompts is not None and prompts.clicks:
            clicks_N3, labels_N = _network_clicks(
                prompts, shape_zyx, properties, plans_manager.transpose_forward, data.shape[1:], dataset_json
            )
            channel = write_channel(data.shape[1:], clicks_N3, labels_N)
        return np.concatenate([data, channel[None]]), seg, properties


def case_name(image_file: str, file_ending: str) -> str:
    """``/data/liver_003_0000.nii.gz`` -> ``liver_003``."""
    return os.path.basename(image_file)[: -(len(file_ending) + len("_0000"))]


def prompt_file(image_file: str, case: str) -> Path:
    """Where the prompt file of a case belongs, whether or not it exists.

    Raises:
        UserError: the environment variable ``nnsam3d_prompts`` names no folder.
    """
    folder = os.environ.get(PROMPTS_FOLDER_VARIABLE)
    if folder and not Path(folder).is_dir():
        raise UserError(f"{PROMPTS_FOLDER_VARIABLE}={folder!r}: no such folder.")
    return Path(folder or os.path.dirname(image_file)) / f"{case}.json"


def _network_clicks(
    prompts: CasePrompts,
    shape_zyx: tuple[int, ...],
    properties: dict[str, Any],
    transpose_forward: list[int],
    new_shape: tuple[int, ...],
    dataset_json: dict[str, Any],
) -> tuple[NDArray[np.float64], list[int]]:
    """Clicks as network voxel positions (N, 3) D, H, W, and their label values (N)."""
    names = click_labels(dataset_json)
    labels = [
        resolve_label(click.label, names, f"case {prompts.case}, click {number}")
        for number, click in enumerate(prompts.clicks, start=1)
    ]
    grid = _grid(prompts, properties, shape_zyx)
    index_N3 = grid.to_index([click.position for click in prompts.clicks], prompts.space)
    steps = preprocessing_steps(properties, transpose_forward, new_shape)
    positions_N3 = steps.apply(xyz_to_zyx(index_N3))
    upper = np.asarray(new_shape) - 0.5
    for number, (position, label) in enumerate(zip(positions_N3, labels, strict=True), start=1):
        outside = (position < -0.5).any() or (position >= upper).any()
        if outside and label != 0:
            raise PromptError(
                f"case {prompts.case}, click {number} at {prompts.clicks[number - 1].position} ({prompts.space}) lies "
                "outside the part of the image that is not zero, which is all that nnU-Net keeps: nothing is there "
                "to segment."
            )
    # what is left outside are background clicks in empty air: the nearest kept voxel is background just the same
    return np.clip(positions_N3, 0, np.asarray(new_shape) - 1), labels


def _grid(prompts: CasePrompts, properties: dict[str, Any], shape_zyx: tuple[int, ...]) -> ImageGrid:
    if prompts.space == "voxel" and "sitk_stuff" not in properties and "nibabel_stuff" not in properties:
        # arrays handed to nnU-Net's Python predictor carry a spacing only; voxel positions need no more
        identity = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        return ImageGrid((shape_zyx[2], shape_zyx[1], shape_zyx[0]), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), identity)
    return ImageGrid.from_nnunet_properties(properties, shape_zyx)


_said_automatic = False


def _say_automatic(case: str, path: Path) -> None:
    """Once per process: a folder without any prompt file is normal use."""
    global _said_automatic
    if not _said_automatic:
        print(
            f"nnsam3d: no prompt file {path}: case {case} is segmented automatically, without clicks "
            "(said once; the same holds for every other case without a prompt file)."
        )
        _said_automatic = True
