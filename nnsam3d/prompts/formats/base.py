"""The result of format readers, and shared helpers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard, TypeVar

from nnsam3d.prompts.kinds.checks import short
from nnsam3d.prompts.labels import Meaning
from nnsam3d.prompts.types import MAX_CLICKS

T = TypeVar("T")

FOREGROUND = "foreground"
"""The word for positive clicks without a label."""

MISSING = object()
"""Replaces a missing position or label that a parser has reported already."""


@dataclass(frozen=True)
class Found:
    """A prompt as found in a file, not validated.

    Attributes:
        where: its place in the file, for messages, for example "click 2".
        kind: see :data:`nnsam3d.prompts.kinds.KINDS`.
        values: by the kind's keys, without the label; positions should be in the space of its Reading, order i, j, k or
            x, y, z. :data:`MISSING` where a parser has reported already that a value is missing.
        label: the file's word or number.
        meaning: see :data:`nnsam3d.prompts.labels.Meaning`; the label of another program's file may be missing ("").
        spare: whether it may be left out, if it cannot be used, in a file that also has clicks.
    """

    where: str
    kind: str
    values: Mapping[str, Any]
    label: Any
    meaning: Meaning = "word"
    spare: bool = False


def found_click(where: str, position: Any, label: Any, meaning: Meaning = "word") -> Found:
    """A click, see :class:`Found`.

    Args:
        where, label, meaning: see :class:`Found`.
        position: three numbers, or anything else that the file holds there.
    """
    return Found(where, "click", {"position": position}, label, meaning)


@dataclass
class Reading:
    """The result of a parser. ``space`` is None if unknown.

    Attributes:
        found: in order of creation.
        problems: each a full sentence without the file's name.
        left_out: entries that are not prompts, for a warning.
    """

    space: str | None = None
    found: list[Found] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, declared: str | None, stated: str | None) -> Reading:
        """Of a format or file that declares this space, or else in the space stated by the user.

        If both are missing (None) or contradict each other, that is its first problem.
        """
        reading = cls(declared or stated)
        if declared is not None and stated is not None and declared != stated:
            reading.problems.append(
                f'this format defines the positions to be in space "{declared}", but "{stated}" was stated'
            )
        if reading.space is None:
            reading.problems.append(
                "the file does not state the space of its positions. Ask its author, then state it: "
                'space "voxel" (index i, j, k), "lps" or "ras" (mm), for example with: '
                "nnsam3d prompts convert --space voxel"
            )
        return reading

    def is_list(self, value: Any, name: str) -> TypeGuard[list[Any]]:
        """Whether a JSON value is a list; otherwise, that is a problem, told with the name of the value."""
        if not isinstance(value, list):
            self.problems.append(f"{name} must be a list, not {json_type(value)}")
        return isinstance(value, list)

    def objects(
        self, entries: Iterable[Any], name: str, wanted: str = "an object"
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The place of each object in a JSON list, for messages, and the object; other entries are problems.

        Args:
            entries: of the list, see also :func:`bounded`.
            name: of an entry, for messages.
            wanted: what an entry must be, for messages.
        """
        for number, entry in enumerate(bounded(entries), start=1):
            where = f"{name} {number}"
            if isinstance(entry, dict):
                yield where, entry
            else:
                self.problems.append(f"{where}: must be {wanted}, not {json_type(entry)}")


@dataclass(frozen=True)
class Format:
    """A prompt format.

    Attributes:
        name: for `--format` and messages.
        holds: input of the parser: a JSON object (dict), the file's text (str), or the parts of an npz file.
        recognises: whether content has this format; must be strict, because formats are similar.
        parse: content and the space stated by the user (or None) -> Reading. Must accept any content of that type.
    """

    name: str
    holds: Literal["json", "text", "npz"]
    recognises: Callable[[Any], bool]
    parse: Callable[[Any, str | None], Reading]


def point_list(value: Any, name: str, reading: Reading, label: Any, meaning: Meaning = "word") -> None:
    """Adds the clicks of ``[[i, j, k], ...]`` to ``reading``, or a problem.

    Args:
        value: should be a list of positions (i, j, k) or (x, y, z).
        name: its key in the file, for messages.
        reading: gets the clicks, or the problem.
        label, meaning: of each click, see :class:`Found`.
    """
    if not isinstance(value, list):
        reading.problems.append(f"{short(name)} must be a list of positions, not {json_type(value)}")
        return
    for number, position in enumerate(bounded(value), start=1):
        reading.found.append(found_click(f"{short(name)} {number}", position, label, meaning))


def bounded(entries: Iterable[T]) -> Iterator[T]:
    """At most one click more than allowed, so that huge files are refused quickly."""
    return itertools.islice(entries, MAX_CLICKS + 1)


def reversed_position(position: Any) -> Any:
    """Array order z, y, x -> i, j, k; anything else is returned unchanged, to be reported later."""
    if isinstance(position, (list, tuple)) and len(position) == 3:
        return list(position)[::-1]
    return position


def is_point_list(value: Any) -> bool:
    """Whether a JSON value is a list of lists (may be empty)."""
    return isinstance(value, list) and all(isinstance(point, list) for point in value)


def json_type(value: Any) -> str:
    """ "an object", "a list", ...: for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
