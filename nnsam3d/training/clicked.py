"""Common base of the trainers with clicks: simulated clicks in training, online validation and final validation.

Both click-promptable networks of this project use it, so that comparisons between them compare only the networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from nnsam3d.checkpoints.pretrained import AUTO, RECORD_KEY, SCRATCH
from nnsam3d.errors import UserError
from nnsam3d.network.fitting import load_fitting
from nnsam3d.network.prompts import PromptTensors
from nnsam3d.nnunet.checkpoint import open_checkpoint
from nnsam3d.nnunet.contract import ComposeTransforms, nnUNetTrainer
from nnsam3d.nnunet.datasets import COMPONENTS_KEY
from nnsam3d.nnunet.model import click_regions
from nnsam3d.prompts import click_labels
from nnsam3d.prompts.targets import DECLARED, ENTRY, Targets
from nnsam3d.training.budget import TimedTrainer
from nnsam3d.training.clicks import ClickSimulation, PromptRecorder, insert_clicks, with_simulated_clicks
from nnsam3d.training.components import suggested_components
from nnsam3d.training.online_validation import (
    AnswerPrompts,
    append_row,
    click_through,
    dice_of_counts,
    draw,
    hard_counts,
    header,
)
from nnsam3d.training.options import ENVIRONMENT_VARIABLE
from nnsam3d.training.start_masks import StartedDataset, found_masks, prepared_masks
from nnsam3d.training.started_from import innermost, model_file, trained_kinds
from nnsam3d.training.synthetic_data import SyntheticCases

STARTS = "starts"  # folder of a fold
OURS = ("clicked", "obeyed")  # keys of a validation step's result that nnU-Net does not use


class ClickedTrainer(TimedTrainer):
    """nnU-Net's trainer with the prompt channels in its data; ``options`` define how clicks are simulated."""

    prompt_types: tuple[str, ...] = ("click",)
    takes_sam = False  # whether the option weights may also name a file of SAM's
    targets: Targets | None = None  # of a class-agnostic training, whose ``dataset_json`` has a single label

    def initialize(self) -> None:
        """Also loads the weights of a model (option ``weights``), as far as they fit."""
        super().initialize()
        weights = self.options.weights
        source = None if self._restoring else model_file(weights)
        if source is None and not self.takes_sam and not self._restoring and weights not in (AUTO, SCRATCH):
            raise UserError(f"option weights={weights!r}: no such file, or not the checkpoint of a model")
        if source is not None:
            model = open_checkpoint(source)
            kinds = trained_kinds(model, source), self.options.kinds
            report = load_fitting(innermost(self.network), model["network_weights"], source, kinds)
            self._plans_entry[RECORD_KEY] = {"source": report.path, "sha256": report.sha256, "frozen": False}
            self.print_to_log_file(f"nnsam3d: starts from {report.summary()}")
            for what, names in (("adapted", report.adapted), ("new", report.new), ("unused", report.unused)):
                if names:
                    self.print_to_log_file(f"nnsam3d: {what}: {', '.join(names)}")

    def _click_simulation(self) -> ClickSimulation:
        labels = [value for value in click_labels(self.dataset_json).values() if value > 0]
        ignore = self.label_manager.ignore_label if self.targets is None else self.targets.ignored_value
        regions = None if self.targets is not None else click_regions(self.dataset_json, self.label_manager)
        spacing = self.configuration_manager.spacing
        return ClickSimulation.of(self.options, labels, spacing, ignore, self.targets, regions)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's; those of a class-agnostic training find patches by the labels of the dataset, as stored."""
        if self.targets is None:
            return super().get_dataloaders()
        ours: Any = self.label_manager
        self.label_manager: Any = self.plans_manager.get_label_manager(
            self.dataset_json | self.dataset_json[ENTRY][DECLARED]
        )
        try:
            return super().get_dataloaders()
        finally:
            self.label_manager = ours

    def on_train_start(self) -> None:
        """Also says in the plans which components a prediction should keep, after the training data."""
        if not self.was_initialized:
            self.initialize()
        if self.targets is not None:
            self._plans_entry[COMPONENTS_KEY] = "prompted"
        elif self.local_rank == 0 and Path(self.preprocessed_dataset_folder).is_dir():
            training, _ = self.get_tr_and_val_datasets()
            labels = [value for value in click_labels(self.dataset_json).values() if value > 0]
            regions = click_regions(self.dataset_json, self.label_manager)
            self._plans_entry[COMPONENTS_KEY] = suggested_components(training, labels, regions)
        super().on_train_start()

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """nnU-Net's, with masks to start from (``start_from``) in the training cases that have one.

        With data=synthetic, training cases are drawn.
        """
        training, validation = super().get_tr_and_val_datasets()
        if self.targets is not None and self.options.data == "synthetic":
            patch = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[2]
            return SyntheticCases(patch, self.configuration_manager.spacing), validation
        if self.options.start_from:
            ending = self.dataset_json["file_ending"]
            found = found_masks(Path(self.options.start_from), training.identifiers, ending)
            told = f"{len(found)} of {len(training.identifiers)} training cases have a mask to start from"
            self.print_to_log_file(f"{told} in {self.options.start_from}")
            masks = prepared_masks(found, training, Path(self.output_folder) / STARTS, self)
            training = StartedDataset(training, masks)
        return training, validation

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> ComposeTransforms:  # type: ignore[override]
        """nnU-Net's augmentation plus clicks simulated from the augmented segmentation."""
        if self.targets is not None:
            kwargs["regions"] = None
        transforms = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        return insert_clicks(transforms, self._click_simulation(), training=True)

    def get_validation_transforms(self, *args: Any, **kwargs: Any) -> ComposeTransforms:  # type: ignore[override]
        """nnU-Net's validation pipeline plus ``validation_clicks`` simulated clicks."""
        if self.targets is not None:
            kwargs["regions"] = None
        transforms = nnUNetTrainer.get_validation_transforms(*args, **kwargs)
        return insert_clicks(transforms, self._click_simulation(), training=False)

    def answers(self, data_BCDHW: torch.Tensor) -> AnswerPrompts:
        """Maps prompts to logits for a batch (B, C + P, D, H, W); the batch's own prompt channels are not used."""
        raise NotImplementedError

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's metrics for the clicks in the prompt channels, and those without clicks and after corrections."""
        self.pause_point()
        data_BCDHW, target = batch["data"].to(self.device), batch["target"]
        target = [one.to(self.device) for one in target] if isinstance(target, list) else target.to(self.device)
        finest = target[0] if isinstance(target, list) else target
        with self.half_precision():
            simulation = self._click_simulation()
            channels_BPDHW = data_BCDHW[:, -simulation.codec.num_channels :]
            first = PromptTensors.read(channels_BPDHW, max(1, self.options.validation_clicks))
            found, kept = click_through(self.answers(data_BCDHW), first, finest, self.label_manager, simulation)
            loss = self._loss_of_finest(found[1], target)
        counts = [hard_counts(logits, finest, self.label_manager) for logits in found]
        tp, fp, fn = counts[1]
        ours = {"clicked": np.array(counts), "obeyed": kept.cpu().numpy()}
        return {"loss": loss.cpu().numpy(), "tp_hard": tp, "fp_hard": fp, "fn_hard": fn, **ours}

    def _loss_of_finest(self, logits: torch.Tensor, target: Any) -> torch.Tensor:
        if isinstance(target, list):  # deep supervision: loss at full resolution only
            return self.loss.loss(logits, target[0])  # type: ignore[no-any-return]
        return self.loss(logits, target)  # type: ignore[no-any-return]

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Also writes Dice by number of clicks to the log, a table and a figure."""
        super().on_validation_epoch_end([{k: v for k, v in one.items() if k not in OURS} for one in val_outputs])
        sums = [np.sum([one[key] for one in val_outputs], axis=0) for key in OURS]
        if self.is_ddp:
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, sums)
            sums = [np.sum(parts, axis=0) for parts in zip(*gathered, strict=True)]
        clicked_S3C, (kept, given) = sums
        names = header(self.options.validation_clicks)
        row = [self.current_epoch, *(dice_of_counts(counts_3C) for counts_3C in clicked_S3C), kept / max(given, 1)]
        values = ", ".join(f"{name} {value:.3f}" for name, value in zip(names[1:], row[1:], strict=True))
        self.print_to_log_file(f"by number of clicks: {values}")
        if self.local_rank == 0:
            append_row(Path(self.output_folder), names, row)
            draw(Path(self.output_folder))

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's final validation with clicks simulated from each case's ground truth, seeded by the case name.

        The clicks are written to ``validation_prompts/``, so that nnUNetv2_predict can reproduce the validation.
        """
        if self.leaves_validation_out:
            super().perform_actual_validation(save_probabilities)
            return
        if self.targets is not None:
            self.print_to_log_file(
                "no final validation: a class-agnostic model answers a prompt, it does not know the dataset's labels. "
                "Measure it with `nnsam3d benchmark run`"
            )
            return
        self.print_to_log_file(
            f"final validation with {self.options.validation_clicks} simulated click(s) per case "
            f'(change it with {ENVIRONMENT_VARIABLE}="validation_clicks=N" and --val)'
        )
        prompts = PromptRecorder(
            Path(self.output_folder) / "validation_prompts",
            self.plans_manager.transpose_forward,
            {value: name for name, value in click_labels(self.dataset_json).items()},
        )
        stock: Any = self.dataset_class
        self.dataset_class: Any = with_simulated_clicks(stock, self._click_simulation(), prompts)
        try:
            super().perform_actual_validation(save_probabilities)
        finally:
            self.dataset_class = stock
