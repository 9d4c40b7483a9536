"""Assigns prompt files to cases, and validates all of them before anything is computed."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.files import MACOS
from nnsam3d.geometry import GeometryError, GridOf, ImageGrid, grid_of_file
from nnsam3d.prompts import ENCODING, CasePrompts, PromptError, PromptWarning, read_prompts
from nnsam3d.prompts.convert import FIRST_CHANNEL
from nnsam3d.prompts.formats import SUFFIXES, case_of, is_prompt_file, same_name

PROMPTS_FOLDER_VARIABLE = "nnsam3d_prompts"
POINTS = (".mrk.json", ".fcsv")  # unambiguous suffixes; other programs use the others, too


def case_name(image_file: str | Path, file_ending: str) -> str:
    """``/data/liver_003_0000.nii.gz`` -> ``liver_003``."""
    return os.path.basename(image_file)[: -(len(file_ending) + len(FIRST_CHANNEL))]


def prompts_folder(images: Path, stated: Path | None = None) -> Path:
    """The given folder, else the one named by ``nnsam3d_prompts``, else the folder of the images.

    Raises:
        UserError: the environment variable does not name a folder.
    """
    if stated is not None:
        return stated
    folder = os.environ.get(PROMPTS_FOLDER_VARIABLE)
    if folder and not Path(folder).is_dir():
        raise UserError(
            f"{PROMPTS_FOLDER_VARIABLE}={folder!r}: no such folder. Correct it, or unset {PROMPTS_FOLDER_VARIABLE}."
        )
    return Path(folder) if folder else images


def find_prompt_file(
    image_file: str | Path, file_ending: str, stated: Path | None = None, labels: Collection[str] | None = None
) -> Path | None:
    """The prompt file of a case (``<case>`` and one of the suffixes of prompt files), or None.

    Suffixes may be in upper case, and names in any Unicode normalisation.

    Args:
        stated: see :func:`prompts_folder`.
        labels: names of the dataset's labels, see :func:`is_prompt_file`.

    Raises:
        PromptError: the case has several; the message lists them.
        UserError: see :func:`prompts_folder`.

    Warns:
        PromptWarning: a file beside the image has the name of a prompt file, but is not one.
    """
    images = Path(image_file).parent
    folder, case = prompts_folder(images, stated), case_name(image_file, file_ending)
    candidates = [path for path in _named_like_prompts(folder) if same_name(case_of(path), case)]
    beside_tiff = folder == images and file_ending in (".tif", ".tiff")
    found = []
    for path in candidates:
        if folder != images or _is_stated(path) or is_prompt_file(path, labels):
            found.append(path)
        elif not path.name.lower().endswith((".npz", ".gz")) and not beside_tiff:  # those may be nnU-Net's own
            warnings.warn(
                f"{path} is not a prompt file and is ignored. If it should be one, correct it; prompt files can "
                f"also be in a separate folder (--prompts, or the variable {PROMPTS_FOLDER_VARIABLE})",
                PromptWarning,
                stacklevel=2,
            )
    found = [path for path in found if path.suffix.lower() != ".gz"] or found  # a compressed copy beside the file
    if beside_tiff and found and found[0].name == f"{case}.json":
        raise PromptError(
            f"{found[0]}: nnU-Net treats {case}.json beside a TIFF image as the file with the spacing. Put the prompt "
            f"files into a separate folder and specify it (--prompts, or the variable {PROMPTS_FOLDER_VARIABLE})."
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise PromptError(f"{folder}: case {case} has several prompt files: {names}. Keep one and move the others.")
    return found[0] if found else None


def _named_like_prompts(folder: Path) -> list[Path]:
    # a dangling link is an unreadable file, not a missing one
    entries = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
    return [folder / name for name in entries if name.lower().endswith(SUFFIXES) and not name.startswith(MACOS)]


def _is_stated(path: Path) -> bool:
    return path.name.lower().endswith(POINTS)


def read_case_prompts(
    path: Path,
    grid: ImageGrid | GridOf | None,
    labels: Mapping[str, int],
    kinds: Sequence[str] | None = None,
    masks: bool = False,
) -> CasePrompts:
    """Read and validate one prompt file (:func:`nnsam3d.prompts.read_prompts`); only prompts that the network can use.

    Args:
        kinds: the types of prompts that it supports; by default all that are encoded.
        masks: whether the caller corrects masks to start from, which are no prompts for the network.

    Raises:
        PromptError: see :func:`nnsam3d.prompts.read_prompts`; also if there are no prompts, or none that can be
            used, or a mask that the caller cannot correct.
    """
    prompts = read_prompts(path, image=grid, labels=dict(labels))
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
    usable = ENCODING.usable(prompts.without_masks, str(path), kinds)
    return replace(usable, prompts=(*prompts.masks, *usable.prompts))


def check_all_prompts(
    images: Path,
    file_ending: str,
    labels: Mapping[str, int],
    reader: str | None = None,
    kinds: Sequence[str] | None = None,
) -> str:
    """Validate the prompt files of every case in a folder of images against the images' headers.

    Args:
        reader: nnU-Net's name of the reader that will read the images.
        kinds: see :func:`read_case_prompts`.

    Returns a message for the log: how many were found and where, and which files match no image.

    Raises:
        PromptError: lists the problems of all files.
    """
    problems = []
    cases = set()
    found = 0
    for image_file in sorted(images.glob(f"*{FIRST_CHANNEL}{file_ending}")):
        if image_file.name.startswith(MACOS):
            continue
        cases.add(case_name(image_file, file_ending))
        try:
            path = find_prompt_file(image_file, file_ending, labels=labels)
            if path is None:
                continue
            found += 1
            read_case_prompts(path, header_grid(image_file, reader), labels, kinds)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise PromptError("\n".join(problems))
    where = prompts_folder(images)
    lines = [f"nnsam3d: prompt files for {found} of {len(cases)} cases in {where}; the others are automatic"]
    lines += [f"nnsam3d: warning: {text}" for text in strays(images, cases)]
    return "\n".join(lines)


def strays(images: Path, cases: Collection[str], stated: Path | None = None) -> Iterator[str]:
    """A message for every prompt file that matches no case, with a similar case name, if any."""
    folder = prompts_folder(images, stated)
    if folder != images:
        for path in _named_like_prompts(images):
            if any(same_name(case_of(path), known) for known in cases) and (_is_stated(path) or is_prompt_file(path)):
                yield f"{path} is beside the images, but prompt files are read from {folder}"
    for path in sorted(folder.glob("*.txt")):  # some systems hide the file extension
        if any(path.name.startswith(known) for known in cases) and is_prompt_file(path):
            yield f"{path} ends in .txt and is not read; rename it to <case>.json (or .csv, .fcsv)"
    for path in _named_like_prompts(folder):
        case = case_of(path)
        if any(same_name(case, known) for known in cases):
            continue
        if not _is_stated(path) and not is_prompt_file(path):
            continue  # unrelated files
        base = case.removesuffix(FIRST_CHANNEL)
        near = base if base in cases else _nearest(base, cases)
        meant = f"did you mean {near}.json?" if near else "its name must be <case>.json"
        yield f"{path} matches no image in {images}; {meant}"


def _nearest(name: str, cases: Collection[str]) -> str | None:
    """The most similar name; None if several are, such as those of the other numbers in a series."""
    near = difflib.get_close_matches(name, cases, n=2)
    likeness = [difflib.SequenceMatcher(None, case, name).ratio() for case in near]
    return near[0] if near and likeness[0] > max(likeness[1:], default=0.0) else None


def header_grid(image_file: str | Path, reader: str | None = None) -> GridOf | None:
    """The image's grid; None if the header cannot be read, which is reported later as an error of the image."""
    try:
        return grid_of_file(image_file, reader)
    except GeometryError:
        return None
