"""Findings of `nnsam3d doctor`, and helpers for its checks."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report. A problem comes with a fix."""

    level: Level
    text: str
    fix: str = ""


def ok(text: str) -> Finding:
    """No problem."""
    return Finding("ok", text)


def note(text: str, hint: str = "") -> Finding:
    """Not a problem, but worth knowing."""
    return Finding("note", text, hint)


def problem(text: str, fix: str) -> Finding:
    """Something will not work."""
    return Finding("problem", text, fix)


def render(finding: Finding) -> str:
    """The finding as text, with the fix on a separate line."""
    label = {"ok": "fix", "note": "hint", "problem": "fix"}[finding.level]
    mark = {"ok": "[ ok ]", "note": "[note]", "problem": "[FAIL]"}[finding.level]
    return f"{mark} {finding.text}" + (f"\n       {label}: {finding.fix}" if finding.fix else "")


def try_import(name: str) -> tuple[ModuleType | None, str]:
    """The module, or None and the reason; catches any error of the import."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(name), ""
    except Exception as error:
        return None, one_line(error)


def version_of(distribution: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.8.1+cu121" is (2, 8, 1)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match else ()


def one_line(error: BaseException) -> str:
    """An error as one line of text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
