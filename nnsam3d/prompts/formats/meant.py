"""Whether a file that was found beside an image is meant to be a prompt file.

Beside images, there are files of other programs, some with keys that prompt files have as well; and prompt files that
were wrapped or compressed by mistake, whose clicks must not be ignored.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Collection, Iterator
from typing import Any

from nnsam3d.geometry import SPACES

KEYS = {
    "nnsam3d": ("clicks", "prompts"),
    "slicer": ("markups",),
    "autopet": ("tumor", "background"),
    "grand-challenge": ("points", "point"),
    "monai-label": ("foreground", "background"),
}
ONE_POSITION = ("autopet", "monai-label")  # formats in which a list of three numbers is a position without its brackets
OURS = "nnsam3d_prompts"
MAX_NODES, MAX_DEPTH = 1000, 4  # looked at in search of a wrapped prompt file
SIMILAR = 0.6  # of a key and a label


def is_meant(format_name: str, content: Any, labels: Collection[str] | None = None) -> bool:
    """Whether JSON that a format recognises by a key can hold prompts of this format, valid or not.

    Args:
        format_name: "autopet", "monai-label" and so on.
        content: the JSON value.
        labels: names of the dataset's labels. MONAI Label's keys are labels; with other keys it is another file.

    >>> is_meant("autopet", {"tumor": [[1, 2, 3]]}), is_meant("autopet", {"tumor": 12.5})
    (True, False)
    >>> is_meant("monai-label", {"ShimSetting": [[1, 2, 3]]}, ["tumour"])
    False
    """
    if format_name not in KEYS or OURS in content:
        return True
    own = [key for key in KEYS[format_name] if key in content]
    if any(_can_hold(content[key], key == "point" or format_name in ONE_POSITION) for key in own):
        return True
    if format_name == "nnsam3d":  # recognised by "space" alone: a forgotten key, or another program's file
        others = [value for key, value in content.items() if key != "space"]
        return content.get("space") in SPACES and not own and (not others or any(map(_can_hold, others)))
    if format_name == "monai-label" and not own:
        lists = [key for key, value in content.items() if isinstance(value, list) and _can_hold(value)]
        return labels is None or any(_is_like(key, labels) for key in lists)
    return False


def _can_hold(value: Any, one_position: bool = False) -> bool:
    if isinstance(value, list):
        nested = not value or any(isinstance(entry, (list, dict)) for entry in value)
        return nested or (one_position and len(value) == 3 and all(isinstance(n, (int, float)) for n in value))
    return isinstance(value, dict)


def _is_like(key: str, labels: Collection[str]) -> bool:
    names = [label.casefold() for label in labels]
    return bool(difflib.get_close_matches(key.casefold(), names, n=1, cutoff=SIMILAR))


def wrapped(content: Any) -> bool:
    """Whether there is a prompt file inside of lists, objects or a string: it is meant to be one.

    >>> wrapped([{"nnsam3d_prompts": 1, "space": "voxel", "clicks": []}]), wrapped([{"clicks": 7}])
    (True, False)
    """
    if isinstance(content, str):
        return OURS in content
    seen = itertools.islice(_nodes(content, MAX_DEPTH), MAX_NODES)
    return any(_says_so(node) for node in seen if isinstance(node, dict))


def _nodes(content: Any, depth: int) -> Iterator[Any]:
    yield content
    if depth and isinstance(content, (list, dict)):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _nodes(value, depth - 1)


def _says_so(content: dict[str, Any]) -> bool:
    """By a key of our own, or by two keys that only prompt files have together."""
    lists = {key for key, value in content.items() if isinstance(value, list)}
    kind = content.get("type")
    return (
        OURS in {key.casefold() for key in content}
        or (content.get("space") in SPACES and bool({"clicks", "prompts"} & lists))
        or ("markups" in lists and any(isinstance(one, dict) and "controlPoints" in one for one in content["markups"]))
        or ("points" in lists and isinstance(kind, str) and kind.strip().lower() == "multiple points")
    )
