"""Trainings of seconds, without nnU-Net's folders of data: what is tested is what happens between two updates.

``python small.py FOLDER TRAINER [--c|--workers]`` trains in a process of its own, to be killed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnsam3d.network import PRESETS
from nnsam3d.training import clicked
from nnsam3d.training.baseline import nnUNetBaselineTrainer
from nnsam3d.training.click_unet import nnUNetClickTrainer
from nnsam3d.training.trainer import SAM3DAdapterTrainer

# A backbone in SAM's layout, small enough to write its checkpoint in a test.
NANO = {
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 3,
    "neck_dim": 16,
    "decoder_dim": 8,
    "prompt_heads": 4,
    "prompt_mlp_dim": 32,
    "pos_embed_size": (64, 64),
}
UNET = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [2, 2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
CONFIGURATION = {
    "data_identifier": "data",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [8, 16, 16],
    "spacing": [2.0, 1.0, 1.0],
    "batch_dice": False,
    "architecture": UNET,
}
DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumour": 1}, "file_ending": ".nii.gz"}
TRAINERS = {one.__name__: one for one in (SAM3DAdapterTrainer, nnUNetClickTrainer, nnUNetBaselineTrainer)}
EPOCHS, ITERATIONS, VALIDATIONS = 2, 4, 2
LENGTH = (
    f"preset=nano weights=scratch num_epochs={EPOCHS} num_iterations_per_epoch={ITERATIONS} "
    f"num_val_iterations_per_epoch={VALIDATIONS} rounds=0-2"
)


class Loader:
    """As nnU-Net's: every batch is drawn from the global generators. ``before`` is called before each."""

    def __init__(self, channels: int, scales: int, before: Callable[[], None]) -> None:
        self.channels, self.scales, self.before = channels, scales, before

    def set_thread_id(self, thread_id: int) -> None: ...

    def __next__(self) -> dict[str, Any]:
        self.before()
        target = torch.zeros(2, 1, 8, 16, 16)
        corner = np.random.randint(0, 6)  # noqa: NPY002
        target[:, :, 1:5, corner : corner + 6, 4:10] = 1
        image = target + 0.3 * torch.randn_like(target)
        prompts = torch.zeros(2, self.channels, 8, 16, 16)
        prompts[:, :1, 2, corner + 1, 5] = 2
        targets = [target, target[..., ::2, ::2, ::2]][: self.scales]
        return {"data": torch.cat([image, prompts], 1), "target": targets if self.scales > 1 else target}


def _prompt_channels(trainer: Any) -> int:
    return 0 if type(trainer) is nnUNetBaselineTrainer else trainer._click_simulation().codec.num_channels


def prepare(patch: pytest.MonkeyPatch, before: Callable[[], None] = lambda: None) -> None:
    """nnU-Net's start without folders, and batches that are drawn."""

    def start(self: Any) -> None:
        if not self.was_initialized:
            self.initialize()
        self.dataloader_train, self.dataloader_val = self.get_dataloaders()

    def loaders(self: Any) -> tuple[Any, Any]:
        clicks, scales = _prompt_channels(self), 2 if self.enable_deep_supervision else 1
        made = [SingleThreadedAugmenter(Loader(clicks, scales, before), None) for _ in range(2)]
        for one in made:
            next(one)
        return made[0], made[1]

    patch.setitem(PRESETS, "nano", NANO)
    patch.setattr(module, "infer_dataset_class", lambda folder: None)
    patch.setattr(nnUNetTrainer, "on_train_start", start)
    patch.setattr(nnUNetTrainer, "get_dataloaders", loaders)
    patch.setattr(nnUNetTrainer, "_get_deep_supervision_scales", lambda self: [[1, 1, 1], [0.5] * 3])
    patch.setattr(module.MetaLogger, "plot_progress_png", lambda self, folder: None)
    patch.setattr(clicked, "draw", lambda folder: None)


def folders(root: Path) -> dict[str, str]:
    """nnU-Net's variables, and no processes for data."""
    for name in ("raw", "preprocessed", "results"):
        (root / name).mkdir(exist_ok=True)
    named = {f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")}
    return named | {"nnUNet_n_proc_DA": "0"}


def make(name: str, go_on: bool = False) -> Any:
    """A trainer; it goes on with what ``checkpoint_latest.pth`` holds, as nnU-Net's command with --c."""
    plans = {
        "plans_name": "nnUNetPlans",
        "dataset_name": "Dataset999_Test",
        "configurations": {"3d_fullres": deepcopy(CONFIGURATION)},
        "continue_training": go_on,
        "transpose_forward": [0, 1, 2],
    }
    trainer = TRAINERS[name](plans, "3d_fullres", 0, DATASET, torch.device("cpu"))
    if go_on:
        trainer.load_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    return trainer


def main(root: Path, name: str, go_on: bool) -> None:
    """Says "saving NAME" and "saved NAME UPDATES" around every checkpoint, whose bytes come slowly."""
    os.environ |= folders(root)
    stock = torch.save

    def slowly(content: Any, path: str) -> None:
        name = Path(path).name.split(".")[1] + ".pth"  # of the temporary file, .NAME.pth.…
        print(f"saving {name}", flush=True)
        stock(content, path)
        size = os.path.getsize(path)
        data = Path(path).read_bytes()
        with open(path, "r+b") as file:  # as if the disk took its time
            file.truncate(0)
            for part in range(8):
                file.write(data[size * part // 8 : size * (part + 1) // 8])
                file.flush()
                os.fsync(file.fileno())
        print(f"saved {name} {content['optimizer_state']['nnsam3d']['updates']}", flush=True)

    torch.save = slowly
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        there = list((root / "results").glob("*/*/fold_0/checkpoint_latest.pth"))
        trainer = make(name, go_on and bool(there))
        print(f"begin {trainer._updates}", flush=True)
        trainer.run_training()


def with_workers(root: Path, name: str) -> None:
    """Batches come from two processes, as nnU-Net's do. Says "asking for batch N" before each."""
    os.environ |= folders(root)
    stock = nnUNetTrainer.train_step
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)

        def loaders(self: Any) -> tuple[Any, Any]:
            clicks, scales = _prompt_channels(self), 2 if self.enable_deep_supervision else 1
            made = [Loader(clicks, scales, lambda: None) for _ in range(2)]
            return tuple(NonDetMultiThreadedAugmenter(one, None, 2, 1, None) for one in made)  # type: ignore[return-value]

        def step(self: Any, batch: Any) -> Any:
            print(f"asking for batch {self._iteration}", flush=True)
            time.sleep(0.5)  # long enough for a second Ctrl-C
            return stock(self, batch)

        patch.setattr(nnUNetTrainer, "get_dataloaders", loaders)
        patch.setattr(nnUNetTrainer, "train_step", step)
        make(name).run_training()


if __name__ == "__main__":
    if "--workers" in sys.argv:
        with_workers(Path(sys.argv[1]), sys.argv[2])
    else:
        main(Path(sys.argv[1]), sys.argv[2], "--c" in sys.argv)
