"""Compare the keys of a mapping with the fields of a dataclass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any


def mismatch(kind: Any, given: Iterable[str]) -> tuple[list[str], list[str]]:
    """Unknown keys (sorted), and missing keys that have no default (in the order of the fields).

    Args:
        kind: the dataclass. given: the keys.
    """
    names, there = known(kind), set(given)
    required = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    return sorted(there - set(names)), [name for name in required if name not in there]


def known(kind: Any) -> list[str]:
    """The keys that a dataclass accepts, in its order."""
    return [one.name for one in fields(kind) if one.init]
