"""The training options: one frozen dataclass, set in two places.

1. the plans: ``plans["configurations"][configuration]["nnsam3d"] = {"preset": "tiny", ...}``
2. the environment variable of one run: ``nnsam3d_options="preset=tiny num_epochs=20"`` (takes precedence)

Unknown keys and values of the wrong type are errors that list the known ones. This module does not import torch.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.keys import known, mismatch
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.prompts.simulation import CLICK_STRATEGIES

ENVIRONMENT_VARIABLE = "nnsam3d_options"
PLANS_KEY = "nnsam3d"
MOST_ROUNDS = 20
TARGETS = ("labels", "any")
DATA = ("dataset", "synthetic")
PROMPT_KINDS = tuple(name for name, kind in KINDS.items() if kind.trained)
CHECKPOINTING = ("none", "cheap", "blocks")  # as in nnsam3d.network, which imports torch


class OptionsError(UserError):
    """An option is unknown, of the wrong type or out of range."""


# The meaning of 0 and "auto" by device: on a CPU, an epoch of 250 iterations would take most of an hour.
DEVICE_DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"preset": "tiny", "num_iterations_per_epoch": 50, "num_val_iterations_per_epoch": 5},
    "gpu": {"preset": "vit_b", "num_iterations_per_epoch": 250, "num_val_iterations_per_epoch": 50},
}
# By preset; other presets use the paper's learning rate. A small network trained from scratch needs a larger one.
LEARNING_RATES = {"tiny": 1e-3}
PAPER_LEARNING_RATE = 4e-4
# Values for models of earlier versions, whose plans do not contain these options.
EARLIER_VERSIONS: dict[str, Any] = {
    "rounds": "0",
    "prompt_learning_rate_factor": 1.0,
    "fine_click_maps": 0,
    "detail_dim": 0,
    "token_voxels": 4,
    "cpu_bfloat16": 0,
    "prompt_kinds": "click",
    "first_answer_weight": 0.0,
    "targets": "labels",
}
RETIRED = {"refinement_share": 'use rounds, e.g. rounds=3 or rounds="1-6"'}

# What an option must be, in words and as a test, and the options of which it is required.
RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("at least 1", lambda value: value >= 1, "num_epochs max_clicks"),
    (
        "between 0 and 1",
        lambda value: 0.0 <= value <= 1.0,
        "zero_click_share negative_click_share oversample_foreground extent_share corrupted_share start_share "
        "first_answer_weight empty_share",
    ),
    ("positive", lambda value: value > 0, "gradient_clip prompt_learning_rate_factor"),
    (
        "zero or positive",
        lambda value: value >= 0,
        "weight_decay warmup_epochs window validation_clicks max_minutes learning_rate checkpoint_minutes "
        "num_iterations_per_epoch num_val_iterations_per_epoch",
    ),
    ("zero or positive (-1: none)", lambda value: value >= -1, "seed"),
    ("zero or positive (-1: the preset's)", lambda value: value >= -1, "detail_dim"),
    ("0, 2, 4 or 8", lambda value: value in (0, 2, 4, 8), "token_voxels"),
    ("0, 1 or 2", lambda value: value in (0, 1, 2), "fine_click_maps"),
    ("0 or 1", lambda value: value in (0, 1), "final_validation cpu_bfloat16"),
    (f"a number (3) or a range (1-6) from 0 to {MOST_ROUNDS}", lambda value: _range(value) is not None, "rounds"),
)
CHOICES = {"click_strategy": CLICK_STRATEGIES, "checkpointing": CHECKPOINTING, "targets": TARGETS, "data": DATA}


@dataclass(frozen=True)
class TrainingOptions:
    """All settings of a training that are not nnU-Net's own (patch, batch size and spacing are in the plans).

    Defaults follow the paper (docs/network.md#training: AdamW, learning rate 4e-4, no weight decay, linear decay to
    1 %, gradient norm 1 per sub-network); 500 epochs of 250 iterations are about its number of updates. 0 or "auto"
    select a value that depends on the preset or device (:meth:`resolved`).
    """

    preset: str = "auto"  # backbone: tiny, vit_b, vit_l, vit_h; auto = vit_b, on a CPU tiny
    weights: str = "auto"  # auto (SAM's checkpoint of the preset; tiny has none), scratch, starter, or a file
    num_epochs: int = 500
    num_iterations_per_epoch: int = 0  # 0 = 250, on a CPU 50
    num_val_iterations_per_epoch: int = 0  # 0 = 50, on a CPU 5
    max_minutes: float = 0.0  # wall-clock budget, which the learning rate follows; 0 = none
    learning_rate: float = 0.0  # 0 = the preset's: 4e-4, for tiny 1e-3
    weight_decay: float = 0.0
    warmup_epochs: float = 2.0  # linear, counted in iterations; at most a tenth of the training
    gradient_clip: float = 1.0  # L2 norm, separately for image encoder, prompt encoder and mask decoder
    oversample_foreground: float = 0.5  # share of patches that must contain foreground
    max_clicks: int = 8  # clicks simulated per training patch: 0, or n of 1..max_clicks with weight 1/n
    zero_click_share: float = 0.5  # share of the patches below whose first answer has no clicks (automatic)
    # What prompts mean: the dataset's labels, or any object, whatever its label (class-agnostic).
    targets: str = "labels"
    empty_share: float = 0.1  # with targets=any in place of zero_click_share: no prompt, and nothing to segment
    data: str = "dataset"  # training patches; synthetic: of volumes that are drawn during the training
    # Kinds of prompts that the network is trained with, "click" among them; models of earlier versions: click.
    prompt_kinds: str = ",".join(PROMPT_KINDS)
    extent_share: float = 0.35  # share of training patches that begin with a box, line, lasso or scribble
    corrupted_share: float = 0.3  # of these: image flattened, inverted or noisy, so that the prompt must be heeded
    start_share: float = 0.25  # share of training patches that go on from an answer of the network as a mask
    # A folder of predicted label maps from which patches start instead, where it has one; "" = none.
    start_from: str = ""
    first_answer_weight: float = 0.4  # share of the first answer in the loss; 0 = as every other answer
    # Corrections per iteration, each a click on the network's largest error: a number, or a range to draw from ("1-6").
    rounds: str = "1-6"
    prompt_learning_rate_factor: float = 10.0  # for the zero-initialised parameters through which clicks act
    fine_click_maps: int = 2  # number of widths of the click maps beside the logits; 0 = none
    token_voxels: int = 0  # voxels per token along the finest axis: 2, 4 or 8; 0 = the preset's (tiny 8, others 4)
    detail_dim: int = -1  # channels of the detail branch at the voxels; 0 = none, -1 = the preset's (tiny 16, others 0)
    negative_click_share: float = 0.25  # share of background clicks among the simulated ones
    click_strategy: str = "uniform"  # where clicks on foreground are drawn: uniform, center
    validation_clicks: int = 1  # simulated per case (final) or patch (online) in validation
    final_validation: int = 1  # 0 = skip nnU-Net's validation of whole cases after the last epoch
    window: int = 0  # attention window edge in tokens; 0 = chosen per axis from the token grid
    cpu_bfloat16: int = 1  # train in bfloat16 on CPUs that support it, as a GPU does in float16; 0 = float32
    seed: int = -1  # of clicks, augmentation, initial weights and order: makes a training repeatable; -1 = none
    checkpoint_minutes: float = 15.0  # maximum time between checkpoints; 0 = only nnU-Net's, by epochs
    checkpointing: str = "none"  # saves memory, costs time: none, cheap (MLPs, adapters run twice), blocks (nearly all)

    def __post_init__(self) -> None:
        for expected, holds, names in RANGES:
            for name in names.split():
                _require(holds(getattr(self, name)), name, getattr(self, name), expected)
        for name, choices in CHOICES.items():
            _require(getattr(self, name) in choices, name, getattr(self, name), "one of " + ", ".join(choices))
        kinds = self.prompt_kinds.split(",")
        _require(
            "click" in kinds and set(kinds) <= set(PROMPT_KINDS),
            "prompt_kinds",
            self.prompt_kinds,
            f'"click", with or without others of {", ".join(PROMPT_KINDS[1:])}, separated by commas',
        )
        if self.start_from and ("mask" not in kinds or not self.start_share):
            raise OptionsError(f"option start_from={self.start_from!r} needs prompt_kinds with mask, and a start_share")
        for_any = self.data == "dataset" or self.targets == "any"
        _require(for_any, "data", self.data, '"dataset", unless targets=any: synthetic objects have no classes')

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready copy, as stored in the plans."""
        return asdict(self)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of prompts, in the order of their channels."""
        return tuple(kind for kind in PROMPT_KINDS if kind in self.prompt_kinds.split(","))

    @property
    def click_slots(self) -> int:
        """The most clicks of a patch before the first answer: simulated ones, or those by which a prompt acts."""
        return max(self.max_clicks, *(KINDS[kind].most_clicks for kind in self.kinds))

    @property
    def rounds_range(self) -> tuple[int, int]:
        """The minimum and maximum number of corrections per iteration."""
        found = _range(self.rounds)
        assert found is not None  # checked when it was set
        return found

    def resolved(self, device: str) -> TrainingOptions:
        """A copy with 0 and "auto" replaced by the actual values.

        Args:
            device: torch's name of the device's type, e.g. "cuda" or "cpu".
        """
        defaults = DEVICE_DEFAULTS["cpu" if device == "cpu" else "gpu"]
        preset = defaults["preset"] if self.preset == "auto" else self.preset
        return replace(
            self,
            preset=preset,
            learning_rate=self.learning_rate or LEARNING_RATES.get(preset, PAPER_LEARNING_RATE),
            **{name: getattr(self, name) or value for name, value in defaults.items() if name != "preset"},
        )


def options_of_checkpoint(values: Mapping[str, Any], source: str) -> TrainingOptions:
    """The options of a stored training, also of an earlier version; raises as :func:`options_from_mapping` does."""
    kept = {key: value for key, value in values.items() if key not in RETIRED}
    return options_from_mapping(EARLIER_VERSIONS | kept, source=source)


def options_from_mapping(
    values: Mapping[str, Any], base: TrainingOptions | None = None, source: str = "options"
) -> TrainingOptions:
    """``base`` (default: all defaults), updated with ``values``.

    Raises:
        OptionsError: unknown key, wrong type or value out of range; the message names ``source``.
    """
    base = base or TrainingOptions()
    unknown, _ = mismatch(TrainingOptions, values)
    for key in set(unknown) & set(RETIRED):
        raise OptionsError(f"{source}: the option {key} no longer exists: {RETIRED[key]}.")
    if unknown:
        raise OptionsError(f"{source}: unknown option {', '.join(unknown)}. Known options: {', '.join(known(base))}.")
    converted = {key: _convert(key, value, type(getattr(base, key)), source) for key, value in values.items()}
    try:
        return replace(base, **converted)
    except OptionsError as error:
        raise OptionsError(f"{source}: {error}") from None


def environment_overrides() -> dict[str, str]:
    """The key=value pairs of ``nnsam3d_options``, as text; raises OptionsError as :func:`parse_options` does."""
    return parse_options(os.environ.get(ENVIRONMENT_VARIABLE, ""), ENVIRONMENT_VARIABLE)


def parse_options(text: str, source: str) -> dict[str, str]:
    """The key=value pairs of ``"preset=tiny num_epochs=20"``, as text.

    Raises:
        OptionsError: a word is not a key=value pair, or a key occurs twice; the message names ``source``.
    """
    overrides: dict[str, str] = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise OptionsError(f"{source}={text!r}: {error}") from None
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or not key:
            raise OptionsError(
                f'{source}: {word!r} is not of the form key=value. Example: {source}="preset=tiny num_epochs=20"'
            )
        if key in overrides:
            raise OptionsError(f"{source}: option {key} is given twice.")
        overrides[key] = value
    return overrides


def options_from_environment(base: TrainingOptions | None = None) -> TrainingOptions:
    """``base``, updated with the environment variable ``nnsam3d_options``."""
    return options_from_mapping(environment_overrides(), base, f"environment variable {ENVIRONMENT_VARIABLE}")


def resolve_options(configuration: Mapping[str, Any], name: str) -> TrainingOptions:
    """The options of one run: the defaults, updated with the plans' configuration entry, then with the environment.

    Args:
        configuration: one entry of ``plans["configurations"]``.
        name: its name, for messages.
    """
    entry = configuration.get(PLANS_KEY, {})
    if not isinstance(entry, Mapping):
        raise OptionsError(f'plans, configuration {name}: "{PLANS_KEY}" must be an object of options, not {entry!r}')
    planned = options_from_mapping(entry, source=f'plans, configuration {name}, entry "{PLANS_KEY}"')
    return options_from_environment(planned)


def _range(text: str) -> tuple[int, int] | None:
    """ "3" -> (3, 3), "1-6" -> (1, 6); None for anything else."""
    low, separator, high = text.partition("-")
    if not low.isdecimal() or (separator and not high.isdecimal()):
        return None
    first, last = int(low), int(high or low)
    return (first, last) if first <= last <= MOST_ROUNDS else None


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise OptionsError(f"option {name}={value!r} must be {expected}.")


def _convert(key: str, value: Any, kind: type, source: str) -> Any:
    try:
        if key == "rounds" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # a plain number in the plans is accepted, too
        if isinstance(value, bool) or (kind is str and not isinstance(value, str)):
            raise ValueError
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        return kind(value)
    except (TypeError, ValueError):
        raise OptionsError(f"{source}: option {key}={value!r} must be of type {kind.__name__}.") from None
