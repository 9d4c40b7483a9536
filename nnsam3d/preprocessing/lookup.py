"""Which prompt file belongs to which case, and a check of all of them before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.geometry import GeometryError, ImageGrid
from nnsam3d.prompts import CasePrompts, PromptError, read_prompts

PROMPTS_FOLDER_VARIABLE = "nnsam3d_prompts"
FIRST_CHANNEL = "_0000"


def case_name(image_file: str | Path, file_ending: str) -> str:
    """``/data/liver_003_0000.nii.gz`` -> ``liver_003``."""
    return os.path.basename(image_file)[: -(len(file_ending) + len(FIRST_CHANNEL))]


def prompts_folder(images: Path) -> Path:
    """The folder named by ``nnsam3d_prompts``, else the images' own.

    Raises:
        UserError: the environment variable names no folder.
    """
    folder = os.environ.get(PROMPTS_FOLDER_VARIABLE)
    if folder and not Path(folder).is_dir():
        raise UserError(
            f"{PROMPTS_FOLDER_VARIABLE}={folder!r}: no such folder. Correct it, or unset {PROMPTS_FOLDER_VARIABLE}."
        )
    return Path(folder) if folder else images


def find_prompt_file(image_file: str | Path, file_ending: str) -> Path | None:
    """The prompt file of a case; None where it has none.

    Beside TIFF images nnU-Net keeps its own ``<case>.json`` with the spacing: that is no prompt file.
    """
    images = Path(image_file).parent
    path = prompts_folder(images) / f"{case_name(image_file, file_ending)}.json"
    if not os.path.lexists(path):  # a dangling link is a file that cannot be read, not a missing one
        return None
    if path.parent == images and file_ending in (".tif", ".tiff") and "nnsam3d_prompts" not in _text(path):
        return None
    return path


def read_case_prompts(path: Path, grid: ImageGrid | None, labels: Mapping[str, int]) -> CasePrompts:
    """Read and validate one prompt file.

    Raises:
        PromptError: as :func:`nnsam3d.prompts.read_prompts`; also for an empty list of clicks.
    """
    prompts = read_prompts(path, image=grid, labels=dict(labels))
    if not prompts.clicks:
        raise PromptError(
            f"{path}: the list of clicks is empty. Add a click, or remove the file: a case without a prompt file is "
            "segmented automatically."
        )
    return prompts


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
        path = find_prompt_file(image_file, file_ending)
        if path is None:
            continue
        found += 1
        try:
            read_case_prompts(path, _header(image_file), labels)
        except PromptError as error:
            problems.append(str(error))
    if problems:
        raise PromptError("\n".join(problems))
    where = prompts_folder(images)
    lines = [f"nnsam3d: prompt files for {found} of {len(cases)} cases in {where}; the others are automatic"]
    lines += [
        f"nnsam3d: warning: prompt file {name} belongs to no image in {images}; its name must be <case>.json"
        for name in _without_image(images, cases)
    ]
    return "\n".join(lines)


def _without_image(images: Path, cases: set[str]) -> Iterator[Path]:
    folder = prompts_folder(images)
    for path in sorted(folder.glob("*.json")):
        # beside the images only what is named like an image; other JSON files are none of our business
        suspicious = folder != images or path.stem.endswith(FIRST_CHANNEL)
        if suspicious and path.stem not in cases:
            yield path


def _header(image_file: Path) -> ImageGrid | None:
    """The image's grid; None where the header cannot be read, which is the image's own error, told later."""
    try:
        return ImageGrid.from_file(image_file)
    except GeometryError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
