"""Our own prompt file, version 1 (DESIGN §5).

```json
{"nnsam3d_prompts": 1, "space": "voxel",
 "clicks": [{"position": [102.0, 88.0, 41.0], "label": "tumour"}]}
```
"""

from __future__ import annotations

import json
from typing import Any

from nnsam3d.geometry import SPACES
from nnsam3d.prompts.formats.base import MISSING, Format, FoundClick, Reading, bounded, json_type
from nnsam3d.prompts.types import CasePrompts, PromptError, checked_space, short

VERSION = 1

_FILE_KEYS = ("nnsam3d_prompts", "space", "clicks")
_CLICK_KEYS = ("position", "label")


def recognises(content: dict[str, Any]) -> bool:
    """Any of our keys: a file that forgot one of them should hear that, not that it is unknown."""
    return any(key in content for key in _FILE_KEYS)


def parse(content: dict[str, Any], stated: str | None) -> Reading:
    """``space`` is mandatory in the file; what the user states must agree."""
    reading = Reading()
    _check_keys(content, _FILE_KEYS, "", reading)
    version = content.get("nnsam3d_prompts", VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or version != VERSION:
        reading.problems.append(f'unknown version "nnsam3d_prompts": {short(version)}; allowed: {VERSION}')
    if "space" in content:
        try:
            reading.space = checked_space(content["space"])
        except PromptError as error:
            reading.problems.append(str(error))
    if stated is not None and reading.space is not None and stated != reading.space:
        reading.problems.append(f'the file says space "{reading.space}", but "{stated}" was stated')
    entries = content.get("clicks", [])
    if not isinstance(entries, list):
        reading.problems.append(f'"clicks" must be a list, not {json_type(entries)}')
        return reading
    for number, entry in enumerate(bounded(entries), start=1):
        where = f"click {number}"
        if not isinstance(entry, dict):
            reading.problems.append(
                f'{where}: must be an object with "position" and "label", not {json_type(entry)}'
            )
            continue
        _check_keys(entry, _CLICK_KEYS, f"{where}: ", reading)
        if "position" in entry or "label" in entry:
            position = entry.get("position", MISSING)
            reading.clicks.append(FoundClick(where, position, entry.get("label", MISSING), "exact"))
    return reading


def text_of(prompts: CasePrompts) -> str:
    """The file's text: one line for each click, so that people and version control can read it."""
    lines = [
        "    " + json.dumps({"position": list(c.position), "label": c.label}, ensure_ascii=False)
        for c in prompts.clicks
    ]
    clicks = "[\n" + ",\n".join(lines) + "\n  ]" if lines else "[]"
    return f'{{\n  "nnsam3d_prompts": {VERSION},\n  "space": "{prompts.space}",\n  "clicks": {clicks}\n}}\n'


def _check_keys(entry: dict[str, Any], allowed: tuple[str, ...], where: str, reading: Reading) -> None:
    names = ", ".join(f'"{key}"' for key in allowed)
    for key in entry:
        if key not in allowed:
            reading.problems.append(f'{where}unknown key {json.dumps(key[:80])}; allowed: {names}')
    for key in allowed:
        if key not in entry:
            hint = {"space": f"; allowed: {', '.join(SPACES)}", "nnsam3d_prompts": f"; must be {VERSION}"}
            reading.problems.append(f'{where}missing "{key}"{hint.get(key, "")}')


OURS = Format("nnsam3d", "json", recognises, parse)
