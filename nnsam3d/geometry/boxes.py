"""Positions, sizes and boxes on the voxels of an array."""

from __future__ import annotations

from typing import TypeAlias

Triple: TypeAlias = tuple[int, int, int]
"""Three whole numbers, one for each axis of an array: a voxel, or a size in voxels."""

Slices: TypeAlias = tuple[slice, slice, slice]
"""A box of an array."""
