"""Assigns prompt files to cases, and validates all of them before anything is computed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.files import MACOS
from nnsam3d.geometry import GeometryError, GridOf, ImageGrid
from nnsam3d.geometry.headers import Header, header_of_file
from nnsam3d.nnunet.strays import has_own_suffix, misplaced, unmatched
from nnsam3d.prompts import CasePrompts, PromptCodec, PromptError, PromptWarning, read_prompts
from nnsam3d.prompts.files import prompts_of
from nnsam3d.prompts.formats.detect import Loaded, load_if_prompts
from nnsam3d.prompts.listing import FIRST_CHANNEL, Listing, list_folder, only_prompt_file, without_copies

PROMPTS_FOLDER_VARIABLE = "nnsam3d_prompts"


def case_name(image_file: str | Path, file_ending: str) -> str:
    """``/data/liver_003_0000.nii.gz`` -> ``liver_003``."""
    return os.path.basename(image_file)[: -(len(file_ending) + len(FIRST_CHANNEL))]


def prompt_files(images: Path, stated: Path | None = None) -> Listing:
    """Of the given folder, else the one named by ``nnsam3d_prompts``, else the folder of the images.

    Raises:
        UserError: the environment variable does not name a folder.
    """
    if stated is not None:
        return list_folder(stated)
    folder = os.environ.get(PROMPTS_FOLDER_VARIABLE)
    if folder and not Path(folder).is_dir():
        raise UserError(
            f"{PROMPTS_FOLDER_VARIABLE}={folder!r}: no such folder. Correct it, or unset {PROMPTS_FOLDER_VARIABLE}."
        )
    return list_folder(Path(folder) if folder else images)


def open_prompt_file(
    image_file: str | Path,
    file_ending: str,
    files: Listing | None = None,
    labels: Collection[str] | None = None,
) -> tuple[Path | None, Loaded | PromptError | None]:
    """The prompt file of a case (``<case>`` and one of the suffixes of prompt files), or None.

    Suffixes may be in upper case, and names in any Unicode normalisation. With it comes what :func:`load_if_prompts`
    returned if the file had to be read to recognise it, for :func:`read_case_prompts`: the file is opened once.

    Args:
        files: from :func:`prompt_files`; None: it is called for each case.
        labels: names of the dataset's labels, see :func:`load_if_prompts`.

    Raises:
        PromptError: the case has several; the message lists them.
        UserError: see :func:`prompt_files`.

    Warns:
        PromptWarning: a file beside the image has the name of a prompt file, but is not one.
    """
    images = Path(image_file).parent
    files = prompt_files(images) if files is None else files
    folder, case = files.folder, case_name(image_file, file_ending)
    beside_tiff = folder == images and file_ending in (".tif", ".tiff")
    found: dict[Path, Loaded | PromptError | None] = {}
    for path in files.prompts_of(case):
        sure = folder != images or has_own_suffix(path)
        content = None if sure else load_if_prompts(path, labels)
        if sure or content is not None:
            found[path] = content
        elif not path.name.lower().endswith((".npz", ".gz")) and not beside_tiff:  # those may be nnU-Net's own
            warnings.warn(
                f"{path} is not a prompt file and is ignored. If it should be one, correct it; prompt files can "
                f"also be in a separate folder (--prompts, or the variable {PROMPTS_FOLDER_VARIABLE})",
                PromptWarning,
                stacklevel=3,
            )
    paths = without_copies(list(found))
    if beside_tiff and paths and paths[0].name == f"{case}.json":
        raise PromptError(
            f"{paths[0]}: nnU-Net treats {case}.json beside a TIFF image as the file with the spacing. Put the "
            "prompt files into a separate folder and specify it (--prompts, or the variable "
            f"{PROMPTS_FOLDER_VARIABLE})."
        )
    only = only_prompt_file(case, paths)
    return (None, None) if only is None else (only, found[only])


def read_case_prompts(
    path: Path,
    grid: ImageGrid | GridOf | None,
    labels: Mapping[str, int] | None,
    codec: PromptCodec | None = None,
    masks: bool = False,
    loaded: Loaded | PromptError | None = None,
) -> CasePrompts:
    """Read and validate one prompt file (:func:`nnsam3d.prompts.read_prompts`); only prompts that the network can use.

    Args:
        labels: those that the file may use; None: any.
        codec: of the model; None: it supports all kinds.
        masks: whether the caller corrects masks to start from, which are no prompts for the network.
        loaded: from :func:`open_prompt_file`; None: the file is read now.

    Raises:
        PromptError: see :func:`nnsam3d.prompts.read_prompts`; also if there are no prompts, or none that can be
            used, or a mask that the caller cannot correct.
    """
    if isinstance(loaded, PromptError):
        raise loaded
    if loaded is None:
        prompts = read_prompts(path, image=grid, labels=labels)
    else:
        prompts = prompts_of(path, loaded, grid, labels)
    if not prompts.prompts:
        raise PromptError(
            f"{path}: the list of clicks is empty. Add a click or remove the file; a case without a prompt file is "
            "segmented automatically."
        )
    if prompts.masks and not masks:
        raise PromptError(
            f"{path}: starts from a mask ({prompts.masks[0].path}), which nnUNetv2_predict cannot correct: use "
            "`nnsam3d predict`"
        )
    return prompts if codec is None else codec.usable(prompts, str(path))


def check_all_prompts(
    images: Path,
    file_ending: str,
    labels: Mapping[str, int],
    reader: str | None = None,
    codec: PromptCodec | None = None,
) -> str:
    """Validate the prompt files of every case in a folder of images against the images' headers.

    Args:
        reader: nnU-Net's name of the reader that will read the images.
        codec: see :func:`read_case_prompts`.

    Returns a message for the log: how many were found and where, and which files match no image.

    Raises:
        PromptError: lists the problems of all files.
    """
    problems = []
    cases = set()
    found = 0
    files = prompt_files(images)
    for image_file in sorted(images.glob(f"*{FIRST_CHANNEL}{file_ending}")):
        if image_file.name.startswith(MACOS):
            continue
        cases.add(case_name(image_file, file_ending))
        try:
            path, loaded = open_prompt_file(image_file, file_ending, files=files, labels=labels)
            if path is None:
                continue
            found += 1
            header = case_header(image_file, reader)
            read_case_prompts(path, header.grid_of if header else None, labels, codec, loaded=loaded)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise PromptError("\n".join(problems))
    lines = [f"nnsam3d: prompt files for {found} of {len(cases)} cases in {files.folder}; the others are automatic"]
    lines += [f"nnsam3d: warning: {text}" for text in strays(images, cases)]
    return "\n".join(lines)


def strays(
    images: Path,
    cases: Collection[str],
    stated: Path | None = None,
    own: Collection[str] | None = None,
    others: bool = True,
) -> Iterator[str]:
    """A message for every prompt file that is not read although it names a case, or that matches no case.

    Args:
        cases: the names of all cases.
        stated: see :func:`prompt_files`.
        own: the cases whose files are looked at; None: all.
        others: whether files that match no case are looked at.
    """
    files = prompt_files(images, stated)
    yield from misplaced(images, files, cases, cases if own is None else own)
    if others:
        yield from unmatched(images, files, cases)


def case_header(image_file: str | Path, reader: str | None = None) -> Header | None:
    """The image's header; None if it cannot be read, which is reported later as an error of the image.

    Raises:
        UserError: see :func:`grid_of_file`.
    """
    try:
        return header_of_file(image_file, reader)
    except GeometryError:
        return None
