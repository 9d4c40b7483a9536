"""nnU-Net's real preprocessor with plans by hand."""

from __future__ import annotations

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager


def preprocess(data: np.ndarray, properties: dict, transpose: list[int], spacing: list[float]) -> np.ndarray:
    """nnU-Net's DefaultPreprocessor with hand-made plans; ``properties`` are filled in."""
    kwargs = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = ConfigurationManager(
        {
            "architecture": {},
            "spacing": spacing,
            "normalization_schemes": ["NoNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": kwargs,
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_seg_kwargs": kwargs | {"is_seg": True, "order": 1},
        }
    )
    plans = PlansManager({"transpose_forward": transpose, "foreground_intensity_properties_per_channel": {"0": {}}})
    preprocessor = DefaultPreprocessor(verbose=False)
    return preprocessor.run_case_npy(data, None, properties, plans, configuration, {})[0]
