"""The cases of a folder: their images, headers and prompts. Everything is listed once and opened once."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnsam3d.errors import UserError, printable
from nnsam3d.files import MACOS
from nnsam3d.geometry.headers import Header
from nnsam3d.geometry.segments import ENDING as SEGMENTS
from nnsam3d.geometry.stored import check_dicom, check_name, has_dicom
from nnsam3d.inference.model import Model
from nnsam3d.inference.saved import check_masks
from nnsam3d.nnunet.cases import case_header, case_name, open_prompt_file, prompt_files, read_case_prompts
from nnsam3d.nnunet.datasets import cases_in
from nnsam3d.prompts import CasePrompts, MaskPrompt
from nnsam3d.prompts.listing import Listing


@dataclass(frozen=True)
class Case:
    """The files of a case.

    Attributes:
        images: one per channel.
        problem: the reason why it cannot be predicted.
        header: of the first image; None if it has not been read, or cannot be.
    """

    name: str
    images: tuple[str, ...]
    prompt_file: Path | None = None
    prompts: CasePrompts | None = None
    problem: str = ""
    header: Header | None = field(default=None, repr=False, compare=False)


def listed_cases(images: Path, model: Model) -> list[Case]:
    """The cases of a folder by the names of its files, in nnU-Net's order; misnamed ones follow. No file is opened.

    Raises:
        UserError: the folder does not exist, or contains no images.
    """
    if not images.is_dir():
        raise UserError(f"{images}: no such folder (-i is the folder with the images)")
    lists = cases_in(images, model.file_ending)
    if not lists and has_dicom(images):
        check_dicom(images)
    if not lists:
        raise UserError(f"{images}: no image is named <case>_0000{model.file_ending}, as nnU-Net expects it")
    named = {os.path.basename(file) for files in lists for file in files}
    others = sorted(
        name
        for name in os.listdir(images)
        if name.lower().endswith(model.file_ending.lower()) and name not in named and not name.startswith(MACOS)
    )
    cases = [_named(files, model) for files in lists]
    return cases + [_misnamed(images / name, model.file_ending) for name in others]


def find_cases(
    images: Path,
    model: Model,
    prompts: Path | None = None,
    listed: Sequence[Case] | None = None,
    start: Path | None = None,
) -> list[Case]:
    """The cases of a folder with their prompts; only headers and prompt files are read, each once.

    Args:
        images: folder of the image files, ``<case>_0000...``.
        model: says how images are read, and which prompts are allowed.
        prompts: folder of the prompt files; None: ``nnsam3d_prompts``, or beside the images.
        start: folder with a mask to start from for every case, named as nnU-Net's results, or <case>.seg.nrrd of 3D
            Slicer; None: none. A mask that a prompt file names takes precedence.
        listed: the cases of interest, from :func:`listed_cases`; None: all. Files of others are not opened.

    Raises:
        UserError: a folder does not exist, or contains no images.
    """
    listed = listed_cases(images, model) if listed is None else listed
    files = prompt_files(images, prompts)  # once for all cases
    return [case if case.problem else _case(case, model, files, start) for case in listed]


def _misnamed(image: Path, ending: str) -> Case:
    name = image.name[: -len(ending)]
    if not name.isprintable() and re.search(r"_\d{4}$", name):
        expected = "names without line breaks and control characters: rename the file"
    elif re.search(r"_\d{4}$", name):
        expected = f"exactly the model's file ending, {name}{ending}"
    else:
        expected = f"the channel in the name, for example {name}_0000{ending}"
    return Case(name, (str(image),), problem=f"{printable(str(image))}: nnU-Net expects {printable(expected)}")


def _named(files: Sequence[str], model: Model) -> Case:
    name, channels = case_name(files[0], model.file_ending), model.num_channels
    wanted = [f"{name}_{channel:04d}{model.file_ending}" for channel in range(channels)]
    found = [os.path.basename(file) for file in files]
    problem = ""
    if found != wanted:
        needed, there = (printable(", ".join(names)) for names in (wanted, found))
        problem = f"case {printable(name)}: the model needs {channels} channels, {needed}; found {there}"
    return Case(name, tuple(files), problem=problem)


def _case(case: Case, model: Model, files: Listing, start: Path | None) -> Case:
    try:
        for file in case.images:
            check_name(file)
        path, loaded = open_prompt_file(case.images[0], model.file_ending, files=files, labels=model.file_labels)
        header, wrong = None, None
        try:
            header = case_header(case.images[0], model.reader_name)
        except UserError as error:  # without a prompt file, it is reported with the image
            wrong = error
        grid = None if header is None else header.grid_of
        prompts = None
        if path:
            if wrong is not None:
                raise wrong
            prompts = read_case_prompts(path, grid, model.file_labels, model.codec, masks=True, loaded=loaded)
        if start is not None and not (prompts is not None and prompts.masks):
            named, segments = start / f"{case.name}{model.file_ending}", start / f"{case.name}{SEGMENTS}"
            mask = MaskPrompt(str((named if named.is_file() or not segments.is_file() else segments).absolute()))
            prompts = prompts or CasePrompts(case.name, "voxel")
            prompts = replace(prompts, prompts=(mask, *prompts.prompts))
        if prompts is not None and wrong is None:
            check_masks(prompts, path or Path(f"--start {start}"), grid, model)
    except UserError as error:
        return replace(case, problem=str(error))
    return replace(case, prompt_file=path, prompts=prompts, header=header)
