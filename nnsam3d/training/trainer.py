"""SAM3DAdapterTrainer: the 3D-adapted SAM inside nnU-Net's training, validation and prediction.

Follows nnU-Net's trainer, method by method; what stands here is only what differs. ``trainers/`` re-exports it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnsam3d.checkpoints.pretrained import RECORD_KEY, SCRATCH, find_weights
from nnsam3d.errors import UserError
from nnsam3d.network import SAM3D, SAM3DConfig, freeze_pretrained, parameter_counts
from nnsam3d.network.config import fields_of_weights
from nnsam3d.network.prompts import PromptTensors
from nnsam3d.network.weights import load_sam
from nnsam3d.nnunet.checkpoint import open_checkpoint
from nnsam3d.nnunet.datasets import BEST, FINAL, LATEST
from nnsam3d.nnunet.preprocessing import use_prompted_preprocessor
from nnsam3d.prompts.encoding import ENCODING
from nnsam3d.training.clicked import ClickedTrainer
from nnsam3d.training.optimizer import FACTOR, WarmupLinear, build_optimizer, clip_gradients
from nnsam3d.training.options import (
    EARLIER_VERSIONS,
    ENVIRONMENT_VARIABLE,
    PLANS_KEY,
    TrainingOptions,
    options_from_environment,
    options_of_checkpoint,
    resolve_options,
)
from nnsam3d.training.plans import refuse_unsupported, rewrite_plans
from nnsam3d.training.rollout import drawn_rounds, make_roll_out

FROM_DATASET = {"num_image_channels", "num_classes", "num_click_labels"}  # sizes that the dataset decides
CHECKPOINT_NAMES = (FINAL, LATEST, BEST)


class SAM3DAdapterTrainer(ClickedTrainer):
    """Trains a click-promptable :class:`nnsam3d.network.SAM3D` on any nnU-Net dataset with a 3D configuration.

    Options: :class:`nnsam3d.training.options.TrainingOptions`.

    Raises:
        OptionsError: unknown or wrong option.
        UserError: a configuration, patch or dataset that this trainer cannot do.
    """

    keeps_features = True

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),
    ) -> None:
        resolved = refuse_unsupported(plans, configuration, dataset_json)
        options = resolve_options(resolved, configuration).resolved(device.type)
        plans = rewrite_plans(plans, configuration, dataset_json, options)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self._restoring = False
        self.enable_deep_supervision = False
        self.pretrained_from: Path | None = None
        self._use(options)

    def _use(self, options: TrainingOptions) -> None:
        self.use_length(options)
        self.initial_lr = options.learning_rate
        self.weight_decay = options.weight_decay
        self.oversample_foreground_percent = options.oversample_foreground

    # ------------------------------------------------------------------ network

    @staticmethod
    def build_network_architecture(  # type: ignore[override]
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,
    ) -> nn.Module:
        """The network that the plans describe; also used in prediction, which is why it makes
        ``configuration_manager`` prompt-aware. ``num_input_channels`` counts image channels only."""
        use_prompted_preprocessor(configuration_manager)
        kwargs = configuration_manager.network_arch_init_kwargs
        return SAM3D(SAM3DConfig(**kwargs, num_image_channels=num_input_channels, num_classes=num_output_channels))

    @property
    def bare_network(self) -> SAM3D:
        """The network without the wrappers of DDP and torch.compile."""
        network = self.network
        if isinstance(network, DistributedDataParallel):
            network = network.module
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """The network has one output: nothing to switch."""

    def initialize(self) -> None:
        """As nnU-Net's, then SAM's weights (unless a checkpoint is about to replace them), then compilation."""
        if not self._restoring:
            self.pretrained_from = find_weights(self.options.preset, self.options.weights)
        super().initialize()
        if not self._restoring:
            self._load_pretrained()
        if super()._do_i_compile():
            self.print_to_log_file("Using torch.compile for encode and decode, each for itself...")
            self.bare_network.compile_halves()
        total, trainable = parameter_counts(self.bare_network)
        self.print_to_log_file(
            f"nnsam3d options: {self.options}\n"
            f"nnsam3d network: {self.bare_network.config}\n"
            f"parameters: {total:,}, of which trained: {trainable:,} "
            f"({'frozen SAM backbone' if self.pretrained_from else 'everything, from scratch'})",
            also_print_to_console=True,
        )

    def _do_i_compile(self) -> bool:
        """Not as a whole: between the two halves rounds are played, see :meth:`initialize`."""
        return False

    def _load_pretrained(self) -> None:
        record: dict[str, Any] = {"source": SCRATCH}
        if self.pretrained_from is not None:
            report = load_sam(self.bare_network, self.pretrained_from)
            self.print_to_log_file(report.summary())
            record = {"source": str(self.pretrained_from), "sha256": report.sha256}
        self.plans_manager.plans["configurations"][self.configuration_name][RECORD_KEY] = record

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """AdamW over the trainable parameters; the backbone is frozen if and only if it is pretrained."""
        if self.pretrained_from is not None:
            freeze_pretrained(self.bare_network)
        optimizer = build_optimizer(self.bare_network, self.options)
        return optimizer, WarmupLinear(optimizer, self.options, self.share_done)

    # ------------------------------------------------------------------ checkpoints

    def _restore(self, filename: str) -> None:
        """With the options the checkpoint was trained with (the environment still overrides them).

        Raises:
            UserError: the environment asks for another network than the checkpoint holds.
        """
        if not self.was_initialized:
            # mapped: only the plans are read here, nnU-Net reads the tensors below
            checkpoint = open_checkpoint(filename, mapped=True)
            self._adopt(checkpoint["init_args"]["plans"], filename)
        self._restoring = True
        super()._restore(filename)
        self._restoring = False
        # nnU-Net has put the old run's arguments and optimiser settings back; the next checkpoint and the next
        # update must have this run's
        self.my_init_kwargs: dict[str, Any] = {**self.my_init_kwargs, "plans": self.plans_manager.plans}
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.options.weight_decay
            if FACTOR in group:
                group[FACTOR] = self.options.prompt_learning_rate_factor

    def _adopt(self, plans: dict[str, Any], checkpoint: str) -> None:
        entry = plans["configurations"][self.configuration_name]
        trained = options_of_checkpoint(entry[PLANS_KEY], source=checkpoint)
        # what the training started from is history, whatever the environment says now
        options = replace(options_from_environment(trained), weights=trained.weights).resolved(self.device.type)
        _require_same_groups(trained, options, checkpoint)
        rewritten = rewrite_plans(plans, self.configuration_name, self.dataset_json, options)
        _require_same_network(entry, rewritten["configurations"][self.configuration_name], checkpoint)
        self.plans_manager = PlansManager(rewritten)
        self.configuration_manager = self.plans_manager.get_configuration(self.configuration_name)
        self._use(options)
        record = entry.get(RECORD_KEY, {"source": SCRATCH})
        self.pretrained_from = None if record["source"] == SCRATCH else Path(record["source"])

    # ------------------------------------------------------------------ training

    def on_train_start(self) -> None:
        """As nnU-Net's; refuses to overwrite the plans of folds that hold another network."""
        if not self.was_initialized:
            self.initialize()
        self._protect_other_folds()
        super().on_train_start()

    def _protect_other_folds(self) -> None:
        saved = Path(self.output_folder_base) / "plans.json"
        others = [
            path
            for path in Path(self.output_folder_base).glob("fold_*")
            if path.name != f"fold_{self.fold}" and any((path / name).is_file() for name in CHECKPOINT_NAMES)
        ]
        if saved.is_file() and others:
            theirs = load_json(str(saved))["configurations"][self.configuration_name]
            ours = self.plans_manager.plans["configurations"][self.configuration_name]
            _require_same_network(theirs, ours, f"{saved} ({', '.join(path.name for path in others)})")

    def update(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One update: nnU-Net's, with a roll-out as its forward pass, the paper's gradient clipping and a learning rate
        per iteration."""
        self.lr_scheduler.step(self.current_epoch + self._iteration / self.planned_iterations)
        data_BCDHW = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"].to(self.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        scaler = self.grad_scaler
        scale = 1.0 if scaler is None else scaler.scale(torch.ones((), device=self.device))
        rounds = drawn_rounds(self.options, self.current_epoch, self._iteration)
        task = make_roll_out(rounds, target, self.loss, self.label_manager, self._click_simulation(), scale)
        with self.half_precision():
            loss = self.network(data_BCDHW, task)
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.unscale_(self.optimizer)
            clip_gradients(self.bare_network, self.options.gradient_clip)
            scaler.step(self.optimizer)
            scaler.update()
        else:
            loss.backward()
            clip_gradients(self.bare_network, self.options.gradient_clip)
            self.optimizer.step()
        return {"loss": loss.detach().cpu().numpy()}

    def answers(self, data_BCDHW: torch.Tensor) -> Callable[[PromptTensors], torch.Tensor]:
        """What the network says to prompts on a batch, which is encoded once."""
        network = self.bare_network
        features = network.encode(ENCODING.split(data_BCDHW, axis=1)[0])
        return lambda prompts: network.decode(features, prompts)


def _require_same_groups(trained: TrainingOptions, options: TrainingOptions, checkpoint: str) -> None:
    """The optimiser's state in a checkpoint belongs to its groups: with a factor of 1 there is one, else two."""
    before, now = trained.prompt_learning_rate_factor, options.prompt_learning_rate_factor
    if (before == 1) != (now == 1):
        raise UserError(
            f"{checkpoint} was trained with prompt_learning_rate_factor={before:g} and cannot go on with {now:g}: a "
            f"factor of 1 is one group of the optimiser, another factor two. Leave it out of {ENVIRONMENT_VARIABLE}."
        )


def _require_same_network(theirs: dict[str, Any], ours: dict[str, Any], where: str) -> None:
    """Compare two configurations' architectures, value by value."""
    # what an earlier version did not know had the value that is the default
    defaults = {field.name: field.default for field in fields(SAM3DConfig)}
    kwargs, wanted = defaults | theirs["architecture"]["arch_kwargs"], ours["architecture"]["arch_kwargs"]
    differing = [key for key in fields_of_weights() if key in wanted and _plain(kwargs.get(key)) != _plain(wanted[key])]
    if differing:
        details = ", ".join(f"{key}: {kwargs.get(key)} there, {wanted[key]} now" for key in differing)
        there, now = EARLIER_VERSIONS | theirs.get(PLANS_KEY, {}), ours.get(PLANS_KEY, {})
        shaping = ("preset", "window", "fine_click_maps")
        options = " ".join(f"{key}={there[key]}" for key in shaping if there.get(key) != now.get(key))
        raise UserError(
            f"{where} holds another network than this run asks for ({details}). {_cure(differing, options)} Or train "
            "under another plans identifier (-p), or move that folder away."
        )


def _cure(differing: list[str], options: str) -> str:
    """What makes this run ask for the network that is there; not everything that shapes a network is an option."""
    if FROM_DATASET & set(differing):
        return (
            "Channels and labels are the dataset's: it was changed after that training. Put dataset.json back as it "
            "was (the model's folder has a copy)."
        )
    if not options:
        return "It was planned otherwise: plan again as before that training."
    return f'Set {ENVIRONMENT_VARIABLE}="{options}" as in that training.'


def _plain(value: Any) -> Any:
    """Tuples and lists alike: plans pass through JSON."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
