"""What the headers of all cases tell before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnsam3d.errors import UserError, printable
from nnsam3d.geometry import GeometryError
from nnsam3d.geometry.plausible import spacing_remark
from nnsam3d.inference.folder import Case
from nnsam3d.inference.model import Model
from nnsam3d.nnunet.cases import header_grid
from nnsam3d.nnunet.reading import geometry_remarks
from nnsam3d.nnunet.size import shape_on_grid
from nnsam3d.tables import counted

MANY_WINDOWS = 1000  # of a sliding window, which are announced
SHOWN = 20  # lines


def print_header_remarks(cases: Sequence[Case], model: Model, scope: str = "clicked") -> None:
    """Print a warning for each case whose header is doubtful, and for long computations; only headers are read.

    Args:
        scope: see :class:`FolderOptions`.
    """
    texts = [f"case {printable(case.name)}: {text}" for case in cases for text in _remarks(case, model, scope)]
    for text in texts[:SHOWN]:
        print(f"nnsam3d: warning: {text}")
    if len(texts) > SHOWN:
        print(f"nnsam3d: {counted(len(texts) - SHOWN, 'more warning')} about headers; all are in the report")


def _remarks(case: Case, model: Model, scope: str) -> list[str]:
    if case.problem:
        return []
    try:
        grid_of = header_grid(case.images[0], model.reader_name)
        grid = None if grid_of is None else grid_of("voxel")
    except UserError:  # reported when the image is read
        return []
    if grid is None or grid.size_xyz is None:
        return []
    try:
        assert grid_of is not None
        spacing = grid_of("lps").spacing_xyz[::-1]
    except GeometryError:  # a format without spacing in its header
        return []
    plans = model.plans_manager.plans
    found = geometry_remarks(plans, spacing, model.folder, case.images)
    clicked = case.prompts is not None and any(click.label not in (0, "background") for click in case.prompts.clicks)
    if scope == "everything" or not clicked:
        count = sliding_windows(model, grid.size_xyz[::-1], spacing)
        if count >= MANY_WINDOWS or spacing_remark(plans, spacing, model.folder):
            whole = "as a whole" if scope == "everything" else "as a whole, because it has no positive click"
            found.append(f"it is segmented {whole}: up to {count:,} windows, each with all folds and mirrorings")
    return found


def sliding_windows(model: Model, shape_zyx: Sequence[int], spacing_zyx: Sequence[float]) -> int:
    """The number of windows of nnU-Net's sliding window, at most: zeros around the image are cropped.

    Args:
        shape_zyx, spacing_zyx: of the image, voxels and mm.
    """
    sides = shape_on_grid(model.configuration_manager, model.plans_manager.transpose_forward, shape_zyx, spacing_zyx)
    step = model.predictor.tile_step_size
    return math.prod(
        math.ceil(max(0, side - size) / (size * step)) + 1 for side, size in zip(sides, model.patch_size, strict=True)
    )
