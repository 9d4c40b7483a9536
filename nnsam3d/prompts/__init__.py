"""Clicks: types, files, simulation from the ground truth, and the prompt channel. No torch."""

from __future__ import annotations

from nnsam3d.prompts.channel import place_clicks, read_channel, write_channel
from nnsam3d.prompts.files import clicks_to_index, clicks_to_labels, read_prompts, write_prompts
from nnsam3d.prompts.labels import click_labels, resolve_label
from nnsam3d.prompts.negatives import simulate_negatives
from nnsam3d.prompts.refine import next_click
from nnsam3d.prompts.simulate import (
    case_rng,
    simulate_clicks,
    simulate_fixed,
    simulate_prompt_set,
)
from nnsam3d.prompts.types import CasePrompts, Click, LabelledClick, PromptError

__all__ = [
    "CasePrompts",
    "Click",
    "LabelledClick",
    "PromptError",
    "case_rng",
    "click_labels",
    "clicks_to_index",
    "clicks_to_labels",
    "next_click",
    "place_clicks",
    "read_channel",
    "read_prompts",
    "resolve_label",
    "simulate_clicks",
    "simulate_fixed",
    "simulate_negatives",
    "simulate_prompt_set",
    "write_channel",
    "write_prompts",
]
