"""By hand: plans, as far as nnU-Net's preprocessing reads them, a dataset and the prompt file of a case."""

from __future__ import annotations

from typing import Any

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

LABELS = {"background": 0, "lesion": 1}
DATASET = {"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".nii.gz"}
PROMPTS = '{"nnsam3d_prompts": 1, "space": "voxel", "clicks": [{"position": [1, 2, 3], "label": "lesion"}]}'


def managers(
    transpose: list[int], spacing: list[float], *, normalization: str, order: int
) -> tuple[PlansManager, ConfigurationManager]:
    """``order``: of the image's interpolation; the segmentation's is 1."""
    kwargs = {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}
    configuration = {
        "architecture": {},
        "spacing": spacing,
        "normalization_schemes": [normalization],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": kwargs,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": kwargs | {"is_seg": True, "order": 1},
    }
    plans = PlansManager(
        {
            "transpose_forward": transpose,
            "image_reader_writer": "SimpleITKIO",
            "foreground_intensity_properties_per_channel": {"0": {}},
            "configurations": {"3d_fullres": configuration},
        }
    )
    return plans, plans.get_configuration("3d_fullres")


def preprocessed(
    data_CZYX: np.ndarray, properties: dict[str, Any], transpose: list[int], spacing: list[float], order: int = 3
) -> tuple[np.ndarray, dict[str, Any]]:
    """What nnU-Net's DefaultPreprocessor makes of an image and its properties, without normalisation."""
    plans, configuration = managers(transpose, spacing, normalization="NoNormalization", order=order)
    plans.plans["foreground_intensity_properties_per_channel"] = {str(channel): {} for channel in range(len(data_CZYX))}
    for key in ("normalization_schemes", "use_mask_for_norm"):
        configuration.configuration[key] *= len(data_CZYX)
    run: Any = DefaultPreprocessor(verbose=False).run_case_npy
    data, _, properties = run(data_CZYX, None, properties, plans, configuration, {})
    return data, properties
