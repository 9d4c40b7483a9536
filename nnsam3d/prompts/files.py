"""Prompt files: reading all known formats, with all problems reported together, and writing.

The nnsam3d format is described in :mod:`nnsam3d.prompts.formats.ours`; the others are beside it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnsam3d.files import write_text
from nnsam3d.geometry import SPACES, GeometryError, GridOf, ImageGrid, grid_of_file
from nnsam3d.prompts.formats.base import MISSING, Found, Reading
from nnsam3d.prompts.formats.challenges import grand_challenge_text
from nnsam3d.prompts.formats.detect import Loaded, case_of, load
from nnsam3d.prompts.formats.markups import markups_text
from nnsam3d.prompts.formats.ours import prompt_file_text
from nnsam3d.prompts.kinds import KINDS, Click, Prompt
from nnsam3d.prompts.kinds.base import Space, place_text
from nnsam3d.prompts.kinds.checks import Position, PromptError, PromptWarning, checked_label, short
from nnsam3d.prompts.labels import LabelMap, resolve_label, translate_label
from nnsam3d.prompts.types import MAX_CLICKS, CasePrompts, checked_space

MAX_PROBLEMS = 50  # in one message
WRITABLE = {"nnsam3d": ".json", "slicer": ".mrk.json", "grand-challenge": ".json"}
"""Writable formats and their suffixes."""
OWN, SLICER = "nnsam3d", "slicer"


def read_prompts(
    path: str | os.PathLike[str],
    image: ImageGrid | GridOf | str | os.PathLike[str] | None = None,
    labels: Mapping[str, int] | None = None,
    *,
    format: str | None = None,
    space: str | None = None,
    label: LabelMap | None = None,
) -> CasePrompts:
    """Read a prompt file of any known format; the file name is the case. It may contain no clicks.

    Args:
        path: of the prompt file.
        image: grid of the case's image file, or the file; positions outside the image are then errors. Also a function
            from the file's space to the grid: images without world geometry have a grid for voxels only.
        labels: allowed names and values (:func:`nnsam3d.prompts.click_labels`); others are then errors. The result
            contains names or numbers; :func:`clicks_to_labels` converts them to values.
        format: of the file, if its content matches several.
        space: of the positions ("voxel", "lps", "ras"), if the format does not define it.
        label: translation of words in another program's file to labels (:func:`translate_label`).

    Raises:
        PromptError: the file is unreadable, malformed, ambiguous or invalid. One line per problem, with the file, the
            click (counted from 1) and what is allowed.

    Warns:
        PromptWarning: something in the file is not a prompt, for example a point that has not been placed.

    >>> import tempfile
    >>> prompts = CasePrompts("liver_003", "voxel", [Click((102, 88, 41), "tumour")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_prompts(f"{folder}/liver_003.json", prompts)
    ...     read_prompts(f"{folder}/liver_003.json", labels={"background": 0, "tumour": 1}) == prompts
    True
    """
    path = Path(path)
    stated = None if space is None else checked_space(space)
    grid = grid_of_file(image) if isinstance(image, (str, os.PathLike)) else image
    return prompts_of(path, load(path, format), grid, labels, stated, label)


def prompts_of(
    path: Path,
    loaded: Loaded,
    grid: ImageGrid | GridOf | None = None,
    labels: Mapping[str, int] | None = None,
    space: str | None = None,
    label: LabelMap | None = None,
) -> CasePrompts:
    """The prompts of a file that has been loaded already.

    Args:
        path: of the file, for the name of the case and messages.
        loaded: its format and content.
        grid, labels, space, label: see :func:`read_prompts`.

    Raises:
        PromptError: see :func:`read_prompts`.
    """
    file_format, content, found = loaded
    reading = file_format.parse(content, space)
    problems = [*found, *reading.problems]
    if callable(grid):
        try:
            grid = None if reading.space is None else grid(reading.space)
        except GeometryError as error:
            grid = None
            problems.append(str(error))
    prompts: list[Prompt] = []
    if len(reading.found) > MAX_CLICKS:
        problems.append(f"{len(reading.found)} clicks or more; at most {MAX_CLICKS} are allowed")
    else:
        prompts = _checked_prompts(reading, grid, labels, label, problems)
    if problems or reading.space is None:
        more = len(problems) - MAX_PROBLEMS
        rest = [f"and {more} more problems"] if more > 0 else []
        raise PromptError("\n".join(f"{path}: {problem}" for problem in problems[:MAX_PROBLEMS] + rest))
    for text in reading.left_out:  # stacklevel 1: shown once, even if a file is read twice
        warnings.warn(f"{path}: {text}: skipped", PromptWarning, stacklevel=1)
    return CasePrompts(case_of(path), reading.space, prompts)  # type: ignore[arg-type]


def write_prompts(
    path: str | os.PathLike[str],
    prompts: CasePrompts,
    *,
    format: str | None = None,
    image: ImageGrid | None = None,
    labels: Mapping[str, int] | None = None,
) -> None:
    """Write a file that :func:`read_prompts` can read; an existing file is replaced atomically.

    The nnsam3d format preserves prompts exactly, including numeric labels. Slicer's format contains mm: positions in
    voxels are mapped with ``image``. grand-challenge's format does not record the space: positions are unchanged.

    Args:
        path: its ending is that of the format, so that :func:`read_prompts` and predictions find the file.
        prompts: positions in the space of the object.
        format: one of :data:`WRITABLE`; None: as the name says, ``.mrk.json`` for "slicer", ``.json`` for "nnsam3d".
        image: the image's grid, for "slicer" and positions in voxels.
        labels: names and values of dataset.json; formats that cannot hold numbers get the names.

    Raises:
        PromptError: more than 10,000 clicks (the file could not be read back), an unknown format, an ending that is not
            the format's, or a missing ``image``.
        WriteError: the folder does not exist or is not writable, or the disk is full.

    >>> import tempfile
    >>> prompts = CasePrompts("liver_003", "ras", [Click((10.5, -20, 30), "tumour")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_prompts(f"{folder}/liver_003.mrk.json", prompts, format="slicer")
    ...     read_prompts(f"{folder}/liver_003.mrk.json").clicks
    (Click(position=(10.5, -20.0, 30.0), label='tumour'),)
    """
    write_text(Path(path), prompts_text(Path(path), prompts, format, image, labels), durable=True)


def prompts_text(
    path: Path,
    prompts: CasePrompts,
    format: str | None = None,
    image: ImageGrid | None = None,
    labels: Mapping[str, int] | None = None,
) -> str:
    """What :func:`write_prompts` writes; arguments and errors as there.

    Args:
        path: decides on the format, if ``format`` is None, and is named in messages.
        prompts, format, image, labels: see :func:`write_prompts`.
    """
    if len(prompts.prompts) > MAX_CLICKS:
        raise PromptError(f"{path}: {len(prompts.prompts)} prompts; at most {MAX_CLICKS} are allowed")
    chosen = _format_for(path, format)
    if chosen == OWN:
        return prompt_file_text(prompts)
    held = {"click"} if chosen == "grand-challenge" else {*KINDS} - {"mask"}
    if others := sorted(set(prompts.kinds) - held):
        raise PromptError(f"{path}: format {chosen!r} cannot hold {', '.join(others)}: write our own format (.json)")
    # numbers would be read as the other program's numbering; only background has the same name everywhere
    names: dict[int | str | None, str] = {0: "background"}
    names.update({value: name for name, value in (labels or {}).items() if value != 0})
    words = [names.get(prompt.label, str(prompt.label)) for prompt in prompts.prompts]
    if chosen == "grand-challenge":
        return grand_challenge_text([click.position for click in prompts.clicks], words, prompts.case)
    if prompts.space == "voxel":
        if image is None:
            raise PromptError(f"{path}: converting voxels to Slicer's mm needs the image")
        prompts = prompts.to("lps", image)
    try:
        return markups_text(prompts.prompts, words, prompts.space)
    except PromptError as error:
        raise PromptError(f"{path}: {error}") from None


def _format_for(path: Path, format: str | None) -> str:
    """The format to write. A name that says another one would be read as that, or not be found by a prediction."""
    if format is not None and format not in WRITABLE:
        raise PromptError(f"{path}: format {format!r} cannot be written; possible: {', '.join(WRITABLE)}")
    name = path.name.lower()
    said = SLICER if name.endswith(WRITABLE[SLICER]) else OWN if name.endswith(WRITABLE[OWN]) else None
    if said is None:
        raise PromptError(
            f"{path}: prompts cannot be written as {path.suffix or 'a file without ending'}; end the name in "
            f"{WRITABLE[format or OWN]}{'' if format else f', or in {WRITABLE[SLICER]} for 3D Slicer'}"
        )
    if said == SLICER and format not in (None, SLICER):
        raise PromptError(f"{path}: {WRITABLE[SLICER]} is 3D Slicer's ending; end the name of format {format} in .json")
    return format or said


def clicks_to_labels(prompts: CasePrompts, labels: Mapping[str, int]) -> NDArray[np.int64]:
    """Label values (N,). Raises PromptError naming case, click and the allowed labels.

    >>> prompts = CasePrompts("case", "voxel", [Click((1, 2, 3), "tumour"), Click((4, 5, 6), "background")])
    >>> clicks_to_labels(prompts, {"background": 0, "tumour": 1}).tolist()
    [1, 0]
    """
    values = [
        resolve_label(click.label, labels, f"{prompts.case}: click {number}")
        for number, click in enumerate(prompts.clicks, start=1)
    ]
    return np.array(values, dtype=np.int64)


def _checked_prompts(
    reading: Reading,
    grid: ImageGrid | None,
    labels: Mapping[str, int] | None,
    translation: LabelMap | None,
    problems: list[str],
) -> list[Prompt]:
    """The valid prompts; problems of the others are added to ``problems``."""
    prompts: list[Prompt] = []
    untranslated: list[str] = []
    clicked = any(found.kind == "click" for found in reading.found)
    for found in reading.found:
        own: list[str] = []
        words: list[str] = []
        prompt = _checked_prompt(found, labels, translation, own, words)
        if prompt is not None and grid is not None and reading.space is not None:
            wrong = outside(prompt, checked_space(reading.space), grid, found.where)
            own += [wrong] if wrong else []
        if own and clicked and found.spare:
            reading.left_out += own  # the clicks are sufficient
            continue
        problems += own
        untranslated += words
        if prompt is not None:
            prompts.append(prompt)
    if untranslated:
        known = next((name for name, value in (labels or {}).items() if value != 0), "LABEL")
        problems.append(
            "state which labels these words mean: `nnsam3d prompts convert` with "
            f"--label {known} (for all of them) or --label {short(untranslated[0] + '=' + known)} (for one); "
            "in 3D Slicer, rename the point list to the label"
        )
    return prompts


def _checked_prompt(
    found: Found,
    labels: Mapping[str, int] | None,
    translation: LabelMap | None,
    problems: list[str],
    untranslated: list[str],
) -> Prompt | None:
    """The prompt, or None after adding all its problems."""
    label: int | str | None = 0
    try:
        if found.label is not MISSING:
            label = None if found.label is None and found.kind == "mask" else _label_of(found, labels, translation)
    except PromptError as error:
        text = str(error)
        problems.append(text if text.startswith(found.where) else f"{found.where}: {text}")
        if found.meaning != "exact" and (found.label is None or isinstance(found.label, (str, int, float))):
            untranslated.append(str("" if found.label is None else found.label)[:80])
    if any(value is MISSING for value in found.values.values()):
        return None
    try:
        return KINDS[found.kind].parse({**found.values, "label": label})
    except PromptError as error:
        problems.append(f"{found.where}: {error}")
        return None


def _label_of(found: Found, labels: Mapping[str, int] | None, translation: LabelMap | None) -> int | str:
    if found.meaning != "exact":
        return translate_label(found.label, labels, translation, meaning=found.meaning)
    label = checked_label(found.label)
    if labels is not None:
        resolve_label(label, labels, found.where)
    return label


def outside(prompt: Prompt, space: Space, grid: ImageGrid, where: str) -> str | None:
    """A line for a message, beginning with ``where``, if nothing of the prompt lies in the image; else None.

    Args:
        prompt: with positions in ``space``.
        space: "voxel" (index i, j, k), "lps" or "ras" (mm).
        grid: the image's.
        where: the prompt, for the message.
    """
    if isinstance(prompt, Click):
        return _place_outside("position", prompt.position, space, grid, where)
    corners = prompt.corners_in(space)
    if not len(corners):
        return None
    index_N3 = grid.to_index(corners, space)
    if ((index_N3.max(axis=0) >= -0.5) & (index_N3.min(axis=0) < np.array(grid.size_xyz) - 0.5)).all():
        return None
    x, y, z = np.clip(index_N3.mean(axis=0), index_N3.min(axis=0), index_N3.max(axis=0)).tolist()
    middle = (x, y, z) if space == "voxel" else tuple(grid.index_to_world([(x, y, z)], space)[0].tolist())
    return _place_outside("middle", middle, space, grid, where) or f"{where}: is outside the image"


def _place_outside(name: str, place: Position, space: str, grid: ImageGrid, where: str) -> str | None:
    index = grid.to_index([place], space)
    if grid.contains_index(index)[0]:
        return None
    allowed = ", ".join(f"-0.5 <= {axis} < {s - 0.5}" for axis, s in zip("ijk", grid.size_xyz, strict=True))
    text = f'{where}: {name} ({place_text(place)}) in space "{space}" is outside the image'
    if space != "voxel":
        text += f" at index ({', '.join(f'{v:.1f}' for v in index[0])})"
    text += f"; image size (x, y, z) {' x '.join(map(str, grid.size_xyz))}, allowed index range {allowed}"
    inside = [s for s in SPACES if s != space and grid.contains_index(grid.to_index([place], s))[0]]
    if inside:
        text += f'; it would be inside in space "{inside[0]}": is "space" right?'
    return text
