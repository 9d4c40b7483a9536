"""The promptable 3-D segmentation network of the 3DSAM-adapter paper; depends on torch, but not on nnU-Net."""

from __future__ import annotations

from .config import PRESETS, SAM3DConfig, preset_config
from .decoder import Decoder, Features
from .prompts import PromptTensors, read_prompt_channel
from .rounds import RollOut
from .sam3d import SAM3D, freeze_pretrained, parameter_counts

__all__ = [
    "PRESETS",
    "SAM3D",
    "Decoder",
    "Features",
    "PromptTensors",
    "RollOut",
    "SAM3DConfig",
    "freeze_pretrained",
    "parameter_counts",
    "preset_config",
    "read_prompt_channel",
]
