"""Result files that a reader never sees half of; what a file holds, as a digest."""

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

MACOS = "._"  # how macOS names what its own file system would keep beside a file


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder, renamed to ``path`` at the end; after an error nothing is left of it.

    The only place where files are made whole: whoever writes a result writes to the name that is given here.
    """
    # the same folder is the same file system, so that the last step is one; not the suffix, by which others find files
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # the folder itself refuses: the first error tells
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """``text`` as UTF-8, wholly or not at all.

    Args:
        durable: also after a power cut; for what a person made.
    """
    with replacing(path) as temporary, temporary.open("x", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, see :func:`write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
