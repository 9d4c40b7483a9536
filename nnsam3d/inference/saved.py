"""Clicks and the mask to start from, in prompt files: reading, writing, and where the mask's own file lies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnsam3d.errors import UserError
from nnsam3d.files import writing
from nnsam3d.geometry import GridOf, grid_of_file
from nnsam3d.geometry.segments import segments_of
from nnsam3d.inference.history import State
from nnsam3d.inference.image import PreparedImage, Segmentation
from nnsam3d.inference.start_mask import StartMask, read_mask, read_start_mask, start_labels
from nnsam3d.nnunet.label_files import save_label_map
from nnsam3d.nnunet.model import TrainedModel
from nnsam3d.nnunet.reading import spacing_of
from nnsam3d.prompts import CasePrompts, MaskPrompt, PromptError, read_prompts, write_prompts
from nnsam3d.prompts.formats.detect import case_of
from nnsam3d.prompts.labels import label_values, resolve_label

# Beside prompt files. A sub-folder, because nnU-Net takes every image in a folder for a case.
MASKS_FOLDER = "nnsam3d_masks"


def write_state(path: Path, case: str, state: State, image: PreparedImage, masks: bool = True) -> None:
    """Writes a prompt file with the clicks and the mask to start from.

    The file names the mask's own file, or a copy (:func:`mask_beside`) if it was an array or its file has been changed.

    Args:
        path: of the prompt file.
        case: name.
        state: positions as index i, j, k.
        image: gives the geometry, the labels and the format of the mask's file.
        masks: False: the clicks only.

    Raises:
        UserError: there is nothing to write, or a file cannot be written.
    """
    start = state.start if masks else None
    if not state.prompts and start is None:
        raise UserError("there are no prompts to save: without a prompt file a case is segmented automatically")
    in_mm = path.name.lower().endswith(".mrk.json")  # Slicer's
    if in_mm and start is not None:
        raise UserError(f"{path}: 3D Slicer's format holds no mask to start from: end the name in .json")
    named = [] if start is None else [MaskPrompt(_mask_file(start, path, image))]
    prompts = CasePrompts(case, "voxel", (*named, *state.prompts))
    write_prompts(path, prompts, image=image.grid() if in_mm else None, labels=image.model.file_labels)


def read_state(path: Path, image: PreparedImage, start: StartMask | None = None, masks: bool = True) -> State:
    """The prompts (index i, j, k) and the mask to start from of a prompt file.

    Args:
        path: of the prompt file.
        image: which the prompts must fit.
        start: if the file names no mask.
        masks: False: refuse a file that names a mask.

    Raises:
        PromptError: the file is wrong.
        UserError: the mask is wrong, see :func:`read_start_mask`.
    """
    model = image.model
    prompts = read_prompts(path, image=image.grid, labels=model.file_labels)
    if prompts.masks and not masks:
        raise PromptError(f"{path}: names a mask to start from ({prompts.masks[0].path}): load the mask itself")
    asked = model.codec.usable(prompts, str(path)).without_masks.to("voxel", image.grid(prompts.space))
    image.check(asked)
    return State(asked.prompts, start_mask_of(prompts, path, image) or start)


def start_mask_of(
    prompts: CasePrompts, prompt_file: Path, image: PreparedImage, labels: Mapping[str, int] | None = None
) -> StartMask | None:
    """The mask that a prompt file starts from; None if it names none.

    Of several masks, later ones are laid over earlier ones.

    Args:
        prompts: the content of the file.
        prompt_file: in whose folder relative paths of masks begin.
        image: whose shape and place the masks must have.
        labels: names and values, see :meth:`PreparedImage.label_values`.

    Raises:
        UserError: as :func:`read_start_mask`.
    """
    masks, model = prompts.masks, image.model
    if not masks:
        return None
    if len(masks) == 1 and masks[0].label is None:
        return read_start_mask(prompt_file.parent / masks[0].path, image)
    whole, names = np.zeros(image.shape_ZYX, np.int64), image.label_values(prompts, labels)
    for mask in masks:
        file = prompt_file.parent / mask.path
        array = read_mask(str(file), image)
        if mask.label is not None:
            label = resolve_label(mask.label, names, str(prompt_file))
            array = np.where(np.isin(array, label_values(label, model.regions)), array, 0)
        whole = np.where(array != 0, array, whole)
    known = {**names, **start_labels(whole, model)} if model.open_labels else names
    return StartMask(whole, known, model.regions, image.raw_properties["spacing"])


def correct_masks(
    prompts: CasePrompts, prompt_file: Path, image: PreparedImage, labels: Mapping[str, int] | None = None
) -> Segmentation:
    """The mask that a prompt file starts from as its clicks change it: what a session shows that has loaded the file.

    Args:
        prompts: the content of the file, with at least one mask.
        prompt_file: in whose folder relative paths of masks begin.
        image: to be segmented.
        labels: names and values, see :meth:`PreparedImage.label_values`.

    Raises:
        PromptError, UserError: as :func:`read_state`.
    """
    start = start_mask_of(prompts, prompt_file, image, labels)
    assert start is not None
    return start.correct(image, prompts.without_masks.to("voxel", image.grid(prompts.space)), labels)


def check_masks(prompts: CasePrompts, prompt_file: Path, grid: GridOf | None, model: TrainedModel) -> None:
    """Checks the headers of the masks that a prompt file names, before anything is computed.

    Args:
        prompts: the content of the file.
        prompt_file: in whose folder relative paths of masks begin.
        grid: the image's; None if unknown.
        model: whose reader defines the masks' geometry.

    Raises:
        UserError: a mask is missing, unreadable, or of another shape than the image.
    """
    for mask in prompts.masks:
        file = prompt_file.parent / mask.path
        if not file.is_file():
            raise UserError(f"{prompt_file}: the mask to start from, {file}, does not exist")
        if segments_of(file):  # these may be of a part of the image
            continue
        theirs = grid_of_file(file, model.reader_name)("voxel").shape_zyx
        own = theirs if grid is None else grid("voxel").shape_zyx
        if own != theirs:
            raise UserError(
                f"{prompt_file}: the mask to start from, {file}, has the shape {theirs} (z, y, x), the image {own}"
            )


def mask_beside(prompt_file: Path, ending: str) -> Path:
    """Where the mask to start from is written for a prompt file that names no other one."""
    return prompt_file.parent / MASKS_FOLDER / f"{case_of(prompt_file)}{ending}"


def _mask_file(start: StartMask, prompt_file: Path, image: PreparedImage) -> str:
    """The path of a mask for a prompt file, relative to its folder if possible; written if necessary."""
    file = start.unchanged_file
    if file is None:
        file = mask_beside(prompt_file, image.model.file_ending)
        with writing(file):
            file.parent.mkdir(exist_ok=True)
        save_label_map(image.model.reader, start.label_map_ZYX, file, _with_a_place(image.raw_properties))
        start.stored_in(file.absolute())
    # ".." after a symbolic link is not where the path says
    file, folder = file.parent.resolve() / file.name, prompt_file.parent.resolve()
    with contextlib.suppress(ValueError):  # another drive
        return Path(os.path.relpath(file, folder)).as_posix()
    return file.as_posix()


def _with_a_place(properties: dict[str, Any]) -> dict[str, Any]:
    """For nnU-Net's writers: an array without geometry lies along the axes of the world."""
    if "sitk_stuff" in properties or "nibabel_stuff" in properties:
        return properties
    z, y, x = spacing_of(properties)
    affine = np.diag([x, y, z, 1.0])
    return {
        **properties,
        "sitk_stuff": {"spacing": (x, y, z), "origin": (0.0, 0.0, 0.0), "direction": tuple(np.eye(3).reshape(-1))},
        "nibabel_stuff": {"original_affine": affine, "reoriented_affine": affine},
    }
