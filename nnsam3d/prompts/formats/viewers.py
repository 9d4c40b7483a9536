"""What other programs call the shapes that people draw, and which prompts these are here.

All readers and writers look here, so that a kind of prompt is mapped in one place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.prompts.formats.base import Found
from nnsam3d.prompts.kinds import Box, Click, Lasso, Line, Scribble
from nnsam3d.prompts.labels import Meaning

NAPARI_SHAPES = {
    "rectangle": Box.kind,  # one that is no rectangle of voxels, as a turned one, has the kind of a polygon
    "ellipse": Lasso.kind,
    "polygon": Lasso.kind,
    "line": Line.kind,
    "path": Scribble.kind,
}
"""napari's shape types."""

SLICER_MARKUPS = {
    "Fiducial": Click.kind,
    "ROI": Box.kind,
    "Line": Line.kind,
    "Curve": Scribble.kind,
    "ClosedCurve": Lasso.kind,
}
"""3D Slicer's types of markups."""


def found_box(where: str, low: Any, high: Any, label: Any, meaning: Meaning = "word") -> Found:
    """A box of another program, see :class:`nnsam3d.prompts.formats.base.Found`.

    Args:
        where, label, meaning: see there.
        low, high: opposite corners, or anything else that the file holds there.
    """
    return Found(where, Box.kind, {"low": low, "high": high}, label, meaning, spare=True)


def found_turned_box(where: str, points_43: NDArray[np.float64], label: Any, meaning: Meaning) -> Found:
    """A box in mm, perhaps turned, see :class:`nnsam3d.prompts.formats.base.Found`.

    Args:
        where, label, meaning: see there.
        points_43: its middle, and the middles of three faces.

    Raises:
        PromptError: half edges in one plane.
    """
    x, y, z = points_43[0].tolist()
    entry = Box((x, y, z), (x, y, z), 0).at(points_43, "lps").entry()
    values = {key: value for key, value in entry.items() if key != "label"}
    return Found(where, Box.kind, values, label, meaning, spare=True)
