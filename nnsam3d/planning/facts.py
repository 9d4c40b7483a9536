"""The properties of a dataset that the planner needs, from a file or from nnU-Net's fingerprint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnsam3d.errors import UserError
from nnsam3d.keys import known, mismatch

if TYPE_CHECKING:  # numpy, which `nnsam3d plan-table --help` does not need
    from nnsam3d.geometry import Triple

SHIPPED = "fingerprints"


@dataclass(frozen=True)
class FactsFile:
    """The content of a facts file, see ``nnsam3d/planning/fingerprints``; axes z, y, x of the images."""

    name: str
    about: str
    modality: str
    spacing_mm: list[float]
    median_shape: list[float]
    channels: int
    labels: int
    cases: int


KINDS = {"str": str, "int": int, "list[float]": list}


@dataclass(frozen=True)
class DatasetFacts:
    """One dataset at its target spacing, with the axes of the network (D = slice axis).

    Raises:
        UserError: images with a single slice, or a spacing that is not positive.
    """

    name: str
    spacing_DHW: tuple[float, float, float]  # mm
    shape_DHW: Triple  # voxels of the median case at that spacing
    cases: int  # training cases
    channels: int  # image channels
    heads: int  # logit maps
    click_labels: int  # possible labels of a click, background included

    def __post_init__(self) -> None:
        if min(self.spacing_DHW) <= 0:
            raise UserError(f"{self.name}: the target spacing {self.spacing_DHW} mm must be positive on every axis.")
        if min(self.shape_DHW) < 2:
            raise UserError(
                f"{self.name}: the median image has {self.shape_DHW} voxels at {self.spacing_DHW} mm, a single slice "
                "on one axis: this is a 2D dataset, and SAM3D is a 3D network. Plan it with nnU-Net's own planner "
                "(without -pl) and train its 2d configuration; or, if -overwrite_target_spacing removed the slices, "
                "use a finer spacing."
            )


def transposed(values_zyx: Sequence[Any], spacing_zyx: Sequence[float]) -> list[Any]:
    """nnU-Net's transposition: the axis with the largest spacing first."""
    first = max(range(3), key=lambda axis: (spacing_zyx[axis], -axis))
    return [values_zyx[axis] for axis in [first, *(axis for axis in range(3) if axis != first)]]


def read_facts(path: Path) -> DatasetFacts:
    """Read a facts file, see ``nnsam3d/planning/fingerprints``.

    Raises:
        UserError: unreadable, or with invalid keys or values; the message names the file and the key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict) or any(mismatch(FactsFile, content)):
        raise UserError(f"{path}: a fingerprint file contains exactly the keys {', '.join(known(FactsFile))}")
    for one in fields(FactsFile):
        key, kind = one.name, KINDS[str(one.type)]
        if not isinstance(content[key], kind) or (kind is int and content[key] < 1):
            raise UserError(f"{path}: {key} must be a {kind.__name__}, not {content[key]!r}")
    for key in ("spacing_mm", "median_shape"):
        if len(content[key]) != 3 or not all(isinstance(value, int | float) for value in content[key]):
            raise UserError(f"{path}: {key} must be three numbers (z, y, x), not {content[key]!r}")
    spacing, shape = (transposed(content[key], content["spacing_mm"]) for key in ("spacing_mm", "median_shape"))
    return DatasetFacts(
        name=content["name"],
        spacing_DHW=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        shape_DHW=(round(shape[0]), round(shape[1]), round(shape[2])),
        cases=content["cases"],
        channels=content["channels"],
        heads=content["labels"] + 1,
        click_labels=content["labels"] + 1,
    )


def shipped_names() -> list[str]:
    """The names of the datasets included in nnsam3d."""
    return sorted(path.stem for path in _shipped_folder().glob("*.json"))


def shipped(name: str) -> DatasetFacts | None:
    """The file of an included dataset, or None."""
    return read_facts(_shipped_folder() / f"{name}.json") if name in shipped_names() else None


def shipped_facts() -> list[DatasetFacts]:
    """All included datasets."""
    return [read_facts(_shipped_folder() / f"{name}.json") for name in shipped_names()]


def _shipped_folder() -> Path:
    return Path(str(files("nnsam3d.planning") / SHIPPED))
