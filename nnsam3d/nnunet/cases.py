"""Which prompt file belongs to which case, and a check of all of them before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.geometry import GeometryError, ImageGrid
from nnsam3d.prompts import ENCODING, CasePrompts, PromptError, read_prompts
from nnsam3d.prompts.convert import FIRST_CHANNEL
from nnsam3d.prompts.files import GridOf
from nnsam3d.prompts.formats import SUFFIXES, case_of, is_prompt_file

PROMPTS_FOLDER_VARIABLE = "nnsam3d_prompts"


def case_name(image_file: str | Path, file_ending: str) -> str:
    """``/data/liver_003_0000.nii.gz`` -> ``liver_003``."""
    return os.path.basename(image_file)[: -(len(file_ending) + len(FIRST_CHANNEL))]


def prompts_folder(images: Path, stated: Path | None = None) -> Path:
    """The stated folder, else the one named by ``nnsam3d_prompts``, else the images' own.

    Raises:
        UserError: the environment variable names no folder.
    """
    if stated is not None:
        return stated
    folder = os.environ.get(PROMPTS_FOLDER_VARIABLE)
    if folder and not Path(folder).is_dir():
        raise UserError(
            f"{PROMPTS_FOLDER_VARIABLE}={folder!r}: no such folder. Correct it, or unset {PROMPTS_FOLDER_VARIABLE}."
        )
    return Path(folder) if folder else images


def find_prompt_file(image_file: str | Path, file_ending: str, stated: Path | None = None) -> Path | None:
    """The prompt file of a case, ``<case>`` and one of the suffixes of prompt files; None where it has none.

    Args:
        stated: see :func:`prompts_folder`.

    Raises:
        PromptError: the case has several; the message names them.
        UserError: as :func:`prompts_folder`.
    """
    images = Path(image_file).parent
    folder, case = prompts_folder(images, stated), case_name(image_file, file_ending)
    # a dangling link is a file that cannot be read, not a missing one
    candidates = [path for suffix in SUFFIXES if os.path.lexists(path := folder / f"{case}{suffix}")]
    beside_tiff = folder == images and file_ending in (".tif", ".tiff")
    found = [path for path in candidates if not _of_nnunet(path, beside_tiff)]
    if beside_tiff and found and found[0].name == f"{case}.json":
        raise PromptError(
            f"{found[0]}: beside a TIFF image nnU-Net takes {case}.json for the file with the spacing. Put the prompt "
            f"files into a folder of their own and name it (--prompts, or the variable {PROMPTS_FOLDER_VARIABLE})."
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise PromptError(f"{folder}: case {case} has several prompt files: {names}. Keep one, move the others away.")
    return found[0] if found else None


def _of_nnunet(path: Path, beside_tiff: bool) -> bool:
    """Files that nnU-Net names like prompt files: the spacing beside a TIFF image, and probabilities."""
    kept = beside_tiff if path.suffix == ".json" else path.suffix == ".npz"
    return kept and not is_prompt_file(path)


def read_case_prompts(path: Path, grid: ImageGrid | GridOf | None, labels: Mapping[str, int]) -> CasePrompts:
    """Read and validate one prompt file (see :func:`nnsam3d.prompts.read_prompts`); what a network can use of it.

    Raises:
        PromptError: as :func:`nnsam3d.prompts.read_prompts`; also for an empty list of prompts,
            or for none that can be used.
    """
    prompts = read_prompts(path, image=grid, labels=dict(labels))
    if not prompts.prompts:
        raise PromptError(
            f"{path}: the list of clicks is empty. Add a click, or remove the file: a case without a prompt file is "
            "segmented automatically."
        )
    return ENCODING.usable(prompts, str(path))


def check_all_prompts(images: Path, file_ending: str, labels: Mapping[str, int]) -> str:
    """Validate the prompt files of every case in a folder of images against the images' headers.

    Returns a sentence for the log: what was found where, and which files belong to no image.

    Raises:
        PromptError: with the problems of all files.
    """
    problems = []
    cases = set()
    found = 0
    for image_file in sorted(images.glob(f"*{FIRST_CHANNEL}{file_ending}")):
        cases.add(case_name(image_file, file_ending))
        try:
            path = find_prompt_file(image_file, file_ending)
            if path is None:
                continue
            found += 1
            read_case_prompts(path, _header(image_file), labels)
        except PromptError as error:
            problems.append(str(error))
    if problems:
        raise PromptError("\n".join(problems))
    where = prompts_folder(images)
    lines = [f"nnsam3d: prompt files for {found} of {len(cases)} cases in {where}; the others are automatic"]
    lines += [
        f"nnsam3d: warning: prompt file {name} belongs to no image in {images}; its name must be <case>, then "
        f"{' or '.join(SUFFIXES)}"
        for name in prompts_without_image(images, cases)
    ]
    return "\n".join(lines)


def prompts_without_image(images: Path, cases: set[str], stated: Path | None = None) -> Iterator[Path]:
    """Prompt files that belong to none of the cases (see :func:`prompts_folder`)."""
    folder = prompts_folder(images, stated)
    for path in sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES)):
        # beside the images only what is named like an image; other files are none of our business
        suspicious = folder != images or case_of(path).endswith(FIRST_CHANNEL)
        if suspicious and case_of(path) not in cases:
            yield path


def _header(image_file: Path) -> ImageGrid | None:
    """The image's grid; None where the header cannot be read, which is the image's own error, told later."""
    try:
        return ImageGrid.from_file(image_file)
    except GeometryError:
        return None
