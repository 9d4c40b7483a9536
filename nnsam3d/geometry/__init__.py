"""Coordinates: world mm, index in the image file, array (z, y, x), network voxel. NumPy only."""

from __future__ import annotations

from nnsam3d.geometry.boxes import Slices, Triple
from nnsam3d.geometry.frames import SPACES, GeometryError, ImageGrid, inside_grid
from nnsam3d.geometry.headers import GeometryWarning, GridOf, grid_of_file
from nnsam3d.geometry.points import Points, PointSpace
from nnsam3d.geometry.steps import Steps, preprocessing_steps

__all__ = [
    "SPACES",
    "GeometryError",
    "GeometryWarning",
    "GridOf",
    "ImageGrid",
    "PointSpace",
    "Points",
    "Slices",
    "Steps",
    "Triple",
    "grid_of_file",
    "inside_grid",
    "preprocessing_steps",
]
