"""JSON of challenges and servers: autoPET, MONAI Label requests, grand-challenge's "Multiple points"."""

from __future__ import annotations

import json
from typing import Any

from nnsam3d.prompts.formats.base import (
    FOREGROUND,
    MISSING,
    Format,
    Reading,
    found_click,
    is_point_list,
    point_list,
)
from nnsam3d.prompts.kinds.checks import short

BACKGROUND = "background"
_MATRICES = {"affine", "direction", "orientation", "matrix", "transform"}  # lists of lists that are not positions

# ---------------------------------------------------------------------- autoPET


def recognises_autopet(content: dict[str, Any]) -> bool:
    """ "tumor" and "background", and no other keys.

    MONAI Label's DeepEdit can write the same for a label named "tumor", with the same meaning.
    """
    return "tumor" in content and set(content) <= {"tumor", BACKGROUND}


def parse_autopet(content: dict[str, Any], stated: str | None) -> Reading:
    """``{"tumor": [[i, j, k], ...], "background": [...]}``, index of the NIfTI; a missing key is an empty list."""
    reading = Reading.of("voxel", stated)
    for key in content:
        if key not in ("tumor", BACKGROUND):
            reading.problems.append(f'unknown key {json.dumps(key[:80])}; allowed: "tumor", "background"')
    point_list(content.get("tumor", []), "tumor", reading, "tumor", "foreground")
    point_list(content.get(BACKGROUND, []), BACKGROUND, reading, BACKGROUND)
    return reading


# ---------------------------------------------------------------------- MONAI Label


def recognises_monai(content: dict[str, Any]) -> bool:
    """DeepGrow has "foreground"; DeepEdit has lists of positions by label name, and none of the other formats' keys."""
    foreign = {"markups", "nnsam3d_prompts", "clicks", "points"}
    if foreign & set(content) or recognises_autopet(content):
        return False
    if {key.lower() for key in content} & _MATRICES:
        return False
    lists = [value for value in content.values() if is_point_list(value)]
    return "foreground" in content or any(lists) or is_point_list(content.get(BACKGROUND))


def parse_monai(content: dict[str, Any], stated: str | None) -> Reading:
    """Both dialects of ``POST /infer`` parameters, index i, j, k. Entries that are not lists are settings."""
    reading = Reading.of("voxel", stated)
    if "foreground" in content:  # DeepGrow
        name = content.get("label")
        if name is None or name == "":
            point_list(content["foreground"], "foreground", reading, FOREGROUND, "foreground")
        else:
            point_list(content["foreground"], "foreground", reading, name)
        point_list(content.get(BACKGROUND, []), BACKGROUND, reading, BACKGROUND)
        return reading
    settings = (str, int, float, bool, dict, type(None))
    for key, value in content.items():
        if not isinstance(value, settings):
            point_list(value, key, reading, key)
    return reading


# ---------------------------------------------------------------------- grand-challenge


def recognises_grand_challenge(content: dict[str, Any]) -> bool:
    """Points or one point by the platform's types, or a list of named points with the version that it requires."""
    points = content.get("points")
    if _type_of(content) in ("multiple points", "point") and ("points" in content or "point" in content):
        return True
    return isinstance(points, list) and all(isinstance(point, dict) for point in points) and "version" in content


def _type_of(content: dict[str, Any]) -> str:
    kind = content.get("type", "Multiple points")
    return kind.strip().lower() if isinstance(kind, str) else ""


def parse_grand_challenge(content: dict[str, Any], stated: str | None) -> Reading:
    """``{"type": "Multiple points", "points": [{"name": ..., "point": [a, b, c]}], ...}``, or one "Point".

    The platform does not define the space (autoPET uses voxels, others mm), so the user must state it. The name of a
    point is a label if it is a word; a number is just the point's number.
    """
    reading = Reading.of(None, stated)
    kind = _type_of(content)
    if kind not in ("multiple points", "point"):
        kind = short(content["type"])
        reading.problems.append(f'type {kind} cannot be used; only "Multiple points" and "Point" can')
    points = [content] if kind == "point" else content.get("points")
    if not reading.is_list(points, '"points"'):
        return reading
    for where, point in reading.objects(points, "point"):
        if point.get("name") is not None:
            where += f" {short(point['name'], 40)}"
        if "point" not in point:
            reading.problems.append(f'{where}: missing "point"')
        reading.found.append(found_click(where, point.get("point", MISSING), point.get("name")))
    return reading


def grand_challenge_text(positions: list[tuple[float, float, float]], labels: list[str], name: str) -> str:
    """A "Multiple points" file. The format does not record the space.

    Args:
        positions: three numbers each, in any space.
        labels: a word for each of them.
        name: of the list.
    """
    points = [{"name": label, "point": list(p)} for p, label in zip(positions, labels, strict=True)]
    content = {
        "name": name,
        "type": "Multiple points",
        "points": points,
        "version": {"major": 1, "minor": 0},
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


AUTOPET = Format("autopet", "json", recognises_autopet, parse_autopet)
MONAI = Format("monai-label", "json", recognises_monai, parse_monai)
GRAND_CHALLENGE = Format("grand-challenge", "json", recognises_grand_challenge, parse_grand_challenge)
