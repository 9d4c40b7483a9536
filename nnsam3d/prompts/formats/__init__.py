"""The nnsam3d prompt format and those of other programs, one file each; :mod:`.detect` recognises them by content."""

from __future__ import annotations

from nnsam3d.prompts.formats.detect import (
    FORMATS,
    SUFFIXES,
    Loaded,
    case_of,
    is_prompt_file,
    load_if_prompts,
    recognised,
)

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "Loaded",
    "case_of",
    "is_prompt_file",
    "load_if_prompts",
    "recognised",
]
