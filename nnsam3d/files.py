"""Atomic writing of result files, and digests of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MACOS = "._"  # prefix of the files in which macOS stores metadata on other file systems


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file in the same folder, renamed to ``path`` at the end and deleted after an error.

    All result files are written through this function.
    """
    # in the same folder, and so the same file system: the rename is atomic; another suffix, so that nobody finds it
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # the first error is the one that matters
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Write ``text`` as UTF-8, atomically.

    Args:
        durable: flush to disk; for data that a person created.
    """
    with replacing(path) as temporary, temporary.open("x", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, see :func:`write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
