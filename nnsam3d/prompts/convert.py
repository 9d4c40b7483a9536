"""Prompt files from one format and space to another, and reading them with what the user says about them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import GridOf, ImageGrid, grid_of_file
from nnsam3d.prompts.files import WRITABLE, read_prompts, write_prompts
from nnsam3d.prompts.formats import SUFFIXES, case_of, same_name
from nnsam3d.prompts.labels import LabelMap, click_labels
from nnsam3d.prompts.types import CasePrompts, MaskPrompt, Prompt, PromptError, Space

FIRST_CHANNEL = "_0000"


@dataclass(frozen=True)
class Stated:
    """What the user says about files of other programs.

    Attributes:
        image: the case's image, or a folder of images ``<case>_0000...``.
        dataset: dataset.json. format, space, label: see :func:`nnsam3d.prompts.read_prompts`.
        scaled: positions are in units of the image's spacing, as napari saves points of a layer that has the image's
            scale: they are divided by it.
        model: a model folder or its plans.json, whose reader's geometry holds; None: see :func:`grid_of_file`.
    """

    image: Path | None = None
    dataset: Path | None = None
    format: str | None = None
    space: str | None = None
    label: LabelMap | None = None
    scaled: bool = False
    model: Path | None = None

    def read(self, path: Path, check: bool = False) -> tuple[CasePrompts, GridOf | None]:
        """The prompts of a file and the grid of its image, if one is given.

        Args:
            check: positions outside the image are errors.

        Raises:
            UserError: the file or the image cannot be read, or the image that ``scaled`` needs is missing.
        """
        image = image_of(case_of(path), self.image)
        grid_of = None if image is None else grid_of_file(image, self._reader())
        labels = dataset_labels(self.dataset)
        how: dict[str, Any] = {"format": self.format, "space": self.space, "label": self.label}
        if self.scaled:
            if image is None:
                raise UserError(f"{path}: --scaled needs the image, whose spacing is the scale: --image")
            assert grid_of is not None  # there is an image
            spacing = np.array(grid_of("lps").spacing_xyz)  # of TIFF files nobody knows it
            prompts = unscaled(read_prompts(path, None, labels, **how), spacing)
            if check and grid_of is not None:
                refuse_outside(path, prompts, grid_of(prompts.space))
            return prompts, grid_of
        return read_prompts(path, grid_of if check else None, labels, **how), grid_of

    def _reader(self) -> str | None:
        if self.model is None:
            return None
        path = self.model / "plans.json" if self.model.is_dir() else self.model
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["image_reader_writer"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"-m {self.model}: no plans that name a reader ({error})") from None


def unscaled(prompts: CasePrompts, spacing_xyz: NDArray[np.float64]) -> CasePrompts:
    """Positions in units of the spacing as index i, j, k.

    Raises:
        UserError: positions in mm of the world, which have nothing to do with a layer's scale.
    """
    if prompts.space != "voxel":
        raise UserError(f"case {prompts.case}: --scaled is for positions in voxels, these are in space {prompts.space}")
    return replace(prompts, prompts=tuple(prompt.at(prompt.corners() / spacing_xyz) for prompt in prompts.prompts))


def refuse_outside(path: Path, prompts: CasePrompts, grid: ImageGrid) -> None:
    """Raises PromptError for clicks outside the image."""
    outside = np.flatnonzero(~prompts.points.inside(grid))
    if len(outside):
        places = ", ".join(f"click {number + 1} at {prompts.clicks[number].position}" for number in outside.tolist())
        raise PromptError(f"{path}: outside the image of size (x, y, z) {grid.size_xyz}: {places}")


def convert(
    files: Sequence[Path], output: Path, stated: Stated, to: str, to_space: Space | None = None, overwrite: bool = False
) -> int:
    """Writes ``<case>`` with the suffix of format ``to`` for the cases of these files; all of them or none.

    Args:
        to_space: default: as in the file, where the format can hold it.

    Raises:
        UserError: a file that cannot be converted, or an output that is there.
    """
    targets: dict[Path, list[Path]] = {}
    for file in files:
        target = output / f"{target_case(file, stated.image)}{WRITABLE[to]}"
        targets.setdefault(target, []).append(file)
    refuse_existing(list(targets), overwrite)
    problems, converted = [], []
    for target, parts in targets.items():
        try:
            converted.append((target, _joined(parts, stated, to, to_space, output)))
        except PromptError as error:
            problems.append(str(error))
    if problems:  # half a folder is hard to tell from a whole one
        raise PromptError("\n".join(problems))
    output.mkdir(parents=True, exist_ok=True)
    for target, prompts in converted:
        write_prompts(target, prompts, format=to)
        others = len(prompts.prompts) - len(prompts.clicks)
        more = f" and {others} other prompts" if others else ""
        print(f"{target}: {len(prompts.clicks)} clicks{more}, space {prompts.space}")
    if stated.image is None:
        print("the cases are named after the files; the case of another image is named with --image <case>_0000...")
    if stated.dataset is None:
        print("the labels were not checked: --dataset dataset.json does it, and makes Slicer's lesion-1 a lesion")
    return 0


def _joined(files: Sequence[Path], stated: Stated, to: str, to_space: Space | None, output: Path) -> CasePrompts:
    """The clicks of a case's files, one after the other (Slicer saves each point list to a file of its own)."""
    parts: list[CasePrompts] = []
    for file in files:
        prompts, grid_of = stated.read(file, check=True)
        default: Space = "lps" if to == "slicer" and prompts.space == "voxel" else prompts.space
        space = to_space or (parts[0].space if parts else default)
        parts.append(_moved(in_space(prompts, space, grid_of, file), file.parent, output))
    return replace(parts[0], prompts=sum((part.prompts for part in parts), ()))


def _moved(prompts: CasePrompts, old: Path, new: Path) -> CasePrompts:
    """With relative paths of masks, which count from the prompt file, as seen from its new folder."""
    if old.resolve() == new.resolve():
        return prompts

    def moved(prompt: Prompt) -> Prompt:
        if not isinstance(prompt, MaskPrompt) or os.path.isabs(prompt.path):
            return prompt
        return replace(prompt, path=Path(os.path.relpath(old / prompt.path, new)).as_posix())

    return replace(prompts, prompts=tuple(moved(prompt) for prompt in prompts.prompts))


def in_space(prompts: CasePrompts, space: Space, grid_of: GridOf | None, file: Path) -> CasePrompts:
    """The same prompts in another space.

    Raises:
        UserError: that takes the image, and none is given; or the image has no such space.
    """
    if space == prompts.space:
        return prompts
    if grid_of is None:
        raise UserError(
            f"{file}: from space {prompts.space} to {space} needs the image: --image FILE, or a folder of images"
        )
    grid_of(prompts.space)  # both must be known
    return prompts.to(space, grid_of(space))


def load_dataset(path: Path) -> dict[str, Any]:
    """The content of a dataset.json.

    Raises:
        UserError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the dataset.json cannot be read ({error}); name it with --dataset") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is no dataset.json")
    return content


def dataset_labels(path: Path | None) -> dict[str, int] | None:
    """Label names and values of a dataset.json; None without one."""
    return None if path is None else click_labels(load_dataset(path))


def translation(said: Sequence[str] | None) -> str | Mapping[str, str | int] | None:
    """``["lesion"]`` -> one label for all words; ``["F=lesion", "B=background"]`` -> one for each word.

    Raises:
        UserError: both ways at once, or several labels for all words.
    """
    if not said:
        return None
    pairs = [word.rpartition("=") for word in said]
    if all(separator for _, separator, _ in pairs):
        return {word: label for word, _, label in pairs}
    if len(said) == 1:
        return said[0]
    raise UserError(f"--label {' --label '.join(said)}: either one LABEL for all words, or WORD=LABEL for each")


def image_of(case: str, place: Path | None) -> Path | None:
    """The image that ``place`` names: itself, or the only ``<case>_0000...`` in that folder.

    Raises:
        UserError: no such image, or several.
    """
    if place is None or not place.is_dir():
        return place
    found = sorted(
        path
        for path in place.iterdir()
        if f"{FIRST_CHANNEL}." in path.name
        and same_name(path.name.rpartition(f"{FIRST_CHANNEL}.")[0], case)
        and not path.name.lower().endswith(SUFFIXES)  # prompts, and what converters write beside an image
    )
    if len(found) != 1:
        raise UserError(f"{place}: holds {len(found)} images named {case}{FIRST_CHANNEL}..., needs one for this case")
    return found[0]


def target_case(file: Path, place: Path | None) -> str:
    """The case of a converted file: of the image, if one is named (Slicer's "F.mrk.json" tells no case)."""
    if place is not None and not place.is_dir() and f"{FIRST_CHANNEL}." in place.name:
        return place.name.rpartition(f"{FIRST_CHANNEL}.")[0]
    return case_of(file)


def refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    """Raises UserError if an output file is there already, before anything is computed."""
    there = [path.name for path in paths if path.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        raise UserError(
            f"{paths[0].parent} holds {', '.join(there[:5])}{more} already: choose another folder, or say --overwrite"
        )
