"""Everything that nnsam3d uses of nnU-Net, and everything of nnU-Net that nnsam3d computes itself.

All names of nnU-Net's packages are imported here and nowhere else: ``from nnsam3d.nnunet.contract import
PlansManager``. A name is looked up when it is first asked for, because nnU-Net takes seconds to import and not every
command needs it. After an update of nnU-Net, ``tests/nnunet/test_contract.py`` says what changed: it has one test for
each name in :data:`NAMES` and one for each entry of :data:`REIMPLEMENTED`.
"""

# ruff: noqa: F401 (the names are for other modules)

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
    from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
    from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
    from nnunetv2.configuration import ANISO_THRESHOLD, default_num_processes
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian
    from nnunetv2.paths import nnUNet_preprocessed
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, determine_do_sep_z_and_axis
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, infer_dataset_class
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss, get_tp_fp_fn_tn
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.crossval_split import generate_crossval_split
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
    from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
    from nnunetv2.utilities.file_path_utilities import get_output_folder
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    from nnunetv2.utilities.label_handling.label_handling import LabelManager, determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

NAMES: dict[str, str] = {
    # datasets, plans and labels
    "ConfigurationManager": "nnunetv2.utilities.plans_handling.plans_handler",
    "LabelManager": "nnunetv2.utilities.label_handling.label_handling",
    "PlansManager": "nnunetv2.utilities.plans_handling.plans_handler",
    "comp_blosc2_params": "nnunetv2.training.dataloading.nnunet_dataset",
    "default_num_processes": "nnunetv2.configuration",
    "determine_num_input_channels": "nnunetv2.utilities.label_handling.label_handling",
    "generate_crossval_split": "nnunetv2.utilities.crossval_split",
    "get_filenames_of_train_images_and_targets": "nnunetv2.utilities.utils",
    "get_output_folder": "nnunetv2.utilities.file_path_utilities",
    "infer_dataset_class": "nnunetv2.training.dataloading.nnunet_dataset",
    "maybe_convert_to_dataset_name": "nnunetv2.utilities.dataset_name_id_conversion",
    "nnUNet_preprocessed": "nnunetv2.paths",
    # reading and preprocessing
    "ANISO_THRESHOLD": "nnunetv2.configuration",
    "DefaultPreprocessor": "nnunetv2.preprocessing.preprocessors.default_preprocessor",
    "SimpleITKIO": "nnunetv2.imageio.simpleitk_reader_writer",
    "compute_new_shape": "nnunetv2.preprocessing.resampling.default_resampling",
    "determine_do_sep_z_and_axis": "nnunetv2.preprocessing.resampling.default_resampling",
    "determine_reader_writer_from_dataset_json": "nnunetv2.imageio.reader_writer_registry",
    # prediction
    "compute_gaussian": "nnunetv2.inference.sliding_window_prediction",
    "convert_predicted_logits_to_segmentation_with_correct_shape": "nnunetv2.inference.export_prediction",
    "nnUNetPredictor": "nnunetv2.inference.predict_from_raw_data",
    "recursive_find_python_class": "nnunetv2.utilities.find_class_by_name",
    "recursive_find_trainer_class_by_name": "nnunetv2.utilities.find_objects",
    # planning and training
    "BasicTransform": "batchgeneratorsv2.transforms.base.basic_transform",
    "ComposeTransforms": "batchgeneratorsv2.transforms.utils.compose",
    "DC_and_CE_loss": "nnunetv2.training.loss.compound_losses",
    "ExperimentPlanner": "nnunetv2.experiment_planning.experiment_planners.default_experiment_planner",
    "MemoryEfficientSoftDiceLoss": "nnunetv2.training.loss.dice",
    "MultiThreadedAugmenter": "batchgenerators.dataloading.multi_threaded_augmenter",
    "NonDetMultiThreadedAugmenter": "batchgenerators.dataloading.nondet_multi_threaded_augmenter",
    "RemoveLabelTransform": "batchgeneratorsv2.transforms.utils.remove_label",
    "SingleThreadedAugmenter": "batchgenerators.dataloading.single_threaded_augmenter",
    "get_allowed_n_proc_DA": "nnunetv2.utilities.default_n_proc_DA",
    "get_tp_fp_fn_tn": "nnunetv2.training.loss.dice",
    "nnUNetTrainer": "nnunetv2.training.nnUNetTrainer.nnUNetTrainer",
}
"""Names of nnU-Net, and of the packages that belong to it, and the module of each."""

EARLIER_SPELLINGS = {"RemoveLabelTransform": "RemoveLabelTansform"}  # batchgeneratorsv2 before 0.3.6 has only this one

REIMPLEMENTED: dict[str, str] = {
    "nnsam3d.nnunet.datasets.cases_in": "create_lists_from_splitted_dataset_folder: cases of a folder, without forking",
    "nnsam3d.nnunet.splits.make_splits": "nnUNetTrainer.do_split: splits_final.json, before the folds train",
    "nnsam3d.nnunet.slabs.read_in_slabs": "SimpleITKIO.read_images: with one copy in memory instead of three",
    "nnsam3d.nnunet.size.nonzero_box": "crop_to_nonzero: the box, without a mask of the image's size",
    "nnsam3d.nnunet.normalisation.NORMALISATIONS": "the normalisation schemes: applied to parts of an image",
    "nnsam3d.nnunet.lazy.LazyVolume": "DefaultPreprocessor.run_case_npy: boxes of its result",
    "nnsam3d.nnunet.export.Exporter": "convert_predicted_logits_to_segmentation_with_...: parts of its result",
    "nnsam3d.geometry.preprocessing_steps": "DefaultPreprocessor.run_case_npy: where a voxel goes",
    "nnsam3d.inference.windows.Windows": "nnUNetPredictor: padding and mirroring of single windows",
    "nnsam3d.training.rollout.predicted_labels": "LabelManager.convert_logits_to_segmentation: for a batch",
    "nnsam3d.training.online_validation.hard_counts": "nnUNetTrainer.validation_step: the counts, for any logits",
    "nnsam3d.planning.memory.nnunet_loss": "nnUNetTrainer._build_loss: for plain labels, without a trainer",
}
"""What nnsam3d computes itself, and what of nnU-Net it must equal."""


def __getattr__(name: str) -> Any:
    """nnU-Net's ``name``, imported now.

    Raises:
        ImportError: this nnU-Net does not have it.
    """
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(NAMES[name])
    for spelling in (name, EARLIER_SPELLINGS.get(name, name)):
        if hasattr(module, spelling):
            return globals().setdefault(name, getattr(module, spelling))
    raise ImportError(
        f"{NAMES[name]} has no {name}: this version of nnU-Net is not supported. Run `nnsam3d doctor`.",
        name=NAMES[name],
    )


def window_count(predictor: nnUNetPredictor, shape_DHW: Sequence[int]) -> int:
    """The number of windows of nnU-Net's sliding window, of which no public function tells.

    Args:
        predictor: initialised.
        shape_DHW: voxels of the preprocessed image, padded to at least one window.
    """
    return len(predictor._internal_get_sliding_window_slicers(tuple(shape_DHW)))
