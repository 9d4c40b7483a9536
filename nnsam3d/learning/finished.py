"""Finished cases, as nnU-Net's preprocessed data for a short training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.files import file_version, write_json
from nnsam3d.inference.scale import first_spacing, spacing_for
from nnsam3d.nnunet.contract import DefaultPreprocessor
from nnsam3d.nnunet.datasets import training_cases
from nnsam3d.nnunet.model import TrainedModel
from nnsam3d.nnunet.reading import spacing_of
from nnsam3d.prompts.components import bounding_box

NAME = "Dataset001_Finished"
PLANS = "nnUNetPlans"
VERSIONS = "versions.json"


@dataclass(frozen=True)
class FinishedCase:
    """
    Attributes:
        images: one file per channel.
        label: file of the label map.
        ignored: value of the voxels in it that nobody has annotated; None: there are none.
    """

    name: str
    images: tuple[str, ...]
    label: str
    ignored: int | None = None

    @property
    def version(self) -> str:
        """Changes when the label map is saved again."""
        return file_version(Path(self.label))


def finished_cases(folder: Path) -> dict[str, FinishedCase]:
    """The cases of a dataset in nnU-Net's raw format, by name, those saved first at the beginning.

    Args:
        folder: with imagesTr, labelsTr and dataset.json, as ``nnsam3d serve --output`` writes it.

    Raises:
        UserError: there is no such dataset, or it is not complete.
    """
    if not (folder / "dataset.json").is_file():
        raise UserError(f"{folder}: no dataset of finished cases (dataset.json is missing)")
    try:
        found = training_cases(folder)
        ignored = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["labels"].get("ignore")
    except (OSError, KeyError, AssertionError, RuntimeError) as error:
        raise UserError(f"{folder}: not a dataset in nnU-Net's format ({error})") from error
    there = {name: files for name, files in found.items() if Path(files[1]).is_file()}
    cases = [FinishedCase(name, images, label, ignored) for name, (images, label) in there.items()]
    return {case.name: case for case in sorted(cases, key=lambda case: Path(case.label).stat().st_mtime_ns)}


def replayed_cases(folder: Path, number: int, labels: dict[str, Any]) -> list[FinishedCase]:
    """Cases on which the model was trained before, to be trained on again, so that it does not forget them.

    Args:
        folder: their dataset, as for :func:`finished_cases`.
        number: how many; a larger number adds to those of a smaller one.
        labels: of the finished cases, as in dataset.json.

    Returns:
        At most that many cases, drawn at random, with names that no finished case has.

    Raises:
        UserError: there is no such dataset, or it has other labels.
    """
    cases = finished_cases(folder)
    theirs = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["labels"]
    if theirs != labels:
        raise UserError(
            f"{folder}: has the labels {theirs}, the finished cases {labels}: these cases cannot be replayed"
        )
    names = np.random.default_rng(0).permutation(sorted(cases))[:number]
    return [replace(cases[name], name=f"replayed_{name}") for name in names]


def read_finished(case: FinishedCase, model: TrainedModel) -> tuple[NDArray[Any], NDArray[Any], dict[str, Any]]:
    """Image (C, z, y, x), label map (z, y, x) and nnU-Net's properties.

    Raises:
        UserError: a file cannot be read, or the two have different shapes.
    """
    image, properties = model.read(case.images)
    labels = model.read_labels(case.label)
    if labels.shape != image.shape[1:]:
        raise UserError(f"case {case.name}: {case.label} has the shape {labels.shape}, the image {image.shape[1:]}")
    return image, labels, properties


def preprocess_finished(
    cases: Sequence[FinishedCase], model: TrainedModel, dataset_json: dict[str, Any], work: Path
) -> None:
    """Preprocesses cases as nnU-Net does, into ``work/preprocessed``; those that are there and unchanged stay.

    For a model of any spacing, every case is prepared at the spacing that a prompt around its target would select.

    Args:
        cases: to train on.
        model: whose plans define the preprocessing.
        dataset_json: of the finished cases.
        work: a folder of the learning.
    """
    base = work / "preprocessed" / NAME
    folder = base / model.configuration_manager.data_identifier
    folder.mkdir(parents=True, exist_ok=True)
    versions = base / VERSIONS
    stored = json.loads(versions.read_text(encoding="utf-8")) if versions.is_file() else {}
    for case in cases:
        if stored.get(case.name) != case.version:
            version = case.version
            for ending in (".b2nd", "_seg.b2nd", ".pkl"):
                (folder / f"{case.name}{ending}").unlink(missing_ok=True)
            used = model
            if model.any_spacing:
                _, labels, properties = read_finished(case, model)
                used = model.at_spacing(target_spacing(labels, properties, case.ignored))
            DefaultPreprocessor(verbose=False).run_case_save(
                *(str(folder / case.name), list(case.images), case.label),
                *(used.plans_manager, used.configuration_manager, dataset_json),
            )
            write_json(versions, stored := {**stored, case.name: version})
    write_json(base / "dataset_fingerprint.json", {})
    write_json(base / "dataset.json", {**dataset_json, "numTraining": len(cases)})
    names = [case.name for case in cases]
    write_json(base / "splits_final.json", [{"train": names, "val": names[-1:]}])


def target_spacing(labels_ZYX: NDArray[Any], properties: dict[str, Any], ignored: int | None) -> float:
    """mm at which a model of any spacing works on a target whose extent is known.

    Args:
        labels_ZYX: label map; all labels together are the target.
        properties: nnU-Net's, of the image.
        ignored: see :class:`FinishedCase`.
    """
    spacing = spacing_of(properties)
    mask = (labels_ZYX > 0) & (labels_ZYX != ignored)  # True if that is None
    if not mask.any():
        return first_spacing(labels_ZYX.shape, spacing)
    edges = [side.stop - side.start for side in bounding_box(mask)]
    return spacing_for(edges, labels_ZYX.shape, spacing)
