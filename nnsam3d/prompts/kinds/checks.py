"""Checked values of prompts, which come from users and their files."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from numbers import Integral, Real
from typing import Any

from nnsam3d.errors import UserError

Position = tuple[float, float, float]

MAX_POINTS = 10_000
"""The maximum of a single prompt."""
MAX_COORDINATE = 1e9
"""No image is that large, in voxels or mm; products of such numbers can still be computed."""


class PromptError(UserError):
    """An invalid prompt; the message names the file or case, the prompt and what is allowed."""


class PromptWarning(UserWarning):
    """A part of a prompt file that cannot be used and was skipped."""


def checked_position(position: object) -> Position:
    """Three finite floats, from a sequence, an array or a tensor.

    Raises:
        PromptError: anything else: booleans, strings, and sets and mappings, which have no order; or numbers beyond
            :data:`MAX_COORDINATE`.
    """
    values = _three_finite(position)
    if values is None:  # the text is made only now: thousands of positions are right
        raise PromptError(f"position must be three finite numbers, got {short(position)}")
    if not -MAX_COORDINATE <= min(values) <= max(values) <= MAX_COORDINATE:
        raise PromptError(f"position must lie within {MAX_COORDINATE:g} voxels or mm, got {short(position)}")
    return values


def checked_positions(positions: object, least: int) -> tuple[Position, ...]:
    """At least ``least`` positions, from a list, an array or a tensor.

    Raises:
        PromptError: see :func:`checked_position`; fewer, or more than :data:`MAX_POINTS`.
    """
    listed = as_python(positions)
    if not isinstance(listed, (list, tuple)):
        raise PromptError(f"points must be a list of positions, got {short(positions)}")
    if not least <= len(listed) <= MAX_POINTS:
        raise PromptError(f"points must be {least} to {MAX_POINTS} positions, got {len(listed)}")
    return tuple(checked_position(position) for position in listed)


def _three_finite(position: object) -> Position | None:
    try:
        if isinstance(position, (str, bytes, Mapping, AbstractSet)):
            return None
        listed = position if isinstance(position, (list, tuple)) else as_python(position)
        if len(listed) != 3:
            return None
        values = [value if isinstance(value, Real) else as_python(value) for value in listed]
    except TypeError:
        return None
    # Python's bool is a Real; it is not a coordinate.
    if any(isinstance(v, bool) or not isinstance(v, Real) for v in values):
        return None
    try:
        x, y, z = (float(v) for v in values)
    except OverflowError:  # an integer with hundreds of digits
        return None
    return (x, y, z) if math.isfinite(x) and math.isfinite(y) and math.isfinite(z) else None


def as_python(value: Any) -> Any:
    """Arrays, tensors and their scalars as lists and numbers of Python; everything else as it is."""
    return value.tolist() if callable(getattr(value, "tolist", None)) else value


def checked_label(label: object) -> int | str:
    """A name or a whole number >= 0. Raises PromptError for anything else (booleans and floats included)."""
    label = label if isinstance(label, str) else as_python(label)
    if isinstance(label, str) and label:
        return str(label)
    if isinstance(label, Integral) and not isinstance(label, bool) and int(label) >= 0:
        return int(label)
    raise PromptError(f"label must be a name or a whole number >= 0, got {short(label)}")


class _Short(reprlib.Repr):
    def repr_dict(self, x: dict, level: int) -> str:
        return f"<object with {len(x)} keys>"  # reprlib would sort all keys


_SHORT = _Short()


def short(value: object, limit: int = 80) -> str:
    """``repr(value)`` for a message, at most ``limit`` characters; fast for any value, and never fails."""
    if isinstance(value, str):
        value = value[:limit]
    try:
        text = _SHORT.repr(value) if not isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # Python does not print integers with more than 4300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."
