"""The nnsam3d prompt file (docs/prompts.md#prompt-files).

Version 1 holds clicks. It is written whenever it suffices and will remain readable.

```json
{"nnsam3d_prompts": 1, "space": "voxel",
 "clicks": [{"position": [102.0, 88.0, 41.0], "label": "tumour"}]}
```

Version 2 holds prompts of all types, in order of creation. "type" is the kind, and the other keys are the kind's own:

```json
{"nnsam3d_prompts": 2, "space": "voxel",
 "prompts": [{"type": "mask", "path": "before.nii.gz"},
             {"type": "click", "position": [102.0, 88.0, 41.0], "label": "background"}]}
```
"""

from __future__ import annotations

import json
from typing import Any

from nnsam3d.geometry import SPACES
from nnsam3d.prompts.formats.base import MISSING, Format, Found, Reading
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.prompts.kinds.checks import PromptError, short
from nnsam3d.prompts.types import CasePrompts, checked_space

_LISTS = {1: "clicks", 2: "prompts"}  # version -> key of the prompts


def recognises(content: dict[str, Any]) -> bool:
    """Any key of the format, so that a missing key is reported as such."""
    named = any(key in content for key in ("nnsam3d_prompts", *_LISTS.values()))
    return named or content.get("space") in SPACES  # "space" alone is also used by others, for example for templates


def parse(content: dict[str, Any], stated: str | None) -> Reading:
    """``space`` is mandatory in the file; the space stated by the user must agree."""
    reading = Reading()
    version = content.get("nnsam3d_prompts", 1)
    if isinstance(version, bool) or not isinstance(version, int) or version not in _LISTS:
        allowed = ", ".join(map(str, _LISTS))
        reading.problems.append(f'unknown version "nnsam3d_prompts": {short(version)}; allowed: {allowed}')
        version = 1 if "prompts" not in content else 2
    name = _LISTS[version]
    _check_keys(content, ("nnsam3d_prompts", "space", name), "", reading)
    if "space" in content:
        try:
            reading.space = checked_space(content["space"])
        except PromptError as error:
            reading.problems.append(str(error))
    if stated is not None and reading.space is not None and stated != reading.space:
        reading.problems.append(f'the file says space "{reading.space}", but "{stated}" was stated')
    entries = content.get(name, [])
    keys = '"position" and "label"' if version == 1 else '"type" and the keys of that type'
    if reading.is_list(entries, f'"{name}"'):
        for where, entry in reading.objects(entries, name.removesuffix("s"), f"an object with {keys}"):
            found = _found(entry, version, where, reading)
            if found is not None:
                reading.found.append(found)
    return reading


def _found(entry: dict[str, Any], version: int, where: str, reading: Reading) -> Found | None:
    kind = "click" if version == 1 else entry.get("type")
    if not isinstance(kind, str) or kind not in KINDS:
        allowed = ", ".join(f'"{name}"' for name in KINDS)
        reason = "missing" if kind is None else f"unknown {short(kind)}"
        reading.problems.append(f'{where}: {reason} "type"; allowed: {allowed}')
        return None
    keys, optional = KINDS[kind].keys, KINDS[kind].optional
    _check_keys(entry, (*keys, *(("type",) if version > 1 else ())), f"{where}: ", reading, optional)
    if not any(key in entry for key in keys):
        return None
    values = {key: entry.get(key, MISSING) for key in keys if key != "label" and (key in entry or key not in optional)}
    label = entry.get("label", None if "label" in optional else MISSING)
    return Found(where, kind, values, label, "exact")


def prompt_file_text(prompts: CasePrompts) -> str:
    """The file's text, with one line per prompt for readability and version control."""
    version = 1 if prompts.kinds in ((), ("click",)) else 2
    entries = [{**({"type": one.kind} if version > 1 else {}), **one.entry()} for one in prompts.prompts]
    lines = ["    " + json.dumps(entry, ensure_ascii=False) for entry in entries]
    listed = "[\n" + ",\n".join(lines) + "\n  ]" if lines else "[]"
    return f'{{\n  "nnsam3d_prompts": {version},\n  "space": "{prompts.space}",\n  "{_LISTS[version]}": {listed}\n}}\n'


def _check_keys(
    entry: dict[str, Any], allowed: tuple[str, ...], where: str, reading: Reading, optional: tuple[str, ...] = ()
) -> None:
    names = ", ".join(f'"{key}"' for key in allowed)
    for key in entry:
        if key not in allowed:
            reading.problems.append(f"{where}unknown key {json.dumps(key[:80])}; allowed: {names}")
    for key in allowed:
        if key not in entry and key not in optional:
            hint = {"space": f"; allowed: {', '.join(SPACES)}", "nnsam3d_prompts": "; must be 1 (or 2: prompts)"}
            reading.problems.append(f'{where}missing "{key}"{hint.get(key, "")}')


OURS = Format("nnsam3d", "json", recognises, parse)
