"""Our prompt file, version 1 (DESIGN §5): reading with every problem reported at once, and writing.

```json
{"nnsam3d_prompts": 1, "space": "voxel",
 "clicks": [{"position": [102.0, 88.0, 41.0], "label": "tumour"}]}
```
"""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.geometry import SPACES, ImageGrid
from nnsam3d.prompts.labels import resolve_label
from nnsam3d.prompts.types import (
    CasePrompts,
    Click,
    PromptError,
    checked_label,
    checked_position,
    checked_space,
)

VERSION = 1
MAX_BYTES = 16 * 2**20
MAX_CLICKS = 10_000
MAX_PROBLEMS = 50  # in one message; a longer one buries what matters

_FILE_KEYS = ("nnsam3d_prompts", "space", "clicks")
_CLICK_KEYS = ("position", "label")


def read_prompts(
    path: str | os.PathLike[str],
    image: ImageGrid | str | os.PathLike[str] | None = None,
    labels: Mapping[str, int] | None = None,
) -> CasePrompts:
    """One prompt file; the case name is the file name without ``.json``. An empty click list is allowed.

    Args:
        image: grid of the case's image file, or the file itself; positions outside it are errors then.
        labels: allowed names and their values (:func:`nnsam3d.prompts.click_labels`); others are errors then.
            The labels of the result stay as written; :func:`clicks_to_labels` gives the values.

    Raises:
        PromptError: the file is unreadable, malformed or breaks a rule. One line for every problem
            found, each naming the file, the click (counted from 1) and what is allowed.
    """
    path = Path(path)
    problems: list[str] = []
    content = _load_json(path, problems)
    _check_keys(content, _FILE_KEYS, f"{path}", problems)
    version = content.get("nnsam3d_prompts", VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or version != VERSION:
        problems.append(f'{path}: unknown version "nnsam3d_prompts": {version!r}; allowed: {VERSION}')
    space = None
    try:
        space = checked_space(content["space"]) if "space" in content else None
    except PromptError as error:
        problems.append(f"{path}: {error}")
    grid = image if isinstance(image, ImageGrid) or image is None else ImageGrid.from_file(image)
    clicks = []
    for number, entry in enumerate(_click_entries(path, content, problems), start=1):
        click = _read_click(entry, f"{path}: click {number}", labels, problems)
        if click is not None:
            clicks.append(click)
            if grid is not None and space is not None:
                problems += _outside(click, space, grid, f"{path}: click {number}")
    if problems:
        more = len(problems) - MAX_PROBLEMS
        rest = [f"{path}: and {more} more problems"] if more > 0 else []
        raise PromptError("\n".join(problems[:MAX_PROBLEMS] + rest))
    return CasePrompts(path.stem, space, tuple(clicks))  # type: ignore[arg-type]


def write_prompts(path: str | os.PathLike[str], prompts: CasePrompts) -> None:
    """Writes a file that :func:`read_prompts` reads back exactly; replaces an older one wholly or not at all.

    Raises:
        PromptError: more than 10,000 clicks (such a file would be refused on reading).
        OSError: the folder is missing or not writable; nothing is left behind.
    """
    path = Path(path)
    if len(prompts.clicks) > MAX_CLICKS:
        raise PromptError(f"{path}: {len(prompts.clicks)} clicks; at most {MAX_CLICKS} are allowed")
    lines = [
        "    " + json.dumps({"position": list(c.position), "label": c.label}, ensure_ascii=False)
        for c in prompts.clicks
    ]
    clicks = "[\n" + ",\n".join(lines) + "\n  ]" if lines else "[]"
    text = f'{{\n  "nnsam3d_prompts": {VERSION},\n  "space": "{prompts.space}",\n  "clicks": {clicks}\n}}\n'
    # In the same folder, so that os.replace stays on one file system and is atomic.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def clicks_to_index(prompts: CasePrompts, grid: ImageGrid) -> NDArray[np.float64]:
    """Positions as index i, j, k of the image file, (N, 3), fractions kept; (0, 3) without clicks."""
    return grid.to_index([click.position for click in prompts.clicks], prompts.space)


def clicks_to_labels(prompts: CasePrompts, labels: Mapping[str, int]) -> NDArray[np.int64]:
    """Label values (N,). Raises PromptError naming case, click and the allowed labels."""
    values = [
        resolve_label(click.label, labels, f"{prompts.case}: click {number}")
        for number, click in enumerate(prompts.clicks, start=1)
    ]
    return np.array(values, dtype=np.int64)


def _load_json(path: Path, problems: list[str]) -> dict[str, Any]:
    """The object in the file; repeated keys go to ``problems``, everything worse is raised."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        problems.extend(f'{path}: key "{key}" appears more than once in one object' for key in repeated)
        return dict(pairs)

    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PromptError(f"{path}: the prompt file cannot be read ({error.strerror})") from None
    if len(raw) > MAX_BYTES:
        raise PromptError(f"{path}: larger than {MAX_BYTES // 2**20} MB, so this is no prompt file")
    try:
        # utf-8-sig also reads plain UTF-8; some Windows editors put a byte order mark in front.
        content = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise PromptError(f"{path}: malformed JSON at {where}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: not a UTF-8 text file (byte {error.start})") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise PromptError(f"{path}: malformed JSON: {error}") from None
    if not isinstance(content, dict):
        raise PromptError(f"{path}: must hold one JSON object, not {_json_type(content)}")
    return content


def _check_keys(entry: dict[str, Any], allowed: tuple[str, ...], where: str, problems: list[str]) -> None:
    names = ", ".join(f'"{key}"' for key in allowed)
    for key in entry:
        if key not in allowed:
            problems.append(f'{where}: unknown key "{key}"; allowed: {names}')
    for key in allowed:
        if key not in entry:
            hint = {"space": f"; allowed: {', '.join(SPACES)}", "nnsam3d_prompts": f"; must be {VERSION}"}
            problems.append(f'{where}: missing "{key}"{hint.get(key, "")}')


def _click_entries(path: Path, content: dict[str, Any], problems: list[str]) -> list[Any]:
    entries = content.get("clicks", [])
    if not isinstance(entries, list):
        problems.append(f'{path}: "clicks" must be a list, not {_json_type(entries)}')
        return []
    if len(entries) > MAX_CLICKS:
        problems.append(f"{path}: {len(entries)} clicks; at most {MAX_CLICKS} are allowed")
        return []
    return entries


def _read_click(
    entry: Any, where: str, labels: Mapping[str, int] | None, problems: list[str]
) -> Click | None:
    """The click, or None after adding its problems. A wrong label does not hide a wrong position."""
    if not isinstance(entry, dict):
        problems.append(f'{where}: must be an object with "position" and "label", not {_json_type(entry)}')
        return None
    _check_keys(entry, _CLICK_KEYS, where, problems)
    position = None
    label: int | str = 0
    try:
        position = checked_position(entry["position"]) if "position" in entry else None
    except PromptError as error:
        problems.append(f"{where}: {error}")
    try:
        if "label" in entry:
            label = checked_label(entry["label"])
            if labels is not None:
                resolve_label(label, labels, where)
    except PromptError as error:
        text = str(error)
        problems.append(text if text.startswith(where) else f"{where}: {text}")
    return None if position is None else Click(position, label)


def _outside(click: Click, space: str, grid: ImageGrid, where: str) -> list[str]:
    """One line if the click lies outside the image, none if inside."""
    index = grid.to_index([click.position], space)
    if grid.contains_index(index)[0]:
        return []
    size = grid.size_xyz or ()
    allowed = ", ".join(f"-0.5 <= {axis} < {s - 0.5}" for axis, s in zip("ijk", size, strict=False))
    position = ", ".join(f"{v:g}" for v in click.position)
    text = f'{where}: position ({position}) in space "{space}" lies outside the image'
    if space != "voxel":
        text += f" at index ({', '.join(f'{v:.1f}' for v in index[0])})"
    text += f"; image size (x, y, z) {' x '.join(map(str, size))}, allowed index range {allowed}"
    inside = [s for s in SPACES if s != space and grid.contains_index(grid.to_index([click.position], s))[0]]
    if inside:
        text += f'; it would be inside in space "{inside[0]}": is "space" right?'
    return [text]


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
