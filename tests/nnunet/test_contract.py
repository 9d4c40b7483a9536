"""What nnsam3d expects of nnU-Net: a failure says what has changed. `nnunet/contract.py` lists the names."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nnsam3d.errors import UserError
from nnsam3d.nnunet import contract
from nnsam3d.nnunet.contract import NAMES, REIMPLEMENTED

from . import test_lazy, test_slabs
from .plans import managers, preprocessed

LABELS = {"background": 0, "organ": 1, "tumour": 2, "ignore": 3}

# How nnsam3d uses each name: calls with as many arguments and with these keywords, attributes, methods that it
# overrides (with the arguments that nnU-Net passes). "it" is the name; () that it only passes it on.
USES: dict[str, tuple[str, ...]] = {
    "ConfigurationManager": (
        "it(entry)",
        *("it.configuration", "it.patch_size", "it.spacing", "it.normalization_schemes", "it.use_mask_for_norm"),
        *("it.preprocessor_class", "it.data_identifier", "it.network_arch_class_name"),
    ),
    "LabelManager": (
        "it(labels, regions_class_order=order)",
        *("it.has_regions", "it.has_ignore_label", "it.ignore_label", "it.num_segmentation_heads"),
        *("it.foreground_labels", "it.regions_class_order"),
        *("it.convert_logits_to_segmentation(logits)", "it.apply_inference_nonlin(logits)"),
    ),
    "PlansManager": (
        "it(plans)",
        *("it.plans", "it.get_configuration(name)", "it.get_label_manager(dataset_json)"),
        *("it.transpose_forward", "it.transpose_backward", "it.foreground_intensity_properties_per_channel"),
        "it.image_reader_writer_class()",
    ),
    "comp_blosc2_params": ("it(image_size, patch_size, bytes_per_pixel)",),
    "default_num_processes": (),
    "determine_num_input_channels": ("it(plans_manager, configuration_manager, dataset_json)",),
    "generate_crossval_split": ("it(cases, seed=seed, n_splits=folds)",),
    "get_filenames_of_train_images_and_targets": ("it(folder)",),
    "get_output_folder": ("it(dataset, trainer, plans, configuration)",),
    "infer_dataset_class": ("it(folder)",),
    "maybe_convert_to_dataset_name": ("it(number_or_name)",),
    "nnUNet_preprocessed": (),
    "ANISO_THRESHOLD": (),
    "DefaultPreprocessor": (
        "it(verbose=verbose)",
        "it.run_case(image_files, seg_file, plans_manager, configuration_manager, dataset_json)",
        "it.run_case_npy(data, seg, properties, plans_manager, configuration_manager, dataset_json)",
    ),
    "SimpleITKIO": ("it.read_images(files)", "it.read_seg(file)", "it.write_seg(seg, file, properties)"),
    "compute_new_shape": ("it(shape, spacing, new_spacing)",),
    "determine_do_sep_z_and_axis": ("it(force, spacing, new_spacing, threshold)",),
    "determine_reader_writer_from_dataset_json": ("it(dataset_json, example)",),
    "compute_gaussian": ("it(size, sigma_scale=sigma, value_scaling_factor=factor, device=device)",),
    "convert_predicted_logits_to_segmentation_with_correct_shape": (
        "it(logits, plans, configuration, labels, properties, return_probabilities=yes)",
    ),
    "nnUNetPredictor": (
        "it(tile_step_size=s, use_mirroring=m, device=d, perform_everything_on_device=p, allow_tqdm=t)",
        "it.manual_initialization(network, plans, configuration, parameters, dataset_json, trainer, axes)",
        "it.predict_logits_from_preprocessed_data(data)",
        "it._internal_get_sliding_window_slicers(shape)",
        *("it.network", "it.plans_manager", "it.configuration_manager", "it.label_manager", "it.dataset_json"),
        *("it.trainer_name", "it.allowed_mirroring_axes", "it.use_mirroring"),
    ),
    "recursive_find_python_class": ("it(folder, name, module)",),
    "recursive_find_trainer_class_by_name": ("it(name)",),
    "BasicTransform": ("it()", "it.get_parameters(image=image)", "it.apply(data_dict, channels=channels)"),
    "ComposeTransforms": ("it.transforms",),
    "DC_and_CE_loss": ("it(dice, {}, weight_ce=one, weight_dice=one, dice_class=kind)",),
    "ExperimentPlanner": (
        "it(dataset, gpu_memory, preprocessor, plans_name, overwrite_target_spacing, suppress_transpose)",
        "it.get_plans_for_configuration(spacing, median_shape, data_identifier, voxels, cache)",
        *("it.plan_experiment()", "it.save_plans(plans)", "it.determine_transpose()"),
        *("it.determine_resampling()", "it.determine_segmentation_softmax_export_fn()"),
        "it.determine_normalization_scheme_and_whether_mask_is_used_for_norm()",
        *("it.determine_fullres_target_spacing()", "it.dataset_fingerprint", "it.dataset_json", "it.dataset_name"),
        *("it.plans_identifier", "it.preprocessor_name", "it.UNet_vram_target_GB", "it.overwrite_target_spacing"),
    ),
    "MemoryEfficientSoftDiceLoss": (),
    "MultiThreadedAugmenter": (
        "it(loader, transform, workers, num_cached_per_queue=n, pin_memory=pin, wait_time=seconds)",
        "it._finish()",
    ),
    "NonDetMultiThreadedAugmenter": ("it._finish()",),
    "RemoveLabelTransform": (),
    "SingleThreadedAugmenter": ("it(loader, transform)", "it.data_loader"),
    "get_allowed_n_proc_DA": ("it()",),
    "get_tp_fp_fn_tn": ("it(output, target, axes=axes, mask=mask)",),
    "nnUNetTrainer": (
        "it(plans, configuration, fold, dataset_json, device)",
        *("it.initialize()", "it.run_training()", "it.get_dataloaders()", "it.configure_optimizers()"),
        *("it.on_train_start()", "it.on_train_end()", "it.on_train_epoch_start()", "it.on_train_epoch_end(outputs)"),
        *("it.on_epoch_start()", "it.on_epoch_end()", "it.on_validation_epoch_start()"),
        *("it.on_validation_epoch_end(outputs)", "it.train_step(batch)", "it.validation_step(batch)"),
        *("it.save_checkpoint(file)", "it.load_checkpoint(file)", "it.perform_actual_validation(save)"),
        *("it.set_deep_supervision_enabled(enabled)", "it.get_tr_and_val_datasets()", "it.print_to_log_file(text)"),
        "it.build_network_architecture(plans_manager=p, configuration_manager=c, num_input_channels=i, "
        "num_output_channels=o, enable_deep_supervision=d)",
        *("it.get_training_transforms", "it.get_validation_transforms", "it.loss", "it.optimizer", "it.lr_scheduler"),
        *("it.grad_scaler", "it.logger", "it.network", "it.is_ddp", "it.local_rank", "it.device", "it.was_initialized"),
        *("it.plans_manager", "it.configuration_manager", "it.configuration_name", "it.label_manager", "it.fold"),
        *("it.dataset_json", "it.dataset_class", "it.my_init_kwargs", "it.output_folder", "it.output_folder_base"),
        *("it.preprocessed_dataset_folder", "it.current_epoch", "it.num_epochs", "it.num_iterations_per_epoch"),
        *("it.num_val_iterations_per_epoch", "it.initial_lr", "it.weight_decay", "it.oversample_foreground_percent"),
        *("it.enable_deep_supervision", "it.disable_checkpointing"),
    ),
}  # fmt: skip


def missing(name: str, use: str) -> str:
    """What is no longer possible, in words; empty if nothing."""
    thing, node = getattr(contract, name), ast.parse(use, mode="eval").body
    member = node.func if isinstance(node, ast.Call) else node
    if isinstance(member, ast.Attribute):
        source = "".join(inspect.getsource(kind) for kind in thing.__mro__ if kind.__module__ != "builtins")
        if not hasattr(thing, member.attr):
            is_set = re.search(rf"self\.{member.attr}\b(, self\.\w+)*\s*(:[^=\n]*)?= ", source)
            return "" if is_set else f"{name} has no attribute {member.attr} any more"
        raw = inspect.getattr_static(thing, member.attr)
        thing = getattr(thing, member.attr)
    if not isinstance(node, ast.Call) or isinstance(thing, property):
        return ""
    bound = isinstance(member, ast.Attribute) and not isinstance(raw, (staticmethod, classmethod))
    arguments = [object()] * (len(node.args) + bound)
    try:
        inspect.signature(thing).bind(*arguments, **{one.arg: object() for one in node.keywords if one.arg})
    except TypeError as error:
        return f"nnsam3d calls {use.replace('it', name, 1)}, but it is {inspect.signature(thing)} now: {error}"
    return ""


def test_the_list_of_uses_is_complete() -> None:
    assert sorted(USES) == sorted(NAMES)
    tree = ast.parse(inspect.getsource(contract))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.name: node.module for node in typed.body for alias in node.names}
    assert imported == NAMES, "the imports for type checkers differ from NAMES"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_nnunet_still_has(name: str) -> None:
    for use in ("it", *USES[name]):
        assert not (problem := missing(name, use)), problem


def test_a_change_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing("compute_new_shape", "it(shape)").startswith("nnsam3d calls compute_new_shape(shape), but it is")
    assert missing("PlansManager", "it.nothing") == "PlansManager has no attribute nothing any more"
    monkeypatch.setitem(NAMES, "Lost", "nnunetv2.paths")
    with pytest.raises(ImportError, match=r"nnunetv2\.paths has no Lost: this version of nnU-Net is not supported"):
        contract.__getattr__("Lost")
    with pytest.raises(AttributeError, match="nothing"):
        contract.__getattr__("nothing")


@pytest.mark.parametrize("spelling", ["RemoveLabelTransform", "RemoveLabelTansform"])
def test_both_spellings_of_a_transform_are_known(spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "import_module", lambda name: SimpleNamespace(**{spelling: int}))
    monkeypatch.delitem(vars(contract), "RemoveLabelTransform", raising=False)
    assert contract.RemoveLabelTransform is int
    monkeypatch.delitem(vars(contract), "RemoveLabelTransform")


@pytest.mark.parametrize("name", ["filename_or_checkpoint", "filename"])
def test_the_argument_of_load_checkpoint_may_have_any_name(name: str) -> None:
    from nnsam3d.training.survival import SurvivingTrainer

    trainer: Any = SimpleNamespace()
    for given in ((), {name: "/no/file"}), (("/no/file",), {}):
        with pytest.raises(UserError, match=r"/no/file: the checkpoint cannot be read"):
            SurvivingTrainer.load_checkpoint(trainer, *given[0], **given[1])


def test_nothing_of_nnunet_is_imported_before_it_is_needed() -> None:
    script = "import sys, nnsam3d.nnunet.contract; assert not {'torch', 'nnunetv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)


# ---------------------------------------------------------------------- what nnU-Net returns


def test_a_training_case_is_a_dictionary_of_images_and_label(tmp_path: Path) -> None:
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "a_0000.mha").touch()
    (tmp_path / "dataset.json").write_text(json.dumps({"file_ending": ".mha"}))
    found = contract.get_filenames_of_train_images_and_targets(str(tmp_path))
    assert {key: sorted(entry) for key, entry in found.items()} == {"a": ["images", "label"]}


def test_separate_resampling_is_said_as_yes_or_no_and_an_axis() -> None:
    assert contract.determine_do_sep_z_and_axis(None, [5, 1, 1], [5, 1, 1], contract.ANISO_THRESHOLD) == (True, 0)
    assert not contract.determine_do_sep_z_and_axis(None, [1, 1, 1], [1, 1, 1], contract.ANISO_THRESHOLD)[0]


def test_a_split_is_a_dictionary_of_train_and_val() -> None:
    split = contract.generate_crossval_split([f"case_{n}" for n in range(6)], seed=12345, n_splits=5)[0]
    assert sorted(split) == ["train", "val"]


def test_counts_come_in_the_order_true_positive_false_positive_false_negative() -> None:
    predicted, target = torch.tensor([[[1.0, 1, 1, 0, 0, 0]]]), torch.tensor([[[1.0, 0, 0, 1, 1, 1]]])
    tp, fp, fn = contract.get_tp_fp_fn_tn(predicted, target, axes=[0, 2], mask=None)[:3]
    assert (tp.item(), fp.item(), fn.item()) == (1, 2, 3)


def test_a_checkpoint_has_the_entries_that_are_read() -> None:
    """open_checkpoint and TrainedModel read these."""
    written = inspect.getsource(contract.nnUNetTrainer.save_checkpoint)
    for key in ("network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes", "optimizer_state"):
        assert f"'{key}'" in written, f"nnU-Net's checkpoints have no entry {key} any more"


def test_the_pipeline_ends_with_the_removal_of_a_label() -> None:
    """Clicks are inserted there; see `insert_clicks`."""
    transforms = contract.nnUNetTrainer.get_validation_transforms(None)
    assert any(isinstance(one, contract.RemoveLabelTransform) for one in transforms.transforms)


def test_the_trainers_loop_calls_what_is_overridden() -> None:
    """A signal, a full disk or the end of a budget is noticed in these methods."""
    loop = inspect.getsource(contract.nnUNetTrainer.run_training)
    for name in ("on_train_start", "on_epoch_start", "on_train_epoch_start", "train_step", "validation_step"):
        assert f"self.{name}(" in loop, f"nnU-Net's run_training does not call {name} any more"
    assert "save_checkpoint" in inspect.getsource(contract.nnUNetTrainer.on_epoch_end)


def test_weights_are_loaded_by_functions_of_these_names() -> None:
    """`training/started_from.py` finds them, and the file, among its callers."""
    loading = importlib.import_module("nnunetv2.run.load_pretrained_weights").load_pretrained_weights
    coming = importlib.import_module("nnunetv2.run.run_training").maybe_load_checkpoint
    assert "fname" in inspect.signature(loading).parameters
    assert "pretrained_weights_file" in inspect.signature(coming).parameters


# ---------------------------------------------------------------------- what nnsam3d computes itself


def same_cases(tmp_path: Path) -> None:
    from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder

    from nnsam3d.nnunet.cases import case_name
    from nnsam3d.nnunet.datasets import cases_in

    for name in ("b_0000", "a_0001", "a_0000", "a_b_0000", "c_00000", "d", "._a_0000", "a_0000_0000"):
        (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / "a_0002.nii").touch()
    found = cases_in(tmp_path, ".nii.gz")
    names = [case_name(files[0], ".nii.gz") for files in found]
    assert names == ["a", "a_0000", "a_b", "b"]
    theirs = create_lists_from_splitted_dataset_folder(str(tmp_path), ".nii.gz", names)
    assert found == [list(files) for files in theirs]


def same_splits(tmp_path: Path) -> None:
    from nnsam3d.nnunet import splits

    theirs = inspect.getsource(contract.nnUNetTrainer.do_split)
    call = f"generate_crossval_split(all_keys_sorted, seed={splits.SEED}, n_splits={splits.FOLDS})"
    assert call in theirs
    assert splits.SPLITS in theirs


def same_crop(tmp_path: Path) -> None:
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    from nnsam3d.nnunet.size import nonzero_box

    data = np.zeros((2, 5, 6, 7), np.float32)
    for _ in range(2):  # all zero, then two voxels
        _, _, theirs = crop_to_nonzero(data)
        assert [[side.start, side.stop] for side in nonzero_box(data)] == [list(side) for side in theirs]
        data[0, 1, 2, 3], data[1, 3, 2, 5] = -1, 1


def same_normalisations(tmp_path: Path) -> None:
    from nnunetv2.preprocessing.normalization import default_normalization_schemes as theirs

    from nnsam3d.nnunet.normalisation import NORMALISATIONS

    known = {"mean": 60.0, "std": 40.0, "percentile_00_5": 10.0, "percentile_99_5": 140.0}
    raw = np.random.default_rng(2).uniform(0, 200, (4, 5, 6)).astype(np.float32)
    for name, ours in NORMALISATIONS.items():
        expected = getattr(theirs, name)(use_mask_for_norm=False, intensityproperties=known).run(raw.copy(), None)
        np.testing.assert_allclose(ours(raw, known)(raw.copy()), expected, atol=1e-5, err_msg=name)


def same_preprocessing(tmp_path: Path) -> None:
    made = test_lazy.model([1.0, 0.8, 1.7], [1, 0, 2], ["ZScoreNormalization"])
    test_lazy.compare(made, test_lazy.image(3, (14, 15, 16), 1, 2), [1.2, 1.0, 1.0], seed=0)


def same_export(tmp_path: Path) -> None:
    from nnsam3d.nnunet.export import Exporter, Region

    plans, configuration = managers([0, 1, 2], [1.2, 0.9, 1.0], normalization="NoNormalization", order=1)
    configuration.configuration["resampling_fn_probabilities"] = "resample_data_or_seg_to_shape"
    kwargs = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration.configuration["resampling_fn_probabilities_kwargs"] = kwargs
    plans.plans["transpose_backward"] = [0, 1, 2]
    labels = contract.LabelManager(LABELS, regions_class_order=None)
    properties = {
        "spacing": [1.0, 1.0, 1.0],
        "shape_before_cropping": (16, 14, 12),
        "shape_after_cropping_and_before_resampling": (12, 14, 10),
        "bbox_used_for_cropping": [[2, 14], [0, 14], [1, 11]],
    }
    logits = np.random.default_rng(4).normal(size=(labels.num_segmentation_heads, 10, 16, 10)).astype(np.float32)
    theirs, probabilities = contract.convert_predicted_logits_to_segmentation_with_correct_shape(
        logits.copy(), plans, configuration, labels, properties, return_probabilities=True
    )
    model: Any = SimpleNamespace(plans_manager=plans, configuration_manager=configuration, label_manager=labels)
    exporter = Exporter(model, properties, logits.shape[1:])
    ((box, label_map, maps),) = exporter.parts([Region((0, 0, 0), logits, ())], probabilities=True)
    ours = exporter.empty()
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    ours[box] = label_map
    assert (ours != theirs).mean() < 1e-3, "nnU-Net computes in double precision: ties may go either way"
    assert maps is not None
    np.testing.assert_allclose(maps, probabilities[(slice(None), *box)], atol=2e-4)


def same_positions(tmp_path: Path) -> None:
    """Every voxel of the preprocessed image holds the place that it comes from."""
    from nnsam3d.geometry import preprocessing_steps

    places = np.stack(np.indices((20, 24, 22))).astype(np.float32)
    places[:, :3] = 0  # is cropped
    for order in itertools.permutations(range(3)):
        theirs, properties = preprocessed(places, {"spacing": [1.2, 1.0, 1.0]}, list(order), [1.0, 0.8, 1.7], 1)
        steps = preprocessing_steps(properties, order, theirs.shape[1:])
        voxels = [(5, 6, 7), (9, 9, 4), (12, 3, 10)]
        np.testing.assert_allclose(steps.invert(voxels), [theirs[(slice(None), *at)] for at in voxels], atol=1e-4)
    # coarse slices, of which nnU-Net takes the nearest
    theirs, properties = preprocessed(places, {"spacing": [1.0, 1.0, 1.0]}, [1, 0, 2], [5.0, 0.8, 0.8], 1)
    steps = preprocessing_steps(properties, [1, 0, 2], theirs.shape[1:])
    voxels = [(1, 6, 7), (2, 9, 4), (3, 3, 10)]
    apart = np.abs(steps.invert(voxels) - [theirs[(slice(None), *at)] for at in voxels]).max(axis=0)
    assert 0.01 < apart[1] <= 0.5 + 1e-4
    assert apart[[0, 2]].max() < 1e-4


def same_windows(tmp_path: Path) -> None:
    from acvl_utils.cropping_and_padding.padding import pad_nd_image

    from nnsam3d.inference.windows import Windows

    volume: Any = SimpleNamespace(shape=(3, 14, 8))
    model: Any = SimpleNamespace(patch_size=(8, 12, 9), mirror_axes=(0, 2), num_channels=1, trainer=None)
    windows = Windows(model, volume)
    padded, crop = pad_nd_image(np.zeros((1, *volume.shape)), (8, 12, 9), "constant", {}, True)
    assert windows.shape == padded.shape[1:]
    assert windows.offset == tuple(side.start for side in crop[1:])
    theirs = inspect.getsource(contract.nnUNetPredictor._internal_maybe_mirror_and_predict)
    assert "itertools.combinations(mirror_axes, i + 1)" in theirs, "mirroring in another way than all combinations"


def same_label_maps(tmp_path: Path) -> None:
    from nnsam3d.training.rollout import predicted_labels

    logits = torch.from_numpy(np.random.default_rng(5).normal(size=(1, 3, 4, 5, 6)).astype(np.float32))
    regions = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    for labels, order in ((LABELS, None), (regions, [1, 2, 3])):
        manager = contract.LabelManager(labels, regions_class_order=order)
        theirs = manager.convert_logits_to_segmentation(logits[0])
        np.testing.assert_array_equal(predicted_labels(logits, manager)[0], theirs)


def same_counts(tmp_path: Path) -> None:
    from nnsam3d.training.online_validation import hard_counts

    rng = np.random.default_rng(6)
    target = torch.from_numpy(rng.integers(0, 4, (2, 1, 4, 5, 6)).astype(np.int16))
    logits = torch.from_numpy(rng.normal(size=(2, 3, 4, 5, 6)).astype(np.float32))
    trainer: Any = SimpleNamespace(
        device=torch.device("cpu"),
        network=lambda data: logits,
        loss=lambda output, target: torch.zeros(()),
        enable_deep_supervision=False,
        label_manager=contract.LabelManager(LABELS, regions_class_order=None),
    )
    theirs = contract.nnUNetTrainer.validation_step(trainer, {"data": logits, "target": target.clone()})
    ours = hard_counts(logits, target, trainer.label_manager)
    for count, key in zip(ours, ("tp_hard", "fp_hard", "fn_hard"), strict=True):
        np.testing.assert_array_equal(count, theirs[key])


def same_loss(tmp_path: Path) -> None:
    from nnsam3d.planning.memory import nnunet_loss

    trainer: Any = SimpleNamespace(
        label_manager=contract.LabelManager({"background": 0, "organ": 1}, regions_class_order=None),
        configuration_manager=SimpleNamespace(batch_dice=False),
        is_ddp=False,
        enable_deep_supervision=False,
        _do_i_compile=lambda: False,
    )
    rng = np.random.default_rng(7)
    logits = torch.from_numpy(rng.normal(size=(2, 2, 4, 5, 6)).astype(np.float32))
    target = torch.from_numpy(rng.integers(0, 2, (2, 1, 4, 5, 6)).astype(np.float32))
    assert nnunet_loss()(logits, target) == contract.nnUNetTrainer._build_loss(trainer)(logits, target)


SAME: dict[str, Callable[[Path], None]] = {
    "nnsam3d.nnunet.datasets.cases_in": same_cases,
    "nnsam3d.nnunet.splits.make_splits": same_splits,
    "nnsam3d.nnunet.slabs.read_in_slabs": lambda tmp_path: test_slabs.test_equal_to_the_readers(
        tmp_path, ".nii", np.int16, slices=5
    ),
    "nnsam3d.nnunet.size.nonzero_box": same_crop,
    "nnsam3d.nnunet.normalisation.NORMALISATIONS": same_normalisations,
    "nnsam3d.nnunet.lazy.LazyVolume": same_preprocessing,
    "nnsam3d.nnunet.export.Exporter": same_export,
    "nnsam3d.geometry.preprocessing_steps": same_positions,
    "nnsam3d.inference.windows.Windows": same_windows,
    "nnsam3d.training.rollout.predicted_labels": same_label_maps,
    "nnsam3d.training.online_validation.hard_counts": same_counts,
    "nnsam3d.planning.memory.nnunet_loss": same_loss,
}


@pytest.mark.parametrize("ours", REIMPLEMENTED)
def test_it_equals_what_nnunet_computes(ours: str, tmp_path: Path) -> None:
    module, _, name = ours.rpartition(".")
    assert hasattr(importlib.import_module(module), name)
    SAME[ours](tmp_path)


def test_the_number_of_windows_is_that_of_the_sliding_window() -> None:
    manager = SimpleNamespace(patch_size=(8, 12, 16))
    predictor: Any = contract.nnUNetPredictor(device=torch.device("cpu"), tile_step_size=0.5)
    predictor.configuration_manager = manager
    assert contract.window_count(predictor, (8, 12, 16)) == 1
    assert contract.window_count(predictor, (12, 12, 24)) == 4
