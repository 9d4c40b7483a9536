"""3D Slicer's markups, `.mrk.json`: point lists, boxes, lines and curves. World mm, LPS or RAS as each markup says.

| markup | prompt |
|---|---|
| Fiducial | a click per point |
| ROI | box, also a turned one |
| Line | line |
| Curve | scribble |
| ClosedCurve | lasso |

The label is that of the control points, which Slicer makes of the markup's name and a number: points of a list named
"lesion" are "lesion-1", "lesion-2", ... A bare number is the point's, and no label. Other markups than point lists have
one label, that of their first point. Labels that look numbered, or are numbers, are written with one more number, which
is removed again when they are read.
Sources: Slicer's markups schema 1.0.3 and its documentation of the formats.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.prompts.formats.base import MISSING, Format, Found, Reading, found_click
from nnsam3d.prompts.formats.slicer import CODES
from nnsam3d.prompts.formats.viewers import SLICER_MARKUPS, found_turned_box
from nnsam3d.prompts.kinds import KINDS, Click, Prompt
from nnsam3d.prompts.kinds.box import THINNEST
from nnsam3d.prompts.kinds.checks import PromptError, checked_position, short
from nnsam3d.prompts.labels import Meaning, numbered_word

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
MAX_MARKUPS = 1000
UNPLACED = ("undefined", "preview", "missing")
SINGLE_VOXELS = "nnsam3d: a voxel of a scribble"
"""Description of the points of a list that is a scribble: Slicer has no markup for single voxels."""
_NAMES = {"lps": "LPS", "ras": "RAS"}
_SHEARED = 1e-3  # cosine between edges of a box that Slicer cannot show


# ---------------------------------------------------------------------- reading


def recognises(content: dict[str, Any]) -> bool:
    """By the list of markups."""
    return "markups" in content


def parse(content: dict[str, Any], stated: str | None) -> Reading:
    """All markups of the file; LPS and RAS may be mixed."""
    reading = Reading()
    markups = content.get("markups")
    if not reading.is_list(markups, '"markups"'):
        return reading
    if not markups:
        reading.problems.append('"markups" is empty: the file contains no point list')
    spaces: list[str] = []
    for where, markup in reading.objects(markups[:MAX_MARKUPS], "markup"):
        space = _space_of(markup, where, reading)
        if space is not None and _is_prompt(markup, where, reading):
            spaces.append(space)
            _markup(markup, where, {space, spaces[0]} == {"lps", "ras"}, reading)
    if len(markups) > MAX_MARKUPS:
        reading.problems.append(f"{len(markups)} markups; at most {MAX_MARKUPS} are allowed")
    if len(set(spaces)) > 1 and "voxel" in spaces:
        reading.problems.append("some markups are in IJK, others in mm: export them to separate files")
    reading.space = spaces[0] if spaces else "lps"
    reading.problems += Reading.of(reading.space, stated if spaces else None).problems
    return reading


def _space_of(markup: dict[str, Any], where: str, reading: Reading) -> str | None:
    system = markup.get("coordinateSystem", "LPS")  # the schema's default
    space = None if isinstance(system, (bool, float)) else CODES.get(str(system).strip().upper())
    if space is None:
        allowed = '"LPS", "RAS" (older files: 1, 0)'
        reading.problems.append(f"{where}: unknown coordinateSystem {short(system)}; allowed: {allowed}")
    units = markup.get("coordinateUnits", "mm")
    if units not in ("mm", ["mm", "mm", "mm"]):
        reading.problems.append(f'{where}: coordinateUnits {short(units)} cannot be used; export the points in "mm"')
    return space


def _is_prompt(markup: dict[str, Any], where: str, reading: Reading) -> bool:
    kind = markup.get("type", "Fiducial")
    if not isinstance(kind, str) or kind not in SLICER_MARKUPS:
        reading.problems.append(
            f"{where}: a markup of type {short(kind)} is not a prompt; point lists (Fiducial), boxes (ROI), lines "
            "(Line) and curves (Curve, ClosedCurve) are. Remove it, or export the others to a separate file"
        )
        return False
    return reading.is_list(markup.get("controlPoints", []), f'{where}: "controlPoints"')


def _markup(markup: dict[str, Any], where: str, other_signs: bool, reading: Reading) -> None:
    """Adds its prompts, or what is wrong with it.

    Args:
        other_signs: whether to change between LPS and RAS.
    """
    kind = markup.get("type", "Fiducial")
    if kind == "ROI":
        _region(markup, f"{where} (ROI)", other_signs, reading)
        return
    placed: list[tuple[str, Any, dict[str, Any]]] = []
    for place, point in reading.objects(markup.get("controlPoints", []), f"{where}, point"):
        label = point.get("label")
        place += f" {short(label, 40)}" if label else ""
        status = point.get("positionStatus", "defined")
        if status in UNPLACED:
            reading.left_out.append(f"{place} has not been placed in the image (positionStatus {short(status)})")
            continue
        if status != "defined":
            reading.problems.append(f"{place}: unknown positionStatus {short(status)}")
        if "position" not in point:
            reading.problems.append(f'{place}: missing "position"')
        position = point.get("position", MISSING)
        placed.append((place, _other_signs(position) if other_signs else position, point))
    if kind != "Fiducial":
        _curve(kind, f"{where} ({kind})", markup, placed, reading)
    elif placed and all(point.get("description") == SINGLE_VOXELS for _, _, point in placed):
        kind = SLICER_MARKUPS["Curve"]
        values = {**KINDS[kind].values_through([position for _, position, _ in placed]), "joined": False}
        if not any(position is MISSING for _, position, _ in placed):  # which has been told
            reading.found.append(Found(f"{where} ({kind})", kind, values, placed[0][2].get("label"), "numbered"))
    else:
        reading.found += [
            found_click(place, position, point.get("label"), "numbered") for place, position, point in placed
        ]


def _curve(
    drawn: str, where: str, markup: dict[str, Any], placed: list[tuple[str, Any, dict[str, Any]]], reading: Reading
) -> None:
    """A line or a curve, from its control points that have been placed.

    Args:
        drawn: the type of the markup.
    """
    kind = SLICER_MARKUPS[drawn]
    positions = [position for _, position, _ in placed]
    least, most = KINDS[kind].through
    if len(positions) < least:
        reading.left_out.append(f"{where} is not finished: {len(positions)} of at least {least} points")
        return
    label, meaning = _label_of(markup, [point for _, _, point in placed])
    if least == most < len(positions):
        reading.problems.append(f"{where}: a {kind} has {most} points, this one has {len(positions)}")
    elif not any(position is MISSING for position in positions):  # which has been told
        reading.found.append(Found(where, kind, KINDS[kind].values_through(positions), label, meaning))


def _label_of(markup: dict[str, Any], points: list[dict[str, Any]]) -> tuple[Any, Meaning]:
    """The markup's own name has no number of a point."""
    named = next((name for point in points if (name := point.get("label"))), None)
    return (markup.get("name"), "word") if named is None else (named, "numbered")


def _region(markup: dict[str, Any], where: str, other_signs: bool, reading: Reading) -> None:
    """A box, parallel to the world's axes or turned."""
    if markup.get("roiType", "Box") not in ("Box", "BoundingBox"):
        reading.problems.append(f"{where}: a region of type {short(markup.get('roiType'))} is not a box")
        return
    try:
        center, size = checked_position(markup.get("center")), checked_position(markup.get("size"))
        axes = markup.get("orientation", [1, 0, 0, 0, 1, 0, 0, 0, 1])
        matrix = np.array([checked_position(axes[row : row + 3]) for row in (0, 3, 6)])
    except (PromptError, TypeError, ValueError) as error:
        reading.problems.append(f"{where}: center, size (3 numbers each) and orientation (9) are needed: {error}")
        return
    points = [point for point in markup.get("controlPoints", []) if isinstance(point, dict)]
    if not any(size) or (points and all(point.get("positionStatus") in UNPLACED for point in points)):
        reading.left_out.append(f"{where} has not been placed in the image")
        return
    signs = np.array([-1.0, -1.0, 1.0]) if other_signs else np.ones(3)
    middle = np.array(center) * signs
    half = (matrix * np.abs(size) / 2).T * signs
    try:
        found = found_turned_box(where, np.vstack([middle, middle + half]), *_label_of(markup, points))
    except PromptError as error:
        reading.problems.append(f"{where}: {error}")
        return
    reading.found.append(found)


def _other_signs(position: Any) -> Any:
    """LPS <-> RAS; anything that is not a position is returned unchanged, to be reported later."""
    try:
        x, y, z = checked_position(position)
    except PromptError:
        return position
    return [-x, -y, z]


# ---------------------------------------------------------------------- writing


def markups_text(prompts: Sequence[Prompt], labels: Sequence[str], space: str) -> str:
    """A markups file that can be dragged into Slicer. Clicks that follow each other are one point list.

    Args:
        prompts: with positions in mm in ``space``, "lps" or "ras"; no masks.
        labels: a word for each of them.
        space: "lps" or "ras".

    Raises:
        PromptError: a box whose edges are not at right angles, as from an image with a sheared geometry; more prompts
            than a file may hold.
    """
    system = {"coordinateSystem": _NAMES[space], "coordinateUnits": "mm"}
    markups: list[dict[str, Any]] = []
    pairs = zip(prompts, labels, strict=True)
    for is_click, group in itertools.groupby(pairs, key=lambda pair: isinstance(pair[0], Click)):
        if is_click:
            clicks = [(prompt.position, label) for prompt, label in group if isinstance(prompt, Click)]
            markups.append({"type": "Fiducial", **system, **_points([p for p, _ in clicks], [w for _, w in clicks])})
        else:
            markups += [_markup_of(prompt, label, system) for prompt, label in group]
    if len(markups) > MAX_MARKUPS:
        raise PromptError(f"{len(markups)} markups; at most {MAX_MARKUPS} are allowed: write our own format")
    return json.dumps({"@schema": _SCHEMA, "markups": markups}, indent=1, ensure_ascii=False) + "\n"


def _markup_of(prompt: Prompt, label: str, system: dict[str, str]) -> dict[str, Any]:
    drawn = next((word for word, kind in SLICER_MARKUPS.items() if kind == prompt.kind), None)
    if drawn is None:
        raise PromptError(f"3D Slicer has no markup for a prompt of type {prompt.kind}: write our own format")
    positions = prompt.points("lps").tolist()
    if prompt.outline() == "solid":
        middle, *ends = positions
        region = {"roiType": "Box", "center": middle, "insideOut": False, **_turned(np.array(ends) - middle)}
        return {"type": drawn, **system, **region, **_points([middle], [label])}
    words = [label] * len(positions)
    if prompt.outline() == "points":
        return {"type": "Fiducial", **system, **_points(positions, words, SINGLE_VOXELS)}
    return {"type": drawn, **system, **_points(positions, words)}


def _turned(half_33: NDArray[np.float64]) -> dict[str, Any]:
    """Size and orientation of a region with these half edges; the axes of an orientation are its columns."""
    lengths = np.linalg.norm(half_33, axis=1)
    if not lengths.any():  # Slicer's region of no size has not been placed
        lengths[:] = THINNEST
    axes = half_33 / lengths[:, None] if half_33.any(axis=1).all() else np.eye(3)  # only parallel boxes have flat edges
    if np.abs(axes @ axes.T - np.eye(3)).max() > _SHEARED:
        raise PromptError("the edges of a box are not at right angles in mm, which 3D Slicer cannot show")
    if np.linalg.det(axes) < 0:  # Slicer's axes are right-handed; the box is the same
        axes[2] = -axes[2]
    return {"size": (2 * lengths).tolist(), "orientation": axes.T.reshape(-1).tolist()}


def _points(positions: Sequence[Sequence[float]], labels: Sequence[str], description: str = "") -> dict[str, Any]:
    points = [
        {
            "id": str(number),
            "label": numbered_word(label, number),
            "description": description,
            "associatedNodeID": "",
            "position": list(position),
            "orientation": [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0],
            "selected": True,
            "locked": False,
            "visibility": True,
            "positionStatus": "defined",
        }
        for number, (position, label) in enumerate(zip(positions, labels, strict=True), start=1)
    ]
    return {
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(points),
        "controlPoints": points,
        "measurements": [],
    }


MARKUPS = Format("slicer", "json", recognises, parse)
