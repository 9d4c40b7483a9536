"""Masks to start from in training, from a folder: another fold's predictions, or those of an earlier checkpoint.

nnU-Net's loader crops and augments the answer of a cascade's first stage together with the ground truth. These masks
take its place, as a second channel of the segmentation, which :class:`nnsam3d.training.clicks.AppendClicks` removes.
Axis letters: D, H, W = array axes of the preprocessed case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.files import file_version, replacing
from nnsam3d.nnunet.contract import comp_blosc2_params, default_num_processes
from nnsam3d.nnunet.reading import read_label_map
from nnsam3d.progress import tqdm

ENDING = ".b2nd"


class StartedDataset:
    """nnU-Net's dataset, whose cases have a mask to start from as the answer of a first stage; some have none."""

    def __init__(self, dataset: Any, masks: Mapping[str, Path]) -> None:
        """
        Args:
            masks: by case, of :func:`prepared_masks`.
        """
        self.dataset = dataset
        self.masks = masks
        self.identifiers = dataset.identifiers

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Image, ground truth, mask (D, H, W) or None, and nnU-Net's properties."""
        import blosc2  # late: it takes half a second to import

        data, seg, _, properties = self.dataset.load_case(identifier)
        mask = None
        if identifier in self.masks:
            mask = blosc2.open(urlpath=str(self.masks[identifier]), mode="r", dparams={"nthreads": 1})
        return data, seg, mask, properties


def found_masks(folder: Path, cases: Sequence[str], ending: str) -> dict[str, Path]:
    """The label maps of cases, by case; of a folder as nnUNetv2_predict writes it, or of a model's folder, whose
    fold_X/validation hold the cases that a fold was not trained with.

    Args:
        ending: of the dataset's files.

    Raises:
        UserError: there is no such folder, or no label map of any case.
    """
    places = [folder, *sorted(folder.glob("fold_*/validation"))]
    named = {case: [place / f"{case}{ending}" for place in places] for case in cases}
    found = {case: next((file for file in files if file.is_file()), None) for case, files in named.items()}
    kept = {case: file for case, file in found.items() if file is not None}
    if not kept:
        example = f", such as {cases[0]}{ending}" if cases else ""
        raise UserError(
            f"start_from={folder}: no label map of any of the {len(cases)} training cases{example}, neither there nor "
            "in fold_*/validation. Give a folder that nnUNetv2_predict has written, or the folder of a trained model"
        )
    return kept


def prepared_masks(found: Mapping[str, Path], dataset: Any, output: Path, trainer: Any) -> dict[str, Path]:
    """The masks on the grid of the preprocessed cases, resampled as nnU-Net resamples segmentations.

    They are kept in ``output`` for the next start of the training, until the label maps change.

    Args:
        found: of :func:`found_masks`.
        dataset: nnU-Net's, with the training cases.
        trainer: nnU-Net's, for its plans and labels.

    Raises:
        UserError: a label map does not fit its image, has other labels, or cannot be read.
    """
    output.mkdir(parents=True, exist_ok=True)

    def prepare(case: str) -> Path:
        path = output / f"{case}.{file_version(found[case])}{ENDING}"
        if not path.is_file():
            _store(_resampled(found[case], dataset.load_case(case), trainer), path, trainer)
        return path

    with ThreadPoolExecutor(default_num_processes) as pool:
        made = tqdm(pool.map(prepare, found), desc="masks to start from", unit="case", total=len(found))
        prepared = dict(zip(found, made, strict=True))
    for old in set(output.glob(f"*{ENDING}")) - set(prepared.values()):
        old.unlink(missing_ok=True)
    return prepared


def _resampled(file: Path, loaded: tuple[Any, ...], trainer: Any) -> NDArray[Any]:
    _, seg, _, properties = loaded
    plans, configuration = trainer.plans_manager, trainer.configuration_manager
    mask_ZYX = read_label_map(plans.image_reader_writer_class(), str(file))
    mask_DHW = mask_ZYX.transpose(plans.transpose_forward)
    if mask_DHW.shape != tuple(properties["shape_before_cropping"]):
        shape_ZYX = tuple(np.array(properties["shape_before_cropping"])[list(plans.transpose_backward)].tolist())
        raise UserError(f"start_from: {file} has the shape {mask_ZYX.shape} (z, y, x), the image {shape_ZYX}")
    unknown = set(np.unique(mask_DHW).tolist()) - set(trainer.label_manager.all_labels) - {0}
    if unknown:
        raise UserError(f"start_from: {file} has the values {sorted(unknown)}, which are no labels of the dataset")
    box = tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    cropped = mask_DHW[box][None].astype(np.int16)
    resampled = configuration.resampling_fn_seg(cropped, seg.shape[1:], spacing, configuration.spacing)
    return np.asarray(resampled)[0]


def _store(mask_DHW: NDArray[Any], path: Path, trainer: Any) -> None:
    """In nnU-Net's format, of which a patch can be read quickly."""
    import blosc2

    kind = np.uint8 if mask_DHW.max(initial=0) < 256 else np.uint16
    size = np.dtype(kind).itemsize
    blocks, chunks = comp_blosc2_params((1, *mask_DHW.shape), tuple(trainer.configuration_manager.patch_size), size)
    with replacing(path, ending=ENDING) as temporary:
        values = np.ascontiguousarray(mask_DHW.astype(kind))
        blosc2.asarray(values, urlpath=str(temporary), chunks=chunks[1:], blocks=blocks[1:])
