"""The formats of other programs, written here by hand as those programs write them: for readers' tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnsam3d.geometry import ImageGrid

Position = Sequence[float]
Clicks = Sequence[tuple[Position, str]]
"""Index i, j, k and "lesion" or "background"."""

LABELS = {"background": 0, "lesion": 1}
DIRECTION = ((0.8, -0.6, 0.0), (0.6, 0.8, 0.0), (0.0, 0.0, -1.0))
GRID = ImageGrid((60, 50, 40), (0.7, 0.9, 3.0), (-100.0, 40.0, 10.0), DIRECTION)
# i, j and k differ so much that swapping any two, or a sign, gives another voxel or none
CLICKS = [((51.0, 7.0, 30.0), "lesion"), ((3.0, 22.0, 11.0), "background"), ((40.0, 44.0, 2.0), "lesion")]

FCSV_HEADER = (
    "# Markups fiducial file version = 5.0\n# CoordinateSystem = {system}\n"
    "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
)


def _split(clicks: Clicks) -> tuple[list[list[float]], list[list[float]]]:
    lists = {name: [list(p) for p, label in clicks if label == name] for name in ("lesion", "background")}
    return lists["lesion"], lists["background"]


def _world(grid: ImageGrid, position: Position, space: str = "lps") -> list[float]:
    return grid.index_to_world([position], space)[0].tolist()


def ours(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    entries = [{"position": list(p), "label": label} for p, label in clicks]
    return _json(folder / "case.json", {"nnsam3d_prompts": 1, "space": "voxel", "clicks": entries})


def slicer(folder: Path, clicks: Clicks, grid: ImageGrid, system: str | int = "LPS") -> Path:
    space = "ras" if system in ("RAS", 0) else "lps"
    points = [
        {
            "id": str(n),
            "label": f"{label}-{n}",
            "description": "",
            "position": _world(grid, p, space),
            "positionStatus": "defined",
        }
        for n, (p, label) in enumerate(clicks, start=1)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": system, "coordinateUnits": "mm", "controlPoints": points}
    return _json(folder / "case.mrk.json", {"@schema": "https://...", "markups": [markup]})


def slicer_ras(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    return slicer(folder, clicks, grid, "RAS")


def slicer_old_code(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    return slicer(folder, clicks, grid, 0)


def slicer_two_lists(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    """One list for each label, the second in the other coordinate system."""
    path = slicer(folder, [c for c in clicks if c[1] == "lesion"], grid, "LPS")
    markups = json.loads(path.read_text())["markups"]
    slicer(folder, [c for c in clicks if c[1] == "background"], grid, "RAS")
    return _json(path, {"markups": markups + json.loads(path.read_text())["markups"]})


def fcsv(folder: Path, clicks: Clicks, grid: ImageGrid, system: str = "LPS") -> Path:
    space = {"LPS": "lps", "1": "lps", "RAS": "ras", "0": "ras"}[system]
    text = FCSV_HEADER.format(system=system)
    for n, (p, label) in enumerate(clicks, start=1):
        place = ",".join(repr(v) for v in _world(grid, p, space))
        text += f'vtkMRMLMarkupsFiducialNode_{n},{place},0,0,0,1,1,1,0,"{label}-{n}",,vtkMRMLScalarVolumeNode1\n'
    return _text(folder / "case.fcsv", text)


def fcsv_old_code(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    return fcsv(folder, clicks, grid, "0")


def slicer_table(folder: Path, clicks: Clicks, grid: ImageGrid, space: str = "lps") -> Path:
    """Slicer's "export as table"."""
    text = f"label,{','.join(space)},defined,selected,visible,locked,description\n"
    for n, (p, label) in enumerate(clicks, start=1):
        text += f"{label}-{n},{','.join(map(repr, _world(grid, p, space)))},1,1,1,0,\n"
    return _text(folder / "case.csv", text)


def slicer_table_ras(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    return slicer_table(folder, clicks, grid, "ras")


def autopet(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    tumor, background = _split(clicks)
    return _json(folder / "case.json", {"tumor": tumor, "background": background})


def challenge_npz(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    lists: dict[str, list[list[float]]] = {"fg": [], "bg": []}
    order = ["fg" if label == "lesion" else "bg" for _, label in clicks]
    for (position, _), kind in zip(clicks, order, strict=True):
        lists[kind].append(list(position)[::-1])
    path = folder / "case.npz"
    image = np.zeros(grid.shape_zyx, np.uint8)
    np.savez_compressed(path, imgs=image, spacing=(1, 1, 1), clicks=[lists], clicks_order=[order])
    return path


def grand_challenge(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    points = [{"name": label, "point": list(p)} for p, label in clicks]
    content = {"name": "Points", "type": "Multiple points", "points": points, "version": {"major": 1, "minor": 0}}
    return _json(folder / "case.json", content)


def monai_deepgrow(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    foreground, background = _split(clicks)
    content = {"label": "lesion", "foreground": foreground, "background": background, "model": "deepgrow_3d"}
    return _json(folder / "case.json", content)


def monai_deepedit(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    lesion, background = _split(clicks)
    return _json(folder / "case.json", {"lesion": lesion, "background": background, "result_extension": ".nrrd"})


def napari(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    text = "index,axis-0,axis-1,axis-2,label\n"
    for n, (position, label) in enumerate(clicks):
        text += ",".join([str(float(n)), *map(repr, list(position)[::-1]), label]) + "\n"
    return _text(folder / "case.csv", text)


WRITERS = {
    f.__name__: f
    for f in (
        ours, slicer, slicer_ras, slicer_old_code, slicer_two_lists, fcsv, fcsv_old_code, slicer_table,
        slicer_table_ras, autopet, challenge_npz, grand_challenge, monai_deepgrow, monai_deepedit, napari,
    )
}  # fmt: skip


def ours_2(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    entries = [
        {"type": "click", "position": [51, 7, 30], "label": "lesion"},
        {"type": "scribble", "points": [[5, 6, 7], [9, 9, 7], [20, 9, 9]], "label": "lesion"},
        {"type": "scribble", "points": [[5, 6, 7]], "label": "background", "joined": False},
        {"type": "box", "low": [5, 6, 7], "high": [30, 20, 12], "label": "lesion"},
        {"type": "box", "low": [9, 9, 9], "high": [9, 9, 9], "label": 1, "axes": [[4, 1, 0], [-1, 4, 0], [0, 0, 3]]},
        {"type": "line", "start": [5, 6, 7], "end": [30, 20, 7], "label": "lesion"},
        {"type": "lasso", "points": [[5, 6, 7], [30, 8, 7], [20, 30, 7]], "label": "lesion"},
        {"type": "mask", "path": "before.nii.gz"},
    ]
    return _json(folder / "case.json", {"nnsam3d_prompts": 2, "space": "voxel", "prompts": entries})


def slicer_shapes(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    corners = [(5, 6, 7), (30, 8, 7), (20, 30, 7)]
    path = slicer(folder, [(corner, "lesion") for corner in corners], grid)
    (points,) = json.loads(path.read_text())["markups"]
    region = {
        "center": _world(grid, (20, 20, 20)),
        "size": [9.0, 8.0, 7.0],
        "orientation": [0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1],
    }
    line = points | {"type": "Line", "controlPoints": points["controlPoints"][:2]}
    others = [points | {"type": kind} for kind in ("Curve", "ClosedCurve")]
    return _json(path, {"markups": [points, points | {"type": "ROI", **region}, line, *others]})


def napari_shapes(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    square = [(7, 5, 5), (7, 5, 20), (7, 30, 20), (7, 30, 5)]  # z, y, x
    shapes = [(kind, square) for kind in ("rectangle", "ellipse", "polygon", "path")]
    text = "index,shape-type,vertex-index,axis-0,axis-1,axis-2\n"
    for n, (kind, corners) in enumerate([*shapes, ("line", square[:2])]):
        for vertex, corner in enumerate(corners):
            text += f"{float(n)},{kind},{float(vertex)},{','.join(str(float(v)) for v in corner)}\n"
    return _text(folder / "case.csv", text)


def npz_boxes(folder: Path, clicks: Clicks, grid: ImageGrid) -> Path:
    box = {"z_min": 3, "z_max": 12, "z_mid": 8, "z_mid_x_min": 7, "z_mid_y_min": 4, "z_mid_x_max": 9, "z_mid_y_max": 6}
    np.savez_compressed(folder / "case.npz", boxes=[box])
    return folder / "case.npz"


EXTENT_WRITERS = {f.__name__: f for f in (ours_2, slicer_shapes, napari_shapes, npz_boxes)}
"""Files with prompts of other kinds than clicks; they ignore the clicks."""


def _json(path: Path, content: object) -> Path:
    return _text(path, json.dumps(content))


def _text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
