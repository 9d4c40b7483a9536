"""The kinds of prompts: one file each, with everything that a kind needs on its way from a file to the network."""

from __future__ import annotations

from nnsam3d.prompts.kinds.base import Prompt, Shape, Window
from nnsam3d.prompts.kinds.box import Box
from nnsam3d.prompts.kinds.click import Click
from nnsam3d.prompts.kinds.lasso import Lasso
from nnsam3d.prompts.kinds.line import Line
from nnsam3d.prompts.kinds.mask import MaskPrompt
from nnsam3d.prompts.kinds.paint import Paint
from nnsam3d.prompts.kinds.scribble import Scribble

KINDS: dict[str, type[Prompt]] = {one.kind: one for one in (Click, Scribble, Box, Line, Lasso, MaskPrompt, Paint)}
"""All kinds by name, in the order of their channels."""

__all__ = ["KINDS", "Box", "Click", "Lasso", "Line", "MaskPrompt", "Paint", "Prompt", "Scribble", "Shape", "Window"]
