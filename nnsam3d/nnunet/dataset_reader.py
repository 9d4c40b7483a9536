"""A dataset without a model: its labels, and how its files are read."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from nnsam3d.nnunet.contract import LabelManager, determine_reader_writer_from_dataset_json
from nnsam3d.nnunet.datasets import cases_in, num_channels
from nnsam3d.nnunet.model import click_regions
from nnsam3d.nnunet.reading import read_label_map, read_volume
from nnsam3d.prompts import click_labels


class DatasetReader:
    """What an arm without a model needs of :class:`TrainedModel`, from dataset.json.

    Attributes:
        labels, regions: see :class:`TrainedModel`.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """
        Args:
            folder: of the dataset in nnUNet_raw.
        """
        self.dataset_json: dict[str, Any] = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        self.device = torch.device(device)
        order = self.dataset_json.get("regions_class_order")
        self.label_manager = LabelManager(self.dataset_json["labels"], regions_class_order=order)
        self.labels = click_labels(self.dataset_json)
        self.regions = click_regions(self.dataset_json, self.label_manager)
        images = folder / "imagesTr"
        cases = cases_in(images, self.dataset_json["file_ending"]) if images.is_dir() else []
        example = cases[0][0] if cases else None
        with contextlib.redirect_stdout(io.StringIO()):  # it prints which reader it uses
            self._reader = determine_reader_writer_from_dataset_json(self.dataset_json, example)()

    def read(self, images: Sequence[str | Path]) -> tuple[NDArray[Any], dict[str, Any]]:
        """See :meth:`TrainedModel.read`."""
        return read_volume(self._reader, [str(path) for path in images], num_channels(self.dataset_json))

    def read_labels(self, path: str | Path) -> NDArray[Any]:
        """See :meth:`TrainedModel.read_labels`."""
        return read_label_map(self._reader, str(path))
