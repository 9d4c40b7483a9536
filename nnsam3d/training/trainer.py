"""SAM3DAdapterTrainer: the 3D-adapted SAM in nnU-Net's training, validation and prediction.

It overrides only the methods of nnU-Net's trainer that differ. ``trainers/`` re-exports it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnsam3d.checkpoints.pretrained import RECORD_KEY, SCRATCH, find_weights
from nnsam3d.errors import UserError
from nnsam3d.network import SAM3D, Decoder, RollOut, SAM3DConfig, freeze_pretrained, parameter_counts
from nnsam3d.network.config import fields_of_weights
from nnsam3d.network.decoder import PaperDecoder
from nnsam3d.network.prompts import PromptTensors
from nnsam3d.network.rounds import BatchClick
from nnsam3d.network.weights import load_sam
from nnsam3d.nnunet.contract import ConfigurationManager, PlansManager
from nnsam3d.nnunet.datasets import BEST, FINAL, LATEST, num_channels
from nnsam3d.nnunet.preprocessing import use_prompted_preprocessor
from nnsam3d.prompts.targets import Targets, class_agnostic
from nnsam3d.synthetic.dataset import Recipe
from nnsam3d.synthetic.dataset import dataset_json as synthetic_dataset_json
from nnsam3d.training.clicked import ClickedTrainer
from nnsam3d.training.decision import DECISION_KEY
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
from nnsam3d.training.rollout import drawn_rounds, next_clicks, predicted_labels, starting, truth_labels
from nnsam3d.training.started_from import innermost, is_frozen, model_file, will_be_loaded

FROM_DATASET = {"num_image_channels", "num_classes", "num_click_labels"}  # sizes determined by the dataset
CHECKPOINT_NAMES = (FINAL, LATEST, BEST)


class SAM3DAdapterTrainer(ClickedTrainer):
    """Trains a click-promptable :class:`nnsam3d.network.SAM3D` on any nnU-Net dataset with a 3D configuration.

    Options: :class:`nnsam3d.training.options.TrainingOptions`.

    Raises:
        OptionsError: unknown option or invalid value.
        UserError: an unsupported configuration, patch or dataset.
    """

    keeps_features = True
    takes_sam = True

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
        self._given_json = dataset_json
        dataset_json = self._aim(options)
        plans = rewrite_plans(plans, configuration, dataset_json, options)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False
        self.pretrained_from: Path | None = None
        self._use(options)

    def _aim(self, options: TrainingOptions) -> dict[str, Any]:
        """Sets :attr:`targets`, and returns the dataset.json of the network."""
        channels = num_channels(self._given_json)
        if options.data == "synthetic" and channels > 1:
            raise UserError(
                f"option data=synthetic: synthetic images have one channel, those of the dataset {channels}"
            )
        self.targets = Targets.of(self._given_json) if options.targets == "any" else None
        return self._given_json if self.targets is None else class_agnostic(self._given_json)

    def _refuse_other_labels(self) -> None:
        """Trainings that begin to draw volumes: of these, other labels would be targets of no sense."""
        drawn = synthetic_dataset_json(1, Recipe())
        if self.options.data == "synthetic" and Targets.of(self._given_json) != Targets.of(drawn):
            raise UserError(
                "option data=synthetic: the labels of this dataset are not those of the volumes that are drawn. Make a "
                "dataset with `nnsam3d synthesize`, and train on that"
            )

    def _use(self, options: TrainingOptions) -> None:
        self.use_length(options)
        self.initial_lr = options.learning_rate
        self.weight_decay = options.weight_decay
        self.oversample_foreground_percent = options.oversample_foreground

    # ------------------------------------------------------------------ network

    @staticmethod
    def make_decoder(config: SAM3DConfig) -> Decoder:
        """Hook for subclasses: another decoder (docs/architecture.md, "Where to add something")."""
        return PaperDecoder(config)

    @classmethod
    def build_network_architecture(  # type: ignore[override]
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,
    ) -> nn.Module:
        """The network that the plans describe. ``num_input_channels`` counts image channels only.

        Prediction also calls this, so it installs the prompt-aware preprocessor in ``configuration_manager``.
        """
        use_prompted_preprocessor(configuration_manager)
        kwargs = configuration_manager.network_arch_init_kwargs
        config = SAM3DConfig(**kwargs, num_image_channels=num_input_channels, num_classes=num_output_channels)
        return SAM3D(config, cls.make_decoder(config))

    @property
    def bare_network(self) -> SAM3D:
        """The network without the wrappers of DistributedDataParallel and torch.compile."""
        return innermost(self.network)  # type: ignore[return-value]

    @property
    def frozen_backbone(self) -> bool:
        return self.pretrained_from is not None

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Does nothing: the network has a single output."""

    def initialize(self) -> None:
        """Also loads SAM's weights, unless a checkpoint is about to replace them, and compiles the network."""
        model = model_file(self.options.weights)
        if not self._restoring:
            self._refuse_other_labels()
            planned = self.configuration_manager.configuration.get(DECISION_KEY)
            if planned is not None and self.options.token_voxels:
                self.print_to_log_file(
                    f"nnsam3d: the option token_voxels={self.options.token_voxels} is ignored: the plans determine "
                    f'tokens of {planned["token_stride"]} voxels (entry "{DECISION_KEY}", token_stride)'
                )
            self.pretrained_from = find_weights(self.options.preset, self.options.weights) if model is None else None
        super().initialize()
        if not self._restoring and model is None:
            self._load_pretrained()
        if super()._do_i_compile():
            self.print_to_log_file("Using torch.compile for encode and decode separately...")
            self.bare_network.compile_halves()
        total, trainable = parameter_counts(self.bare_network)
        begun = (
            "frozen SAM backbone"
            if self.pretrained_from
            else f"everything, from {will_be_loaded() or model or SCRATCH}"
        )
        self.print_to_log_file(
            f"nnsam3d options: {self.options}\n"
            f"nnsam3d network: {self.bare_network.config}\n"
            f"parameters: {total:,}, trained: {trainable:,} ({begun})",
            also_print_to_console=True,
        )

    def _do_i_compile(self) -> bool:
        """False: :meth:`initialize` compiles the two halves, which a roll-out calls separately."""
        return False

    def _load_pretrained(self) -> None:
        record: dict[str, Any] = {"source": SCRATCH}
        if self.pretrained_from is not None:
            report = load_sam(self.bare_network, self.pretrained_from)
            self.print_to_log_file(report.summary())
            record = {"source": str(self.pretrained_from), "sha256": report.sha256}
        self._plans_entry[RECORD_KEY] = record

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """AdamW over the trainable parameters; the backbone is frozen if it is pretrained, and only then."""
        if self.pretrained_from is not None:
            freeze_pretrained(self.bare_network)
        optimizer = build_optimizer(self.bare_network, self.options)
        return optimizer, WarmupLinear(optimizer, self.options, self.share_done)

    # ------------------------------------------------------------------ checkpoints

    def _restore(self, filename: str) -> None:
        """Restores the options of the checkpoint, too; the environment takes precedence.

        Raises:
            UserError: the environment requests another network than that of the checkpoint.
        """
        super()._restore(filename)
        # nnU-Net has restored the arguments and optimiser settings of the old run; the next checkpoint and the next
        # update need those of this run
        self.my_init_kwargs: dict[str, Any] = {
            **self.my_init_kwargs,
            "plans": self.plans_manager.plans,
            "dataset_json": self.dataset_json,
        }
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.options.weight_decay
            if FACTOR in group:
                group[FACTOR] = self.options.prompt_learning_rate_factor

    def _adopt(self, checkpoint: dict[str, Any], filename: str) -> None:
        plans = checkpoint["init_args"]["plans"]  # with the options, in all versions
        entry = plans["configurations"][self.configuration_name]
        trained = options_of_checkpoint(entry[PLANS_KEY], source=filename)
        # the environment cannot change the weights from which the training started
        options = replace(options_from_environment(trained), weights=trained.weights).resolved(self.device.type)
        _require_same_groups(trained, options, filename)
        _require_same_targets(trained, options, filename)
        self.dataset_json = self._aim(options)
        rewritten = rewrite_plans(plans, self.configuration_name, self.dataset_json, options)
        _require_same_network(entry, rewritten["configurations"][self.configuration_name], filename)
        self.plans_manager = PlansManager(rewritten)
        self.configuration_manager = self.plans_manager.get_configuration(self.configuration_name)
        self.label_manager = self.plans_manager.get_label_manager(self.dataset_json)
        self._use(options)
        if trained.data != options.data:
            self._refuse_other_labels()
        record = entry.get(RECORD_KEY, {"source": SCRATCH})
        self.pretrained_from = Path(record["source"]) if is_frozen(record) else None

    # ------------------------------------------------------------------ training

    def on_train_start(self) -> None:
        """Refuses to overwrite the plans if other folds were trained with another network."""
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
            theirs = json.loads(saved.read_text(encoding="utf-8"))["configurations"][self.configuration_name]
            _require_same_network(theirs, self._plans_entry, f"{saved} ({', '.join(path.name for path in others)})")

    def update(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's update with a roll-out as the forward pass, the paper's gradient clipping, and a learning rate that
        changes with every iteration."""
        self.lr_scheduler.step(self.current_epoch + self._iteration / self.planned_iterations)
        data_BCDHW = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"].to(self.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        scaler = self.grad_scaler
        scale = 1.0 if scaler is None else scaler.scale(torch.ones((), device=self.device))
        rounds = drawn_rounds(self.options, self.current_epoch, self._iteration)
        simulation = self._click_simulation()
        start = starting(self.options, self.current_epoch, self._iteration, rounds, self.label_manager, simulation)
        truth_BDHW = truth_labels(target, self.label_manager)

        def correct(logits_BKDHW: torch.Tensor, prompts: PromptTensors) -> BatchClick:
            return next_clicks(truth_BDHW, predicted_labels(logits_BKDHW, self.label_manager), prompts, simulation)

        task = RollOut(
            rounds=rounds,
            slots=simulation.max_rounds,
            loss=lambda logits: self.loss(logits, target),
            correct=correct,
            scale=scale,
            start=start,
            first_weight=self.options.first_answer_weight,
        )
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
        """Maps prompts to logits for a batch, which is encoded once."""
        network = self.bare_network
        features = network.encode(data_BCDHW[:, : network.config.num_image_channels])
        return lambda prompts: network.decode(features, prompts)


def _require_same_groups(trained: TrainingOptions, options: TrainingOptions, checkpoint: str) -> None:
    """The optimiser's state matches its parameter groups: one group with a factor of 1, two with any other factor."""
    before, now = trained.prompt_learning_rate_factor, options.prompt_learning_rate_factor
    if (before == 1) != (now == 1):
        raise UserError(
            f"{checkpoint} was trained with prompt_learning_rate_factor={before:g} and cannot continue with {now:g}: "
            "the optimiser has one parameter group with a factor of 1, and two with any other factor. Remove the "
            f"option from {ENVIRONMENT_VARIABLE}."
        )


def _require_same_targets(trained: TrainingOptions, options: TrainingOptions, checkpoint: str) -> None:
    if trained.targets != options.targets:
        raise UserError(
            f"{checkpoint} was trained with targets={trained.targets} and cannot continue with {options.targets}: "
            f"remove the option from {ENVIRONMENT_VARIABLE}, or start a training of its own with -pretrained_weights."
        )


def _require_same_network(theirs: dict[str, Any], ours: dict[str, Any], where: str) -> None:
    """Compare the architectures of two configurations, value by value.

    Raises:
        UserError: they differ; the message names the differences.
    """
    # values that earlier versions did not store had today's defaults
    defaults = {field.name: field.default for field in fields(SAM3DConfig)}
    kwargs, wanted = defaults | theirs["architecture"]["arch_kwargs"], ours["architecture"]["arch_kwargs"]
    differing = [key for key in fields_of_weights() if key in wanted and _plain(kwargs.get(key)) != _plain(wanted[key])]
    if differing:
        details = ", ".join(f"{key}: {kwargs.get(key)} there, {wanted[key]} now" for key in differing)
        there, now = EARLIER_VERSIONS | theirs.get(PLANS_KEY, {}), ours.get(PLANS_KEY, {})
        shaping = ("preset", "window", "fine_click_maps", "detail_dim", "token_voxels", "prompt_kinds", "targets")
        options = " ".join(f"{key}={there[key]}" for key in shaping if there.get(key) != now.get(key))
        raise UserError(
            f"{where} contains another network than this run requests ({details}). {_remedy(differing, options)} Or "
            "train with another plans identifier (-p), or move that folder."
        )


def _remedy(differing: list[str], options: str) -> str:
    """How to request the existing network; the dataset and the plans determine it, too, not only the options."""
    if FROM_DATASET & set(differing):
        return (
            "Channels and labels are defined by the dataset, which was changed after that training. Restore its "
            "dataset.json (the model's folder contains a copy)."
        )
    if not options:
        return "It was planned differently: plan again as before that training."
    return f'Set {ENVIRONMENT_VARIABLE}="{options}" as in that training.'


def _plain(value: Any) -> Any:
    """Tuples as lists, because plans are stored as JSON."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
