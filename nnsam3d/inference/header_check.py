"""What the headers of all cases tell before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnsam3d.errors import printable
from nnsam3d.geometry import GeometryError
from nnsam3d.geometry.plausible import Ranges, spacing_remark, trained_spacings
from nnsam3d.inference.cases import Case
from nnsam3d.inference.model import Model
from nnsam3d.nnunet.contract import compute_new_shape
from nnsam3d.tables import counted

MANY_WINDOWS = 1000  # of a sliding window, which are announced
SHOWN = 20  # lines


def header_remarks(cases: Sequence[Case], model: Model, scope: str = "clicked") -> list[str]:
    """Warnings about each case whose header is doubtful, and about long computations; no file of a case is read.

    Args:
        cases: from :func:`nnsam3d.inference.cases.find_cases`, with their headers.
        model: that will be used.
        scope: see :class:`FolderOptions`.
    """
    known = trained_spacings(model.plans_of_spacing, model.folder)  # once: as many as training cases
    texts = [f"case {printable(case.name)}: {text}" for case in cases for text in _remarks(case, model, known, scope)]
    more = f"{counted(len(texts) - SHOWN, 'more warning')} about headers; all are in the report"
    return [*texts[:SHOWN], *([more] if len(texts) > SHOWN else [])]


def _remarks(case: Case, model: Model, known: Ranges, scope: str) -> list[str]:
    if case.problem or case.header is None:  # reported with the image
        return []
    try:
        grid = case.header.grid_of("lps")
    except GeometryError:  # a format without spacing in its header
        return []
    spacing = grid.spacing_xyz[::-1]
    odd = spacing_remark(model.plans_of_spacing, spacing, known=known)
    found = [text for text in (odd, case.header.unknown) if text]
    clicked = case.prompts is not None and (
        case.prompts.masks
        or any(prompt.label not in (0, "background") for prompt in case.prompts.without_masks.prompts)
    )
    if scope == "everything" or not clicked:
        count = sliding_windows(model, grid.shape_zyx, spacing)
        if count >= MANY_WINDOWS or odd:
            whole = "as a whole" if scope == "everything" else "as a whole, because it has no positive click"
            found.append(f"it is segmented {whole}: up to {count:,} windows, each with all folds and mirrorings")
    return found


def sliding_windows(model: Model, shape_zyx: Sequence[int], spacing_zyx: Sequence[float]) -> int:
    """The number of windows of nnU-Net's sliding window, at most: zeros around the image are cropped.

    Args:
        model: gives grid, patch size and step.
        shape_zyx, spacing_zyx: of the image, voxels and mm.
    """
    forward = model.plans_manager.transpose_forward
    shape, spacing = (tuple(values[axis] for axis in forward) for values in (shape_zyx, spacing_zyx))
    sides = [int(n) for n in compute_new_shape(shape, spacing, model.spacing)]
    step = model.predictor.tile_step_size
    return math.prod(
        math.ceil(max(0, side - size) / (size * step)) + 1 for side, size in zip(sides, model.patch_size, strict=True)
    )
