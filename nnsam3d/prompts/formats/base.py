"""What every reader of a format returns, and the small things that readers share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from nnsam3d.prompts.labels import Meaning
from nnsam3d.prompts.types import MAX_CLICKS, short

T = TypeVar("T")

FOREGROUND = "foreground"
"""The word for clicks that a file marks as positive without saying of what."""

MISSING = object()
"""In place of a position or label whose absence a parser has reported already."""


@dataclass(frozen=True)
class FoundClick:
    """A click as it stands in a file: nothing about it has been checked.

    Attributes:
        where: its place in the file for messages, for example "click 2".
        position: should be three numbers in the space of its Reading, order i, j, k or x, y, z.
        label: the file's own word or number.
        meaning: see :data:`nnsam3d.prompts.labels.Meaning`; the label of another program's file may be missing ("").
    """

    where: str
    position: Any
    label: Any
    meaning: Meaning = "word"


@dataclass(frozen=True)
class FoundBox:
    """A box as it stands in a file, see :class:`FoundClick`; two opposite corners, both inside."""

    where: str
    low: Any
    high: Any
    label: Any
    meaning: Meaning = "word"


@dataclass(frozen=True)
class FoundMask:
    """A segmentation to start from as it stands in a file, see :class:`FoundClick`; the label may be None."""

    where: str
    path: Any
    label: Any
    meaning: Meaning = "word"


Found: TypeAlias = FoundClick | FoundBox | FoundMask


@dataclass
class Reading:
    """What a parser found. ``space`` is None where the file does not tell it.

    Attributes:
        found: in the order in which they were made.
        problems: each a full sentence without the file's name.
        left_out: what stands in the file and is no prompt; told as a warning.
    """

    space: str | None = None
    found: list[Found] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: for `--format` and messages.
        holds: what the parser is given: a JSON object (dict), the file's text (str), or the parts of an npz file.
        recognises: whether content of that kind is this format; must be strict, other formats look alike.
        parse: content and the space that the user states (or None) -> Reading. Must accept anything of that kind.
    """

    name: str
    holds: Literal["json", "text", "npz"]
    recognises: Callable[[Any], bool]
    parse: Callable[[Any, str | None], Reading]


def stated_space(declared: str | None, stated: str | None, reading: Reading) -> str | None:
    """The file's space, else the user's; a contradiction or a lack of both is a problem of the reading."""
    if declared is not None and stated is not None and declared != stated:
        reading.problems.append(
            f'the positions are in space "{declared}" by the rules of this format, but "{stated}" was stated'
        )
    if declared is None and stated is None:
        reading.problems.append(
            "the file does not say in which space its positions are. Ask whoever made it, then state it: "
            'space "voxel" (index i, j, k), "lps" or "ras" (mm), for example with: '
            "nnsam3d prompts convert --space voxel"
        )
    return declared or stated


def point_list(value: Any, name: str, reading: Reading, label: Any, meaning: Meaning = "word") -> None:
    """Adds the clicks of ``[[i, j, k], ...]`` to ``reading``; anything else is a problem."""
    if not isinstance(value, list):
        reading.problems.append(f"{short(name)} must be a list of positions, not {json_type(value)}")
        return
    for number, position in enumerate(bounded(value), start=1):
        reading.found.append(FoundClick(f"{short(name)} {number}", position, label, meaning))


def bounded(entries: Iterable[T]) -> Iterator[T]:
    """No more than one click too many: a file of millions is refused without looking at all of them."""
    return itertools.islice(entries, MAX_CLICKS + 1)


def reversed_position(position: Any) -> Any:
    """Array order z, y, x -> i, j, k; what is no list of three is left for the check to complain about."""
    if isinstance(position, (list, tuple)) and len(position) == 3:
        return list(position)[::-1]
    return position


def is_point_list(value: Any) -> bool:
    """Whether a JSON value is a list of lists (an empty one too)."""
    return isinstance(value, list) and all(isinstance(point, list) for point in value)


def json_type(value: Any) -> str:
    """ "an object", "a list", ...: for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
