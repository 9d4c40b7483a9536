"""Plan rewriting: nnU-Net's plans of any dataset -> the same plans with our network.

Only the architecture and our own entries change, not the entries for preprocessed data and folder names. The saved
model folder is therefore self-contained, and nnU-Net's prediction, export, installation and ensembling work.
Axis letters: D, H, W = array axes after nnU-Net's transposition (D = slice axis), sizes in voxels or tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.network import PRESETS, SAM3DConfig, preset_config
from nnsam3d.nnunet.contract import PlansManager
from nnsam3d.nnunet.datasets import PROMPT_TYPES_KEY, num_channels
from nnsam3d.prompts import PromptCodec, click_labels
from nnsam3d.training.decision import Decision, read_decision
from nnsam3d.training.options import PLANS_KEY, TrainingOptions

NETWORK_CLASS = "nnsam3d.network.sam3d.SAM3D"
PAPER_STRIDE = 4  # voxels per token at 1 mm (docs/network.md#shapes)
TOKEN_VOXELS = {"tiny": 8}  # by preset, along the finest axis: its detail branch sees the voxels; others: the paper's
FEWEST_TOKENS = 4  # per axis, with larger tokens than the paper's
STRIDES = (1, 2, 4, 8)
WINDOWS = (4, 5, 6, 7, 8)
SMALLEST_GRID = 2  # tokens per axis; with fewer, attention has no effect along the axis


def refuse_unsupported(
    plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any], trainer: str = "SAM3DAdapterTrainer"
) -> dict[str, Any]:
    """The resolved configuration, if a trainer with clicks supports it.

    Raises:
        UserError: unknown configuration, 2D configuration, cascade, another preprocessor than nnU-Net's default, a
            re-orienting image reader, or labels that cannot be clicked.
    """
    names = list(plans["configurations"])
    if configuration not in names:
        raise UserError(
            f"configuration {configuration!r} is not in the plans (they contain: {', '.join(names)}). "
            "A 3D click-promptable network needs a 3D configuration; nnU-Net plans none for single-slice images."
        )
    resolved = PlansManager(plans).get_configuration(configuration).configuration
    if len(resolved["patch_size"]) != 3 or 1 in resolved["patch_size"]:
        raise UserError(
            f"configuration {configuration!r} has the patch {tuple(resolved['patch_size'])}: {trainer} trains "
            "a 3D network and cannot train on single slices. Use 3d_fullres or 3d_lowres."
        )
    if resolved.get("previous_stage") is not None:
        raise UserError(
            f"configuration {configuration!r} is the second stage of a cascade, which {trainer} does not "
            "support: clicks already locate the target. Use 3d_fullres or 3d_lowres."
        )
    if resolved.get("preprocessor_name", "DefaultPreprocessor") != "DefaultPreprocessor":
        raise UserError(
            f"the plans preprocess with {resolved['preprocessor_name']}; prompts can be mapped only through nnU-Net's "
            "DefaultPreprocessor."
        )
    if "Reorient" in plans.get("image_reader_writer", ""):
        raise UserError(
            f"the plans read images with {plans['image_reader_writer']}, which re-orients them, so that clicks cannot "
            "be mapped to the file as stored. Plan with SimpleITKIO or NibabelIO."
        )
    _refuse_unclickable_labels(dataset_json)
    return resolved


def _refuse_unclickable_labels(dataset_json: dict[str, Any]) -> None:
    labels = click_labels(dataset_json)
    if max(labels.values()) < 1:
        raise UserError("dataset.json has no foreground label: there is nothing to click on.")
    occurring: set[int] = set()
    for value in dataset_json["labels"].values():
        occurring.update(value if isinstance(value, list | tuple) else [value])
    never = [f"{name} ({value})" for name, value in labels.items() if value not in occurring]
    if never:
        raise UserError(
            f"dataset.json: regions_class_order gives {', '.join(never)} a value that no segmentation contains, so "
            "that it cannot be clicked in training."
        )


def rewrite_plans(
    plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any], options: TrainingOptions
) -> dict[str, Any]:
    """A copy of ``plans`` whose ``configuration`` describes our network and the resolved options.

    Raises:
        UserError: see :func:`refuse_unsupported`; unknown preset; patch too small for the network; a planner's entry
            with invalid edits.
    """
    resolved = refuse_unsupported(plans, configuration, dataset_json)
    decision = read_decision(resolved, configuration)
    config = network_config(resolved["patch_size"], resolved["spacing"], dataset_json, options, decision)
    kwargs = asdict(config)
    # nnU-Net passes these two from dataset.json
    del kwargs["num_image_channels"], kwargs["num_classes"]
    plans = deepcopy(plans)
    entry = plans["configurations"][configuration]
    entry["architecture"] = {
        "network_class_name": NETWORK_CLASS,
        "arch_kwargs": kwargs,
        "_kw_requires_import": [],
    }
    entry[PLANS_KEY] = options.as_dict()
    entry[PROMPT_TYPES_KEY] = list(options.kinds)
    return plans


def check_preset(options: TrainingOptions) -> None:
    """Raises UserError for an unknown preset."""
    if options.preset not in ("auto", *PRESETS):
        raise UserError(f"option preset={options.preset!r} is unknown. Known presets: auto, {', '.join(PRESETS)}.")


def network_config(
    patch_DHW: Sequence[int],
    spacing_DHW: Sequence[float],
    dataset_json: dict[str, Any],
    options: TrainingOptions,
    decision: Decision | None = None,
) -> SAM3DConfig:
    """The network for a patch (voxels) at a spacing (mm).

    Token stride and window come from the planner's ``decision``; without one, the same rules are applied here.

    Raises:
        UserError: unknown preset, or a patch with fewer tokens than the network or the window needs.
    """
    check_preset(options)
    stride = preset_stride(options, patch_DHW, spacing_DHW) if decision is None else tuple(decision.token_stride)
    grid = [math.ceil(size / step) for size, step in zip(patch_DHW, stride, strict=True)]
    if min(grid) < SMALLEST_GRID:
        raise UserError(
            f"patch {tuple(patch_DHW)} with token stride {stride} gives a token grid of {tuple(grid)}: at least "
            f"{SMALLEST_GRID} tokens per axis are needed. Plan a larger patch for this configuration."
        )
    window: Sequence[int] = [window_edge(tokens) for tokens in grid] if decision is None else decision.window
    if options.window:
        window = (options.window,) * 3
    try:
        return preset_config(
            options.preset,
            patch_size=tuple(int(size) for size in patch_DHW),
            token_stride=stride,
            window=tuple(window),
            num_image_channels=num_channels(dataset_json),
            num_click_labels=max(click_labels(dataset_json).values()) + 1,
            max_clicks=options.click_slots,
            checkpointing=options.checkpointing,
            fine_click_maps=options.fine_click_maps,
            extent_maps=len(PromptCodec.of(options.kinds, click_labels(dataset_json), spacing_DHW).maps),
            token_aspect=token_aspect(stride, spacing_DHW) if options.fine_click_maps else (1.0, 1.0, 1.0),
            **({} if options.detail_dim < 0 else {"detail_dim": options.detail_dim}),
        )
    except ValueError as error:
        raise UserError(f"the patch {tuple(patch_DHW)} and the options are incompatible: {error}") from None


def preset_stride(
    options: TrainingOptions, patch_DHW: Sequence[int], spacing_DHW: Sequence[float]
) -> tuple[int, int, int]:
    """Voxels per token along each axis: those of the option, or of the preset if the patch is large enough for them."""
    if options.token_voxels:
        return token_stride(spacing_DHW, options.token_voxels)
    larger = token_stride(spacing_DHW, TOKEN_VOXELS.get(options.preset, PAPER_STRIDE))
    fits = all(size >= FEWEST_TOKENS * step for size, step in zip(patch_DHW, larger, strict=True))
    return larger if fits and options.detail_dim != 0 else token_stride(spacing_DHW)


def token_stride(spacing_DHW: Sequence[float], finest: int = PAPER_STRIDE) -> tuple[int, int, int]:
    """Voxels per token along each axis, chosen so that tokens are nearly cubic in mm.

    The finest axis has ``finest`` voxels; a coarser axis has the power of two up to ``finest`` that comes closest to
    the same length in mm (compared as ratios).
    """
    target = finest * min(spacing_DHW)
    strides = [
        max((s for s in STRIDES if s <= finest), key=lambda s: (-round(abs(math.log(s * spacing / target)), 6), s))
        for spacing in spacing_DHW
    ]
    return strides[0], strides[1], strides[2]


def token_aspect(stride_DHW: Sequence[int], spacing_DHW: Sequence[float]) -> tuple[float, float, float]:
    """Relative edge lengths of a token, with a geometric mean of 1."""
    edges = [step * mm for step, mm in zip(stride_DHW, spacing_DHW, strict=True)]
    mean = math.prod(edges) ** (1 / 3)
    d, h, w = (round(edge / mean, 4) for edge in edges)
    return d, h, w


def window_edge(tokens: int) -> int:
    """Attention window along an axis of ``tokens`` tokens: at most the paper's 8, with the least zero-padding."""
    if tokens <= max(WINDOWS):
        return tokens
    return max(WINDOWS, key=lambda edge: (-(-tokens % edge), edge))
