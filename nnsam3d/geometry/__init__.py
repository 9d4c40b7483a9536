"""Coordinates only: world mm, index of the image file, array zyx, network voxel. numpy and nothing else."""

from __future__ import annotations

from nnsam3d.geometry.frames import SPACES, GeometryError, ImageGrid, inside_grid
from nnsam3d.geometry.points import Points, PointSpace
from nnsam3d.geometry.steps import (
    Chain,
    Crop,
    Pad,
    Resample,
    Step,
    Transpose,
    Window,
    compose,
    preprocessing_steps,
    xyz_to_zyx,
    zyx_to_xyz,
)

__all__ = [
    "SPACES",
    "Chain",
    "Crop",
    "GeometryError",
    "ImageGrid",
    "Pad",
    "PointSpace",
    "Points",
    "Resample",
    "Step",
    "Transpose",
    "Window",
    "compose",
    "inside_grid",
    "preprocessing_steps",
    "xyz_to_zyx",
    "zyx_to_xyz",
]
