"""Mappings from files against the dataclasses that they are to become."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any


def mismatch(kind: Any, given: Iterable[str]) -> tuple[list[str], list[str]]:
    """Keys that a dataclass does not know, and keys without a default that it misses; both sorted as it lists them.

    Args:
        kind: the dataclass. given: the keys of a mapping.
    """
    names, there = known(kind), set(given)
    required = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    return sorted(there - set(names)), [name for name in required if name not in there]


def known(kind: Any) -> list[str]:
    """The keys that a dataclass takes, in its order."""
    return [one.name for one in fields(kind) if one.init]
