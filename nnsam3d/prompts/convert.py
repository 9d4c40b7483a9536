"""Prompt files from one format and space to another, and reading them with what the user says about them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.geometry import ImageGrid
from nnsam3d.prompts.files import WRITABLE, read_prompts, write_prompts
from nnsam3d.prompts.formats import case_of
from nnsam3d.prompts.labels import LabelMap, click_labels
from nnsam3d.prompts.types import CasePrompts, PromptError, Space

FIRST_CHANNEL = "_0000"


@dataclass(frozen=True)
class Stated:
    """What the user says about files of other programs.

    Attributes:
        image: the case's image, or a folder of images ``<case>_0000...``.
        dataset: dataset.json. format, space, label: see :func:`nnsam3d.prompts.read_prompts`.
    """

    image: Path | None = None
    dataset: Path | None = None
    format: str | None = None
    space: str | None = None
    label: LabelMap | None = None

    def read(self, path: Path, check: bool = False) -> tuple[CasePrompts, ImageGrid | None]:
        """The prompts of a file and the grid of its image, if one is given.

        Args:
            check: positions outside the image are errors.
        """
        image = image_of(case_of(path), self.image)
        grid = None if image is None else ImageGrid.from_file(image)
        labels = dataset_labels(self.dataset)
        checked = grid if check else None
        how: dict[str, Any] = {"format": self.format, "space": self.space, "label": self.label}
        return read_prompts(path, checked, labels, **how), grid


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
            converted.append((target, _joined(parts, stated, to, to_space)))
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


def _joined(files: Sequence[Path], stated: Stated, to: str, to_space: Space | None) -> CasePrompts:
    """The clicks of a case's files, one after the other (Slicer saves each point list to a file of its own)."""
    parts: list[CasePrompts] = []
    for file in files:
        prompts, grid = stated.read(file, check=True)
        default: Space = "lps" if to == "slicer" and prompts.space == "voxel" else prompts.space
        space = to_space or (parts[0].space if parts else default)
        parts.append(in_space(prompts, space, grid, file))
    return replace(parts[0], prompts=sum((part.prompts for part in parts), ()))


def in_space(prompts: CasePrompts, space: Space, grid: ImageGrid | None, file: Path) -> CasePrompts:
    """The same clicks in another space.

    Raises:
        UserError: that takes the image, and none is given.
    """
    if grid is None and space != prompts.space:
        raise UserError(
            f"{file}: from space {prompts.space} to {space} needs the image: --image FILE, or a folder of images"
        )
    return prompts if grid is None else prompts.to(space, grid)


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
    found = sorted(path for path in place.iterdir() if path.name.startswith(f"{case}{FIRST_CHANNEL}."))
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
