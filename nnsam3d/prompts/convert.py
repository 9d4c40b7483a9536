"""Conversion of prompt files between formats and spaces, with the information that the user provides."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import GeometryError, GridOf, grid_of_file
from nnsam3d.geometry.headers import unknown_geometry
from nnsam3d.geometry.plausible import spacing_remark
from nnsam3d.prompts.files import WRITABLE, outside, prompts_text, read_prompts, write_prompts
from nnsam3d.prompts.formats.detect import case_of
from nnsam3d.prompts.kinds import MaskPrompt, Prompt
from nnsam3d.prompts.kinds.base import Space
from nnsam3d.prompts.kinds.checks import PromptError
from nnsam3d.prompts.labels import LabelMap, click_labels
from nnsam3d.prompts.listing import FIRST_CHANNEL, list_folder
from nnsam3d.prompts.targets import is_class_agnostic
from nnsam3d.prompts.types import CasePrompts
from nnsam3d.tables import counted

_ANY_SPACING = "nnsam3d_any_spacing"  # a key of nnsam3d.nnunet.datasets, which lies above this package


@dataclass(frozen=True)
class Stated:
    """What the user states about files of other programs.

    Attributes:
        image: the case's image, or a folder of images ``<case>_0000...``.
        dataset: dataset.json. format, space, label: see :func:`nnsam3d.prompts.read_prompts`.
        scaled: positions are in units of the image's spacing, as saved by napari for a layer with the image's scale;
            they are divided by it.
        model: a model folder or its plans.json, whose image reader defines the geometry; None: see
            :func:`grid_of_file`.
    """

    image: Path | None = None
    dataset: Path | None = None
    format: str | None = None
    space: str | None = None
    label: LabelMap | None = None
    scaled: bool = False
    model: Path | None = None

    def read(self, path: Path, check: bool = False) -> tuple[CasePrompts, GridOf | None]:
        """The prompts of a file and, if available, the grid of its image. With ``check``, positions outside are errors.

        Raises UserError: the file or the image cannot be read, or ``scaled`` is set without an image.
        """
        image = self._image_of(case_of(path))
        grid_of = None if image is None else grid_of_file(image, self._reader())
        how: dict[str, Any] = {"labels": self.labels, "format": self.format, "space": self.space, "label": self.label}
        if not self.scaled:
            return read_prompts(path, grid_of if check else None, **how), grid_of
        if grid_of is None:
            raise UserError(f"{path}: --scaled needs the image (--image), whose spacing is the scale")
        spacing = np.array(grid_of("lps").spacing_xyz)  # raises for TIFF files
        prompts = unscaled(read_prompts(path, **how), spacing)
        grid = grid_of(prompts.space)
        places = [
            f"{prompt.kind} {number} {prompt.describe()}"
            for number, prompt in prompts.numbered()
            if check and outside(prompt, prompts.space, grid, "")
        ]
        if places:
            raise PromptError(f"{path}: outside the image of size (x, y, z) {grid.size_xyz}: {', '.join(places)}")
        return prompts, grid_of

    def remarks(self, path: Path) -> list[str]:
        """Warnings about a prompt file's image, see :meth:`read`: no geometry, or other voxels than the model's."""
        image = self._image_of(case_of(path))
        if image is None:
            return []
        found = [unknown_geometry(image)]
        if self.model is not None and not any(entry.get(_ANY_SPACING) for entry in self._configurations()):
            with contextlib.suppress(GeometryError):  # no world geometry
                x, y, z = grid_of_file(image, self._reader())("lps").spacing_xyz
                folder = self.model if self.model.is_dir() else self.model.parent
                found.append(spacing_remark(self._plans(), (z, y, x), folder))
        return [text for text in found if text]

    @property
    def labels(self) -> dict[str, int] | None:
        """Those of the dataset, or else of the model; None: without both, or of a class-agnostic model, any."""
        path = self.dataset
        if path is None and self.model is not None:
            if any(map(is_class_agnostic, self._configurations())):
                return None
            own = (self.model if self.model.is_dir() else self.model.parent) / "dataset.json"
            path = own if own.is_file() else None
        return None if path is None else click_labels(load_dataset(path))

    def _image_of(self, case: str) -> Path | None:
        """The image itself, or the only ``<case>_0000...`` in the folder. Raises UserError: none, or several."""
        if self.image is None or not self.image.is_dir():
            return self.image
        found = list_folder(self.image).images_of(case)
        if len(found) != 1:
            raise UserError(
                f"{self.image}: contains {len(found)} images named {case}{FIRST_CHANNEL}...; expected one for this case"
            )
        return found[0]

    def _reader(self) -> str | None:
        return None if self.model is None else str(self._plans()["image_reader_writer"])

    def _configurations(self) -> list[dict[str, Any]]:
        return list(self._plans().get("configurations", {}).values())

    def _plans(self) -> dict[str, Any]:
        """The content of the model's plans.json."""
        assert self.model is not None
        path = self.model / "plans.json" if self.model.is_dir() else self.model
        try:
            plans: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            _ = plans["image_reader_writer"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"-m {self.model}: the plans do not name a reader ({error})") from None
        return plans


def unscaled(prompts: CasePrompts, spacing_xyz: NDArray[np.float64]) -> CasePrompts:
    """Positions in units of the spacing as index i, j, k.

    Raises:
        UserError: positions in world mm, to which a layer's scale does not apply.
    """
    if prompts.space != "voxel":
        raise UserError(
            f"case {prompts.case}: --scaled applies to positions in voxels; these are in space {prompts.space}"
        )
    return replace(prompts, prompts=tuple(prompt.in_units_of(spacing_xyz) for prompt in prompts.prompts))


def convert(
    files: Sequence[Path], output: Path, stated: Stated, to: str, to_space: Space | None = None, overwrite: bool = False
) -> list[str]:
    """Convert these files to ``<case>`` with the suffix of format ``to``; all of them or none.

    Returns:
        What was written, and what was not checked, as lines.

    Args:
        files: prompt files of any known format.
        output: folder of the results.
        stated: what the files do not say.
        to: one of :data:`nnsam3d.prompts.files.WRITABLE`.
        to_space: by default as in the file, if the format supports it.
        overwrite: replace existing outputs.

    Raises:
        UserError: a file cannot be converted, or an output exists.
    """
    targets: dict[Path, list[Path]] = {}
    for file in files:
        target = output / f"{target_case(file, stated.image)}{WRITABLE[to]}"
        targets.setdefault(target, []).append(file)
    refuse_existing(list(targets), overwrite)
    problems, converted = [], []
    for target, parts in targets.items():
        try:
            prompts = _joined(parts, stated, to, to_space, output)
            prompts_text(target, prompts, to, labels=stated.labels)  # whatever cannot be written is found now
            converted.append((target, prompts))
        except PromptError as error:
            problems.append(str(error))
    if problems:  # a partly written folder would look complete
        raise PromptError("\n".join(problems))
    output.mkdir(parents=True, exist_ok=True)
    lines = []
    for target, prompts in converted:
        write_prompts(target, prompts, format=to, labels=stated.labels)
        others = len(prompts.prompts) - len(prompts.clicks)
        more = f" and {counted(others, 'other prompt')}" if others else ""
        lines.append(f"{target}: {counted(len(prompts.clicks), 'click')}{more}, space {prompts.space}")
    if stated.image is None:
        lines.append("the cases are named after the files; use --image <case>_0000... to name another case")
    if stated.labels is None:
        lines.append("the labels were not checked; --dataset dataset.json checks them")
    return lines


def _joined(files: Sequence[Path], stated: Stated, to: str, to_space: Space | None, output: Path) -> CasePrompts:
    """The prompts of several files of one case (Slicer saves each point list to a separate file)."""
    parts: list[CasePrompts] = []
    for file in files:
        prompts, grid_of = stated.read(file, check=True)
        default: Space = "lps" if to == "slicer" and prompts.space == "voxel" else prompts.space
        space = to_space or (parts[0].space if parts else default)
        parts.append(with_moved_masks(_in_space(prompts, space, grid_of, file), file.parent, output))
    return replace(parts[0], prompts=sum((part.prompts for part in parts), ()))


def with_moved_masks(prompts: CasePrompts, old: Path, new: Path) -> CasePrompts:
    """The prompts with relative paths of masks adapted to the new folder of the prompt file.

    Args:
        prompts: with paths relative to ``old``.
        old, new: folders of the prompt file.
    """
    if old.resolve() == new.resolve():
        return prompts

    def moved(prompt: Prompt) -> Prompt:
        if not isinstance(prompt, MaskPrompt) or os.path.isabs(prompt.path):
            return prompt
        return replace(prompt, path=Path(os.path.relpath(old / prompt.path, new)).as_posix())

    return replace(prompts, prompts=tuple(moved(prompt) for prompt in prompts.prompts))


def _in_space(prompts: CasePrompts, space: Space, grid_of: GridOf | None, file: Path) -> CasePrompts:
    """The prompts of a file in another space. Raises UserError: the image is missing, or does not have that space."""
    if space == prompts.space:
        return prompts
    if grid_of is None:
        raise UserError(
            f"{file}: converting from space {prompts.space} to {space} needs the image: --image FILE or FOLDER"
        )
    grid_of(prompts.space)  # both must be available
    return prompts.to(space, grid_of(space))


def load_dataset(path: Path) -> dict[str, Any]:
    """The content of dataset.json. Raises UserError: it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the dataset.json cannot be read ({error}); specify it with --dataset") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a dataset.json")
    return content


def translation(given: Sequence[str] | None) -> str | Mapping[str, str | int] | None:
    """``["lesion"]`` -> one label for all words; ``["F=lesion", "B=background"]`` -> one for each word.

    Raises:
        UserError: both forms are mixed, or there are several labels for all words.
    """
    if not given:
        return None
    pairs = [word.rpartition("=") for word in given]
    if all(separator for _, separator, _ in pairs):
        return {word: label for word, _, label in pairs}
    if len(given) == 1:
        return given[0]
    raise UserError(f"--label {' --label '.join(given)}: either one LABEL for all words, or WORD=LABEL for each")


def target_case(file: Path, place: Path | None) -> str:
    """The case of a converted file: that of the image, if given (Slicer's "F.mrk.json" contains no case name)."""
    if place is not None and not place.is_dir() and f"{FIRST_CHANNEL}." in place.name:
        return place.name.rpartition(f"{FIRST_CHANNEL}.")[0]
    return case_of(file)


def refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    """Raises UserError if an output file exists, before anything is computed."""
    there = [path.name for path in paths if path.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        raise UserError(
            f"{paths[0].parent} already contains {', '.join(there[:5])}{more}: choose another folder or use --overwrite"
        )
