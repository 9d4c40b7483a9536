"""Result files that a reader never sees half of; what a file holds, as a digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MACOS = "._"  # how macOS names what its own file system would keep beside a file


@contextmanager
def replacing(path: Path, durable: bool = False, keep: Path | None = None) -> Iterator[Path]:
    """A temporary name in the same folder, renamed to ``path`` at the end; after an error nothing is left of it.

    The only place where files are made whole: whoever writes a result writes to the name that is given here.

    Args:
        durable: also after a power cut.
        keep: a second name in the same folder, under which what was at ``path`` before is kept. There is a whole file
            at ``path`` at every moment, in between, too.
    """
    # the same folder is the same file system, so that the last step is one; not the suffix, by which others find files
    temporary = _beside(path)
    try:
        yield temporary
        if durable:
            _flush(temporary)
        if keep is not None and path.is_file():
            keep_as(path, keep)
        os.replace(temporary, path)
        if durable:
            _flush(path.parent)  # the new name, too
    finally:
        with contextlib.suppress(OSError):  # the folder itself refuses: the first error tells
            temporary.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """What killed processes have left of ``path``; only where no other one is writing it."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def keep_as(path: Path, keep: Path) -> None:
    """A second name for what is at ``path`` now, in the same folder; a file of that name is replaced."""
    second = _beside(keep)
    try:
        os.link(path, second)  # takes no time, whatever the size
    except OSError:  # a file system without second names
        shutil.copyfile(path, second)
    os.replace(second, keep)


def _flush(path: Path) -> None:
    """To the disk; a folder where the system can do that."""
    is_folder = path.is_dir()
    # Windows opens no folders, and some network file systems cannot flush them
    with contextlib.suppress(OSError) if is_folder else contextlib.nullcontext():
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """``text`` as UTF-8, wholly or not at all.

    Args:
        durable: also after a power cut; for what a person made.
    """
    with replacing(path, durable) as temporary, temporary.open("x", encoding="utf-8") as file:
        file.write(text)


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
