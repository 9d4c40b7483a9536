"""Prompts: types, files, simulation from the ground truth, and their encoding into channels. No torch."""

from __future__ import annotations

from nnsam3d.prompts.centres import next_click
from nnsam3d.prompts.channel import place_clicks, read_channel, write_channel
from nnsam3d.prompts.codec import PromptCodec
from nnsam3d.prompts.files import clicks_to_labels, read_prompts, write_prompts
from nnsam3d.prompts.kinds import Box, Click, Lasso, Line, MaskPrompt, Paint, Prompt, Scribble
from nnsam3d.prompts.kinds.checks import PromptError, PromptWarning
from nnsam3d.prompts.labels import click_labels, resolve_label
from nnsam3d.prompts.simulation import PromptSimulator, case_rng, simulate_clicks
from nnsam3d.prompts.types import CasePrompts, VoxelClick
from nnsam3d.prompts.voxels import VoxelPrompts

__all__ = [
    "Box",
    "CasePrompts",
    "Click",
    "Lasso",
    "Line",
    "MaskPrompt",
    "Paint",
    "Prompt",
    "PromptCodec",
    "PromptError",
    "PromptSimulator",
    "PromptWarning",
    "Scribble",
    "VoxelClick",
    "VoxelPrompts",
    "case_rng",
    "click_labels",
    "clicks_to_labels",
    "next_click",
    "place_clicks",
    "read_channel",
    "read_prompts",
    "resolve_label",
    "simulate_clicks",
    "write_channel",
    "write_prompts",
]
